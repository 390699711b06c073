import pytest
import torch

from qatfunc import WeightSpec, arq_qparams, arq_quantize
from qatfunc.arq import symmetric_scale
from qatfunc.spec import IntSpec
from tests.support.bits import has_negative_zero, same_bits

INT8 = WeightSpec()
EPS = 2.0**-23


@pytest.mark.parametrize(
    ("high", "low", "scale"),
    [
        (127.0, -127.0, 1.0),
        (127.0, -128.0, 1.0),
        (63.5, -64.0, 0.5),
        (254.0, -254.0, 2.0),
        (127.0, -256.0, 2.0),
        (0.0, -64.0, 0.5),
        (-1.0, -64.0, 0.5),
        (127.0, 100.0, 1.0),
        (0.0, 0.0, 1.0),
    ],
)
def test_scale_by_hand(high: float, low: float, scale: float):
    assert symmetric_scale(torch.tensor(high), torch.tensor(low), INT8).item() == scale


@pytest.mark.parametrize(
    ("bits", "scale"), [(2, 1.0), (4, 1.0 / 7.0), (8, 1.0 / 127.0), (16, 1.0 / 32767.0)]
)
def test_the_extreme_weight_meets_the_grids_end(bits: int, scale: float):
    got = symmetric_scale(torch.tensor(1.0), torch.tensor(-1.0), IntSpec(bits=bits))
    assert torch.equal(got, torch.tensor(scale))


@pytest.mark.parametrize(("steps", "scale"), [(1.0, EPS), (0.999, 1.0), (1e-20, 1.0)])
def test_a_scale_below_epsilon_becomes_one(steps: float, scale: float):
    high = torch.tensor(127.0 * EPS * steps)
    assert symmetric_scale(high, torch.zeros(()), INT8).item() == scale
    assert symmetric_scale(torch.zeros(()), -high * 128 / 127, INT8).item() == scale


def test_one_scale_an_output_channel():
    weight = torch.tensor([[127.0, -1.0], [3.0, -64.0], [0.0, 0.0]])
    qparams = arq_qparams(weight, INT8)
    assert qparams.scale.tolist() == [[1.0], [0.5], [1.0]]
    assert qparams.zero_point.tolist() == [[0.0], [0.0], [0.0]]


def test_one_scale_a_tensor():
    weight = torch.tensor([[[127.0, -1.0]], [[3.0, -256.0]]])
    qparams = arq_qparams(weight, WeightSpec(per_channel=False))
    assert qparams.scale.tolist() == [[[2.0]]]
    assert qparams.zero_point.tolist() == [[[0.0]]]


def test_one_scale_a_transposed_output_channel():
    # 4 inputs in 2 groups, 2 outputs a group.
    weight = torch.tensor([[127.0, 2.0], [3.0, -64.0], [254.0, 6.0], [-7.0, 508.0]])
    qparams = arq_qparams(weight, INT8, transposed=True, groups=2)
    assert qparams.scale.tolist() == [[1.0, 0.5], [1.0, 0.5], [2.0, 4.0], [2.0, 4.0]]


def test_codes_by_hand():
    weight = torch.tensor([[127.0, -1.5, 0.5, 2.5], [31.75, -1.0, 0.3, -31.75]])
    integers, qparams = arq_quantize(weight, INT8)
    assert integers.tolist() == [[127.0, -2.0, 0.0, 2.0], [127.0, -4.0, 1.0, -127.0]]
    assert qparams.scale.tolist() == [[1.0], [0.25]]


def test_int4_codes_by_hand():
    weight = torch.tensor([[7.0, -3.4, 0.6], [4.0, -8.0, 7.9]])
    integers, _ = arq_quantize(weight, WeightSpec(bits=4))
    assert integers.tolist() == [[7.0, -3.0, 1.0], [4.0, -8.0, 7.0]]


def test_codes_hold_no_negative_zero():
    integers, _ = arq_quantize(torch.tensor([[127.0, -0.1, -0.0]]), INT8)
    assert integers.tolist() == [[127.0, 0.0, 0.0]]
    assert not has_negative_zero(integers)


def test_the_gradient_is_straight_through_and_the_scale_a_constant():
    weight = torch.tensor([[127.0, -1.5], [0.0, -64.0]], requires_grad=True)
    integers, qparams = arq_quantize(weight, INT8)
    upstream = torch.tensor([[1.0, -2.0], [3.0, 5.0]])
    (integers * qparams.scale).backward(upstream)
    assert torch.equal(weight.grad, upstream)
    assert not qparams.scale.requires_grad


def test_the_weight_is_left_as_it_is():
    weight = torch.tensor([[1.0, -0.3, -0.0]])
    before = weight.clone()
    arq_quantize(weight, INT8)
    assert same_bits(weight, before)


@pytest.mark.parametrize("function", [arq_qparams, arq_quantize])
def test_an_empty_weight_is_refused(function):
    with pytest.raises(ValueError, match=r"weight has no elements, its shape is \(0, 3\)"):
        function(torch.zeros(0, 3), INT8)


@pytest.mark.parametrize("function", [arq_qparams, arq_quantize])
def test_groups_must_divide_a_transposed_weight(function):
    with pytest.raises(ValueError, match=r"groups=2 does not divide the 3 input channels"):
        function(torch.ones(3, 2), INT8, transposed=True, groups=2)


def test_groups_do_not_matter_without_transposition():
    weight = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        arq_qparams(weight, INT8, groups=2).scale, arq_qparams(weight, INT8, groups=1).scale
    )
