"""Mode "fast": both models of it, up to the layers, which are then converted as in mode "exact"."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from bridge.export.add import (
    MICROSOFT,
    QuantizedAdd,
    read_adds,
    write_fake_add,
    write_integer_add,
)
from bridge.export.limits import behind_limits
from bridge.export.reader import named_operators
from bridge.export.requantize import Rounding, requantize
from bridge.export.scribe import Scribe, Written


@dataclass(frozen=True, slots=True, kw_only=True)
class Fast:
    """A model whose values are rounded where they are computed.

    Args:
        fake: with its sums as the fake-quant model has them; its layers are still to be written.
        deploy: with its sums as the deploy model has them.
        adds: the sums, some of which are left as they were.
        roundings: what the outputs of layers and sums are rounded to, by name.
        names: of its operators and sums, in topological order.
    """

    fake: ir.Model
    deploy: ir.Model
    adds: Sequence[QuantizedAdd]
    roundings: Mapping[str, Rounding]
    names: Sequence[str]


def make_fast(model: ir.Model, layers: Iterable[Written], data: Iterable[Any]) -> Fast:
    """Round what integer operators read, and write the sums.

    Args:
        model: with unsigned activations (bridge.export.unsigned); it is changed.
        layers: its layers and products.
        data: as requantize's.
    Returns:
        both models.
    Raises:
        ValueError: there is no data, or it does not fit the model.
    """
    results = {layer.name: behind_limits(layer.output)[0] for layer in layers}
    rounded = requantize(model, {layer.output for layer in layers}, data)
    operators = dict(named_operators(model.graph))
    fake, deploy = model.clone(), model.clone()
    adds = read_adds(model.graph, taken=operators)
    for add in adds:
        quantizer = add.output.producer()
        if quantizer is not None and quantizer.inputs[0] is not None:
            results[add.name] = quantizer.inputs[0]
    for made, write in ((fake, write_fake_add), (deploy, write_integer_add)):
        # Backwards: what reads the codes of a sum is written before others take their place.
        for add in reversed(read_adds(made.graph, taken=operators)):
            if add.factors is not None:
                write(Scribe(made.graph, add), add)
    if any(add.factors is not None for add in adds):
        deploy.opset_imports[MICROSOFT] = 1
    places = {node: i for i, node in enumerate(ir.traversal.RecursiveGraphIterator(model.graph))}
    named = {**operators, **{add.name: add.node for add in adds}}
    return Fast(
        fake=fake,
        deploy=deploy,
        adds=adds,
        roundings={name: rounded[value] for name, value in results.items() if value in rounded},
        names=sorted(named, key=lambda name: places[named[name]]),
    )
