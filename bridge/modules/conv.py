"""Quantized convolutions with the constructors of torch.nn's."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bridge.modules.weighted import QATLayer
from bridge.operators import CONV1D, CONV2D, CONV3D, CONV_TRANSPOSE1D, CONV_TRANSPOSE2D

Config = Mapping[str, Any]
Size = int | tuple[int, ...]

_GEOMETRY = ("stride", "padding", "dilation", "groups")


class _ConvQAT(QATLayer):
    """Constructor and forward of the convolutions with 1, 2 or 3 spatial axes."""

    arguments = ("in_channels", "out_channels", "kernel_size", *_GEOMETRY, "padding_mode")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
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
            padding_mode,
            device,
            dtype,
        )
        self._init_quantization(config)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return the convolution of input, (N, C, *spatial) float32."""
        if not self.config.enabled:
            return self._float_forward(input)
        return self._quantized_forward(input, **_geometry(self))


class _ConvTransposeQAT(QATLayer):
    """Constructor and forward of the transposed convolutions with 1 or 2 spatial axes."""

    arguments = (*_ConvQAT.arguments, "output_padding")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        config: Config | None = None,
        *,
        output_padding: Size = 0,
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
            padding_mode,
            device,
            dtype,
        )
        self._init_quantization(config)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002
        """Return the transposed convolution of input, (N, C, *spatial) float32.

        output_size selects among the output sizes that a stride greater than 1 allows, as torch's.
        """
        if not self.config.enabled:
            sized = () if output_size is None else (output_size,)
            return self._float_forward(input, *sized)
        geometry = _geometry(self)
        stride, padding, dilation, _ = geometry.values()
        geometry["output_padding"] = self._output_padding(  # type: ignore[operator]
            input, output_size, stride, padding, self.kernel_size, self.operator.spatial, dilation
        )
        return self._quantized_forward(input, **geometry)


class Conv1dQAT(_ConvQAT, nn.Conv1d):
    """torch.nn.Conv1d trained with quantized weight and input (qatfunc.operators.conv1d).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
        padding_mode, device, dtype: as torch's; padding_mode must be "zeros".
        config: the configuration dict, see bridge.config.reader.read_config.
    Raises:
        TypeError: config is not a dict.
        ValueError: a configuration value is wrong, or padding_mode is not "zeros".
    """

    operator = CONV1D


class Conv2dQAT(_ConvQAT, nn.Conv2d):
    """torch.nn.Conv2d trained with quantized weight and input (qatfunc.operators.conv2d).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
        padding_mode, device, dtype: as torch's; padding_mode must be "zeros".
        config: the configuration dict, see bridge.config.reader.read_config.
    Raises:
        TypeError: config is not a dict.
        ValueError: a configuration value is wrong, or padding_mode is not "zeros".
    """

    operator = CONV2D


class Conv3dQAT(_ConvQAT, nn.Conv3d):
    """torch.nn.Conv3d trained with quantized weight and input (qatfunc.operators.conv3d).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
        padding_mode, device, dtype: as torch's; padding_mode must be "zeros" and the depth
        dilation 1.
        config: the configuration dict, see bridge.config.reader.read_config.
    Raises:
        TypeError: config is not a dict.
        ValueError: a configuration value is wrong.
        RuntimeError: padding_mode is not "zeros" or the depth dilation is not 1.
    """

    operator = CONV3D


class ConvTranspose1dQAT(_ConvTransposeQAT, nn.ConvTranspose1d):
    """torch.nn.ConvTranspose1d trained with quantized weight and input.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
        padding_mode, device, dtype: as Conv1dQAT's, in the same order.
        config: the configuration dict, see bridge.config.reader.read_config.
        output_padding: as torch's, keyword only.
    Raises:
        TypeError: config is not a dict.
        ValueError: a configuration value is wrong, or padding_mode is not "zeros".
    """

    operator = CONV_TRANSPOSE1D


class ConvTranspose2dQAT(_ConvTransposeQAT, nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d trained with quantized weight and input.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
        padding_mode, device, dtype: as Conv2dQAT's, in the same order.
        config: the configuration dict, see bridge.config.reader.read_config.
        output_padding: as torch's, keyword only.
    Raises:
        TypeError: config is not a dict.
        ValueError: a configuration value is wrong, or padding_mode is not "zeros".
    """

    operator = CONV_TRANSPOSE2D


def _geometry(layer: Any) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in _GEOMETRY}
