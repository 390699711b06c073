"""Sums in INT8: the bits of those in floats, and only where that is certain."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._pytree import tree_leaves, tree_map

from qatfunc import int8_forward
from qatfunc.fused import int8_sums, int8_trial
from qatfunc.fused.grid import Grid
from qatfunc.linear_maps.bilinear import Linear
from tests.support.bits import same_bits
from tests.support.functions.layers import NAMES, Layer, layer


def integers(low: int, high: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(low, high + 1, shape, generator=generator).to(torch.float32)


def grid(low: int, high: int) -> Grid:
    return Grid(torch.ones(()), float(low), float(high))


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("features", [(1, 1), (5, 3), (64, 48), (300, 17)])
@pytest.mark.parametrize("ends", [(-128, 127), (0, 255), (-255, 0), (-100, 155), (-8, 7)])
def test_a_linear_map_has_the_bits_of_floats(
    rows: int, features: tuple[int, int], ends: tuple[int, int]
):
    x, weight = integers(*ends, 2, rows, features[0]), integers(-128, 127, *features[::-1])
    x[0, 0], x[-1, -1] = ends
    assert same_bits(int8_sums.int8_sums(x, weight, grid(*ends)), Linear()(x, weight))


def step(one: Layer) -> list[Tensor]:
    x = one.x.clone().requires_grad_()
    leaves = tree_map(lambda t: t.clone().requires_grad_(), one.params)
    y = one(x, leaves)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *tree_leaves(leaves)])]


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_trains_with_the_same_bits(name: str):
    one = large_linear() if name == "linear" else layer(name)
    with int8_forward("never"):
        want = step(one)
    with int8_forward("always"), spied() as used:
        got, again = step(one), step(one)
    assert all(
        same_bits(a, b) for pair in zip(got, again, want, strict=True) for a, b in pairs(pair)
    )
    assert used.called == (name == "linear")


def pairs(three: tuple[Tensor, Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(three[0], three[2]), (three[1], three[2])]


def large_linear() -> Layer:
    """The linear layer with sides that INT8 is tried for."""
    one, draw = layer("linear"), torch.Generator().manual_seed(1)
    params = one.params | {
        "weight": torch.randn(24, 40, generator=draw),
        "bias": torch.randn(24, generator=draw),
    }
    return one._replace(x=torch.randn(3, 16, 40, generator=draw), params=params)


def spied() -> "mock._patch[mock.MagicMock]":
    return mock.patch.object(int8_sums, "int8_sums", wraps=int8_sums.int8_sums)


@pytest.fixture(autouse=True)
def trials(monkeypatch: pytest.MonkeyPatch) -> int8_trial.Trials:
    """Trials that no other test has held."""
    fresh = int8_trial.Trials()
    monkeypatch.setattr(int8_sums, "_TRIALS", fresh)
    return fresh


def sums(x: Tensor, weight: Tensor, ends: tuple[int, int] = (-128, 127)) -> Tensor:
    return int8_sums.integer_sums(Linear(), x, weight, grid(*ends))


def is_used(x: Tensor, weight: Tensor, *, mode: int8_sums.Mode = "always", calls: int = 2) -> bool:
    """Whether the last of some calls is in INT8; each has the bits of floats."""
    want = F.linear(x, weight)
    with int8_forward(mode):
        for _ in range(calls - 1):
            assert same_bits(sums(x, weight), want)
        with spied() as used:
            assert same_bits(sums(x, weight), want)
    return used.called


def operands(rows: int = 64, inputs: int = 128, outputs: int = 128) -> tuple[Tensor, Tensor]:
    return integers(-128, 127, rows, inputs), integers(-60, 60, outputs, inputs)


def test_sums_that_may_round_are_left_to_floats():
    x, weight = torch.full((16, 1033), 127.0), torch.full((16, 1033), 127.0)
    assert 128 * 127 * 1032 < 2**24 < 128 * 127 * 1033
    assert not is_used(x, weight)
    assert is_used(x[:, 1:], weight[:, 1:])


def test_what_is_no_8_bit_integer_is_left_to_floats():
    x, weight = operands()
    nan = torch.full_like(x, torch.nan)
    wide = torch.full_like(weight, 128.0), torch.full_like(weight, -129.0)
    with int8_forward("always"):
        sums(x, weight)
        with spied() as used:
            assert sums(nan, weight).isnan().all()
            assert sums(x, torch.full_like(weight, torch.nan)).isnan().all()
            assert all(same_bits(sums(x, each), F.linear(x, each)) for each in wide)
            assert same_bits(sums(x, weight, (-200, 200)), F.linear(x, weight))
            assert not used.called
            sums(x, weight)
            assert used.called


def test_transforms_keep_the_bits():
    one = large_linear()
    batch = torch.stack([one.x, -one.x])

    def gradients(x: Tensor) -> Tensor:
        return grad(lambda x: one(x, one.params).square().sum())(x)

    def both() -> tuple[Tensor, Tensor]:
        return vmap(gradients)(batch), vmap(lambda x: one(x, one.params))(batch)

    with int8_forward("never"):
        want = both()
    with int8_forward("always"):
        both()
        with spied() as used:
            got = both()
    assert used.called
    assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("context", [torch.inference_mode, torch.no_grad])
def test_a_trial_leaves_nothing_behind(context: Callable[[], AbstractContextManager[None]]):
    one = large_linear()
    with int8_forward("always"):
        with context():
            one(one.x, one.params)
        with spied() as used:
            got = step(one)
    with int8_forward("never"):
        assert all(same_bits(a, b) for a, b in zip(got, step(one), strict=True))
    assert used.called


@pytest.mark.parametrize("shape", [(64, 1, 20000), (64, 20000, 1), (1, 256, 256), (64, 15, 2000)])
@pytest.mark.parametrize("mode", ["auto", "always"])
def test_shapes_with_a_short_side_are_left_to_floats(
    mode: int8_sums.Mode, shape: tuple[int, int, int]
):
    assert not is_used(*operands(*shape), mode=mode, calls=30)


@pytest.mark.parametrize("mode", ["auto", "never"])
def test_small_or_switched_off_is_left_to_floats(mode: int8_sums.Mode):
    assert not is_used(*operands(16, 32, 32), mode=mode, calls=30)


# Kernels that are not what they should be ---------------------------------------------------------

Kernel = Callable[[Tensor, Tensor], Tensor]


def right(x: Tensor, weight: Tensor) -> Tensor:
    return torch.mm(x.double(), weight.double()).to(torch.int32)


def wrong_for(wrong: Callable[[Tensor, Tensor], bool]) -> Kernel:
    def kernel(x: Tensor, weight: Tensor) -> Tensor:
        y = right(x, weight)
        y[-1, -1] += int(wrong(x, weight))
        return y

    return kernel


def saturating(x: Tensor, weight: Tensor) -> Tensor:
    """Unsigned by signed products, added in pairs of 16 bits, as older x86 instructions do."""
    pairs = (x.long() + 128).unsqueeze(-1) * weight.long()
    pairs = pairs.unflatten(1, (-1, 2)).sum(2).clamp(-(2**15), 2**15 - 1)
    return (pairs.sum(1) - 128 * weight.long().sum(0)).to(torch.int32)


def missing(x: Tensor, weight: Tensor) -> Tensor:
    raise RuntimeError("no such kernel")


class Slow(Linear):
    """Floats that take 10 ms."""

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        time.sleep(0.01)
        return super().__call__(x, weight)


@contextmanager
def kernel_is(kernel: Kernel) -> Iterator[None]:
    int8_sums._medium_shape_passes.cache_clear()
    try:
        with mock.patch.object(torch, "_int_mm", kernel):
            yield
    finally:
        int8_sums._medium_shape_passes.cache_clear()


@pytest.mark.parametrize("mode", ["auto", "always"])
@pytest.mark.parametrize(
    "kernel",
    [
        wrong_for(lambda x, _: len(x) == 64),
        wrong_for(lambda x, _: x.shape[1] == 128),
        wrong_for(lambda _, weight: weight.shape[1] == 128),
        wrong_for(lambda x, _: bool((x == -128).all())),
        wrong_for(lambda _, weight: bool((weight == -128).all(0).any())),
        wrong_for(lambda x, weight: bool((x == 5).any() and (weight == 5).any())),
        saturating,
        missing,
    ],
    ids=["rows", "inputs", "outputs", "low x", "low weight", "its own", "saturating", "missing"],
)
def test_a_wrong_kernel_is_refused(kernel: Kernel, mode: int8_sums.Mode):
    only_bits_decide = mock.patch.multiple(int8_trial, HOPELESS=torch.inf, MARGIN=0.0)
    with kernel_is(kernel), only_bits_decide:
        assert not is_used(*operands(), mode=mode, calls=20)


def test_what_is_wrong_for_one_shape_is_used_for_others():
    with kernel_is(wrong_for(lambda x, _: len(x) == 64)):
        assert not is_used(*operands(64))
        assert is_used(*operands(65))


def slowly(x: Tensor, weight: Tensor) -> Tensor:
    time.sleep(0.01)
    return right(x, weight)


def test_a_slow_kernel_is_used_on_demand_only():
    with kernel_is(slowly):
        assert is_used(*operands(), mode="always")
        assert not is_used(*operands(), mode="auto", calls=30)


def test_a_kernel_that_is_slow_for_one_shape_is_refused_for_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(int8_sums, "_medium_shape_passes", lambda **_: True)
    with mock.patch.object(torch, "_int_mm", slowly):
        assert not is_used(*operands(), mode="auto", calls=30)


def test_a_right_and_fast_kernel_is_used_after_some_calls(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(int8_sums, "_medium_shape_passes", lambda **_: True)
    x, weight = operands()
    with mock.patch.object(torch, "_int_mm", right), spied() as used:
        for call in range(20):
            assert same_bits(
                int8_sums.integer_sums(Slow(), x, weight, grid(-128, 127)), F.linear(x, weight)
            )
            assert used.called == (call >= int8_sums._CALLS_BEFORE_TRIAL)


def test_operands_that_keep_rounding_are_looked_at_no_more(monkeypatch: pytest.MonkeyPatch):
    x, weight = torch.full((64, 1100), 127.0), torch.full((64, 1100), 127.0)
    with mock.patch.object(int8_sums, "has_equal_sums", return_value=False) as looked:
        for _ in range(60):
            sums(x, weight)
    assert 0 < looked.call_count <= 8


def test_trials_are_few_whatever_comes(trials: int8_trial.Trials):
    held = []

    def trial() -> bool:
        held.append(1)
        return True

    for rows in range(5000):
        signature = int8_trial.Signature("auto", rows, 16, 16)
        if trials.is_due(signature, after=0):
            trials.hold(signature, trial)
    for rows in range(5000):
        trials.is_due(int8_trial.Signature("always", rows, 16, 16), after=1)
    assert len(held) == 256
    assert len(trials._calls) <= 1024


def test_one_trial_at_a_time(trials: int8_trial.Trials):
    """While a thread tries a shape, others compute in floats and do not wait."""
    first, second = (int8_trial.Signature("always", rows, 16, 16) for rows in (16, 17))

    def trial() -> bool:
        trials.hold(second, lambda: True)
        return True

    trials.hold(first, trial)
    assert trials.has_passed(first)
    assert not trials.has_passed(second)


def test_threads_agree():
    x, weight = operands()
    want = F.linear(x, weight)

    def call(_: int) -> bool:
        with int8_forward("always"):
            return same_bits(sums(x, weight), want)

    with ThreadPoolExecutor(max_workers=4) as pool:
        assert all(pool.map(call, range(40)))


@pytest.mark.parametrize("inputs", [16, 896, 897, 3000])
def test_extreme_operands_have_exact_sums(inputs: int):
    for x, weight, ends in int8_trial.extremes(16, inputs, 20):
        assert int8_sums.has_equal_sums(x, weight, ends)
        assert (weight != 0).any(0).all()
        assert torch.equal(F.linear(x, weight).double(), F.linear(x.double(), weight.double()))


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match='"auto", "always" or "never", got \'fast\''):
        int8_forward("fast").__enter__()
