"""operators.matmul: two activations, each with its own range."""

from typing import Any

import pytest
import torch
from torch import Tensor

from qatfunc import ActivationSpec, Clip, fake_quantize, operators, ulq_qparams
from tests.support.bits import has_negative_zero, same_bits
from tests.support.functions import float64_gradients, integer_reference

SPECS = [
    ActivationSpec(bits=bits, symmetric=symmetric)
    for bits in (8, 16)
    for symmetric in (False, True)
]


def clip(high: float, low: float) -> Clip:
    return Clip(torch.tensor(high), torch.tensor(low))


def operands(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[Tensor, Tensor, dict[str, Any]]:
    random = torch.Generator().manual_seed(0)
    params = {"input_clip": clip(1.5, -0.8), "other_clip": clip(2.0, 0.0)}
    return torch.randn(a, generator=random), torch.randn(b, generator=random), params


def test_by_hand():
    # Codes 2, 255 and 3, 0 around zero; scales 1 and 1/2.
    params = {"input_clip": clip(255.0, 0.0), "other_clip": clip(127.5, 0.0)}
    a, b = torch.tensor([[2.4, 300.0]]), torch.tensor([[1.5], [-9.0]])
    assert operators.matmul(a, b, params, ActivationSpec()).tolist() == [[2 * 3 / 2]]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    ("a", "b"),
    [((3, 5), (5, 2)), ((2, 3, 4), (2, 4, 3)), ((2, 1, 3, 4), (3, 4, 2)), ((9, 99),) * 2],
)
def test_equals_integers_in_every_bit(spec: ActivationSpec, a, b):
    left, right, params = operands(a, b)
    right = right if a != b else right.T
    y = operators.matmul(left, right, params, spec)
    assert same_bits(y, integer_reference.matmul(left, right, list(params.values()), spec))


@pytest.mark.parametrize("spec", SPECS)
def test_no_negative_zero_comes_out(spec: ActivationSpec):
    left, right, params = operands((3, 5), (5, 2))
    for zero in (torch.zeros_like(left), torch.full_like(left, -0.0)):
        y = operators.matmul(zero, -right.abs(), params, spec)
        assert not y.any()
        assert not has_negative_zero(y)


@pytest.mark.parametrize("spec", SPECS)
def test_a_sum_of_one_negative_zero_is_zero(spec: ActivationSpec):
    params = {"input_clip": clip(1.0, -1.0), "other_clip": clip(1.0, -1.0)}
    y = operators.matmul(torch.zeros(2, 1), torch.tensor([[-0.5, 0.5]]), params, spec)
    assert same_bits(y, torch.zeros(2, 2))


def test_without_clips_it_is_the_plain_product():
    left, right, _ = operands((3, 5), (5, 2))
    assert torch.equal(operators.matmul(left, right, {}, ActivationSpec()), left @ right)


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_are_the_formulas_in_float64(spec: ActivationSpec):
    left, right, params = operands((3, 5), (5, 2))
    leaves = [t.clone().requires_grad_() for t in (left, right, *sum(params.values(), ()))]
    trained = {"input_clip": Clip(*leaves[2:4]), "other_clip": Clip(*leaves[4:])}
    y = operators.matmul(*leaves[:2], trained, spec)
    upstream = torch.linspace(-2.0, 3.0, y.numel()).reshape(y.shape)
    y.backward(upstream)

    grids = [ulq_qparams(range_, spec) for range_ in params.values()]
    used = [
        fake_quantize(x, grid, spec).double() for x, grid in zip((left, right), grids, strict=True)
    ]
    products = upstream.double() @ used[1].T, used[0].T @ upstream.double()
    for x, range_, grid, g, ours in zip(
        (left, right),
        params.values(),
        grids,
        products,
        ((0, 2, 3), (1, 4, 5)),
        strict=True,
    ):
        want = float64_gradients.ulq(x, range_, grid, g, bits=spec.bits)
        for leaf, theirs in zip(ours, want, strict=True):
            got = leaves[leaf].grad.double()
            torch.testing.assert_close(got, theirs, rtol=1e-4, atol=1e-5)
            assert theirs.any()


@pytest.mark.parametrize("name", ["input", "other"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int8])
def test_another_dtype_is_refused(name: str, dtype: torch.dtype):
    left, right, params = operands((3, 5), (5, 2))
    pair = (left.to(dtype), right) if name == "input" else (left, right.to(dtype))
    with pytest.raises(TypeError, match=rf"matmul: {name} must be float32, got {dtype}"):
        operators.matmul(*pair, params, ActivationSpec())


@pytest.mark.parametrize("name", ["input", "other"])
@pytest.mark.parametrize("shape", [(5,), (1, 1, 1, 1, 1, 5, 5)])
def test_another_rank_is_refused(name: str, shape: tuple[int, ...]):
    left, right, params = operands((3, 5), (5, 2))
    pair = (torch.ones(shape), right) if name == "input" else (left, torch.ones(shape))
    with pytest.raises(ValueError, match=rf"matmul: {name} must have rank 2 to 6, got \("):
        operators.matmul(*pair, params, ActivationSpec())
