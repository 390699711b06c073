import pytest
import torch
from torch import Tensor

from qatfunc import ActivationSpec, Clip, resolve_clip, ulq_qparams, ulq_quantize
from tests.support.bits import has_negative_zero, same_bits
from tests.support.functions import float64_gradients

INT8 = ActivationSpec()
INT2 = ActivationSpec(bits=2)
EPS = 2.0**-23


def clip(high: float, low: float) -> Clip:
    return Clip(torch.tensor(high), torch.tensor(low))


@pytest.mark.parametrize(
    ("high", "low", "scale", "zero_point"),
    [
        (127.0, -128.0, 1.0, 0.0),
        (255.0, 0.0, 1.0, -128.0),
        (0.0, -255.0, 1.0, 127.0),
        (100.0, -27.5, 0.5, -73.0),
        (510.0, 100.0, 2.0, -128.0),
        (-3.0, -510.0, 2.0, 127.0),
        (126.5, -128.5, 1.0, 0.0),
        (127.5, -127.5, 1.0, 0.0),
        (128.5, -126.5, 1.0, -2.0),
    ],
)
def test_asymmetric_grid_by_hand(high: float, low: float, scale: float, zero_point: float):
    qparams = ulq_qparams(clip(high, low), INT8)
    assert (qparams.scale.item(), qparams.zero_point.item()) == (scale, zero_point)


@pytest.mark.parametrize(
    ("high", "low", "scale"),
    [(127.0, -128.0, 1.0), (127.0, -64.0, 1.0), (3.0, -64.0, 0.5), (254.0, 1.0, 2.0)],
)
def test_symmetric_grid_by_hand(high: float, low: float, scale: float):
    qparams = ulq_qparams(clip(high, low), ActivationSpec(symmetric=True))
    assert (qparams.scale.item(), qparams.zero_point.item()) == (scale, 0.0)


@pytest.mark.parametrize(("symmetric", "zero_point"), [(False, -128.0), (True, 0.0)])
def test_a_range_too_narrow_gets_scale_one(symmetric: bool, zero_point: float):
    spec = ActivationSpec(symmetric=symmetric)
    for range_ in (clip(EPS, -EPS), clip(0.0, 0.0), clip(1e-30, 0.0)):
        qparams = ulq_qparams(range_, spec)
        assert (qparams.scale.item(), qparams.zero_point.item()) == (1.0, zero_point)


def test_the_narrowest_range_that_counts():
    qparams = ulq_qparams(clip(255 * EPS, 0.0), INT8)
    assert (qparams.scale.item(), qparams.zero_point.item()) == (EPS, -128.0)


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ((2.0, -1.0), (2.0, -1.0)),
        ((2.0, 0.0), (2.0, 0.0)),
        ((-2.0, -1.0), (9.0, -8.0)),
        ((1.0, 1.0), (9.0, -8.0)),
        ((-1.0, -2.0), (9.0, -2.0)),
        ((2.0, 1.0), (2.0, -8.0)),
        ((EPS / 4, 0.0), (EPS / 4, 0.0)),
        ((torch.inf, -1.0), (9.0, -1.0)),
        ((2.0, -torch.inf), (2.0, -8.0)),
        ((-torch.inf, -1.0), (9.0, -8.0)),
        ((torch.inf, -torch.inf), (9.0, -8.0)),
        ((torch.nan, -1.0), (9.0, -1.0)),
        ((2.0, torch.nan), (2.0, -8.0)),
        ((torch.nan, torch.nan), (9.0, -8.0)),
        ((torch.nan, 3.0), (9.0, -8.0)),
        ((-2.0, torch.nan), (9.0, -8.0)),
        ((2.0**64, -(2.0**64)), (2.0**64, -(2.0**64))),
        ((3e38, -3e38), (9.0, -8.0)),
    ],
)
def test_meaningless_ends_are_replaced(given, resolved):
    got = resolve_clip(clip(*given), clip(9.0, -8.0), INT8)
    assert (got.max.item(), got.min.item()) == resolved


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ((2.0, -1.0), (2.0, 0.0)),
        ((2.0, 1.0), (2.0, 0.0)),
        ((2.0, 3.0), (2.0, 0.0)),
        ((-2.0, -3.0), (9.0, 0.0)),
        ((0.0, -3.0), (9.0, 0.0)),
        ((2.0, torch.nan), (2.0, 0.0)),
        ((torch.nan, torch.nan), (9.0, 0.0)),
        ((torch.inf, torch.inf), (9.0, 0.0)),
    ],
)
def test_a_fixed_lower_end_is_zero(given, resolved):
    got = resolve_clip(clip(*given), clip(9.0, -8.0), ActivationSpec(fixed_min=True))
    assert (got.max.item(), got.min.item()) == resolved


@pytest.mark.parametrize("given", [(2.0, -1.0), (-2.0, -1.0), (-1.0, -2.0), (2.0, 1.0)])
def test_replaced_ends_still_receive_the_gradient(given):
    trained, previous = clip(*given), clip(9.0, -8.0)
    for end in (*trained, *previous):
        end.requires_grad_()
    got = resolve_clip(trained, previous, INT8)
    (3.0 * got.max + 5.0 * got.min).backward()
    assert (trained.max.grad.item(), trained.min.grad.item()) == (3.0, 5.0)
    assert previous.max.grad is None
    assert previous.min.grad is None


