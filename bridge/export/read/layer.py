"""QuantizedLayer: an operator with quantized input and weight, as arrays and numbers."""

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
    """An operator with quantized input and weight.

        acc = op(x_q - zero_point_x, weight) + bias
        y = float32(acc) * (scale_x * scale_w * factor) + shift

    Invariants:
        weight = q_w - zero_point_w, in [-255, 255]
        bias = round(float_bias / (scale_x * scale_w)) + correction, in int32
        accumulator_bound <= 2^31 - 1, or 2^53 for 16-bit inputs
        scale_x * scale_w > 0 and finite in float32

    Args:
        name: module path.
        op: "Conv", "ConvTranspose" or "MatMul"; Gemm is read as MatMul.
        node: the float operator, in the model that the layer is to be written in.
        output: value of the same model that the layer computes.
        scale_x: float32 scalar; (out,) for an input that is quantized per channel.
        zero_point_x: scalar of x_q's dtype: int8, uint8, int16 or uint16.
        weight_source: name of the value that the weight is quantized from; equal for tied weights.
        weight: integers in the operator's layout, (in, out) for MatMul; int8, or int16 if a weight
            minus its zero point exceeds int8.
        scale_w: float32 (out,) or (1,).
        float_bias: (out,) as in the file, or None.
        bias: int32 (out,), or None.
        correction: int64 (out,), the part of the bias that accounts for input channels with
            different zero points (read.channel_scales), or None.
        norm: factor and shift of a folded BatchNormalization, or None.
        adjusted_rescale: float32, a replacement of scale_x * scale_w by requantization.chains, or
            None.
        attributes: of the operator (strides, pads, group, ...).
        groups: of a convolution.
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
        """The quantized input, before its DequantizeLinear."""
        codes = self.pair.inputs[0]
        if codes is None:
            raise ValueError(f"layer {self.name!r}: {self.pair.name!r} has no input")
        return codes

    @property
    def pair(self) -> ir.Node:
        """The DequantizeLinear of the operator's first input."""
        value = self.node.inputs[0]
        pair = None if value is None else value.producer()
        if pair is None:
            raise ValueError(f"layer {self.name!r}: the input of its operator is not dequantized")
        return pair

    def on(self, copy: Counterparts) -> "QuantizedLayer":
        """Return the same layer in a copy of its model.

        Args:
            copy: maps nodes and values of the model to those of the copy.
        """
        return replace(self, node=copy.nodes[self.node], output=copy.values[self.output])

    @property
    def unfolded(self) -> "QuantizedLayer":
        """The layer before its BatchNormalization, if one is folded."""
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
        """Whether the padding of a convolution is independent of its input's size."""
        given = self.attributes
        return given.get("auto_pad", "NOTSET") == "NOTSET" and not given.get("output_shape")

    @property
    def max_abs_input(self) -> int:
        """Largest |x_q - zero_point_x|."""
        info, zero = np.iinfo(self.zero_point_x.dtype), int(self.zero_point_x)
        return max(info.max - zero, zero - info.min)

    @property
    def accumulator_bounds(self) -> Array:
        """int64 (out,): largest |acc| for any input, per output channel."""
        sums = self._output_rows().sum(axis=1) * self.max_abs_input
        return sums if self.bias is None else sums + np.abs(self.bias.astype(np.int64))

    @property
    def accumulator_bound(self) -> int:
        """Largest |acc| for any input, over all channels."""
        return int(self.accumulator_bounds.max())

    @property
    def proven(self) -> bool:
        """Whether every float32 sum of this layer is exact for any input."""
        return self.accumulator_bound < EXACT_FLOAT32

    def _output_rows(self) -> Array:
        magnitude = np.abs(self.weight.astype(np.int64))
        return output_rows(magnitude, self.op, self.groups)


def output_rows(weight: Array, op: str, groups: int) -> Array:
    """Reshape a weight to one row per output channel.

    Args:
        weight: in the operator's layout.
        op: "Conv", "ConvTranspose" or "MatMul".
        groups: of a convolution.
    Returns:
        (out, elements that one output element is summed over), a view or a copy.
    """
    if op == "MatMul":
        return weight.T
    if op == "Conv":
        return weight.reshape(weight.shape[0], -1)
    per_group = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return per_group.transpose(0, 2, 1, 3).reshape(groups * weight.shape[1], -1)


def signed_zero_point(zero_point: Array) -> int:
    """Return the zero point of the signed codes that correspond to unsigned ones.

    Args:
        zero_point: one integer, signed or unsigned, of b bits.
    Returns:
        the zero point, minus 2^(b - 1) for unsigned codes.
    """
    half = 1 << (8 * zero_point.dtype.itemsize - 1)
    return int(zero_point.reshape(())) - (half if zero_point.dtype.kind == "u" else 0)
