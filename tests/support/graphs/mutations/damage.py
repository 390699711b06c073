"""Damaged ONNX files: bytes flipped, cut or moved, and fields that say what no exporter would."""

import random
from typing import Any

from tests.support.graphs.mutations.models import (
    functions,
    nothing_left,
    signature,
    value_info,
    versions,
)
from tests.support.graphs.mutations.nodes import (
    attribute,
    bypass,
    cycle,
    domain,
    inputs_fewer,
    inputs_more,
    inserted,
    new_attribute,
    node_name,
    nodes_gone,
    nodes_out_of_order,
    nodes_twice,
    operator,
    outputs,
    reader,
    scopes,
)
from tests.support.graphs.mutations.picks import Mutation
from tests.support.graphs.mutations.sources import SOURCES
from tests.support.graphs.mutations.tensors import (
    data,
    data_type,
    dimensions,
    elsewhere,
    move_data,
    numbers,
    reshaped,
    retyped,
    scaled,
    tensors,
)


def mutated(seed: int, folder: Any) -> tuple[bytes, str, tuple[int, ...]]:
    """Damage one of the models.

    Args:
        seed: says which, and how.
        folder: where external data is put, as inter.data.
    Returns:
        the bytes of the file, what was done, and the shape of the input of the whole model.
    """
    rng = random.Random(seed)
    name = rng.choice(list(SOURCES))
    make, shape = SOURCES[name]
    proto = make()
    if rng.random() < 0.15:
        move_data(proto, folder)
    if rng.random() < 0.3:
        whole = proto.SerializeToString()
        how = rng.choice((_flip, _truncate, _remove, _insert, _repeat))
        return how(rng, whole), f"{name}: {how.__name__}", shape
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change = rng.choice(MUTATIONS)
        change(rng, proto)
        done.append(change.__name__)
    return proto.SerializeToString(), f"{name}: {', '.join(done)}", shape


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _remove(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 20) :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + rng.randbytes(rng.randrange(1, 20)) + data[start:]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[: start + rng.randrange(1, 200)] + data[start:]


# Those that leave valid files come twice and more: what is not valid never reaches the reader.
MUTATIONS: tuple[Mutation, ...] = (
    *(operator, domain, node_name, scopes, nodes_gone, nodes_twice, nodes_out_of_order, reader),
    *(inputs_fewer, inputs_more, outputs, cycle, attribute, new_attribute, dimensions, data_type),
    *(retyped, data, numbers, tensors, elsewhere, value_info, signature, versions, functions),
    *(nothing_left, attribute, attribute, new_attribute, new_attribute, retyped, retyped),
    *(scaled, scaled, scaled, bypass, bypass, inserted, inserted, inserted, reshaped, reshaped),
    *(node_name, scopes, value_info, reader, reader),
)
