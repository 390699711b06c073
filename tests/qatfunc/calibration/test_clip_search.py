import pytest
import torch

from qatfunc import ActivationSpec, ClipSearch, SearchSpec
from qatfunc.calibration.clip_search import search_clip
from qatfunc.calibration.summaries import summarize_values

INT2 = ActivationSpec(bits=2)  # -2, -1, 0, 1
ONE_CANDIDATE = {"start": 1.0, "end": 1.005, "step": 0.01}


def search(values: list[float], spec: ActivationSpec = INT2, **how: object) -> ClipSearch:
    return search_clip(
        summarize_values(torch.tensor(values)), spec, SearchSpec(method="ifmr", **how)
    )


def ends(found: ClipSearch) -> tuple[float, float]:
    return found.clip.max.item(), found.clip.min.item()


def test_the_wider_upper_side_ends_on_qmax():
    found = search([1.0, -0.5], **ONE_CANDIDATE)
    assert found.scale.item() == 1.0
    assert ends(found) == (1.0, -2.0)


def test_the_wider_lower_side_ends_on_qmin():
    found = search([-1.0, 0.5], **ONE_CANDIDATE)
    assert found.scale.item() == 0.5
    assert ends(found) == (0.5, -1.0)


def test_an_asymmetric_range_uses_every_step():
    found = search([-1.0, 2.0], symmetric=False, **ONE_CANDIDATE)
    assert found.scale.item() == 1.0
    assert ends(found) == (2.0, -1.0)


def test_an_asymmetric_range_holds_zero():
    found = search([1.5, 3.0], symmetric=False, **ONE_CANDIDATE)
    assert ends(found) == (3.0, 0.0)
    found = search([-1.5, -3.0], symmetric=False, **ONE_CANDIDATE)
    assert ends(found) == (0.0, -3.0)


def test_the_smallest_error_wins():
    # Candidates 0.5, 0.75, 1, 1.25: the step 1 leaves no error at all.
    found = search([1.0, 1.0, -1.0], start=0.5, end=1.3, step=0.25)
    assert ends(found) == (1.0, -2.0)
    assert found.certified


def test_losing_an_outlier_can_win():
    # Steps 3, 2 and 1 of an int2 grid: 13 small values outweigh the one that is cut.
    found = search([3.0] + [1.0] * 13, start=1 / 3, end=1.2, step=1 / 3)
    assert ends(found) == (1.0, -2.0)


def test_the_first_of_equals_wins():
    found = search([1.0], start=0.75, end=1.5, step=0.5)  # 0.75 and 1.25 are both 0.25 away
    assert ends(found) == (0.75, -1.5)
    assert found.certified


@pytest.mark.parametrize(
    ("percentile", "largest"),
    [(1.0, 10.0), (0.99999999, 10.0), (0.999999, 10.0), (0.9, 10.0), (0.85, 9.0), (0.7, 8.0)],
)
def test_percentiles_cut_the_largest_values(percentile: float, largest: float):
    # k = 10 - floor(10 p) of the values 1..10, and 10 itself where 1 - p < 2^-23.
    values = [float(v) for v in range(1, 11)]
    found = search(values, max_percentile=percentile, **ONE_CANDIDATE)
    assert found.clip.max.item() == largest


def test_percentiles_cut_the_smallest_values():
    values = [-float(v) for v in range(1, 11)]
    found = search(values, min_percentile=0.7, **ONE_CANDIDATE)
    assert found.clip.min.item() == -8.0


def test_int8_by_hand():
    # Integers up to 127: the step 1 fits them all, any other step errs somewhere.
    values = [float(v) for v in range(-127, 128)]
    found = search(values, ActivationSpec(), start=0.5, end=1.6, step=0.25)
    assert ends(found) == (127.0, -128.0)
    assert found.certified


@pytest.mark.parametrize("symmetric", [True, False])
def test_data_without_extent_gets_the_step_one(symmetric: bool):
    found = search([0.0, 0.0], ActivationSpec(), symmetric=symmetric)
    assert found.scale.item() == 1.0
    assert ends(found) == ((127.0, -128.0) if symmetric else (255.0, 0.0))


def test_a_step_below_epsilon_becomes_one():
    assert search([2.0**-24]).scale.item() == 1.0
    assert search([2.0**-22], **ONE_CANDIDATE).scale.item() == 2.0**-22


def test_the_result_is_float32_scalars():
    found = search([1.0, -0.5])
    for tensor in (*found.clip, found.scale):
        assert tensor.dtype == torch.float32
        assert tensor.shape == ()
    assert found.certified.dtype == torch.bool


def test_values_are_left_as_they_are():
    values = torch.tensor([3.0, -1.0, 2.0])
    summary = summarize_values(values)
    search_clip(summary, INT2, SearchSpec(method="ifmr"))
    assert values.tolist() == [3.0, -1.0, 2.0]
    assert summary.largest.tolist() == [3.0, 2.0, -1.0]
    assert summary.smallest.tolist() == [-1.0, 2.0, 3.0]
