import pytest
import torch
from torch import Tensor

from qatfunc import (
    ActivationSpec,
    Clip,
    LayerSpec,
    WeightSpec,
    arq_qparams,
    fake_quantize,
    operators,
    quantize,
    ulq_qparams,
)
from tests.support.bits import has_negative_zero, same_bits
from tests.support.functions import float64_gradients
from tests.support.functions.integer_reference import activation_grid, centered_codes, weight_codes
from tests.support.functions.layers import KINDS, NAMES, Layer, layer

SYMMETRIC = LayerSpec(activation=ActivationSpec(symmetric=True))
SPECS = [
    LayerSpec(
        weight=WeightSpec(bits=weight_bits, per_channel=per_channel),
        activation=ActivationSpec(bits=bits, symmetric=symmetric, fixed_min=symmetric),
    )
    for weight_bits, bits in [(8, 8), (4, 8), (8, 16)]
    for per_channel in (True, False)
    for symmetric in (True, False)
]


def clip(high: float, low: float) -> Clip:
    return Clip(torch.tensor(high), torch.tensor(low))


def test_linear_by_hand():
    # scale_x 1/64, codes 32 and -16; scale_w 1/4, codes 127 and -4: 127 * 32 + 4 * 16 = 4128.
    params = {"weight": torch.tensor([[31.75, -1.0]]), "clip": clip(127 / 64, -127 / 64)}
    x = torch.tensor([[0.5, -0.25]])
    assert operators.linear(x, params, SYMMETRIC).tolist() == [[4128 / 256]]
    params["bias"] = torch.tensor([0.01])  # 2.56 steps of 1/256, hence 3
    assert operators.linear(x, params, SYMMETRIC).tolist() == [[4131 / 256]]


def test_conv2d_by_hand():
    # scale_x 1, zero point -128, codes 0..255 around it; scale_w 1/2, codes 127 and -2.
    params = {
        "weight": torch.tensor([[[[63.5, -1.0]]]]),
        "bias": torch.tensor([-0.3]),
        "clip": clip(255.0, 0.0),
    }
    x = torch.tensor([[[[2.4, 300.0, -7.0]]]])
    y = operators.conv2d(x, params, LayerSpec())
    assert y.tolist() == [[[[(127 * 2 - 2 * 255 - 1) / 2, (127 * 255 - 1) / 2]]]]


def test_conv_transpose2d_by_hand():
    # Two groups of one input and one output: scales 1 and 1/2 belong to outputs 0 and 1.
    params = {"weight": torch.tensor([127.0, 63.5]).reshape(2, 1, 1, 1), "clip": clip(255.0, 0.0)}
    x = torch.tensor([2.4, 3.0]).reshape(1, 2, 1, 1)
    y = operators.conv_transpose2d(x, params, LayerSpec(), groups=2)
    assert y.flatten().tolist() == [127.0 * 2, 63.5 * 3]


def test_conv3d_by_hand():
    params = {"weight": torch.tensor([127.0, -3.0]).reshape(1, 1, 2, 1, 1), "clip": clip(255.0, 0)}
    x = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 1, 3, 1, 1)
    y = operators.conv3d(x, params, LayerSpec())
    assert y.flatten().tolist() == [127.0 - 6.0, 254.0 - 12.0]


