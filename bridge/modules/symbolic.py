"""ONNX export of quantized layers: standard QuantizeLinear and DequantizeLinear nodes.

    x -> Q -> DQ ---\
                     op -> y            scales and zero points are constants
    w -> Q -> DQ ---/

Both of torch's exporters are served: the default one by torch.onnx.ops.symbolic, the TorchScript
one by autograd Functions with a `symbolic` method.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.modules.compiling import in_graph
from bridge.operators import Operator
from qatfunc.linear_maps.padding import resolve_padding

# The default exporter writes opset 20, whose QuantizeLinear is version 19. The 16-bit types need
# opset 21, to which the converter raises the file.
_NODE_VERSION = 19

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConstants:
    """Scales and zero points as Python numbers.

    Args:
        scale_x: of the input, None if it is not quantized.
        zero_point_x: of the input.
        scale_w: of the weight, one or one for each output channel; None if it is not quantized.
        bits_x: bits of the input's integers.
        weight_shape: shape of the weight; sizes read from a traced weight would be traced too.
    """

    scale_x: float | None
    zero_point_x: int
    scale_w: list[float] | None
    bits_x: int
    weight_shape: tuple[int, ...]


def run_untraced(function: Callable[[], _T]) -> _T:
    """Call a function outside the current tracing, in a thread of its own.

    Tracing and fake tensor modes are thread-local, so another thread can read tensors' values.

    Args:
        function: without parameters; returns Python values or tensors.
    Returns:
        the function's result.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(function).result()


def export_quantized(
    operator: Operator,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    constants: ExportConstants,
    **geometry: Any,
) -> Tensor:
    """Trace a quantized layer as Q/DQ pairs around its float operator.

    Args:
        operator: the layer's operator.
        x: the layer's float32 input.
        weight: float32 weight, quantized by a Q/DQ pair of its own.
        bias: float32 (out,) or None.
        constants: scales and zero points.
        geometry: the operator's stride, padding, dilation, groups, output_padding.
    Returns:
        the layer's output, for the trace only: its values are undefined.
    """
    integer = torch.int8 if constants.bits_x <= 8 else torch.int16
    if operator.spatial and not operator.transposed:
        padding = geometry.pop("padding")
        inner, outer = resolve_padding(padding, constants.weight_shape[2:], geometry["dilation"])
        # Every grid contains 0, so padding commutes with the Q/DQ pair. Pad first: the pair stays
        # adjacent to the operator, where runtimes match it.
        x = export_padded(x, outer) if outer else x
        geometry["padding"] = inner
    if constants.scale_x is not None:
        scale_x = _constant(constants.scale_x, torch.float32)
        x = _fake_quantize(x, scale_x, _constant(constants.zero_point_x, integer), axis=0)
    if constants.scale_w is not None:
        shape, groups = constants.weight_shape, geometry.get("groups", 1)
        weight = _fake_quantize_weight(operator, weight, constants.scale_w, shape, groups)
    float_op: Callable[..., Tensor] = getattr(F, operator.name)
    return float_op(x, weight, bias, **geometry)


def open_sizes() -> bool:
    """Return whether the running TorchScript export has a dynamic spatial axis.

    Only the exporter's own frames hold its dynamic_axes argument.

    Returns:
        True if dynamic_axes names an axis other than 0 and 1.
    """
    frame = inspect.currentframe()
    while frame is not None:
        axes = frame.f_locals.get("dynamic_axes")
        if str(frame.f_globals.get("__name__")).startswith("torch.onnx") and axes:
            return any(int(axis) not in (0, 1) for of_value in axes.values() for axis in of_value)
        frame = frame.f_back
    return False


