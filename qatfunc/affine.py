"""Affine quantization: `q = clamp(round(x / scale) + zero_point, qmin, qmax)`."""

import torch
from torch import Tensor

from qatfunc.params import QParams
from qatfunc.spec import IntSpec


def quantize_centered(x: Tensor, qparams: QParams, spec: IntSpec) -> Tensor:
    """Quantize x to integers relative to the zero point, as integer-valued float32.

    y = clamp(round(x / scale), qmin - zero_point, qmax - zero_point)  =  q - zero_point

    Rounding is half to even, of a true quotient, as in ONNX QuantizeLinear. Multiplying by
    1 / scale, or adding the zero point before rounding, gives another integer in rare cases.

    Args:
        x: float32, any shape.
        qparams: scale and zero point, broadcastable to x.
        spec: the grid.
    Returns:
        float32 of x's shape, integers within [qmin - zero_point, qmax - zero_point].
    Raises:
        ValueError: scale does not broadcast to x's shape.
    Gradient: zero almost everywhere; to train, see `qatfunc.ulq` and `qatfunc.arq`.
    Source: docs/semantics.md, 1; ONNX operator QuantizeLinear.
    """
    check_broadcast(qparams.scale, x)
    scaled = torch.round(x / qparams.scale)
    return torch.clamp(scaled, spec.qmin - qparams.zero_point, spec.qmax - qparams.zero_point)


def quantize(x: Tensor, qparams: QParams, spec: IntSpec) -> Tensor:
    """Quantize x to the integers of a grid.

    q = clamp(round(x / scale) + zero_point, qmin, qmax)

    Args:
        x: float32, any shape.
        qparams: scale and zero point, broadcastable to x.
        spec: the grid.
    Returns:
        int8 up to 8 bits, int16 above, of x's shape.
    Raises:
        ValueError: scale does not broadcast to x's shape.
    Gradient: none, the result is an integer tensor.

    >>> qparams = QParams(torch.tensor(0.5), torch.tensor(3.0))
    >>> quantize(torch.tensor([0.0, 0.75, 1.25, 1e9]), qparams, IntSpec(bits=8))
    tensor([  3,   5,   5, 127], dtype=torch.int8)
    """
    integers = quantize_centered(x, qparams, spec) + qparams.zero_point
    return integers.to(torch.int8 if spec.bits <= 8 else torch.int16)


def dequantize(q: Tensor, qparams: QParams) -> Tensor:
    """Return the real numbers that quantized integers represent.

    x = (q - zero_point) * scale

    Args:
        q: integers of any dtype, any shape.
        qparams: scale and zero point, broadcastable to q.
    Returns:
        float32 of q's shape.
    """
    return (q.to(torch.float32) - qparams.zero_point) * qparams.scale


def fake_quantize(x: Tensor, qparams: QParams, spec: IntSpec) -> Tensor:
    """Quantize x and dequantize it again.

    y = (clamp(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale

    Args:
        x: float32, any shape.
        qparams: scale and zero point, broadcastable to x.
        spec: the grid.
    Returns:
        float32 of x's shape.
    Raises:
        ValueError: scale does not broadcast to x's shape.
    Gradient: zero almost everywhere.
    """
    return quantize_centered(x, qparams, spec) * qparams.scale


def check_broadcast(scale: Tensor, x: Tensor) -> None:
    """Raise unless a scale broadcasts to x, without adding or widening axes.

    Args:
        scale: any shape.
        x: the tensor to quantize.
    Raises:
        ValueError: scale does not broadcast to x's shape.
    """
    shape = scale.shape
    padded = (1,) * (x.ndim - len(shape)) + tuple(shape)
    if len(shape) > x.ndim or any(s not in (1, n) for s, n in zip(padded, x.shape, strict=True)):
        raise ValueError(
            f"scale of shape {tuple(shape)} does not broadcast to x of shape {tuple(x.shape)}"
        )
