"""Operators of the Ascend dialect, implemented for onnx.reference."""

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_conv_transpose

from bridge.export.geometry.output_padding import pad_kernel
from bridge.export.graph.constants import Array


class AscendQuant(OpRun):
    """y = q - offset, with q = clamp(round(x * scale) + offset, -128, 127).

    The output is float64 with the offset already subtracted. So the evaluator's own operators sum
    it exactly, and their zero padding stands for the offset, as on the device.
    """

    def _run(
        self,
        x: Array,
        scale: float | None = None,
        offset: float | None = None,
        dst_type: Any = None,
    ) -> tuple[Array]:
        if dst_type != "INT8" or scale is None or offset is None:
            raise ValueError(f"AscendQuant needs scale, offset and dst_type INT8, got {dst_type!r}")
        with np.errstate(over="ignore"):  # infinity is clipped like every large value
            codes = np.rint(x * np.float32(scale))
        return (np.clip(codes, -128 - offset, 127 - offset).astype(np.float64),)


class AscendDequant(OpRun):
    """float32(acc) * scale, with the float32 scale in the low half of each uint64."""

    def _run(self, x: Array, parameters: Array, dtype: int | None = None) -> tuple[Array]:
        if dtype != 0:
            raise ValueError(f"AscendDequant to float32 has dtype 0, got {dtype}")
        scale = (parameters & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)
        # Per-channel scales only occur with channels on axis 1; MatMul of rank >= 3 has one scale.
        scale = scale.reshape(-1, *(1,) * (x.ndim - 2)) if scale.size > 1 else scale.reshape(())
        return (x.astype(np.float32) * scale,)


class AscendAntiQuant(OpRun):
    """y = (q + offset) * scale, where the input is AscendQuant's, which includes the offset."""

    def _run(
        self, x: Array, scale: float | None = None, offset: float | None = None
    ) -> tuple[Array]:
        if scale is None or offset is None:
            raise ValueError("AscendAntiQuant needs scale and offset")
        # + 0.0 turns -0.0 into 0.0: integers have no negative zero.
        return ((x + 0.0).astype(np.float32) * np.float32(scale),)


class ConvTranspose(op_conv_transpose.ConvTranspose):
    """The evaluator's ConvTranspose, applied to each group, as it fails for group > 1.

    The kernel is padded first: like ONNX Runtime, it fails unless output_padding < stride.
    """

    def _run(  # type: ignore[override]
        self, x: Array, w: Array, b: Array | None = None, group: int | None = None, **kwargs: Any
    ) -> tuple[Array]:
        groups = group or 1
        w, kwargs = pad_kernel(w, kwargs)
        parts = [
            super(ConvTranspose, self)._run(part, kernel, None, group=1, **kwargs)[0]
            for part, kernel in zip(np.split(x, groups, 1), np.split(w, groups, 0), strict=True)
        ]
        y = np.concatenate(parts, axis=1)
        return (y if b is None else y + b.reshape(-1, *(1,) * (y.ndim - 2)),)


class MatMul(OpRun):
    """Product of AscendQuant's float64 and int8 weights; the evaluator's requires equal dtypes."""

    def _run(self, a: Array, b: Array) -> tuple[Array]:
        return (np.matmul(a, b),)


class Add(OpRun):
    """Sum of float64 accumulators and int32 biases; the evaluator's requires equal dtypes."""

    def _run(self, a: Array, b: Array) -> tuple[Array]:
        return (np.add(a, b),)
