"""The fused operator against the composition of plain functions that it stands for."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.utils._pytree import tree_leaves, tree_map, tree_structure, tree_unflatten

from qatfunc import ActivationSpec, Clip, LayerSpec, WeightSpec, operators
from qatfunc.operators import dispatch
from tests.support.bits import same_bits
from tests.support.functions.composed import composed
from tests.support.functions.layers import NAMES, Layer, gradients, layer

SPECS = [
    LayerSpec(
        weight=WeightSpec(bits=bits, per_channel=per_channel),
        activation=ActivationSpec(symmetric=symmetric),
    )
    for bits in (8, 4)
    for per_channel in (True, False)
    for symmetric in (True, False)
]
PARAMETERS = [(), ("bias",), ("weight_scale",), ("bias", "weight_scale")]


def with_parameters(one: Layer, names: tuple[str, ...], *, one_scale: bool = False) -> Layer:
    """Keep the weight, the range and what is named."""
    every = dict(one.params)
    every["weight_scale"] = torch.linspace(0.01, 0.02, 1 if one_scale else one.kind.channels)
    kept = {key: every[key] for key in ("weight", "clip", *names)}
    return one._replace(params=kept)


def exact_layer(name: str, spec: LayerSpec) -> Layer:
    """A layer whose scales are powers of two, so that multiplying by them never rounds."""
    one, largest = layer(name), spec.weight.qmax / 64
    weight = one.params["weight"].clamp(-largest, largest)
    weight[(slice(None), slice(None), *(0 for _ in weight.shape[2:]))] = largest
    high, low = (127, -128) if spec.activation.symmetric else (155, -100)
    clip = Clip(torch.tensor(high / 64), torch.tensor(low / 64))
    return one._replace(spec=spec, params=dict(one.params, weight=weight, clip=clip))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("names", PARAMETERS)
def test_forward_has_the_bits_of_the_composition(
    name: str, spec: LayerSpec, names: tuple[str, ...]
):
    one = with_parameters(layer(name, spec), names)
    assert same_bits(one(one.x, one.params), composed(one, one.x, one.params))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", SPECS)
def test_gradients_have_the_bits_of_the_composition_where_scales_do_not_round(
    name: str, spec: LayerSpec
):
    one = exact_layer(name, spec)
    (x, weight, bias, *clip, y), want = gradients(one), composed(gradients, one)
    assert same_bits(y, want[-1])
    assert all(torch.equal(a, b) for a, b in zip((x, weight, bias), want[:3], strict=True))
    # The range's gradients are sums over all elements, added in another order.
    torch.testing.assert_close(clip, want[3:5], rtol=1e-5, atol=1e-5)
    assert all(g.any() for g in (x, weight, bias, *clip))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("names", PARAMETERS)
@pytest.mark.parametrize("one_scale", [True, False])
def test_gradients_are_those_of_the_composition(name: str, names: tuple[str, ...], one_scale: bool):
    # Products with scales are rounded in another place: relative steps of 2^-24 each.
    one = with_parameters(layer(name), names, one_scale=one_scale)
    got, want = gradients(one), composed(gradients, one)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert all(g.any() for g in got)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_ranges_gradients_do_not_depend_on_who_else_asks(name: str, channels: int):
    one = layer(name)
    if name.startswith("conv") and not one.kind.layout["transposed"]:  # a first layer has few
        options = dict(one.kind.options, groups=1)
        weight = torch.cat([one.params["weight"], -0.5 * one.params["weight"].flip(0)] * 2, 1)
        one = one._replace(
            kind=one.kind._replace(options=options),
            x=torch.cat([one.x, 0.7 * one.x.flip(0)] * 2, 1)[:, :channels],
            params=dict(one.params, weight=torch.cat([weight] * 2, 1)[:, :channels]),
        )
    got, want = gradients(one, x_too=False), gradients(one)
    assert got[0] is None
    torch.testing.assert_close(got[1:], want[1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_alone_is_the_same(name: str):
    one = with_parameters(layer(name), ("bias", "weight_scale"))
    tensors = [one.x, *tree_leaves(one.params)]
    want = gradients(one)
    upstream = torch.randn(want[-1].shape, generator=torch.Generator().manual_seed(1))
    for index, expected in enumerate(want[:-1]):
        leaves = [t.clone().requires_grad_(i == index) for i, t in enumerate(tensors)]
        params = tree_unflatten(leaves[1:], tree_structure(one.params))
        one(leaves[0], params).backward(upstream)
        torch.testing.assert_close(leaves[index].grad, expected, rtol=1e-5, atol=1e-5)
        assert all(leaf.grad is None for i, leaf in enumerate(leaves) if i != index)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("low", [-100, 0, -255])
def test_values_at_the_ends_of_the_range_are_inside(name: str, low: int):
    one = exact_layer(name, LayerSpec())
    ends = torch.tensor([(low + 255) / 64, low / 64, 0.0])
    one.params["clip"] = Clip(*ends[:2])
    for toward in (torch.inf, -torch.inf, None):
        nudged = ends if toward is None else torch.nextafter(ends, torch.tensor(toward))
        x = nudged.repeat(one.x.numel() // 3 + 1)[: one.x.numel()].reshape(one.x.shape)
        got, want = gradients(one._replace(x=x)), composed(gradients, one._replace(x=x))
        assert torch.equal(got[0], want[0])
        torch.testing.assert_close(got[1:], want[1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("end", [torch.inf, -torch.inf, 1e38])
def test_infinite_inputs_saturate(name: str, end: float):
    one = layer(name)
    x = one.x.clone()
    x.flatten()[0] = end
    got, want = gradients(one._replace(x=x)), composed(gradients, one._replace(x=x))
    assert same_bits(got[-1], want[-1])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_no_samples(name: str):
    one = layer(name)
    empty = one._replace(x=one.x[:0])
    got, want = gradients(empty), composed(gradients, empty)
    assert got[-1].shape == want[-1].shape
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_are_those_of_the_composition(name: str):
    one = with_parameters(layer(name), ("bias", "weight_scale"))

    def twice() -> list[Tensor]:
        inputs = [one.x.clone().requires_grad_()]
        leaves = tree_map(lambda t: t.clone().requires_grad_(), one.params)
        inputs += tree_leaves(leaves)
        loss = one(inputs[0], leaves).square().sum()
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    torch.testing.assert_close(twice(), composed(twice), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_upstream_gradients(name: str):
    one = layer(name)
    x = one.x.clone().requires_grad_()
    y = one(x, one.params)
    upstreams = torch.stack([torch.ones_like(y), torch.linspace(-1, 1, y.numel()).view_as(y)])
    (batched,) = torch.autograd.grad(y, x, upstreams, retain_graph=True, is_grads_batched=True)
    looped = [torch.autograd.grad(y, x, g, retain_graph=True)[0] for g in upstreams]
    torch.testing.assert_close(batched, torch.stack(looped), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("axis", [0, 1])
def test_vmap_over_the_input_keeps_the_bits_and_the_gradients(name: str, axis: int):
    one = layer(name)
    batch = torch.stack([one.x, -one.x, 0.5 * one.x], axis)

    def forward(params: dict[str, Any]) -> Tensor:
        return vmap(lambda x: one(x, params), in_dims=axis)(batch)

    (y, pull), (want, plain_pull) = vjp(forward, one.params), composed(vjp, forward, one.params)
    assert same_bits(y, want)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    got, want = pull(upstream), plain_pull(upstream)
    torch.testing.assert_close(tree_leaves(got), tree_leaves(want), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_channels_last_stays(name: str):
    one = layer(name)
    like = {"memory_format": torch.channels_last}
    x = one.x.to(**like).requires_grad_()
    leaves = tree_map(lambda t: t.clone().requires_grad_(), one.params)
    y = one(x, leaves)
    y.backward(torch.ones_like(y))
    assert y.is_contiguous(**like)
    assert x.grad.is_contiguous(**like)
    assert same_bits(y.detach(), one(one.x, one.params))
    plain = one.x.clone().requires_grad_()
    others = tree_map(lambda t: t.clone().requires_grad_(), one.params)
    one(plain, others).sum().backward()
    torch.testing.assert_close(x.grad, plain.grad)
    ends = leaves["clip"], others["clip"]
    torch.testing.assert_close(*([end.grad for end in clip] for clip in ends))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_kept_that_the_float_operator_does_not_keep(name: str):
    one = layer(name)
    x = one.x.clone().requires_grad_()
    leaves = tree_map(lambda t: t.clone().requires_grad_(), one.params)
    bytes_kept, kept = saved(lambda: one(x, leaves))
    float_bytes, _ = saved(lambda: one.kind.plain(x, leaves["weight"], **one.kind.options))
    vectors = 4 * (one.kind.channels * 4 + 3)  # bias, scales (spread over a group's rows), range
    assert float_bytes == 4 * (x.numel() + leaves["weight"].numel())
    assert float_bytes < bytes_kept <= float_bytes + vectors
    assert {x.data_ptr(), leaves["weight"].data_ptr()} <= kept
    plain_bytes, _ = composed(saved, lambda: one(x, leaves))
    assert plain_bytes > bytes_kept


def saved(function: Callable[[], Tensor]) -> tuple[int, set[int]]:
    """Bytes kept for the backward pass, and the storages they are in, each counted once."""
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = function()
    assert y.requires_grad
    return sum(kept.values()), set(kept)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [8, 16])
def test_autocast_changes_nothing(name: str, bits: int):
    one = layer(name, LayerSpec(activation=ActivationSpec(bits=bits)))
    want = gradients(one)
    with torch.autocast("cpu", torch.bfloat16):
        got = gradients(one)
    assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_numbers_on_a_device_are_tensors_and_give_the_same(name: str):
    one = layer(name)
    want = gradients(one), gradients(one, x_too=False)[1:]
    with mock.patch.object(Tensor, "is_cpu", False):
        got = gradients(one), gradients(one, x_too=False)[1:]
    assert same_bits(got[0][-1], want[0][-1])
    assert torch.equal(got[0][0], want[0][0])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_backward_leaves_its_operands_as_they_are(name: str):
    one = layer(name)
    x = one.x.clone().requires_grad_()
    leaves = tree_map(lambda t: t.clone().requires_grad_(), one.params)
    y = one(x, leaves)
    upstream = torch.ones_like(y)
    tensors = [x, upstream, *tree_leaves(leaves)]
    before = [t.detach().clone() for t in tensors]
    y.backward(upstream)
    assert all(same_bits(a.detach(), b) for a, b in zip(tensors, before, strict=True))


def test_what_the_fused_operator_serves():
    one = layer("conv2d")
    assert dispatch._can_fuse(one.x, one.params)
    vector = Clip(*(end.reshape(1) for end in one.params["clip"]))
    double = Clip(*(end.double() for end in one.params["clip"]))
    for params in (dict(one.params, clip=vector), dict(one.params, clip=double)):
        assert not dispatch._can_fuse(one.x, params)
        assert same_bits(one(one.x, params), one(one.x, one.params))
    assert not dispatch._can_fuse(one.x, dict(one.params, bias=one.params["bias"].double()))
    assert not dispatch._can_fuse(one.x.to("meta"), one.params)


@pytest.mark.filterwarnings("ignore:.*trace.*")
def test_a_trace_takes_no_number_for_a_constant():
    one = layer("linear")

    def forward(x: Tensor, high: Tensor) -> Tensor:
        clip = one.params["clip"]._replace(max=high)
        return operators.linear(x, dict(one.params, clip=clip), one.spec)

    traced = torch.jit.trace(forward, (one.x, one.params["clip"].max))
    other = torch.tensor(0.7)
    assert same_bits(traced(one.x, other), forward(one.x, other))


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_scale_of_another_size_is_refused(name: str):
    one = layer(name)
    scale = torch.ones(2 * one.kind.channels)
    with pytest.raises(ValueError, match="does not broadcast"):
        one(one.x, dict(one.params, weight_scale=scale))
