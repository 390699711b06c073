"""Shortcuts for few numbers: they clamp nothing only where there is nothing to clamp."""

from unittest import mock

import pytest
import torch
from torch import Tensor

from qatfunc import ActivationSpec, Clip, WeightSpec, arq_qparams
from qatfunc.affine import quantize_centered
from qatfunc.fused import grid
from qatfunc.fused.grid import activation_grid, to_integers
from qatfunc.fused.kernels import FusedSpec, Operands, _weight_grid
from qatfunc.linear_maps.bilinear import Linear
from qatfunc.params import QParams
from qatfunc.ulq import ulq_qparams
from tests.support.bits import same_bits
from tests.support.functions.composed import composed
from tests.support.functions.layers import NAMES, gradients, layer

CLIP = Clip(torch.tensor(0.9), torch.tensor(-0.4))


def ends(clip: Clip, spec: ActivationSpec) -> Tensor:
    scale, zero_point = ulq_qparams(clip, spec)
    return torch.stack([scale * (spec.qmin - zero_point), scale * (spec.qmax - zero_point)])


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("clip", [CLIP, Clip(torch.tensor(0.0), torch.tensor(0.0))])
@pytest.mark.parametrize("count", [2, grid._FEW_VALUES])
def test_values_within_the_grid_are_not_clamped(bits: int, symmetric: bool, clip: Clip, count: int):
    spec = ActivationSpec(bits=bits, symmetric=symmetric)
    low, high = ends(clip, spec)
    x = torch.linspace(0, 1, count).mul(high - low).add(low).clamp(low, high)
    inside = activation_grid(x, clip, spec)
    assert not inside.clips
    assert same_bits(to_integers(x, inside), quantize_centered(x, ulq_qparams(clip, spec), spec))


@pytest.mark.parametrize("spoilt", [0, 1])
@pytest.mark.parametrize("toward", [torch.inf, -torch.inf])
def test_one_value_beyond_an_end_is_clamped(spoilt: int, toward: float):
    x = ends(CLIP, ActivationSpec())
    x[spoilt] = torch.nextafter(x[spoilt], torch.tensor(toward))
    outward = (toward > 0) == bool(spoilt)
    assert activation_grid(x, CLIP, ActivationSpec()).clips == outward


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_clamped(value: float):
    assert activation_grid(torch.tensor([0.1, value]), CLIP, ActivationSpec()).clips


def test_a_range_that_is_not_finite_clamps():
    for end in (torch.nan, torch.inf):
        clip = Clip(torch.tensor(end), torch.tensor(-1.0))
        assert activation_grid(torch.zeros(3), clip, ActivationSpec()).clips


def test_many_and_no_values_are_not_looked_at():
    for x in (torch.zeros(grid._FEW_VALUES + 1), torch.zeros(0)):
        assert activation_grid(x, CLIP, ActivationSpec()).clips


WEIGHTS = {
    "upper end": [1.0, -0.999],
    "lower end": [0.5, -1.0],
    "both ends": [1.0, -1.0],
    "rounds past the upper end": [0.999, -1.0],
    "a tie past the upper end": [127.5, -128.0],
    "zeros": [0.0, -0.0],
    "tiny": [1e-8, -1e-42],
    "nan": [torch.nan, 1.0],
    "inf": [torch.inf, -1.0],
    "both infinite": [torch.inf, -torch.inf],
    "huge": [3e38, -3.4e38],
}


@pytest.mark.parametrize("rows", list(WEIGHTS.values()), ids=list(WEIGHTS))
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("width", [2, 300])
def test_a_weights_grid_has_the_bits_of_arq(
    rows: list[float], bits: int, per_channel: bool, width: int
):
    fill = [0.0] * (width - 2)
    weight = torch.tensor([rows + fill, [0.25, 0.3, *fill]])
    spec = WeightSpec(bits=bits, per_channel=per_channel)
    operands = Operands(torch.zeros(1, width), weight, CLIP, {})
    found = _weight_grid(FusedSpec(Linear(), spec, ActivationSpec(), ()), operands)
    want = arq_qparams(weight, spec)
    alike = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(found.scale, want.scale, **alike)
    integers = quantize_centered(weight, QParams(*want), spec)
    torch.testing.assert_close(to_integers(weight, found), integers, **alike)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("few", [0, 1 << 20])
@pytest.mark.parametrize("reach", [0.5, 1.0, 3.0])
def test_gradients_do_not_depend_on_how_many_are_few(name: str, few: int, reach: float):
    one = layer(name)
    one = one._replace(x=one.x * (reach / one.x.abs().max()))
    one.params["clip"] = Clip(torch.tensor(1.0), torch.tensor(-1.0))
    with mock.patch.object(grid, "_FEW_VALUES", few):
        got = gradients(one)
    want = composed(gradients, one)
    assert same_bits(got[-1], want[-1])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_zero_are_positive_where_nothing_is_clamped(name: str):
    """Whether or not the sums over what is clamped are added, as a vmapped layer always does."""
    one = layer(name)
    *_, high, low, _ = gradients(one._replace(x=torch.zeros_like(one.x)))
    assert same_bits(torch.stack([high, low]), torch.zeros(2))
