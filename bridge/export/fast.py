"""Mode "fast": both models of it, up to the layers, which are then converted as in mode "exact"."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from bridge.export.elementwise import (
    FLOAT,
    MICROSOFT,
    Elementwise,
    read_elementwise,
    write_fake_elementwise,
    write_integer_elementwise,
)
from bridge.export.groups import rounding_place
from bridge.export.reader import named_operators
from bridge.export.requantize import Rounding, requantize
from bridge.export.scribe import Scribe, Written


@dataclass(frozen=True, slots=True, kw_only=True)
class Fast:
    """A model whose values are rounded where they are computed.

    Args:
        rounded: of standard operators only.
        fake: with its sums as the fake-quant model has them; its layers are still to be written.
        deploy: with its sums and LeakyRelus as the deploy model has them.
        elementwise: the sums and LeakyRelus from codes to codes.
        roundings: what the outputs of these and of layers are rounded to, by name.
        names: of these and of operators that can be layers, in topological order.
    """

    rounded: ir.Model
    fake: ir.Model
    deploy: ir.Model
    elementwise: Sequence[Elementwise]
    roundings: Mapping[str, Rounding]
    names: Sequence[str]


def make_fast(model: ir.Model, layers: Iterable[Written], data: Iterable[Any]) -> Fast:
    """Round what integer operators read, and write the sums and LeakyRelus.

    Args:
        model: with unsigned activations (bridge.export.unsigned); it is changed.
        layers: its layers and products.
        data: as requantize's.
    Returns:
        both models.
    Raises:
        ValueError: there is no data, or it does not fit the model.
    """
    # What runs in a branch or a loop is converted as in mode "exact": data may not reach it.
    outer = [layer for layer in layers if layer.node.graph is model.graph]
    results = {layer.name: rounding_place(layer.output, past_pools=True) for layer in outer}
    rounded = requantize(model, outer, data)
    operators = dict(named_operators(model.graph))
    fake, deploy = model.clone(), model.clone()
    found = read_elementwise(model.graph, taken=operators)
    for one in found:
        quantizer = one.output.producer()
        if quantizer is not None and quantizer.inputs[0] is not None:
            results[one.name] = quantizer.inputs[0]
    for made, write in ((fake, write_fake_elementwise), (deploy, write_integer_elementwise)):
        # Backwards: what reads the codes of a sum is written before others take their place.
        for one in reversed(read_elementwise(made.graph, taken=operators)):
            write(Scribe(one), one)
    if any(one.form != FLOAT for one in found):
        deploy.opset_imports[MICROSOFT] = 1
    places = {node: i for i, node in enumerate(ir.traversal.RecursiveGraphIterator(model.graph))}
    named = {**operators, **{one.name: one.node for one in found}}
    return Fast(
        rounded=model,
        fake=fake,
        deploy=deploy,
        elementwise=found,
        roundings={name: rounded[value] for name, value in results.items() if value in rounded},
        names=sorted(named, key=lambda name: places[named[name]]),
    )
