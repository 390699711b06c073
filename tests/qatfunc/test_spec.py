import dataclasses

import pytest

from qatfunc import ActivationSpec, IntSpec, LayerSpec, SearchSpec, WeightSpec


@pytest.mark.parametrize(
    ("bits", "qmin", "qmax", "steps"),
    [(2, -2, 1, 3), (4, -8, 7, 15), (8, -128, 127, 255), (16, -32768, 32767, 65535)],
)
def test_the_grid_is_signed(bits: int, qmin: int, qmax: int, steps: int):
    spec = IntSpec(bits=bits)
    assert (spec.qmin, spec.qmax, spec.steps) == (qmin, qmax, steps)


@pytest.mark.parametrize("kind", [IntSpec, WeightSpec, ActivationSpec])
@pytest.mark.parametrize("bits", [8.0, "8", None, True])
def test_bits_of_another_kind_are_refused(kind: type[IntSpec], bits: object):
    with pytest.raises(TypeError, match=r"bits must be an int, got"):
        kind(bits=bits)


@pytest.mark.parametrize("kind", [IntSpec, WeightSpec, ActivationSpec])
@pytest.mark.parametrize("bits", [1, 17, 0, -8])
def test_bits_out_of_range_are_refused(kind: type[IntSpec], bits: int):
    with pytest.raises(ValueError, match=rf"bits must be 2 to 16, got {bits}$"):
        kind(bits=bits)


def test_defaults():
    layer = LayerSpec()
    assert layer.weight == WeightSpec(bits=8, per_channel=True)
    assert layer.activation == ActivationSpec(bits=8, symmetric=False, fixed_min=False)
    assert SearchSpec() == SearchSpec(
        method="mse",
        batch_num=1,
        max_percentile=0.999999,
        min_percentile=0.999999,
        start=0.7,
        end=1.3,
        step=0.01,
        symmetric=True,
    )


@pytest.mark.parametrize(
    "spec", [IntSpec(), WeightSpec(), ActivationSpec(), SearchSpec(), LayerSpec()]
)
def test_specs_are_frozen_and_hashable(spec: IntSpec):
    name = dataclasses.fields(spec)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError, match=name):
        setattr(spec, name, 4)
    assert hash(spec) == hash(dataclasses.replace(spec))


def test_specs_take_keywords_only():
    with pytest.raises(TypeError, match="positional"):
        IntSpec(8)


@pytest.mark.parametrize("kind", [WeightSpec, ActivationSpec])
def test_kinds_of_grid_are_not_equal(kind: type[IntSpec]):
    assert kind(bits=8) != IntSpec(bits=8)


@pytest.mark.parametrize("batch_num", [0, -1])
def test_batch_num_is_at_least_one(batch_num: int):
    with pytest.raises(ValueError, match=rf"batch_num must be at least 1, got {batch_num}$"):
        SearchSpec(batch_num=batch_num)


@pytest.mark.parametrize("name", ["max_percentile", "min_percentile"])
@pytest.mark.parametrize("share", [0.5, 1.0000001, 0.0, -1.0])
def test_percentiles_lie_above_a_half(name: str, share: float):
    with pytest.raises(ValueError, match=rf"{name} must be in \(0\.5, 1\], got {share}"):
        SearchSpec(**{name: share})


@pytest.mark.parametrize("method", ["IFMR", "", None, 3])
def test_a_method_is_one_of_two(method: object):
    with pytest.raises(ValueError, match=rf"^method must be 'mse' or 'ifmr', got {method!r}$"):
        SearchSpec(method=method)


def test_symmetric_is_an_option_of_ifmr():
    assert not SearchSpec(method="ifmr", symmetric=False).symmetric
    with pytest.raises(ValueError, match='symmetric=False is an option of method "ifmr"; with'):
        SearchSpec(symmetric=False)


def test_percentile_one_is_allowed():
    assert SearchSpec(max_percentile=1.0, min_percentile=1.0).max_percentile == 1.0


@pytest.mark.parametrize(
    "candidates",
    [
        {"start": 0.0},
        {"start": -0.1},
        {"start": 1.3},
        {"start": 2.0},
        {"step": 0.0},
        {"step": -0.1},
        {"end": 0.7},
    ],
)
def test_candidates_need_an_order(candidates: dict[str, float]):
    with pytest.raises(ValueError, match=r"candidates need 0 < start < end and step > 0, got st"):
        SearchSpec(**candidates)


@pytest.mark.parametrize(
    ("activation", "weight", "wide"), [(8, 8, False), (16, 8, True), (9, 8, True), (16, 2, True)]
)
def test_wide_says_that_float32_is_too_narrow(activation: int, weight: int, wide: bool):
    spec = LayerSpec(weight=WeightSpec(bits=weight), activation=ActivationSpec(bits=activation))
    assert spec.wide is wide