def export_padded(x: Tensor, amounts: Sequence[int]) -> Tensor:
    """Pad a tensor with zeros, exported as one Pad node.

    Args:
        x: any tensor.
        amounts: as torch.nn.functional.pad takes them.
    Returns:
        the padded tensor.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        padded: Tensor = _TracedPad.apply(x, list(amounts))
        return padded
    return F.pad(x, list(amounts))


def export_product(a: Tensor, b: Tensor, constants: list[tuple[float, int]]) -> Tensor:
    """Trace a product of two activations as a MatMul with a Q/DQ pair on each operand.

    Args:
        a: float32 first operand.
        b: float32 second operand.
        constants: scale and zero point of each operand.
    Returns:
        the product, for the trace only: its values are undefined.
    """
    operands = []
    for x, (scale, zero_point) in zip((a, b), constants, strict=True):
        zero = _constant(zero_point, torch.int8)
        operands.append(_fake_quantize(x, _constant(scale, torch.float32), zero, axis=0))
    return torch.matmul(*operands)


def _fake_quantize_weight(
    operator: Operator, weight: Tensor, values: list[float], shape: tuple[int, ...], groups: int
) -> Tensor:
    if len(values) == 1:
        scale, zero = _constant(values[0], torch.float32), _constant(0, torch.int8)
        return _fake_quantize(weight, scale, zero, axis=0)
    scale, zero = _constant(values, torch.float32), _constant([0] * len(values), torch.int8)
    if not operator.transposed or groups == 1:
        return _fake_quantize(weight, scale, zero, axis=1 if operator.transposed else 0)
    # One scale for each (group, channel) pair, which no single axis of (in, out/groups, ...)
    # indexes: quantize in the layout (out, in/groups, ...) and transpose back.
    in_channels, per_group, *kernel = shape
    in_per_group = in_channels // groups
    rows = weight.reshape(groups, in_per_group, per_group, *kernel).transpose(1, 2)
    rows = rows.reshape(groups * per_group, in_per_group, *kernel)
    rows = _fake_quantize(rows, scale, zero, axis=0)
    back = rows.reshape(groups, per_group, in_per_group, *kernel).transpose(1, 2)
    return back.reshape(shape)


def _constant(value: float | list[float] | list[int], dtype: torch.dtype) -> Tensor:
    """Return a tensor that the trace holds as a constant, without torch's warning of it."""
    if not torch.jit.is_tracing():  # type: ignore[attr-defined]
        return torch.tensor(value, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        return torch.tensor(value, dtype=dtype)


def _fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, *, axis: int) -> Tensor:
    if torch.jit.is_tracing():  # type: ignore[attr-defined]
        q = _TracedQuantize.apply(x, scale, zero_point, axis)
        return _TracedDequantize.apply(q, scale, zero_point, axis)
    q = _node("QuantizeLinear", (x, scale, zero_point), axis, zero_point.dtype)
    return _node("DequantizeLinear", (q, scale, zero_point), axis, torch.float32)


@in_graph  # torch.export's strict mode does not trace into torch.onnx
def _node(kind: str, inputs: tuple[Tensor, ...], axis: int, dtype: torch.dtype) -> Tensor:
    return torch.onnx.ops.symbolic(
        kind,
        inputs,
        attrs={"axis": axis},
        dtype=dtype,
        shape=inputs[0].shape,
        version=_NODE_VERSION,
    )


class _TracedPad(torch.autograd.Function):
    """F.pad as one Pad node; the TorchScript exporter would write twelve nodes, with a warning."""

    @staticmethod
    def forward(x: Tensor, amounts: list[int]) -> Tensor:
        return F.pad(x, amounts)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def symbolic(g: Any, x: Any, amounts: list[int]) -> Any:
        leading = [0] * (x.type().dim() - len(amounts) // 2)
        ends = [leading + amounts[end::2][::-1] for end in (0, 1)]
        pads = g.op("Constant", value_t=torch.tensor([*ends[0], *ends[1]]))
        return g.op("Pad", x, pads)


class _TracedQuantize(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:  # noqa: ARG004
        return torch.zeros_like(x, dtype=zero_point.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def symbolic(g: Any, x: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return g.op("QuantizeLinear", x, scale, zero_point, axis_i=axis)


class _TracedDequantize(torch.autograd.Function):
    @staticmethod
    def forward(q: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:  # noqa: ARG004
        return torch.zeros_like(q, dtype=scale.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def symbolic(g: Any, q: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return g.op("DequantizeLinear", q, scale, zero_point, axis_i=axis)
