"""Sums in INT8: the bits of those in floats, and only where that is certain."""

import os
import subprocess
import sys
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._pytree import tree_leaves, tree_map

from qatfunc import int8_forward, int8_sums
from qatfunc.bilinear import Bilinear, Convolution, Linear, convolution
from qatfunc.grid import Grid
from tests.qatfunc.bits import same_bits
from tests.qatfunc.layers import NAMES, Layer, layer

GEOMETRIES = [
    {"stride": 1, "padding": 1, "dilation": 1},
    {"stride": 2, "padding": 0, "dilation": 1},
    {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1)},
]


def plain(**options: object) -> Convolution:
    return convolution((3, 3), groups=1, **options)


def integers(low: int, high: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(low, high + 1, shape, generator=generator).to(torch.float32)


def grid(low: int, high: int) -> Grid:
    return Grid(torch.ones(()), float(low), float(high))


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("features", [(1, 1), (5, 3), (64, 48), (300, 17)])
@pytest.mark.parametrize("ends", [(-128, 127), (0, 255), (-255, 0), (-100, 155), (-8, 7)])
def test_a_linear_map_has_the_bits_of_floats(
    rows: int, features: tuple[int, int], ends: tuple[int, int]
):
    x, weight = integers(*ends, 2, rows, features[0]), integers(-128, 127, *features[::-1])
    x[0, 0], x[-1, -1] = ends
    assert same_bits(int8_sums.int8_sums(Linear(), x, weight, grid(*ends)), Linear()(x, weight))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("channels", [1, 3, 16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_convolution_has_the_bits_of_floats(
    geometry: dict[str, int], channels: int, channels_last: bool
):
    # Two products of at most 100 * 60 saturate nowhere.
    x, weight = integers(-30, 70, 2, channels, 9, 8), integers(-60, 60, 5, channels, 3, 3)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    got, want = int8_sums.int8_sums(plain(**geometry), x, weight, grid(-30, 70)), plain(**geometry)
    assert same_bits(got, want(x, weight))
    # One channel is in both formats.
    assert channels == 1 or got.stride() == want(x, weight).stride()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_convolution_of_any_integers_where_the_probe_allows_it(geometry: dict[str, int]):
    if not int8_sums._is_exact("convolution"):
        pytest.skip("this CPU saturates sums of two products")
    x, weight = integers(-100, 155, 2, 16, 9, 8), integers(-128, 127, 5, 16, 3, 3)
    got = int8_sums.int8_sums(plain(**geometry), x, weight, grid(-100, 155))
    assert same_bits(got, plain(**geometry)(x, weight))


def step(one: Layer) -> list[Tensor]:
    x = one.x.clone().requires_grad_()
    leaves = tree_map(lambda t: t.clone().requires_grad_(), one.params)
    y = one(x, leaves)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *tree_leaves(leaves)])]


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_trains_with_the_same_bits(name: str):
    one = layer(name)
    with int8_forward("never"):
        want = step(one)
    with int8_forward("always"), spied() as sums:
        got = step(one)
    assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))
    assert name != "linear" or sums.called


def spied() -> "mock._patch[mock.MagicMock]":
    return mock.patch.object(int8_sums, "int8_sums", wraps=int8_sums.int8_sums)


@pytest.fixture
def refused() -> Iterator[None]:
    """Fails where INT8 is used; the probe passes before that."""
    assert int8_sums._is_exact("linear")
    with int8_forward("always"), spied() as sums:
        yield
    assert not sums.called


def sums(op: Bilinear, x: Tensor, weight: Tensor, ends: tuple[int, int] = (-128, 127)) -> Tensor:
    return int8_sums.integer_sums(op, x, weight, grid(*ends))


@pytest.mark.usefixtures("refused")
def test_sums_that_may_round_are_left_to_floats():
    x, weight = torch.full((2, 1033), 127.0), torch.full((3, 1033), 127.0)
    assert 128 * 127 * 1032 < 2**24 < 128 * 127 * 1033
    assert same_bits(sums(Linear(), x, weight), Linear()(x, weight))


def test_sums_that_cannot_round_are_not():
    x, weight = torch.full((2, 1032), 127.0), torch.full((3, 1032), 127.0)
    with int8_forward("always"), spied() as used:
        assert same_bits(sums(Linear(), x, weight), Linear()(x, weight))
    assert used.called


@pytest.mark.usefixtures("refused")
def test_what_is_no_8_bit_integer_is_left_to_floats():
    x, weight = integers(-8, 7, 4, 6), integers(-8, 7, 5, 6)
    nan = torch.full((4, 6), torch.nan)
    assert sums(Linear(), nan, weight).isnan().all()
    assert sums(Linear(), x, torch.full((5, 6), torch.nan)).isnan().all()
    for wide in (torch.full_like(weight, 128.0), torch.full_like(weight, -129.0)):
        assert same_bits(sums(Linear(), x, wide), Linear()(x, wide))
    assert same_bits(sums(Linear(), x, weight, (-200, 200)), Linear()(x, weight))


def test_transforms_keep_the_bits():
    one = layer("linear")
    batch = torch.stack([one.x, -one.x])

    def gradients(x: Tensor) -> Tensor:
        return grad(lambda x: one(x, one.params).square().sum())(x)

    with int8_forward("never"):
        want = vmap(gradients)(batch), vmap(lambda x: one(x, one.params))(batch)
    with int8_forward("always"), spied() as used:
        got = vmap(gradients)(batch), vmap(lambda x: one(x, one.params))(batch)
    assert used.called
    assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))


def test_small_or_switched_off_is_left_to_floats():
    x, weight = integers(-8, 7, 4, 6), integers(-8, 7, 5, 6)
    for mode in ("auto", "never"):
        with int8_forward(mode), spied() as used:
            assert same_bits(sums(Linear(), x, weight), Linear()(x, weight))
        assert not used.called


@pytest.mark.parametrize("is_faster", [True, False])
def test_by_itself_it_is_chosen_where_it_is_faster(is_faster: bool):
    x, weight = integers(-128, 127, 64, 128), integers(-8, 7, 128, 128)
    with mock.patch.object(int8_sums, "_is_faster", return_value=is_faster), spied() as used:
        assert same_bits(sums(Linear(), x, weight), Linear()(x, weight))
    assert used.called == is_faster


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match='"auto", "always" or "never", got \'fast\''):
        int8_forward("fast").__enter__()


SCRIPT = """
import torch
from qatfunc import Clip, LayerSpec, int8_forward, int8_sums, operators
torch.manual_seed(0)
x, weight = 2 * torch.randn(2, 8, 9, 9), torch.randn(5, 8, 3, 3)
params = {"weight": weight, "clip": Clip(torch.tensor(2.0), torch.tensor(-1.0))}
assert not int8_sums._is_exact("convolution")
with int8_forward("never"):
    want = operators.conv2d(x, params, LayerSpec())
with int8_forward("always"):
    assert torch.equal(operators.conv2d(x, params, LayerSpec()), want)
"""


def test_instructions_that_saturate_are_noticed_and_not_used():
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, env=environment)
