"""Mode "fast": tensors that integer operators read are quantized to 8 bits in both models.

    layer -> y
    Add -> y
        becomes
    layer -> QuantizeLinear -> DequantizeLinear -> y
    QLinearAdd -> DequantizeLinear -> y                 (in the deploy model)

Layers are then converted as in mode "exact".
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
from bridge.export.fast.groups import rounded_value
from bridge.export.fast.operators import MICROSOFT
from bridge.export.fast.requantize import Rounding, requantize
from bridge.export.graph.builder import Builder, Lowerable
from bridge.export.graph.copies import Counterparts
from bridge.export.read.layers import named_operators
from bridge.export.read.quantized import Quantized


@dataclass(frozen=True, slots=True, kw_only=True)
class Roundings:
    """What mode "fast" quantized in a model.

    Args:
        elementwise: Add and LeakyRelu operators on codes.
        of: by name of a layer or an elementwise operator, what its output is rounded to.
        names: of the elementwise operators and of all operators that can be layers, in topological
            order.
    """

    elementwise: Sequence[Elementwise]
    of: Mapping[str, Rounding]
    names: Sequence[str]

    def write(self, deploy: ir.Model, copy: Counterparts) -> None:
        """Write the Add and LeakyRelu operators on codes in both models.

        Args:
            deploy: the quantized model.
            copy: maps its nodes and values to those of the fake-quant model.
        """
        # In reverse: readers are written before the codes that they read are replaced.
        for one in reversed([one.on(copy) for one in self.elementwise]):
            write_fake_elementwise(Builder(one), one)
        for one in reversed(self.elementwise):
            write_integer_elementwise(Builder(one), one)
        if any(one.form != FLOAT for one in self.elementwise):
            deploy.opset_imports[MICROSOFT] = 1


def round_values(model: ir.Model, found: Quantized, data: Iterable[Any]) -> Roundings:
    """Quantize the tensors that integer operators read.

    Args:
        model: with uint8 activations (bridge.export.passes.uint8_codes); changed in place.
        found: its layers and products; their inputs may get other scales and zero points.
        data: batches, as requantize takes them.
    Returns:
        what was quantized.
    Raises:
        ValueError: there is no data, it does not fit the model, or a layer's input has NaN.
    """
    # Layers in a branch or a loop are converted as in mode "exact": data may not reach them.
    both: list[Lowerable] = [*found.layers, *found.products]
    outer = [layer for layer in both if layer.node.graph is model.graph]
    results = {layer.name: rounded_value(layer.output, past_pools=True) for layer in outer}
    rounded = requantize(model, outer, data)
    operators = dict(named_operators(model.graph))
    elementwise = read_elementwise(model.graph, taken=operators)
    for one in elementwise:
        quantizer = one.output.producer()
        if quantizer is not None and quantizer.inputs[0] is not None:
            results[one.name] = quantizer.inputs[0]
    positions = {node: i for i, node in enumerate(ir.traversal.RecursiveGraphIterator(model.graph))}
    named = {**operators, **{one.name: one.node for one in elementwise}}
    return Roundings(
        elementwise=elementwise,
        of={name: rounded[value] for name, value in results.items() if value in rounded},
        names=sorted(named, key=lambda name: positions[named[name]]),
    )
