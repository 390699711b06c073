"""Mode "fast": what integer operators read is rounded to 8 bits, in the model and in what was read.

    layer -> y            =     layer -> QuantizeLinear -> DequantizeLinear -> y
    a + b -> y                  QLinearAdd(a, b) -> DequantizeLinear -> y       in the deploy model

The layers are then converted as in mode "exact".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from bridge.export.fast.elementwise import (
    FLOAT,
    Elementwise,
    read_elementwise,
    write_fake_elementwise,
    write_integer_elementwise,
)
from bridge.export.fast.groups import rounding_place
from bridge.export.fast.operators import MICROSOFT
from bridge.export.fast.requantize import Rounding, requantize
from bridge.export.graph.builder import Builder, Lowerable
from bridge.export.graph.copies import Counterparts
from bridge.export.read.layers import named_operators
from bridge.export.read.quantized import Quantized


@dataclass(frozen=True, slots=True, kw_only=True)
class Roundings:
    """What was rounded in a model of mode "fast", and the operators that compute codes from codes.

    Args:
        elementwise: sums and LeakyRelus from codes to codes, as they stand in the model.
        of: what the outputs of these and of layers are rounded to, by name.
        names: of these and of operators that can be layers, in topological order.
    """

    elementwise: Sequence[Elementwise]
    of: Mapping[str, Rounding]
    names: Sequence[str]

    def write(self, deploy: ir.Model, copy: Counterparts) -> None:
        """Write the sums and LeakyRelus of both models.

        Args:
            deploy: the model that was rounded.
            copy: where its nodes and values are in the fake-quant model.
        """
        # Backwards: what reads the codes of a sum is written before others take their place.
        for one in reversed([one.on(copy) for one in self.elementwise]):
            write_fake_elementwise(Builder(one), one)
        for one in reversed(self.elementwise):
            write_integer_elementwise(Builder(one), one)
        if any(one.form != FLOAT for one in self.elementwise):
            deploy.opset_imports[MICROSOFT] = 1


def round_values(model: ir.Model, found: Quantized, data: Iterable[Any]) -> Roundings:
    """Round what integer operators read.

    Args:
        model: with unsigned activations (bridge.export.passes.uint8_codes); it is changed.
        found: its layers and products; their inputs may have other scales afterwards.
        data: as requantize's.
    Returns:
        what was rounded.
    Raises:
        ValueError: there is no data, or it does not fit the model.
    """
    # What runs in a branch or a loop is converted as in mode "exact": data may not reach it.
    both: list[Lowerable] = [*found.layers, *found.products]
    outer = [layer for layer in both if layer.node.graph is model.graph]
    results = {layer.name: rounding_place(layer.output, past_pools=True) for layer in outer}
    rounded = requantize(model, outer, data)
    operators = dict(named_operators(model.graph))
    elementwise = read_elementwise(model.graph, taken=operators)
    for one in elementwise:
        quantizer = one.output.producer()
        if quantizer is not None and quantizer.inputs[0] is not None:
            results[one.name] = quantizer.inputs[0]
    places = {node: i for i, node in enumerate(ir.traversal.RecursiveGraphIterator(model.graph))}
    named = {**operators, **{one.name: one.node for one in elementwise}}
    return Roundings(
        elementwise=elementwise,
        of={name: rounded[value] for name, value in results.items() if value in rounded},
        names=sorted(named, key=lambda name: places[named[name]]),
    )
