from fractions import Fraction

import pytest
import torch
from torch import Tensor

from qatfunc import ActivationSpec, SearchSpec, calibration
from qatfunc.calibration import EXACT_VALUES, TAIL_VALUES, CalibrationState
from qatfunc.calibration.clip_search import search_clip
from qatfunc.calibration.histogram import BINS
from qatfunc.calibration.summaries import summarize_values
from qatfunc.spec import SearchMethod
from tests.support.bits import same_bits


def seen(*batches: Tensor) -> CalibrationState:
    state = calibration.init()
    for batch in batches:
        state = calibration.update(state, batch)
    return state


def normal(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def test_every_value_is_kept_at_first():
    state = seen(torch.tensor([[1.0, -2.0]]), torch.tensor(3.0))
    assert state.values.tolist() == [1.0, -2.0, 3.0]
    assert state.batches.item() == 2
    assert state.counts.numel() == 0


def test_extremes_are_widened_to_hold_zero():
    assert calibration.extremes(seen(torch.tensor([1.0, 2.0]))) == (2.0, 0.0)
    assert calibration.extremes(seen(torch.tensor([-1.0, -2.0]))) == (0.0, -2.0)
    assert calibration.extremes(seen(torch.tensor([-1.0]), torch.tensor([5.0]))) == (5.0, -1.0)


def test_before_enough_batches_finish_returns_the_extremes():
    state = seen(torch.tensor([1.0, -3.0]))
    assert calibration.finish(state, None, SearchSpec(batch_num=2)) == (1.0, -3.0)


def test_after_enough_batches_finish_returns_the_winner():
    state = seen(torch.tensor([1.0, -0.5]), torch.tensor([-0.5]))
    how = SearchSpec(method="ifmr", batch_num=2, start=1.0, end=1.005)
    assert calibration.finish(state, ActivationSpec(bits=2), how) == (1.0, -2.0)


def test_finish_defaults_to_an_int8_search_after_one_batch():
    state = seen(normal(1000))
    found = calibration.search(state, ActivationSpec(), SearchSpec())
    assert calibration.finish(state) == found.clip


@pytest.mark.parametrize("method", ["mse", "ifmr"])
@pytest.mark.parametrize("batch_num", [1, 2])
def test_a_fixed_lower_end_is_zero(batch_num: int, method: SearchMethod):
    state = seen(torch.tensor([1.0, -3.0]))
    spec, how = ActivationSpec(fixed_min=True), SearchSpec(method=method, batch_num=batch_num)
    assert calibration.finish(state, spec, how).min == 0.0
    assert calibration.finish(state, spec, how).max > 0.0


def test_update_leaves_its_arguments_as_they_are():
    for before in (seen(torch.tensor([1.0])), seen(normal(EXACT_VALUES + 1))):
        copies, batch = [field.clone() for field in before], torch.tensor([[-0.0, 7.0]])
        calibration.update(before, batch)
        assert all(torch.equal(a, b) for a, b in zip(before, copies, strict=True))
        assert same_bits(batch, torch.tensor([[-0.0, 7.0]]))


def test_the_state_carries_no_gradient():
    state = seen(torch.tensor([1.0, -2.0], requires_grad=True))
    assert not state.values.requires_grad


def test_half_precision_becomes_float32():
    assert seen(torch.tensor([1.0], dtype=torch.float16)).values.dtype == torch.float32


def test_one_value_more_than_fits_starts_the_histogram():
    values = normal(EXACT_VALUES + 1)
    exact = seen(values[:-1])
    assert exact.values.numel() == EXACT_VALUES
    binned = calibration.update(exact, values[-1:])
    assert binned.values.numel() == 0
    assert binned.total.item() == EXACT_VALUES + 1
    assert binned.counts.sum().item() == EXACT_VALUES + 1
    assert binned.batches.item() == 2


def test_histogram_by_hand():
    # Up to 2: the exponent is 2 and a bin 2^2 / 2^15 wide, so 2 is at the start of bin 2^14.
    values = torch.cat([torch.full((EXACT_VALUES,), -1.0), torch.tensor([2.0])])
    state = seen(values)
    middle, width = BINS // 2, 2.0**-13
    assert state.exponent.item() == 2
    filled = state.counts.nonzero().flatten().tolist()
    assert filled == [middle - 1 - round(1 / width), middle + round(2 / width)]
    assert state.counts[filled].tolist() == [EXACT_VALUES, 1]
    assert state.sums[filled].tolist() == [-float(EXACT_VALUES), 2.0]


def test_a_wider_batch_merges_bins():
    narrow = normal(EXACT_VALUES + 1)
    state = seen(narrow, torch.tensor([100.0]))
    assert state.exponent.item() == 7
    assert torch.equal(state.counts, seen(torch.cat([narrow, torch.tensor([100.0])])).counts)
    assert state.counts[BINS // 2 + round(100.0 * 2**8)].item() == 1


def test_the_tails_are_exact():
    values = normal(EXACT_VALUES + 5000)
    state = seen(values[:60_000], values[60_000:])
    ordered = values.sort().values
    assert torch.equal(state.smallest, ordered[:TAIL_VALUES])
    assert torch.equal(state.largest, ordered.flip(0)[:TAIL_VALUES])


def test_extremes_of_a_histogram():
    values = normal(EXACT_VALUES + 1).abs() + 0.1
    assert calibration.extremes(seen(values)) == (values.max(), 0.0)
    assert calibration.extremes(seen(-values)) == (0.0, -values.max())


def test_the_state_does_not_grow():
    state = seen(normal(EXACT_VALUES + 1))
    shapes = [field.shape for field in state]
    later = calibration.update(calibration.update(state, normal(9999)), 1e6 * normal(9999))
    assert [field.shape for field in later] == shapes


def test_a_histograms_winner_is_certified_and_exact():
    values, spec, how = normal(200_000), ActivationSpec(), SearchSpec(method="ifmr")
    found = calibration.search(seen(values), spec, how)
    exact = search_clip(summarize_values(values), spec, how)
    assert found.certified
    assert found.clip == exact.clip
    assert found.clip.max < values.abs().max()


def test_a_winner_that_is_not_exact_is_not_certified():
    # A 16-bit step is narrower than a bin, and candidates 0.2% apart are almost equally good.
    values = torch.rand(EXACT_VALUES + 1, generator=torch.Generator().manual_seed(0))
    spec = ActivationSpec(bits=16)
    how = SearchSpec(method="ifmr", start=0.98, end=1.02, step=0.002)
    found = calibration.search(seen(values), spec, how)
    assert found.clip.max != search_clip(summarize_values(values), spec, how).clip.max
    assert not found.certified


@pytest.mark.parametrize("method", ["mse", "ifmr"])
def test_a_percentile_beyond_the_tail_is_not_certified(method: SearchMethod):
    values = normal(EXACT_VALUES + 1)
    for name in ("max_percentile", "min_percentile"):
        assert not calibration.search(
            seen(values), ActivationSpec(), SearchSpec(method=method, **{name: 0.9})
        ).certified


def assert_same(a: CalibrationState, b: CalibrationState):
    """Equal, but for the order in which values are kept and the number of batches."""
    assert torch.equal(a.values.sort().values, b.values.sort().values)
    for name in a._fields[2:]:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_sums_are_exact_whatever_the_order():
    # Values of all sizes: a plain float64 sum of those near 0 depends on the order.
    count = EXACT_VALUES + 5000
    spread = torch.exp2(torch.linspace(-130, 10, count)) * normal(count)
    wide = torch.cat([spread, torch.tensor([-0.0, 0.0, 1e-45, -1e-45, -(2.0**-3), 2.0**20])])
    whole = seen(wide)
    assert_same(seen(*wide.flip(0).split(9999)), whole)
    parts = [seen(*part.split(7000)) for part in wide.split([1000, 40_000, len(wide) - 41_000])]
    assert_same(calibration.merge(parts), whole)
    below, above = whole.sums.split(BINS // 2)
    assert exact_sum(below, whole.near[0]) == exact_sum(wide[wide < 0])
    assert exact_sum(above, whole.near[1]) == exact_sum(wide[wide > 0])


def exact_sum(*tensors: Tensor) -> Fraction:
    return sum((Fraction(value) for one in tensors for value in one.tolist()), Fraction(0))


@pytest.mark.parametrize("sizes", [(3, 4), (EXACT_VALUES, 1), (70_000, 0, 70_000), (70_000, 5)])
def test_merging_is_seeing_everything(sizes: tuple[int, ...]):
    parts = [normal(size, seed) * 10.0**seed for seed, size in enumerate(sizes)]
    states = [seen(part) if len(part) else calibration.init() for part in parts]
    whole = seen(torch.cat(parts))
    for order in (states, states[::-1]):
        merged = calibration.merge(order)
        assert merged.batches == sum(len(part) > 0 for part in parts)
        assert_same(merged, whole)


def test_merging_leaves_its_arguments_and_wants_one():
    states = [seen(normal(70_000)), seen(normal(5))]
    copies = [[field.clone() for field in state] for state in states]
    calibration.merge(states)
    for state, fields in zip(states, copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(state, fields, strict=True))
    with pytest.raises(ValueError, match="merge needs at least one state, got none"):
        calibration.merge([])


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_an_empty_batch_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"batch has no elements, its shape is \((0|3, 0)"):
        calibration.update(calibration.init(), torch.zeros(shape))


def test_nothing_seen_gives_no_answer():
    for ask in (
        calibration.extremes,
        calibration.finish,
        lambda state: calibration.search(state, ActivationSpec(), SearchSpec()),
    ):
        with pytest.raises(ValueError, match="calibration has seen no batch yet"):
            ask(calibration.init())
