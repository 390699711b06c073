"""Operators on codes by hand: values, limits, errors."""

import pytest
import torch
import torch.nn.functional as F

from qatfunc import ActivationSpec, Clip, QParams, codes
from qatfunc.codes import RELU, RELU6, Activation, Factors, Limits, Output, Window

SPEC = ActivationSpec()
X = QParams(torch.tensor(0.5), torch.tensor(3.0))


def output(scale: float, zero_point: float, *, grad: bool = False) -> Output:
    ends = ((127 - zero_point) * scale, (-128 - zero_point) * scale)
    clip = Clip(*(torch.tensor(end, requires_grad=grad) for end in ends))
    return Output(clip, QParams(torch.tensor(scale), torch.tensor(zero_point)))


def test_add():
    a, b = torch.tensor([0.5, 1.0, 62.0]), torch.tensor([1.0, 2.0, 62.0])
    # Over the scale 1: 1.5 and 3 to even, 124 within the codes up to 127 + 10.
    y = codes.add(a, b, (X, X), output=output(1.0, -10.0), spec=SPEC)
    assert y.tolist() == [2.0, 3.0, 124.0]
    assert codes.add(a, b, (X, X), output=output(1.0, 120.0), spec=SPEC).tolist() == [2.0, 3.0, 7.0]


def test_add_by_given_factors():
    a, b = torch.tensor([0.5, 1.0]), torch.tensor([1.0, 2.0])
    factors = Factors(torch.tensor(0.5), torch.tensor(0.25))
    assert codes.add(
        a, b, (X, X), output=output(1.0, 0.0), spec=SPEC, factors=factors
    ).tolist() == [1.0, 2.0]


def test_mul():
    a, b = torch.tensor([0.5, 1.5, -3.0]), torch.tensor([1.0, 1.0, 2.5])
    y = codes.mul(a, b, (X, X), output=output(1.0, 0.0), spec=SPEC)
    assert y.tolist() == [0.0, 2.0, -8.0]  # 0.5, 1.5, -7.5: ties to even
    more = torch.tensor(0.25 + 2.0**-20)
    assert (
        codes.mul(a, b, (X, X), output=output(1.0, 0.0), spec=SPEC, multiplier=more).tolist()[0]
        == 1.0
    )


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        (RELU, [0.0, 0.0, 5.0, 9.0]),
        (RELU6, [0.0, 0.0, 5.0, 6.0]),
        (Limits(-1.4, 5.4), [-1.0, 0.0, 5.0, 5.0]),
    ],
)
def test_limits_are_codes(limits, wanted):
    a, b = torch.tensor([-3.0, 0.0, 2.0, 4.0]), torch.tensor([-1.0, 0.0, 3.0, 5.0])
    assert (
        codes.add(a, b, (X, X), output=output(1.0, 0.0), spec=SPEC, limits=limits).tolist()
        == wanted
    )


def test_a_limit_stops_the_gradient():
    a = torch.tensor([-3.0, 2.0, 4.0], requires_grad=True)
    codes.add(
        a, a.detach(), (X, X), output=output(1.0, 0.0), spec=SPEC, limits=RELU6
    ).sum().backward()
    assert a.grad.tolist() == [0.0, 1.0, 0.0]


def test_infinite_results_of_ranges_saturate():
    wide = QParams(torch.tensor(2.0**100), torch.tensor(0.0))
    a = torch.tensor([2.0**100 * 127, -(2.0**100) * 128], requires_grad=True)
    y = codes.mul(a, a.detach().abs(), (wide, wide), output=output(1.0, 0.0), spec=SPEC)
    y.sum().backward()
    assert y.tolist() == [127.0, -128.0]
    assert a.grad.isfinite().logical_not().sum() == 0


def test_unary():
    x = torch.tensor([-64.0, -0.5, 0.0, 0.5, 1.5])
    y = codes.unary(x, Activation("relu"), X, output=output(1.0, -128.0), spec=SPEC)
    assert y.tolist() == [0.0, 0.0, 0.0, 0.0, 2.0]
    half = codes.unary(x, Activation("sigmoid"), X, output=output(1 / 256, -128.0), spec=SPEC)
    assert half[2] == 0.5


def test_unary_of_another_width():
    x = torch.tensor([-1.0, 1.0, 2.5])
    qparams = QParams(torch.tensor(0.5), torch.tensor(-4.0))
    narrow = ActivationSpec(bits=4)
    y = codes.unary(
        x,
        Activation("leaky_relu", 0.5),
        qparams,
        output=output(0.25, 0.0),
        spec=SPEC,
        x_spec=narrow,
    )
    assert y.tolist() == [-0.5, 1.0, 2.5]


def test_prelu():
    x = torch.tensor([[[-2.0], [-2.0], [2.0]]])
    weight = torch.tensor([0.5, -1.0, 0.5])
    assert codes.prelu(x, weight, X, output=output(0.5, 0.0), spec=SPEC).flatten().tolist() == [
        -1.0,
        2.0,
        2.0,
    ]


