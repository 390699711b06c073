"""Histograms in blocks against the same in whole tensors."""

from types import ModuleType
from unittest import mock

import pytest
import torch
from torch import Tensor

from qatfunc import ActivationSpec, SearchSpec, calibration
from qatfunc.calibration import histogram, sorting
from qatfunc.calibration.histogram import BINS, FULL, Bins, add_to_bins, empty_bins, join_bins
from qatfunc.calibration.sorting import add_to_tail, ascending

SIZES = [1, 1000, 32_768, 32_769, 131_072, 131_073, 400_001]
KINDS = ["normal", "relu", "equal", "tiny", "edges"]


def values(size: int, kind: str) -> Tensor:
    x = torch.randn(size, generator=torch.Generator().manual_seed(size))
    return {
        "normal": x,
        "relu": x.relu(),
        "equal": torch.ones(size),
        "tiny": x * 1e-44,
        "edges": torch.round(256 * x) / 256,
    }[kind]


def in_whole_tensors(module: ModuleType = histogram) -> object:
    return mock.patch.object(module, "reads_values", return_value=False)


def assert_same(a: Bins, b: Bins):
    assert all(torch.equal(*pair) for pair in zip(a, b, strict=True))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_hold_what_whole_tensors_do(size: int, kind: str):
    x, before = values(size, kind), add_to_bins(empty_bins(), values(1000, "normal"))
    copies = Bins(*(field.clone() for field in before))
    got = add_to_bins(before, x)
    with in_whole_tensors():
        assert_same(got, add_to_bins(before, x))
    assert_same(before, copies)
    assert got.counts.sum() == 1000 + size


def test_joined_bins_are_those_of_all_values():
    parts = [values(1000, "normal"), values(500, "tiny"), 1e6 * values(2000, "relu")]
    joined = join_bins([add_to_bins(empty_bins(), part) for part in parts])
    assert_same(joined, add_to_bins(empty_bins(), torch.cat(parts)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("largest", [True, False])
def test_a_tail_is_the_end_of_the_sorted_values(size: int, kind: str, largest: bool):
    x = values(size, kind)
    for first in (x[:0], x[: size // 2]):
        empty = torch.full((100,), -torch.inf if largest else torch.inf)
        seen = add_to_tail(empty, first, largest=largest)
        before = seen.clone()
        tail = add_to_tail(seen, x, largest=largest)
        want = torch.cat([empty, first, x]).sort(descending=largest).values[:100]
        assert torch.equal(tail, want)
        assert torch.equal(seen, before)
        with in_whole_tensors(sorting):
            assert torch.equal(add_to_tail(seen, x, largest=largest), want)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_put_in_order(kind: str):
    x = values(1000, kind)
    with in_whole_tensors(sorting):
        want = ascending(x)
    assert torch.equal(ascending(x), want)
    assert torch.equal(want, torch.tensor(sorted(x.tolist())))


def test_nothing_is_certified_by_a_full_bin():
    x = torch.linspace(-1.0, 2.0, 100_000)
    state = calibration.update(calibration.init(), x)
    assert calibration.search(state, ActivationSpec(), SearchSpec()).certified
    full = state._replace(counts=state.counts.index_fill(0, torch.tensor(BINS // 2), FULL))
    later = calibration.update(full, x)
    assert later.counts.max() == FULL
    assert not calibration.search(later, ActivationSpec(), SearchSpec()).certified


def test_a_state_is_below_one_megabyte():
    state = calibration.update(calibration.init(), torch.randn(1_000_000))
    assert sum(field.nbytes for field in state) < 1_000_000
