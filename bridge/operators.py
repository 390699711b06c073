"""The table of quantized operators, and the checks of their inputs and hyperparameters."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qatfunc import operators
from qatfunc.numerics.torch_internals import is_jit_tracing

__all__ = [
    "CONV1D",
    "CONV2D",
    "CONV3D",
    "CONV_TRANSPOSE1D",
    "CONV_TRANSPOSE2D",
    "LINEAR",
    "Operator",
    "check_is_tensor",
    "check_product",
]

Layer = Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A quantized operator: its torch class, its pure function and the limits of the targets.

    Args:
        name: of the function in qatfunc.operators and in torch.nn.functional.
        float_class: the torch module that it replaces.
        function: the pure function that computes it.
        spatial: number of spatial axes, 0 for linear.
        transposed: whether it is a transposed convolution.
        channel_wise: whether the weight has one scale for each output channel by default.
        may_be_channel_wise: whether the targets support one weight scale for each output channel.
        refuses_depth_dilation: whether dilation along the first spatial axis must be 1.
        error: exception for a wrong padding_mode, the type that AMCT raises.
        from_float_error: exception for a module of another class, the type that AMCT raises.
    """

    name: str
    float_class: type[nn.Module]
    function: Callable[..., Tensor]
    spatial: int
    transposed: bool = False
    channel_wise: bool = True
    may_be_channel_wise: bool = True
    refuses_depth_dilation: bool = False
    error: type[Exception] = ValueError
    from_float_error: type[Exception] = TypeError

    def check_tensors(self, x: Tensor, weight: Tensor, layer: Layer) -> None:
        """Raise unless a layer's input and weight have the rank and dtype of the operator.

        Args:
            x: the input of forward, (N, C, *spatial) or (*, in_features); within autocast, after
                the cast to float32.
            weight: the layer's weight.
            layer: returns the layer's name for a message; called for errors only, as it is slow.
        Raises:
            RuntimeError: x has another rank.
            ValueError: x or weight is not float32.
        """
        shape, wanted = x.shape, self.spatial + 2
        if (len(shape) != wanted) if self.spatial else (len(shape) < wanted):
            more = "" if self.spatial else " or more"
            raise RuntimeError(
                f"{layer()}: input must have rank {wanted}{more}, got shape {tuple(x.shape)}"
            )
        if x.dtype != torch.float32:
            raise _wrong_dtype(x, "input", layer)
        if weight.dtype != torch.float32:
            raise ValueError(
                f"{layer()}: weight must be float32, got {weight.dtype}; keep the model in float32 "
                "and use torch.autocast for mixed precision"
            )

    def check_channels(self, x: Tensor, wanted: int, layer: Layer) -> None:
        """Raise unless an input has as many channels as the weight has input channels.

        Args:
            x: (N, C, *spatial) or, for linear, (*, in_features).
            wanted: number of channels; for linear, of features.
            layer: returns the layer's name for a message.
        Raises:
            RuntimeError: x has another number of channels.
        """
        shape = tuple(x.shape)
        got, what = (shape[1], "channels") if self.spatial else (shape[-1], "features (last axis)")
        if got == wanted:
            return
        last = self.spatial and shape[-1] == wanted
        hint = "; channels come after the batch axis: x.movedim(-1, 1)" if last else ""
        raise RuntimeError(
            f"{layer()}: expected an input with {wanted} {what}, got {got} (shape {shape}){hint}"
        )

    def check_layer(self, layer: nn.Module, *, per_channel: bool) -> None:
        """Raise unless the targets support a layer's hyperparameters.

        Args:
            layer: a convolution or linear module.
            per_channel: whether its weight has one scale for each output channel.
        Raises:
            ValueError, RuntimeError: padding_mode is not "zeros" (see `error`).
            RuntimeError: the depth dilation is not 1, or per_channel is True, where the operator
                does not support it.
        """
        kind = type(layer).__name__
        mode = getattr(layer, "padding_mode", "zeros")
        if mode != "zeros":
            raise self.error(f"{kind}: padding_mode must be 'zeros', got {mode!r}")
        if self.refuses_depth_dilation and layer.dilation[0] != 1:  # type: ignore[index]
            raise RuntimeError(f"{kind}: dilation_d must be 1, got dilation={layer.dilation}")
        if per_channel and not self.may_be_channel_wise:
            raise RuntimeError(f"{kind}: channel_wise must be False, got True")


