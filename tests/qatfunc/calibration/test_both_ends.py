import pytest
import torch
from torch import Tensor

from qatfunc import (
    ActivationSpec,
    ClipSearch,
    QParams,
    SearchSpec,
    calibration,
    quantize,
    ulq_qparams,
)
from qatfunc.calibration import EXACT_VALUES
from qatfunc.calibration.both_ends import search_both_ends
from qatfunc.calibration.summaries import summarize_values

INT2 = ActivationSpec(bits=2)  # -2, -1, 0, 1
ONE_CANDIDATE = {"start": 1.0, "end": 1.005, "step": 0.01}
THIRDS = {"start": 1 / 3, "end": 1.2, "step": 1 / 3}  # 1/3, 2/3, 1


def search(values: list[float] | Tensor, spec: ActivationSpec = INT2, **how: object) -> ClipSearch:
    return search_both_ends(summarize_values(torch.as_tensor(values)), spec, SearchSpec(**how))


def ends(found: ClipSearch) -> tuple[float, float]:
    return found.clip.max.item(), found.clip.min.item()


def normal(count: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0))


def streamed(values: Tensor, spec: ActivationSpec, how: SearchSpec) -> ClipSearch:
    return calibration.search(calibration.update(calibration.init(), values), spec, how)


def test_a_range_uses_every_step():
    found = search([-1.0, 2.0], **ONE_CANDIDATE)
    assert found.scale.item() == 1.0
    assert ends(found) == (2.0, -1.0)


def test_a_range_that_does_not_fit_the_grid_is_adjusted_to_it():
    # (2 + 1.25) / 3 is the step, and the zero point round(-2 + 1.25 / step) = round(-0.846).
    found = search([-1.25, 2.0], **ONE_CANDIDATE)
    step = torch.tensor(3.25) / 3
    assert found.scale == step
    assert found.clip == (2 * step, -step)


def test_one_sided_data_keeps_zero_as_its_other_end():
    assert ends(search([1.5, 3.0], **ONE_CANDIDATE)) == (3.0, 0.0)
    assert ends(search([-1.5, -3.0], **ONE_CANDIDATE)) == (0.0, -3.0)
    assert ends(search([0.0, 3.0], **ONE_CANDIDATE)) == (3.0, 0.0)


def test_each_end_is_searched_for_itself():
    # Upper ends 1, 2, 3 and lower ends -1/3, -2/3, -1. Only (2, -1) holds both 1 and -1, and it
    # costs the outlier 1; any other grid costs the 26 others more.
    found = search([3.0] + [1.0] * 13 + [-1.0] * 13, **THIRDS)
    assert ends(found) == (2.0, -1.0)
    assert found.certified


def test_the_smallest_error_wins():
    # The step 1 leaves no error at all.
    found = search([-1.0, 2.0, 1.0, 0.0], start=0.5, end=1.3, step=0.25)
    assert ends(found) == (2.0, -1.0)
    assert found.certified


def test_the_first_of_equals_wins():
    # The only value is 0.25 from the end 0.75, and from the step of the end 3.75, which is 1.25.
    found = search([1.0], start=0.75, end=4.0, step=3.0)
    assert ends(found) == (0.75, 0.0)
    assert found.certified


def test_a_symmetric_grid_has_one_range():
    spec = ActivationSpec(bits=2, symmetric=True)
    assert ends(search([1.0, -0.5], spec, **ONE_CANDIDATE)) == (1.0, -2.0)
    assert ends(search([-1.0, 0.5], spec, **ONE_CANDIDATE)) == (0.5, -1.0)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_fixed_lower_end_is_zero_during_the_search_too(symmetric: bool):
    spec = ActivationSpec(bits=2, symmetric=symmetric, fixed_min=True)
    high, low = ends(search([-9.0, 0.5, 1.0, 1.5, 3.0], spec, **ONE_CANDIDATE))
    assert (high, low) == (3.0, 0.0)
    assert ends(search([-9.0, -1.0], spec))[1] == 0.0


@pytest.mark.parametrize(
    ("percentile", "largest"), [(1.0, 10.0), (0.9, 10.0), (0.85, 9.0), (0.7, 8.0)]
)
def test_percentiles_cut_both_ends(percentile: float, largest: float):
    # k = 10 - floor(10 p) of the values 1..10.
    values = torch.arange(1.0, 11.0)
    found = search(values, max_percentile=percentile, **ONE_CANDIDATE)
    assert ends(found) == (largest, 0.0)
    found = search(-values, min_percentile=percentile, **ONE_CANDIDATE)
    assert ends(found) == (0.0, -largest)


