"""One small quantized layer of each operator, for tests that hold for all of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from qatfunc import Clip, LayerSpec, operators
from tests.support.functions import integer_reference


class Kind(NamedTuple):
    operator: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    x: tuple[int, ...]
    weight: tuple[int, ...]
    channels: int
    options: dict[str, Any]

    @property
    def layout(self) -> dict[str, Any]:
        """Where the weight's output channels are, as qatfunc asks for it."""
        transposed = self.reference is integer_reference.transposed_convolution
        return {"transposed": transposed, "groups": self.options.get("groups", 1)}


KINDS = {
    "linear": Kind(operators.linear, F.linear, integer_reference.linear, (3, 5), (4, 5), 4, {}),
    "conv1d": Kind(
        operators.conv1d,
        F.conv1d,
        integer_reference.convolution,
        (2, 4, 9),
        (6, 2, 3),
        6,
        {"stride": 2, "padding": 1, "dilation": 2, "groups": 2},
    ),
    "conv2d": Kind(
        operators.conv2d,
        F.conv2d,
        integer_reference.convolution,
        (2, 4, 5, 6),
        (6, 2, 3, 2),
        6,
        {"stride": 2, "padding": (1, 0), "groups": 2},
    ),
    "conv3d": Kind(
        operators.conv3d,
        F.conv3d,
        integer_reference.convolution,
        (2, 2, 3, 4, 4),
        (3, 2, 2, 2, 3),
        3,
        {"padding": 1, "stride": (1, 2, 1)},
    ),
    "conv_transpose1d": Kind(
        operators.conv_transpose1d,
        F.conv_transpose1d,
        integer_reference.transposed_convolution,
        (2, 4, 5),
        (4, 3, 3),
        6,
        {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
    ),
    "conv_transpose2d": Kind(
        operators.conv_transpose2d,
        F.conv_transpose2d,
        integer_reference.transposed_convolution,
        (2, 4, 3, 3),
        (4, 3, 2, 3),
        6,
        {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
    ),
}
NAMES = list(KINDS)


class Layer(NamedTuple):
    kind: Kind
    x: Tensor
    params: dict[str, Any]
    spec: LayerSpec

    def __call__(self, x: Tensor, params: dict[str, Any]) -> Tensor:
        return self.kind.operator(x, params, self.spec, **self.kind.options)

    def expected(self) -> Tensor:
        """What NumPy's integers give."""
        return self.kind.reference(self.x, self.params, self.spec, **self.kind.options)


def layer(name: str, spec: LayerSpec | None = None, *, seed: int = 0) -> Layer:
    """A layer with every parameter; some inputs lie outside the clip."""
    kind, random = KINDS[name], torch.Generator().manual_seed(seed)
    params = {
        "weight": torch.randn(kind.weight, generator=random),
        "bias": torch.randn(kind.channels, generator=random),
        "clip": Clip(torch.tensor(1.5), torch.tensor(-0.8)),
    }
    return Layer(kind, torch.randn(kind.x, generator=random), params, spec or LayerSpec())


def gradients(one: Layer, *, x_too: bool = True) -> list[Tensor | None]:
    """Gradients of x, of every parameter and, last, the output."""
    x = one.x.clone().requires_grad_(x_too)
    leaves = tree_map(lambda t: t.clone().requires_grad_(), one.params)
    y = one(x, leaves)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    y.backward(upstream)
    return [x.grad, *(leaf.grad for leaf in tree_leaves(leaves)), y.detach()]
