"""The quantized linear layer in the shape of torch's own."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from bridge.modules.base import QATLayer
from bridge.targets import LINEAR


class LinearQAT(QATLayer, nn.Linear):  # type: ignore[misc]
    """torch.nn.Linear trained with quantized weight and input (qatfunc.operators.linear).

    Args:
        in_features, out_features, bias, device, dtype: as torch's.
        config: the configuration dict, see bridge.config.read_config.
    Raises:
        TypeError: config is not a dict.
        ValueError: a configuration value is wrong.
        RuntimeError: channel_wise is True, which the targets do not support.
    """

    operator = LINEAR

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
        self._init_quantization(config)

    @classmethod
    def from_float(cls, mod: nn.Module, config: Mapping[str, Any] | None = None) -> Self:
        """Build the layer on a float layer's own parameters, device and mode.

        Args:
            mod: a torch.nn.Linear.
            config: the configuration dict.
        Returns:
            the layer; its weight and bias are mod's very Parameter objects.
        Raises:
            RuntimeError: mod is of another class, or as the constructor.
            TypeError, ValueError: as the constructor.
        """
        names = ("in_features", "out_features")
        sizes = {name: getattr(mod, name) for name in names if hasattr(mod, name)}
        return cls._copy_float(mod, config, **sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the linear map of x, (*, in_features) float32 of rank 2 or more."""
        if not self.config.enabled:
            return super().forward(x)
        return self._quantized_forward(x)
