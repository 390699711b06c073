import pytest
import torch

from qatfunc import ActivationSpec, Clip, IntSpec, QParams
from qatfunc.codes import ValueGrid, output_of, use_adopted
from qatfunc.params import Adopted


def test_a_grid_by_hand():
    grid = ValueGrid(scale=0.5, zero_point=-3, spec=IntSpec(bits=4))
    assert (grid.low, grid.high) == (-5, 10)
    assert grid.integers.tolist() == list(range(-5, 11))


def test_a_grid_is_read_from_tensors():
    qparams = QParams(torch.tensor(0.1), torch.tensor(-7.0))
    grid = ValueGrid.of(qparams, IntSpec())
    assert (grid.scale, grid.zero_point) == (qparams.scale.item(), -7)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan"), 0.1])
def test_a_scale_must_be_a_positive_float32(scale):
    with pytest.raises(ValueError, match="positive finite float32"):
        ValueGrid(scale=scale, zero_point=0)


@pytest.mark.parametrize("zero_point", [-129, 128])
def test_a_zero_point_must_be_a_code(zero_point):
    with pytest.raises(ValueError, match=r"zero_point must lie in \[-128, 127\]"):
        ValueGrid(scale=1.0, zero_point=zero_point)


def test_an_adjusted_scale_is_used_while_the_range_is_that_of_the_conversion():
    clip = Clip(torch.tensor(255.0), torch.tensor(0.0))
    adopted = Adopted(torch.tensor(1.0), torch.tensor(1.0 + 2.0**-20))
    assert output_of(clip, ActivationSpec()).qparams.scale == 1.0
    assert output_of(clip, ActivationSpec(), adopted).qparams.scale == 1.0 + 2.0**-20
    wider = Clip(torch.tensor(510.0), torch.tensor(0.0))
    assert output_of(wider, ActivationSpec(), adopted).qparams.scale == 2.0
    assert use_adopted(torch.tensor(3.0), None) == 3.0
