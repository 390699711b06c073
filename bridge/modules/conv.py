"""Quantized convolutions in the shape of torch's own."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from bridge.modules.base import QATLayer
from bridge.targets import CONV2D, CONV3D, CONV_TRANSPOSE2D

Config = Mapping[str, Any]
Size2 = int | tuple[int, int]
Size3 = int | tuple[int, int, int]


class Conv2dQAT(QATLayer, nn.Conv2d):
    """torch.nn.Conv2d trained with quantized weight and input (qatfunc.operators.conv2d).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
        padding_mode, device, dtype: as torch's; padding_mode must be "zeros".
        config: the configuration dict, see bridge.config.read_config.
    Raises:
        TypeError: config is not a dict.
        ValueError: a configuration value is wrong, or padding_mode is not "zeros".
    """

    operator = CONV2D

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Size2 | str = 0,
        dilation: Size2 = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        config: Config | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        self._init_quantization(config)

    @classmethod
    def from_float(cls, mod: nn.Module, config: Config | None = None) -> Self:
        """Build the layer on a float layer's own parameters, device and mode.

        Args:
            mod: a torch.nn.Conv2d.
            config: the configuration dict.
        Returns:
            the layer; its weight and bias are mod's very Parameter objects.
        Raises:
            TypeError: mod is of another class, or config is not a dict.
            ValueError: as the constructor.
        """
        return cls._copy_float(mod, config, **_conv_arguments(mod))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x, (N, C, H, W) float32."""
        if not self.config.enabled:
            return super().forward(x)
        return self._quantized_forward(x, **_conv_geometry(self))


class Conv3dQAT(QATLayer, nn.Conv3d):
    """torch.nn.Conv3d trained with quantized weight and input (qatfunc.operators.conv3d).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
        padding_mode, device, dtype: as torch's; padding_mode must be "zeros" and the depth
        dilation 1.
        config: the configuration dict, see bridge.config.read_config.
    Raises:
        TypeError: config is not a dict.
        ValueError: a configuration value is wrong.
        RuntimeError: padding_mode is not "zeros" or the depth dilation is not 1.
    """

    operator = CONV3D

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size3,
        stride: Size3 = 1,
        padding: Size3 | str = 0,
        dilation: Size3 = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        config: Config | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        self._init_quantization(config)

    @classmethod
    def from_float(cls, mod: nn.Module, config: Config | None = None) -> Self:
        """Build the layer on a float layer's own parameters, device and mode.

        Args:
            mod: a torch.nn.Conv3d.
            config: the configuration dict.
        Returns:
            the layer; its weight and bias are mod's very Parameter objects.
        Raises:
            RuntimeError: mod is of another class, or as the constructor.
            TypeError, ValueError: as the constructor.
        """
        return cls._copy_float(mod, config, **_conv_arguments(mod))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x, (N, C, D, H, W) float32."""
        if not self.config.enabled:
            return super().forward(x)
        return self._quantized_forward(x, **_conv_geometry(self))


class ConvTranspose2dQAT(QATLayer, nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d trained with quantized weight and input.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
        padding_mode, device, dtype: as Conv2dQAT's, in the same order.
        config: the configuration dict, see bridge.config.read_config.
        output_padding: as torch's, keyword only.
    Raises:
        TypeError: config is not a dict.
        ValueError: a configuration value is wrong, or padding_mode is not "zeros".
    """

    operator = CONV_TRANSPOSE2D

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Size2 = 0,
        dilation: Size2 = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        config: Config | None = None,
        *,
        output_padding: Size2 = 0,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        self._init_quantization(config)

    @classmethod
    def from_float(cls, mod: nn.Module, config: Config | None = None) -> Self:
        """Build the layer on a float layer's own parameters, device and mode.

        Args:
            mod: a torch.nn.ConvTranspose2d.
            config: the configuration dict.
        Returns:
            the layer; its weight and bias are mod's very Parameter objects.
        Raises:
            TypeError: mod is of another class, or config is not a dict.
            ValueError: as the constructor.
        """
        return cls._copy_float(mod, config, **_conv_arguments(mod, "output_padding"))

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the transposed convolution of x, (N, C, H, W) float32.

        output_size chooses among the sizes that a stride leaves open, as torch's does.
        """
        if not self.config.enabled:
            return super().forward(x, output_size)
        output_padding = self._output_padding(
            x,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            2,
            self.dilation,  # type: ignore[arg-type]
        )
        geometry = _conv_geometry(self) | {"output_padding": output_padding}
        return self._quantized_forward(x, **geometry)


_GEOMETRY = ("stride", "padding", "dilation", "groups")
_ARGUMENTS = ("in_channels", "out_channels", "kernel_size", *_GEOMETRY, "padding_mode")


def _conv_arguments(mod: nn.Module, *more: str) -> dict[str, Any]:
    """Read a convolution's hyperparameters, as far as mod has them: others are refused later."""
    return {name: getattr(mod, name) for name in (*_ARGUMENTS, *more) if hasattr(mod, name)}


def _conv_geometry(layer: Any) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in _GEOMETRY}
