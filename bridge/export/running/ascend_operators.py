"""The operators of the Ascend dialect for onnx.reference."""

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_conv_transpose

from bridge.export.geometry.output_padding import pad_kernel
from bridge.export.graph.constants import Array


class AscendQuant(OpRun):
    """q - offset with q = clamp(round(x * scale) + offset, -128, 127).

    The integers are handed on counted from the zero point, as float64: the evaluator's own
    operators then sum them exactly and pad with the integer 0, as the device does.
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
        # MatMul of rank 3 and more has per-tensor scales only, so rank tells where channels are.
        scale = scale.reshape(-1, *(1,) * (x.ndim - 2)) if scale.size > 1 else scale.reshape(())
        return (x.astype(np.float32) * scale,)


class AscendAntiQuant(OpRun):
    """(q + offset) * scale, where AscendQuant already handed on q + offset."""

    def _run(
        self, x: Array, scale: float | None = None, offset: float | None = None
    ) -> tuple[Array]:
        if scale is None or offset is None:
            raise ValueError("AscendAntiQuant needs scale and offset")
        # There is no negative zero among codes.
        return ((x + 0.0).astype(np.float32) * np.float32(scale),)


class ConvTranspose(op_conv_transpose.ConvTranspose):
    """The evaluator's transposed convolution, group by group: its own grouped path fails.

    It also fails where output_padding is not less than the stride, as ONNX Runtime does.
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
    """The matrix product of counted integers by int8 weights; the evaluator's wants one type."""

    def _run(self, a: Array, b: Array) -> tuple[Array]:
        return (np.matmul(a, b),)


class Add(OpRun):
    """The sum, of int32 biases to integer-valued sums too; the evaluator's wants one type."""

    def _run(self, a: Array, b: Array) -> tuple[Array]:
        return (np.add(a, b),)
