import numpy as np
import pytest
import torch

from qatfunc import IntSpec, QParams, dequantize, fake_quantize, quantize, quantize_centered
from tests.support.bits import same_bits

INT8 = IntSpec(bits=8)


def qparams(scale: float, zero_point: float = 0.0) -> QParams:
    return QParams(torch.tensor(scale), torch.tensor(zero_point))


def test_ties_round_to_even():
    x = torch.tensor([-1.25, -0.75, -0.25, 0.25, 0.75, 1.25])
    assert quantize(x, qparams(0.5), INT8).tolist() == [-2, -2, 0, 0, 2, 2]


def test_zero_point_is_added_after_rounding():
    x = torch.tensor([-0.75, -0.25, 0.25, 0.75])
    # Rounding x / scale + 3 would give 2, 2, 4, 4.
    assert quantize(x, qparams(0.5, 3.0), INT8).tolist() == [1, 3, 3, 5]


def test_division_is_not_a_product_with_the_reciprocal():
    x, scale = np.float32(1.65), np.float32(1.1)
    assert x / scale == 1.5  # a tie, hence 2; the product is 1.4999999
    assert np.rint(x * (np.float32(1.0) / scale)) == 1.0
    assert quantize(torch.tensor([x]), qparams(float(scale)), INT8).tolist() == [2]


def test_values_beyond_the_grid_saturate():
    x = torch.tensor([-1e30, -64.0, -66.0, 61.5, 62.0, 1e30])
    assert quantize(x, qparams(0.5, 3.0), INT8).tolist() == [-128, -125, -128, 126, 127, 127]


def test_infinities_saturate():
    x = torch.tensor([-torch.inf, torch.inf])
    assert quantize(x, qparams(0.5, 3.0), INT8).tolist() == [-128, 127]
    assert fake_quantize(x, qparams(0.5, 3.0), INT8).tolist() == [-65.5, 62.0]


def test_centered_counts_from_the_zero_point():
    x = torch.tensor([-1e9, 0.0, 1.0, 1e9])
    centered = quantize_centered(x, qparams(0.5, 3.0), INT8)
    assert centered.tolist() == [-131.0, 0.0, 2.0, 124.0]
    assert centered.dtype == torch.float32


@pytest.mark.parametrize(
    ("bits", "dtype"),
    [(2, torch.int8), (8, torch.int8), (9, torch.int16), (16, torch.int16)],
)
def test_codes_take_the_narrowest_type(bits: int, dtype: torch.dtype):
    spec = IntSpec(bits=bits)
    codes = quantize(torch.tensor([-1e9, 1e9]), qparams(1.0), spec)
    assert codes.dtype == dtype
    assert codes.tolist() == [spec.qmin, spec.qmax]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_dequantize(dtype: torch.dtype):
    q = torch.tensor([-128, 0, 3, 127], dtype=dtype)
    x = dequantize(q, qparams(0.5, 3.0))
    assert x.dtype == torch.float32
    assert x.tolist() == [-65.5, -1.5, 0.0, 62.0]


def test_fake_quantize_by_hand():
    x = torch.tensor([[0.3, -0.8], [100.0, -100.0]])
    assert fake_quantize(x, qparams(0.5), INT8).tolist() == [[0.5, -1.0], [63.5, -64.0]]


def test_one_scale_a_row():
    x = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
    params = QParams(torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [5.0]]))
    assert quantize(x, params, INT8).tolist() == [[1, 3], [5, 7]]
    assert fake_quantize(x, params, INT8).tolist() == [[1.0, 3.0], [0.0, 4.0]]


def test_inputs_are_left_as_they_are():
    x, params = torch.tensor([0.3, 1e9]), qparams(0.5, 3.0)
    before = [t.clone() for t in (x, *params)]
    for function in (quantize, quantize_centered, fake_quantize):
        function(x, params, INT8)
    dequantize(x, params)
    assert all(same_bits(a, b) for a, b in zip((x, *params), before, strict=True))


@pytest.mark.parametrize("function", [quantize, quantize_centered, fake_quantize])
@pytest.mark.parametrize(
    ("x_shape", "scale_shape"), [((2, 3), (2,)), ((3,), (2, 3)), ((2, 1), (1, 3)), ((), (1,))]
)
def test_a_scale_that_does_not_broadcast_is_refused(function, x_shape, scale_shape):
    params = QParams(torch.ones(scale_shape), torch.zeros(scale_shape))
    with pytest.raises(ValueError, match=r"scale of shape \(.*\) does not broadcast to x of sh"):
        function(torch.zeros(x_shape), params, INT8)


def test_the_error_names_both_shapes():
    params = QParams(torch.ones(2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"\(2,\) does not broadcast to x of shape \(2, 3\)"):
        quantize(torch.zeros(2, 3), params, INT8)


def test_the_gradient_is_zero():
    x = torch.tensor([0.3, 100.0], requires_grad=True)
    fake_quantize(x, qparams(0.5), INT8).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0]
