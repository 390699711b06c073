"""What a quantized operator in a graph computes, as numbers."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from bridge.export.graph.constants import Array
from bridge.export.graph.copies import Counterparts
from bridge.export.read.batch_norm import BatchNorm
from qatfunc.limits import EXACT_FLOAT32


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedLayer:
    """What a quantized operator in a graph computes.

        acc = op(x_q - zero_point_x, weight) + bias
        y = float32(acc) * (scale_x * scale_w * factor) + shift

    Args:
        name: module path.
        op: "Conv", "ConvTranspose" or "MatMul" (Gemm reads as MatMul).
        node: the float operator, in the model that the layer is to be written in.
        output: the value the layer produces there.
        scale_x: float32 scalar; (out,) where each channel of the input has its own.
        zero_point_x: scalar of x_q's dtype: int8, uint8, int16 or uint16.
        weight_source: name of the value the weight comes from; layers that share it are tied.
        weight: int8, as the operator takes it; (in, out) for MatMul. int16 within -255 to 255
            where it was stored around a zero point that leaves int8.
        scale_w: float32 (out,) or (1,).
        float_bias: (out,) as the file has it, or None.
        bias: int32 (out,), or None; with the correction.
        correction: int64 (out,), what the bias holds because the input's channels have zero points
            of their own, or None (bridge.export.read.channel_scales).
        norm: the BatchNormalization that is folded into factor and shift, or None.
        adjusted_rescale: float32, what requantization.chains replaces the product of scales by, or
            None.
        attributes: the operator's own (strides, pads, group, ...).
        groups: groups of a convolution.
    """

    name: str
    op: str
    node: ir.Node
    output: ir.Value
    scale_x: Array
    zero_point_x: Array
    weight_source: str
    weight: Array
    scale_w: Array
    float_bias: Array | None
    bias: Array | None
    norm: BatchNorm | None
    correction: Array | None = None
    adjusted_rescale: Array | None = None
    attributes: dict[str, Any]
    groups: int

    @property
    def x_q(self) -> ir.Value:
        """The quantized input."""
        codes = self.pair.inputs[0]
        if codes is None:
            raise ValueError(f"layer {self.name!r}: {self.pair.name!r} has no input")
        return codes

    @property
    def pair(self) -> ir.Node:
        """The DequantizeLinear on the operator's first input."""
        value = self.node.inputs[0]
        pair = None if value is None else value.producer()
        if pair is None:
            raise ValueError(f"layer {self.name!r}: the input of its operator is not dequantized")
        return pair

    def on(self, copy: Counterparts) -> "QuantizedLayer":
        """Return the layer as it stands in a copy of its model.

        Args:
            copy: where the nodes and values of the model are.
        """
        return replace(self, node=copy.nodes[self.node], output=copy.values[self.output])

    @property
    def unfolded(self) -> "QuantizedLayer":
        """The layer without the BatchNormalization that is folded into it."""
        if self.norm is None:
            return self
        norm = self.output.producer()
        value = None if norm is None else norm.inputs[0]
        if value is None:
            raise ValueError(f"layer {self.name!r}: no BatchNormalization computes its output")
        return replace(self, norm=None, output=value)

    @property
    def rescale(self) -> Array:
        """float32 (out,) or (1,): scale_x * scale_w * factor, or the adjusted one."""
        if self.adjusted_rescale is not None:
            return self.adjusted_rescale
        scale = self.scale_x * self.scale_w
        return scale if self.norm is None else (scale * self.norm.factor).astype(np.float32)

    @property
    def wide(self) -> bool:
        """Whether the input has 16 bits."""
        return self.zero_point_x.dtype.itemsize > 1

    @property
    def fixed_padding(self) -> bool:
        """Whether a convolution's padding is given, and not made to fit the input's size."""
        given = self.attributes
        return given.get("auto_pad", "NOTSET") == "NOTSET" and not given.get("output_shape")

    @property
    def max_abs_input(self) -> int:
        """Largest |x_q - zero_point_x|."""
        info, zero = np.iinfo(self.zero_point_x.dtype), int(self.zero_point_x)
        return max(info.max - zero, zero - info.min)

    @property
    def accumulator_bounds(self) -> Array:
        """int64 (out,): largest |acc| any input can cause."""
        sums = self._output_rows().sum(axis=1) * self.max_abs_input
        return sums if self.bias is None else sums + np.abs(self.bias.astype(np.int64))

    @property
    def accumulator_bound(self) -> int:
        """Largest |acc| any input can cause, over all channels."""
        return int(self.accumulator_bounds.max())

    @property
    def proven(self) -> bool:
        """Whether float32 sums of this layer are exact for every input."""
        return self.accumulator_bound < EXACT_FLOAT32

    def _output_rows(self) -> Array:
        magnitude = np.abs(self.weight.astype(np.int64))
        return output_rows(magnitude, self.op, self.groups)


def output_rows(weight: Array, op: str, groups: int) -> Array:
    """Lay a weight out as (out, everything one output element sees).

    Args:
        weight: in the operator's own layout.
        op: "Conv", "ConvTranspose" or "MatMul".
        groups: groups of a convolution.
    Returns:
        a 2-D view or copy.
    """
    if op == "MatMul":
        return weight.T
    if op == "Conv":
        return weight.reshape(weight.shape[0], -1)
    per_group = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return per_group.transpose(0, 2, 1, 3).reshape(groups * weight.shape[1], -1)


def signed_zero_point(zero_point: Array) -> int:
    """Return a zero point as signed integers count.

    Args:
        zero_point: one integer, signed or unsigned.
    Returns:
        the zero point, half the type's range less for unsigned ones.
    """
    half = 1 << (8 * zero_point.dtype.itemsize - 1)
    return int(zero_point.reshape(())) - (half if zero_point.dtype.kind == "u" else 0)
