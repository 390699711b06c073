"""Tensors: other shapes, types and values, and data in other files."""

import random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.support.graphs.mutations.picks import FLOATS, NUMBERS, ODD_NAMES, any_tensor, any_value

_PLACES = (
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    "absent",
    "inter.onnx",
    "inter.data",
    "a/../../b",
    "/dev/zero",
    "C:\\x",
    "x\u0000y",
)


def move_data(proto: onnx.ModelProto, folder: Any) -> None:
    offset, data = 0, b""
    for tensor in proto.graph.initializer:
        size = len(tensor.raw_data)
        data += tensor.raw_data
        _place(tensor, "inter.data", offset, size)
        offset += size
    (folder / "inter.data").write_bytes(data)


def _place(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def dimensions(rng: random.Random, proto: onnx.ModelProto) -> None:
    tensor = any_tensor(rng, proto)
    if tensor.dims and rng.random() < 0.7:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
    else:
        tensor.dims.append(rng.choice(NUMBERS))


def reshaped(rng: random.Random, proto: onnx.ModelProto) -> None:
    """Another shape of as many elements, which no count of bytes can tell."""
    tensor = any_tensor(rng, proto)
    size = int(np.prod([int(d) for d in tensor.dims]))
    options = [[size], [1, size], [size, 1], [1, 1, size], [size, 1, 1, 1], [1] * 9 + [size]]
    tensor.dims[:] = rng.choice(options)


def data_type(rng: random.Random, proto: onnx.ModelProto) -> None:
    any_tensor(rng, proto).data_type = rng.choice([*range(30), 77, -1])


def retyped(rng: random.Random, proto: onnx.ModelProto) -> None:
    """Another type of as many bytes."""
    tensor = any_tensor(rng, proto)
    groups = ([1, 6, 12], [2, 3, 9, 17, 18, 19, 20], [4, 5, 10, 16], [7, 11, 13])
    options = next((group for group in groups if tensor.data_type in group), [1])
    tensor.data_type = rng.choice(options)


def data(rng: random.Random, proto: onnx.ModelProto) -> None:
    tensor = any_tensor(rng, proto)
    size = max(0, len(tensor.raw_data) + rng.choice((0, 0, -1, 1, -1000, 1000)))
    tensor.raw_data = rng.choice((rng.randbytes(size), b"\x00" * size, b"\xff" * size))


def numbers(rng: random.Random, proto: onnx.ModelProto) -> None:
    """Other values of the same type and shape."""
    tensor = any_tensor(rng, proto)
    if tensor.data_type in (1, 10, 11) and tensor.raw_data:
        array = np.full(tuple(tensor.dims), rng.choice(FLOATS))
        with np.errstate(over="ignore", under="ignore"):
            array = array.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        tensor.raw_data = array.tobytes()
    else:
        tensor.raw_data = rng.randbytes(len(tensor.raw_data))


def scaled(rng: random.Random, proto: onnx.ModelProto) -> None:
    """Numbers that may still make a model: other signs of integers, other sizes of floats."""
    tensor = any_tensor(rng, proto)
    if tensor.data_type == TensorProto.FLOAT and tensor.raw_data:
        array = np.frombuffer(tensor.raw_data, np.float32)
        with np.errstate(over="ignore", under="ignore"):
            tensor.raw_data = np.ldexp(array, rng.choice((-150, -20, -1, 3, 20, 120))).tobytes()
    elif tensor.data_type == TensorProto.INT8:
        tensor.raw_data = rng.randbytes(len(tensor.raw_data))


def tensors(rng: random.Random, proto: onnx.ModelProto) -> None:
    initializers = proto.graph.initializer
    if not initializers:
        return
    what, one = rng.randrange(3), rng.choice(initializers)
    if what == 0:
        initializers.remove(one)
    elif what == 1:
        initializers.append(one)
    else:
        one.name = rng.choice((*ODD_NAMES, any_value(rng, proto)))


def elsewhere(rng: random.Random, proto: onnx.ModelProto) -> None:
    place, number = rng.choice(_PLACES), rng.choice((0, 0, 0, *NUMBERS))
    _place(any_tensor(rng, proto), place, number, rng.choice((0, 1, 4, 6, *NUMBERS)))