def test_padding_is_the_integer_zero():
    # The zero point is not 0, and still a padded window sums what is there and nothing else.
    params = {"weight": torch.full((1, 1, 1, 3), 127.0), "clip": clip(128.5, -126.5)}
    y = operators.conv2d(torch.ones(1, 1, 1, 1), params, LayerSpec(), padding=(0, 2))
    assert y.tolist() == [[[[127.0, 127.0, 127.0]]]]
    y = operators.conv2d(torch.ones(1, 1, 1, 1), params, LayerSpec(), padding=(1, 1))
    assert y.tolist() == [[[[0.0], [127.0], [0.0]]]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", SPECS)
def test_equals_integers_in_every_bit(name: str, spec: LayerSpec):
    for seed in range(3):
        one = layer(name, spec, seed=seed)
        assert same_bits(one(one.x, one.params), one.expected())
        del one.params["bias"]
        assert same_bits(one(one.x, one.params), one.expected())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("one_scale", [False, True])
def test_a_trained_weight_scale_equals_integers_in_every_bit(name: str, one_scale: bool):
    one = layer(name)
    channels = 1 if one_scale else one.kind.channels
    one.params["weight_scale"] = torch.linspace(0.01, 0.02, channels)
    assert same_bits(one(one.x, one.params), one.expected())


@pytest.mark.parametrize("spec", SPECS)
def test_the_references_codes_are_quantizes(spec: LayerSpec):
    one = layer("conv2d", spec)
    x, weight = one.x.numpy(), one.params["weight"]
    qparams = ulq_qparams(one.params["clip"], spec.activation)
    ends = [end.numpy()[()] for end in one.params["clip"]]
    scale, zero_point = activation_grid(*ends, spec.activation)
    codes = centered_codes(x, scale, zero_point, spec.activation.bits) + zero_point
    assert torch.equal(quantize(one.x, qparams, spec.activation), torch.from_numpy(codes))
    assert qparams.scale.item() == scale

    codes, scales = weight_codes(weight.numpy(), spec.weight, None, transposed=False, groups=2)
    qparams = arq_qparams(weight, spec.weight)
    assert torch.equal(quantize(weight, qparams, spec.weight), torch.from_numpy(codes))
    assert qparams.scale.flatten().tolist() == scales.tolist()


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("conv1d", (4,)), ("conv2d", (2, 3)), ("conv2d", (4, 1)), ("conv3d", (1, 2, 3))],
)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name(name: str, kernel: tuple[int, ...], padding: str):
    axes, random = len(kernel), torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, *(5, 6, 7)[:axes], generator=random)
    params = {"weight": torch.randn(3, 2, *kernel, generator=random), "clip": clip(1.5, -0.8)}
    kind, options = KINDS[name], {"padding": padding, "dilation": (1, 2, 1)[:axes]}
    y = kind.operator(x, params, LayerSpec(), **options)
    assert (y.shape[2:] == x.shape[2:]) is (padding == "same")
    assert same_bits(y, kind.reference(x, params, LayerSpec(), **options))


def test_sums_beyond_float32_are_exact_when_wide():
    random = torch.Generator().manual_seed(0)
    spec = LayerSpec(activation=ActivationSpec(bits=16))
    params = {"weight": torch.rand(3, 999, generator=random), "clip": clip(1.0, -0.2)}
    params["weight"][:, ::2] *= -1.0
    x = torch.rand(20, 999, generator=random)
    want = KINDS["linear"].reference(x, params, spec)
    assert spec.wide
    assert same_bits(operators.linear(x, params, spec), want)
    largest_sum = want.abs().max() * 65535 / 1.2 * 127
    assert largest_sum > 2**24


def test_a_bias_larger_than_float32_holds_is_added_in_one_rounding():
    params = {
        "weight": torch.tensor([[127.0]]),
        "bias": torch.tensor([float(2**24)]),
        "clip": clip(127.0, -128.0),
    }
    y = operators.linear(torch.tensor([[1.0], [3.0]]), params, LayerSpec())
    assert y.tolist() == [[2.0**24 + 128.0], [2.0**24 + 380.0]]  # 127 and 381, ties to even


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bias", [None, 0.0, -0.0, -1e-9])
@pytest.mark.parametrize("bits", [8, 16])
def test_no_negative_zero_comes_out(name: str, bias: float | None, bits: int):
    one = layer(name, LayerSpec(activation=ActivationSpec(bits=bits)))
    params = dict(one.params, weight=-one.params["weight"].abs())
    if bias is None:
        del params["bias"]
    else:
        params["bias"] = torch.full_like(params["bias"], bias)
    for x in (torch.zeros_like(one.x), torch.full_like(one.x, -0.0), 1e-9 * one.x):
        y = one(x, params)
        assert not y.any()
        assert not has_negative_zero(y)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_sum_of_one_negative_zero_is_zero(bits: int):
    spec = LayerSpec(activation=ActivationSpec(bits=bits))
    params = {"weight": torch.tensor([[-1.0], [-1.0]]), "clip": clip(1.0, -1.0)}
    y = operators.linear(torch.tensor([[0.0], [-0.0], [1e-9]]), params, spec)
    assert same_bits(y, torch.zeros(3, 2))


@pytest.mark.parametrize("name", NAMES)
def test_without_a_clip_the_input_passes_unquantized(name: str):
    one = layer(name)
    params = {key: value for key, value in one.params.items() if key != "clip"}
    layout, weight = one.kind.layout, params["weight"]
    quantized = fake_quantize(weight, arq_qparams(weight, WeightSpec(), **layout), WeightSpec())
    want = one.kind.plain(one.x, quantized, params["bias"], **one.kind.options)
    torch.testing.assert_close(one(one.x, params), want)
    assert not torch.equal(one(one.x, params), one(one.x, one.params))
    del params["bias"]
    want = one.kind.plain(one.x, quantized, **one.kind.options)
    torch.testing.assert_close(one(one.x, params), want)


