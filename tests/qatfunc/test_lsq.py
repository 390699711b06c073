import math

import pytest
import torch
from torch import Tensor

from qatfunc import IntSpec, lsq_quantize, resolve_scale
from qatfunc.limits import LARGEST_SCALE, SMALLEST_SCALE
from tests.support.bits import has_negative_zero, same_bits
from tests.support.functions import float64_gradients

INT2 = IntSpec(bits=2)


class Trained:
    """Gradients of weight and scale for an upstream of y = q * scale."""

    def __init__(self, weight: Tensor, scale: Tensor, spec: IntSpec, upstream: Tensor):
        leaves = [t.clone().requires_grad_() for t in (weight, scale)]
        integers, self.qparams = lsq_quantize(*leaves, spec, channels=len(weight))
        (integers * self.qparams.scale).backward(upstream)
        self.weight, self.scale = (leaf.grad for leaf in leaves)


def test_codes_by_hand():
    weight = torch.tensor([[0.3, -0.75, 9.0], [-0.5, 3.0, -9.0]])
    scale = torch.tensor([[0.5], [1.0]])
    integers, qparams = lsq_quantize(weight, scale, IntSpec(bits=4), channels=2)
    assert integers.tolist() == [[1.0, -2.0, 7.0], [0.0, 3.0, -8.0]]
    assert torch.equal(qparams.scale, scale)
    assert qparams.zero_point.tolist() == [[0.0], [0.0]]
    assert not has_negative_zero(integers)


def test_gradients_by_hand():
    # Grid -2..1 at scale 1: inside r = round(w) - w, above it 1, below it -2; sqrt(4 * 1) = 2.
    weight = torch.tensor([[0.25, -0.25, 5.0, -7.0]])
    got = Trained(weight, torch.ones(1, 1), INT2, torch.tensor([[1.0, 2.0, 4.0, 8.0]]))
    assert got.weight.tolist() == [[1.0, 2.0, 4.0, 8.0]]
    assert got.scale.item() == (1 * -0.25 + 2 * 0.25 + 4 * 1 + 8 * -2) / 2


def test_the_ends_of_the_grid_are_inside():
    weight = torch.tensor([[1.0, -2.0]])
    got = Trained(weight, torch.ones(1, 1), INT2, torch.ones(1, 2))
    assert got.scale.item() == 0.0


def test_one_scale_a_tensor_is_damped_by_one_channels_elements():
    weight = torch.tensor([[0.25, 0.25], [0.25, 0.25], [0.25, 0.25]])
    got = Trained(weight, torch.ones(1, 1), INT2, torch.ones(3, 2))
    torch.testing.assert_close(got.scale, torch.tensor([[6 * -0.25 / math.sqrt(2)]]))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_are_the_formula_in_float64(bits: int, per_channel: bool):
    random = torch.Generator().manual_seed(bits)
    weight, upstream = torch.randn(2, 6, 5, 3, generator=random)
    shape = (6 if per_channel else 1, 1, 1)
    scale = 0.1 * 2.0 ** (4 - bits) * (1 + torch.rand(shape, generator=random))
    got = Trained(weight, scale, IntSpec(bits=bits), upstream)
    want = float64_gradients.lsq_scale(weight, scale, upstream, bits=bits, elements=15)
    torch.testing.assert_close(got.weight, upstream, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(got.scale.double(), want, rtol=1e-5, atol=1e-6)


def test_inputs_are_left_as_they_are():
    weight, scale = torch.tensor([[-0.0, 5.0]]), torch.ones(1, 1)
    before = weight.clone(), scale.clone()
    lsq_quantize(weight, scale, INT2, channels=1)
    assert same_bits(weight, before[0])
    assert same_bits(scale, before[1])


def test_a_scale_that_does_not_broadcast_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 1\) does not broadcast to x of shape \(2, 4\)"):
        lsq_quantize(torch.ones(2, 4), torch.ones(3, 1), INT2, channels=2)


INVALID = [0.0, -0.0, -1.0, torch.nan, torch.inf, -torch.inf, SMALLEST_SCALE / 2, 2 * LARGEST_SCALE]


@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("scale", INVALID)
def test_each_meaningless_scale_is_replaced_for_itself(scale: float, reciprocal: bool):
    scales = torch.tensor([0.5, scale, 0.25])
    stored = 1.0 / scales if reciprocal else scales
    got = resolve_scale(stored, torch.tensor([9.0, 8.0, 7.0]), reciprocal=reciprocal)
    assert same_bits(got, torch.tensor([stored[0], 8.0, stored[2]]))


@pytest.mark.parametrize("scale", [SMALLEST_SCALE, LARGEST_SCALE, 1e-3])
def test_the_ends_of_what_is_valid_are_valid(scale: float):
    for stored, reciprocal in ((scale, False), (1.0 / scale, True)):
        given = torch.tensor([stored])
        assert same_bits(resolve_scale(given, torch.ones(1), reciprocal=reciprocal), given)


def test_replaced_scales_still_receive_the_gradient():
    stored = torch.tensor([0.5, -1.0, torch.nan], requires_grad=True)
    previous = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    resolve_scale(stored, previous).backward(torch.tensor([3.0, 5.0, 7.0]))
    assert stored.grad.tolist() == [3.0, 5.0, 0.0]
    assert previous.grad is None


@pytest.mark.parametrize("chunk", [None, 1])
def test_scales_resolve_under_vmap_as_one_by_one(chunk: int | None):
    stored = torch.tensor([[0.5, -1.0], [torch.nan, 0.25]])
    previous = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    got = torch.vmap(resolve_scale, chunk_size=chunk)(stored, previous)
    assert got.tolist() == [[0.5, 2.0], [3.0, 0.25]]
