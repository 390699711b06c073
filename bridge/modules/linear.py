"""The quantized linear layer with the constructor of torch.nn.Linear."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bridge.layer_classes.rule import LayerRule
from bridge.modules.weighted import QATLayer
from bridge.operators import LINEAR


class LinearQAT(QATLayer, nn.Linear):  # type: ignore[misc]
    """torch.nn.Linear trained with quantized weight and input (qatfunc.operators.linear).

    Args:
        in_features, out_features, bias, device, dtype: as torch's.
        config: the configuration dict, see bridge.config.reader.read_config.
    Raises:
        TypeError: config is not a dict.
        ValueError: a configuration value is wrong.
        RuntimeError: channel_wise is True, which the targets do not support.
    """

    operator = LINEAR
    arguments = ("in_features", "out_features")
    input_size = "in_features"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.out_channels = out_features
        self._init_quantization(config)

    @classmethod
    def _sizes(cls, mod: nn.Module, rule: LayerRule | None) -> dict[str, Any]:
        sizes = super()._sizes(mod, rule)
        if rule is None or rule.weight is None or len(sizes) == len(cls.arguments):
            return sizes
        out_features, in_features = rule.weight(mod).shape
        return {"in_features": in_features, "out_features": out_features}

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return the linear map of input, (*, in_features) float32 of rank 2 or more."""
        if not self.config.enabled:
            return self._float_forward(input)
        return self._quantized_forward(input)