@pytest.mark.parametrize("end", [torch.nan, torch.inf, -torch.inf])
def test_an_end_that_is_not_finite_receives_nothing_and_spoils_nothing(end):
    high, low = torch.tensor(end, requires_grad=True), torch.tensor(-1.0, requires_grad=True)
    got = resolve_clip(Clip(high, low), clip(9.0, -8.0), INT8)
    (3.0 * got.max + 5.0 * got.min).backward()
    assert (high.grad.item(), low.grad.item()) == (0.0, 5.0)


def test_codes_by_hand():
    # scale 0.5, zero point -73: the grid holds -55 to 200 steps around zero.
    x = torch.tensor([-1000.0, -27.6, -0.25, 0.0, 0.75, 99.8, 1000.0])
    integers, _ = ulq_quantize(x, clip(100.0, -27.5), INT8)
    assert integers.tolist() == [-55.0, -55.0, 0.0, 0.0, 2.0, 200.0, 200.0]
    assert not has_negative_zero(integers)


def test_infinities_saturate():
    x = torch.tensor([-torch.inf, torch.inf], requires_grad=True)
    integers, _ = ulq_quantize(x, clip(100.0, -27.5), INT8)
    integers.sum().backward()
    assert integers.tolist() == [-55.0, 200.0]
    assert x.grad.tolist() == [0.0, 0.0]


class Trained:
    """Gradients of x and both ends for an upstream of y = n * scale."""

    def __init__(self, x: Tensor, range_: Clip, spec: ActivationSpec, upstream: Tensor):
        leaves = [t.clone().requires_grad_() for t in (x, *range_)]
        integers, self.qparams = ulq_quantize(leaves[0], Clip(*leaves[1:]), spec)
        (integers * self.qparams.scale).backward(upstream)
        self.x, self.clip_max, self.clip_min = (leaf.grad for leaf in leaves)


def test_gradients_by_hand():
    # scale 1, zero point -1: y is one of -1, 0, 1, 2, and e = (round(x) - x) / 3 inside.
    x, g = torch.tensor([-3.0, -0.25, 0.75, 5.0]), torch.tensor([1.0, 2.0, 4.0, 8.0])
    got = Trained(x, clip(2.0, -1.0), INT2, g)
    assert got.x.tolist() == [0.0, 2.0, 4.0, 0.0]
    torch.testing.assert_close(got.clip_max, torch.tensor(8.0 + (2.0 + 4.0) * 0.25 / 3))
    torch.testing.assert_close(got.clip_min, torch.tensor(1.0 - (2.0 + 4.0) * 0.25 / 3))


def test_gradients_where_the_ends_are_off_the_grid():
    # scale 1, zero point -1; v is 2.25 above and -0.75 below, so e = -0.25/3 and -0.25/3.
    x, g = torch.tensor([5.0, -5.0]), torch.tensor([1.0, 16.0])
    got = Trained(x, clip(2.25, -0.75), INT2, g)
    assert got.x.tolist() == [0.0, 0.0]
    torch.testing.assert_close(got.clip_max, torch.tensor(1.0 - 17 * 0.25 / 3))
    torch.testing.assert_close(got.clip_min, torch.tensor(16.0 + 17 * 0.25 / 3))


def test_the_ends_of_the_grid_are_inside():
    x = torch.tensor([2.0, -1.0])
    got = Trained(x, clip(2.0, -1.0), INT2, torch.ones(2))
    assert got.x.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("range_", [(1.5, -0.8), (0.4, -2.0), (3.0, 0.0), (0.0, -1.0)])
def test_gradients_are_the_formula_in_float64(bits: int, symmetric: bool, range_):
    random = torch.Generator().manual_seed(bits)
    x, g = torch.randn(2, 300, generator=random)
    spec = ActivationSpec(bits=bits, symmetric=symmetric)
    got = Trained(x, clip(*range_), spec, g)
    want = float64_gradients.ulq(x, clip(*range_), got.qparams, g, bits=bits)
    for ours, theirs in zip((got.x, got.clip_max, got.clip_min), want, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


def test_the_grid_carries_no_gradient():
    range_ = Clip(*(end.requires_grad_() for end in clip(2.0, -1.0)))
    _, qparams = ulq_quantize(torch.tensor([0.3]), range_, INT8)
    assert not qparams.scale.requires_grad
    assert not qparams.zero_point.requires_grad


def test_inputs_are_left_as_they_are():
    x, range_, previous = torch.tensor([-0.0, 0.3, 9.0]), clip(1.0, 2.0), clip(9.0, -8.0)
    before = [t.clone() for t in (x, *range_, *previous)]
    ulq_quantize(x, resolve_clip(range_, previous, INT8), INT8)
    after = (x, *range_, *previous)
    assert all(same_bits(a, b) for a, b in zip(after, before, strict=True))
