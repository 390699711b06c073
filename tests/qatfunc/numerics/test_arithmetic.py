import math

import pytest
import torch

from qatfunc import ActivationSpec, Clip, IntSpec, ulq_qparams
from qatfunc.arq import symmetric_scale
from qatfunc.numerics.arithmetic import FLOATS, next_float32, round_half_even, to_float32
from qatfunc.ulq import range_scale

ODD = [0.0, -0.0, 1.0, 1e-45, 1e38, 3.4e38, math.inf, math.nan]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("high", ODD)
@pytest.mark.parametrize("low", [-end for end in ODD])
def test_odd_ranges_give_what_tensors_give(high: float, low: float, symmetric: bool):
    spec = ActivationSpec(symmetric=symmetric)
    clip = Clip(torch.tensor(high), torch.tensor(low))
    want = [value.item() for value in ulq_qparams(clip, spec)]
    got = range_scale(clip.max.item(), clip.min.item(), spec, arithmetic=FLOATS)
    assert got == pytest.approx(want, abs=0.0, rel=0.0, nan_ok=True)


@pytest.mark.parametrize("high", ODD)
@pytest.mark.parametrize("low", ODD)
def test_odd_weights_give_what_tensors_give(high: float, low: float):
    ends = torch.tensor(high), torch.tensor(low)
    want = symmetric_scale(*ends, IntSpec()).item()
    got = symmetric_scale(*(end.item() for end in ends), IntSpec(), arithmetic=FLOATS)
    assert got == pytest.approx(want, abs=0.0, rel=0.0, nan_ok=True)


def test_the_next_number():
    for value in (0.0, -0.0, 1e-45, 1.0, 1.9999999, 127.0, 3.4028235e38):
        here = torch.tensor(value)
        assert next_float32(here.item()) == torch.nextafter(here, torch.tensor(torch.inf)).item()


def test_nothing_is_above_infinity_and_nan():
    assert next_float32(math.inf) == math.inf
    assert math.isnan(next_float32(math.nan))
    assert math.isnan(next_float32(-math.nan))


def test_rounding_is_to_even():
    assert [round_half_even(v) for v in (0.5, 1.5, -2.5, 2.4, math.inf)] == [0, 2, -2, 2, math.inf]
    assert math.isnan(round_half_even(math.nan))


def test_float32_overflows_to_infinity():
    assert to_float32(1e39) == math.inf
    assert to_float32(0.1) == torch.tensor(0.1).item()