def check_is_tensor(x: Tensor, name: str, layer: Layer) -> None:
    """Raise unless an argument of a layer's forward is a tensor.

    Args:
        x: any object.
        name: of the argument, for the message.
        layer: returns the layer's name for the message.
    Raises:
        TypeError: x is not a tensor.
    """
    if not isinstance(x, Tensor):
        kind = f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
        hint = "; torch.as_tensor(x) makes one" if hasattr(x, "__len__") else ""
        raise TypeError(f"{layer()}: {name} must be a torch.Tensor, got {kind}{hint}")


def _wrong_dtype(x: Tensor, name: str, layer: Layer) -> ValueError:
    return ValueError(
        f"{layer()}: {name} must be float32, got {x.dtype}; call x.float(), or use torch.autocast "
        "for mixed precision"
    )


def check_product(a: Tensor, b: Tensor, layer: Layer) -> None:
    """Raise unless two activations can be multiplied as matrices and the targets support it.

    Args:
        a: first operand, (*, M, K).
        b: second operand, (*, K, N).
        layer: returns the layer's name for a message.
    Raises:
        RuntimeError: a rank is not 2 to 6, the shapes do not match, or the operands are on
            different devices.
        ValueError: an operand is not float32.
    """
    for name, operand in (("input", a), ("other", b)):
        if operand.dtype != torch.float32:
            raise _wrong_dtype(operand, name, layer)
        if not 2 <= operand.ndim <= 6:
            raise RuntimeError(
                f"{layer()}: {name} must have rank 2 to 6, got shape {tuple(operand.shape)}"
            )
    if a.device != b.device:
        raise RuntimeError(
            f"{layer()}: input is on {a.device}, other on {b.device}; move one of them"
        )
    if not torch.compiler.is_compiling() and is_jit_tracing():
        return  # under torch.jit.trace sizes are tensors, which cannot be compared
    pairs = zip(reversed(a.shape[:-2]), reversed(b.shape[:-2]), strict=False)
    if a.shape[:-2] != b.shape[:-2] and any(m != n and 1 not in (m, n) for m, n in pairs):
        raise RuntimeError(
            f"{layer()}: the batch axes of input and other must be equal or 1, got shapes "
            f"{tuple(a.shape)} and {tuple(b.shape)}"
        )
    if a.shape[-1] != b.shape[-2]:
        raise RuntimeError(
            f"{layer()}: expected other with {a.shape[-1]} rows, as input has that many columns, "
            f"got {b.shape[-2]} (shapes {tuple(a.shape)} and {tuple(b.shape)})"
        )


CONV1D = Operator(name="conv1d", float_class=nn.Conv1d, function=operators.conv1d, spatial=1)
CONV2D = Operator(name="conv2d", float_class=nn.Conv2d, function=operators.conv2d, spatial=2)
CONV_TRANSPOSE1D = Operator(
    name="conv_transpose1d",
    float_class=nn.ConvTranspose1d,
    function=operators.conv_transpose1d,
    spatial=1,
    transposed=True,
)
CONV_TRANSPOSE2D = Operator(
    name="conv_transpose2d",
    float_class=nn.ConvTranspose2d,
    function=operators.conv_transpose2d,
    spatial=2,
    transposed=True,
)
CONV3D = Operator(
    name="conv3d",
    float_class=nn.Conv3d,
    function=operators.conv3d,
    spatial=3,
    refuses_depth_dilation=True,
    error=RuntimeError,
    from_float_error=RuntimeError,
)
LINEAR = Operator(
    name="linear",
    float_class=nn.Linear,
    function=operators.linear,
    spatial=0,
    channel_wise=False,
    may_be_channel_wise=False,
    from_float_error=RuntimeError,
)
