"""The quantized product of two activations."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bridge.config.reader import read_config
from bridge.modules.ranges import RangedModule, in_onnx_export
from bridge.modules.symbolic import export_product
from bridge.operators import check_is_tensor, check_product
from qatfunc import Clip, operators
from qatfunc.numerics.autocast import autocasting, widened


class MatMulQAT(RangedModule):
    """torch.matmul of two activations, both quantized symmetrically (qatfunc.operators.matmul).

    State: that of RangeState for the ranges "input" and "other"; cur_batch is not in checkpoints.

    Args:
        device: of the parameters.
        config: the configuration dict, see bridge.config.reader.read_config; its
            retrain_weight_config is not used.
    Raises:
        TypeError: config is not a dict.
        ValueError: a configuration value is wrong, or dst_type is not INT8.
    """

    ranges = ("input", "other")
    saves_count = False

    def __init__(
        self,
        device: torch.device | str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        read = read_config(config, channel_wise=False)
        if read.activation.bits != 8:
            raise ValueError(
                "MatMulQAT: retrain_data_config['dst_type'] must be 'INT8', "
                f"got 'INT{read.activation.bits}'"
            )
        symmetric = replace(read.activation, symmetric=True)
        self._init_ranges(replace(read, activation=symmetric), device)

    def forward(self, input: Tensor, other: Tensor) -> Tensor:  # noqa: A002
        """Return input @ other, float32 of rank 2 to 6."""
        for name, operand in (("input", input), ("other", other)):
            check_is_tensor(operand, name, self._where)
        if autocasting(input):
            with torch.autocast(input.device.type, enabled=False):
                return self.forward(widened(input), widened(other))
        check_product(input, other, self._where)
        spec = self.config.activation
        if not (self.config.enabled and self.quantizes_input):
            return torch.matmul(input, other)
        if in_onnx_export():
            self._check_exportable()
            return export_product(input, other, self._untraced_constants())
        clips: dict[str, Clip] = self._current_clips(input=input, other=other) or {}
        params = {f"{name}_clip": clip for name, clip in clips.items()}
        return operators.matmul(input, other, params, spec)

    def extra_repr(self) -> str:
        """Return a description of the quantization, for repr."""
        how = "calibrated" if self.calibrated else f"{self._batches} batches calibrated"
        return f"int8 x int8, {how}" if self.config.enabled else "not quantized"

    def _exported(self) -> list[tuple[float, int]]:
        return self._export_constants()

    def _export_constants(self) -> list[tuple[float, int]]:
        return [self._exported_range(name) for name in self.ranges]