@pytest.mark.parametrize("value", [3.0, -3.0, 1e-3, 1e18, -1e18])
def test_a_constant_is_an_end_of_the_range(value: float):
    found = search([value] * 5, ActivationSpec())
    end, other = ends(found) if value > 0 else ends(found)[::-1]
    assert other == 0.0
    # The value lies on the grid, up to the roundings of the scale and of code times scale.
    codes = round(value / found.scale.item())
    assert abs(codes * found.scale.item() - value) <= 2**-22 * abs(value)
    assert abs(end) >= abs(value) * (1 - 2**-22)


@pytest.mark.parametrize(
    ("symmetric", "expected"), [(True, (127.0, -128.0)), (False, (255.0, 0.0))]
)
@pytest.mark.parametrize("values", [[0.0, 0.0], [2.0**-24], [-(2.0**-24), 2.0**-30]])
def test_data_without_extent_gets_the_step_one(
    values: list[float], symmetric: bool, expected: tuple[float, float]
):
    spec = ActivationSpec(symmetric=symmetric)
    found = search(values, spec)
    assert found.scale.item() == 1.0
    assert ends(found) == expected
    assert ulq_qparams(found.clip, spec).scale == 1.0


def test_the_largest_inputs_stay_finite():
    high, low = ends(search([2.0**63, -(2.0**63), 1.0], ActivationSpec()))
    assert 0.6 * 2.0**63 < high <= 2.0**64
    assert -(2.0**64) <= low < -0.6 * 2.0**63


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_data_of_one_sign_uses_all_256_codes(sign: float):
    x, spec = sign * torch.linspace(0.0, 3.0, 10_000), ActivationSpec()
    codes = {
        how.method: quantize(x, ulq_qparams(streamed(x, spec, how).clip, spec), spec)
        for how in (SearchSpec(), SearchSpec(method="ifmr"))
    }
    assert len(codes["mse"].unique()) == 256
    assert len(codes["ifmr"].unique()) <= 130


def test_the_zero_point_of_a_relu_is_the_smallest_code():
    spec = ActivationSpec()
    found = search(torch.relu(normal(5000)), spec)
    assert found.clip.min == 0.0
    assert ulq_qparams(found.clip, spec) == QParams(found.scale, torch.tensor(-128.0))


@pytest.mark.parametrize("relu", [False, True])
def test_a_histograms_winner_is_certified_and_exact(relu: bool):
    values = torch.relu(normal(200_000)) if relu else normal(200_000)
    found = streamed(values, ActivationSpec(), SearchSpec())
    exact = search(values, ActivationSpec())
    assert found.certified
    assert found.clip == exact.clip
    assert found.clip.max < values.abs().max()


def test_on_a_wide_grid_only_one_sided_data_is_certified():
    # 60 x 60 pairs of 65,535 steps are too many: the ends are searched one after the other.
    spec, values = ActivationSpec(bits=16), normal(EXACT_VALUES // 4)
    assert not search(values, spec).certified
    assert search(torch.relu(values), spec).certified
    assert search(-torch.relu(values), spec).certified
    assert search(values[:100], spec).certified


def test_a_wide_grids_winner_loses_less_than_a_thousandth():
    values = normal(4_000)  # few enough that all pairs are candidates
    whole = search(values, ActivationSpec(bits=16))
    assert whole.certified
    found = search(torch.cat([values] * 4), ActivationSpec(bits=16))
    assert not found.certified
    errors = [_error(values, one.clip, ActivationSpec(bits=16)) for one in (whole, found)]
    assert errors[0] <= errors[1] <= 1.001 * errors[0]


def _error(values: Tensor, clip: object, spec: ActivationSpec) -> float:
    scale, zero_point = (part.double() for part in ulq_qparams(clip, spec))
    codes = torch.round(values.double() / scale)
    codes = torch.clamp(codes, spec.qmin - zero_point, spec.qmax - zero_point)
    return (codes * scale - values.double()).square().sum().item()


def test_the_result_is_float32_scalars():
    found = search([1.0, -0.5])
    for tensor in (*found.clip, found.scale):
        assert tensor.dtype == torch.float32
        assert tensor.shape == ()
    assert found.certified.dtype == torch.bool


def test_vmap_searches_each_row_for_itself():
    # Within vmap values cannot be read: a lower end of 0 is compared 60 times with each upper end.
    rows = torch.stack([normal(100), torch.relu(normal(100)), -torch.relu(normal(100))])

    def found(x: Tensor) -> Tensor:
        return torch.stack(streamed(x, ActivationSpec(), SearchSpec())[0])

    alone = torch.stack([found(row) for row in rows])
    assert torch.equal(torch.func.vmap(found)(rows), alone)
    assert alone[1, 1] == alone[2, 0] == 0.0
