"""One range through calibration and training, by the steps that all owners of ranges share."""

import pytest
import torch

from qatfunc import ActivationSpec, Clip, SearchSpec, calibration
from qatfunc.calibration import LearnedRange, finish_range, resolve_range, start_range, take
from tests.support.bits import same_bits

SPEC, HOW = ActivationSpec(), SearchSpec()


def test_a_range_starts_from_one_to_minus_one_or_from_what_is_given():
    assert start_range() == LearnedRange(*[Clip(torch.tensor(1.0), torch.tensor(-1.0))] * 2)
    given = start_range((3.0, 0.0))
    assert given.clip == given.previous == Clip(torch.tensor(3.0), torch.tensor(0.0))


@pytest.mark.parametrize("made", ["start", "finish"])
def test_no_two_of_the_four_tensors_share_memory(made: str):
    seen = take(None, torch.tensor([1.0, -2.0]), where="conv")
    found = start_range() if made == "start" else finish_range(seen, SPEC, HOW)
    ends = [*found.clip, *found.previous]
    assert len({end.data_ptr() for end in ends}) == len(ends)


def test_taking_batches_is_updating():
    x, y = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    taken = take(take(None, x, where="conv"), y, where="conv")
    assert taken.values.tolist() == [1.0, -2.0, 0.5, 3.0]
    found = finish_range(taken, SPEC, HOW)
    want = calibration.finish(taken, SPEC, HOW)
    assert found == LearnedRange(want, want)


@pytest.mark.parametrize("where", ["conv", lambda: "conv"])
def test_a_batch_of_no_use_is_refused_by_name(where):
    seen = take(None, torch.ones(2), where=where)
    with pytest.raises(ValueError, match=r"^conv: calibration input has NaN or infinite values$"):
        take(seen, torch.tensor([1.0, torch.nan]), where=where)
    assert seen.values.tolist() == [1.0, 1.0]


def test_under_a_transform_values_are_checked_only_where_that_is_asked_for():
    def loss(x: torch.Tensor, always_check: bool) -> torch.Tensor:
        take(None, x, where="conv", always_check=always_check)
        return x.sum()

    x = torch.tensor([1.0, torch.inf])
    assert torch.func.grad(loss)(x, False).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="NaN or infinite"):
        torch.func.grad(loss)(x, True)


def test_a_crossed_range_is_replaced_by_the_last_valid_one_and_trains_on():
    previous = Clip(torch.tensor(2.0), torch.tensor(-1.0))
    high, low = torch.tensor(-0.5, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    found = resolve_range(LearnedRange(Clip(high, low), previous), SPEC)
    assert [end.item() for end in found.clip] == [2.0, -1.0]
    assert all(map(same_bits, found.previous, found.clip))
    assert not any(end.requires_grad for end in found.previous)
    gradients = torch.autograd.grad(found.clip.max + 2 * found.clip.min, (high, low))
    assert [g.item() for g in gradients] == [1.0, 2.0]


def test_a_valid_range_becomes_the_last_valid_one():
    trained = LearnedRange(Clip(torch.tensor(3.0), torch.tensor(-2.0)), start_range().previous)
    found = resolve_range(trained, SPEC)
    assert found.clip == found.previous == trained.clip