def test_mean():
    x = torch.tensor([[0.5, 1.0, 1.5], [2.0, 2.0, 2.5]])
    y = codes.mean(x, X, output=output(0.5, 0.0), spec=SPEC, dim=(1,))
    assert y.tolist() == [1.0, 2.0]  # 13 / 3 halves is 4.33
    assert codes.mean(x, X, output=output(0.5, 0.0), spec=SPEC, dim=(0, 1), keepdim=True).shape == (
        1,
        1,
    )


def test_sums_beyond_float32_are_exact():
    # In the middle the sum is odd and above 2^24, where float32 has even integers only.
    n = torch.tensor([254.0] * 70000 + [101.0] + [-254.0] * 70000)[None, None]
    qparams = QParams(torch.tensor(0.5), torch.tensor(0.0))
    window = Window((140001,), (1,), (0,))
    y = codes.average_pool(
        n * 0.5,
        qparams,
        output=output(1.0, 0.0),
        spec=SPEC,
        window=window,
        rescale=torch.tensor(1.0),
    )
    assert y.item() == 101.0
    line = F.avg_pool2d(n[None], (1, 140001), divisor_override=1)
    assert line.item() != 101.0, "else nothing would be tested"


@pytest.mark.parametrize("include", [True, False])
def test_average_pool(include):
    x = torch.arange(4.0).reshape(1, 1, 4) * 0.5
    window = Window((2,), (2,), (0,), count_include_pad=include)
    y = codes.average_pool(x, X, output=output(0.25, 0.0), spec=SPEC, window=window)
    assert y.flatten().tolist() == [0.25, 1.25]


def test_padding_counts_as_zero():
    x = torch.full((1, 1, 2, 2), 3.0)
    y = codes.average_pool(
        x, X, output=output(0.75, 0.0), spec=SPEC, window=Window((2, 2), (2, 2), (1, 1))
    )
    assert y.flatten().tolist() == [0.75] * 4


def test_adaptive_average_pool():
    x = torch.arange(8.0).reshape(1, 1, 8)
    y = codes.adaptive_average_pool(x, X, output=output(0.5, 0.0), spec=SPEC, output_size=(2,))
    assert y.flatten().tolist() == [1.5, 5.5]


@pytest.mark.parametrize(
    ("size", "window", "wanted"),
    [
        ((8, 8), Window((3, 3), (2, 2), (1, 1)), 9),
        ((8, 6), Window((2, 3), (2, 3), (0, 0), count_include_pad=False), 6),
        ((8,), Window((3,), (2,), (1,), count_include_pad=False, divisor_override=5), 5),
        ((7,), Window((3,), (2,), (0,), ceil_mode=True), 3),
        ((5,), Window((2,), (4,), (0,), ceil_mode=True, count_include_pad=True), None),
        ((8,), Window((3,), (2,), (1,), count_include_pad=False), None),
    ],
)
def test_divisors(size, window, wanted):
    if wanted is None:
        with pytest.raises(ValueError, match="no common divisor"):
            codes.divisor(size, window)
    else:
        assert codes.divisor(size, window) == wanted


def test_windows_of_two_sizes_are_an_error():
    x = torch.zeros(1, 1, 5, 5)
    window = Window((3, 3), (2, 2), (1, 1), count_include_pad=False)
    with pytest.raises(ValueError, match="no common divisor"):
        codes.average_pool(x, X, output=output(1.0, 0.0), spec=SPEC, window=window)
    with pytest.raises(ValueError, match="must be a multiple"):
        codes.adaptive_average_pool(x, X, output=output(1.0, 0.0), spec=SPEC, output_size=(2, 5))


def test_requantize_and_concat():
    x = torch.tensor([0.5, 1.5, 2.5])
    assert codes.requantize(x, output=output(1.0, 0.0), spec=SPEC).tolist() == [0.0, 2.0, 2.0]
    assert codes.concat([x, x], dim=0).tolist() == [*x.tolist(), *x.tolist()]
    joined = codes.concat([x, x], dim=0, output=output(1.0, 0.0), spec=SPEC)
    assert joined.tolist() == [0.0, 2.0, 2.0] * 2
    with pytest.raises(ValueError, match="given together"):
        codes.concat([x, x], dim=0, output=output(1.0, 0.0))


def test_ends_of_the_range_receive_gradients():
    x, y = torch.tensor([200.0, 1.0, -200.0]), output(1.0, 0.0, grad=True)
    codes.requantize(x, output=y, spec=SPEC).backward(torch.tensor([3.0, 0.0, 5.0]))
    assert (y.clip.max.grad.item(), y.clip.min.grad.item()) == (3.0, 5.0)


@pytest.mark.parametrize(
    ("name", "parameter", "message"),
    [("swish", 0.0, "name must be one of relu"), ("sigmoid", 0.5, "sigmoid has no parameter")],
)
def test_unknown_functions(name, parameter, message):
    with pytest.raises(ValueError, match=message):
        Activation(name, parameter)


@pytest.mark.parametrize("limits", [Limits(), RELU6])
def test_a_sum_saves_one_float_for_each_element(limits):
    a = torch.zeros(1000, requires_grad=True)
    kept = {}

    def keep(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = codes.add(a, a.detach(), (X, X), output=output(1.0, 0.0), spec=SPEC, limits=limits)
    assert y.requires_grad
    assert 4000 <= sum(kept.values()) < 4100