@pytest.mark.parametrize("name", NAMES)
def test_a_float_weight_meets_a_quantized_input(name: str):
    one = layer(name, LayerSpec(weight=None))
    activation = one.spec.activation
    x = fake_quantize(one.x, ulq_qparams(one.params["clip"], activation), activation)
    want = one.kind.plain(x, one.params["weight"], one.params["bias"], **one.kind.options)
    torch.testing.assert_close(one(one.x, one.params), want)
    assert not torch.equal(one(one.x, one.params), layer(name)(one.x, one.params))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_quantized_is_the_plain_operator(name: str):
    one = layer(name, LayerSpec(weight=None))
    params = {"weight": one.params["weight"], "bias": one.params["bias"]}
    want = one.kind.plain(one.x, *params.values(), **one.kind.options)
    torch.testing.assert_close(one(one.x, params), want)


def test_linear_takes_any_leading_shape():
    one = layer("linear")
    stacked = torch.stack([one.x, -one.x]).unsqueeze(1)
    y = one(stacked, one.params)
    assert y.shape == (2, 1, 3, 4)
    assert same_bits(y[1, 0], one(-one.x, one.params))


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_left_as_they_are(name: str):
    one = layer(name)
    tensors = [one.x, one.params["weight"], one.params["bias"], *one.params["clip"]]
    before = [t.clone() for t in tensors]
    one(one.x, one.params)
    assert all(same_bits(a, b) for a, b in zip(tensors, before, strict=True))
    assert list(one.params) == ["weight", "bias", "clip"]


class Float64Gradients:
    """The plain operator in float64 on the quantized input and weight, and the rules of ULQ."""

    def __init__(self, one: Layer, upstream: Tensor):
        kind, options, layout = one.kind, one.kind.options, one.kind.layout
        spec, weight = one.spec, one.params["weight"]
        grid = ulq_qparams(one.params["clip"], spec.activation)
        x = fake_quantize(one.x, grid, spec.activation).double().requires_grad_()
        quantized = fake_quantize(weight, arq_qparams(weight, spec.weight, **layout), spec.weight)
        leaves = (
            x,
            quantized.double().requires_grad_(),
            one.params["bias"].double().requires_grad_(),
        )
        kind.plain(*leaves, **options).backward(upstream.double())
        g, self.weight, self.bias = (leaf.grad for leaf in leaves)
        self.x, self.clip_max, self.clip_min = float64_gradients.ulq(
            one.x, one.params["clip"], grid, g, bits=spec.activation.bits
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", SPECS)
def test_gradients_are_the_formulas_in_float64(name: str, spec: LayerSpec):
    one = layer(name, spec)
    x, weight, bias = (t.clone().requires_grad_() for t in (one.x, *list(one.params.values())[:2]))
    ends = Clip(*(end.clone().requires_grad_() for end in one.params["clip"]))
    y = one(x, {"weight": weight, "bias": bias, "clip": ends})
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    y.backward(upstream)
    want = Float64Gradients(one, upstream)
    for ours, theirs in (
        (x.grad, want.x),
        (weight.grad, want.weight),
        (bias.grad, want.bias),
        (ends.max.grad, want.clip_max),
        (ends.min.grad, want.clip_min),
    ):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
        assert theirs.any()


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_weight_scale_receives_a_gradient(name: str):
    one = layer(name)
    scale = torch.full((one.kind.channels,), 0.01).requires_grad_()
    one(one.x, dict(one.params, weight_scale=scale)).sum().backward()
    assert torch.isfinite(scale.grad).all()
    assert scale.grad.all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["x", "weight"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int8])
def test_another_dtype_is_refused(name: str, what: str, dtype: torch.dtype):
    one = layer(name)
    x, params = one.x, dict(one.params)
    if what == "x":
        x = x.to(dtype)
    else:
        params["weight"] = params["weight"].to(dtype)
    with pytest.raises(TypeError, match=rf"{name}: {what} must be float32, got {dtype}"):
        one(x, params)


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_another_rank_is_refused(name: str):
    one = layer(name)
    params = dict(one.params, weight=one.params["weight"][0])
    rank = len(one.kind.weight)
    with pytest.raises(ValueError, match=rf"{name}: weight must have rank {rank}, got shape \("):
        one(one.x, params)


@pytest.mark.parametrize("name", NAMES)
def test_an_input_of_another_rank_is_refused(name: str):
    one = layer(name)
    wanted = "2 or more" if name == "linear" else str(len(one.kind.x))
    x = one.x[0]
    with pytest.raises(ValueError, match=rf"{name}: x must have rank {wanted}, got shape \("):
        one(x, one.params)


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv3d"])
def test_padding_of_another_name_is_refused(name: str):
    one = layer(name)
    with pytest.raises(ValueError, match=r'padding must be ints, "same" or "valid", got \'full\''):
        one.kind.operator(one.x, one.params, one.spec, padding="full")
