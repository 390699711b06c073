"""The operators under torch.func: grad, vjp, jvp, vmap, what they compose to, functional_call."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._pytree import tree_leaves, tree_map

from qatfunc import Clip, LayerSpec, operators, quantize_centered, ulq_qparams
from tests.support.bits import same_bits
from tests.support.functions.layers import NAMES, Layer, layer

Params = dict[str, Any]


def loss_of(one: Layer) -> Callable[[Params, Tensor], Tensor]:
    """A curved loss, so that second derivatives are not zero."""
    return lambda params, x: one(x, params).square().sum()


def with_autograd(one: Layer, loss: Callable[[Params, Tensor], Tensor]) -> Params:
    """Gradients by loss.backward()."""
    leaves = tree_map(lambda t: t.clone().requires_grad_(), one.params)
    loss(leaves, one.x).backward()
    return tree_map(lambda t: t.grad, leaves)


def assert_close(a: Any, b: Any) -> None:
    torch.testing.assert_close(tree_leaves(a), tree_leaves(b), rtol=1e-4, atol=1e-4)


def directions(tree: Any, seed: int = 1) -> Any:
    random = torch.Generator().manual_seed(seed)
    return tree_map(lambda t: torch.randn(t.shape, generator=random), tree)


def dot(a: Any, b: Any) -> Tensor:
    pairs = zip(tree_leaves(a), tree_leaves(b), strict=True)
    return torch.stack([(x.double() * y.double()).sum() for x, y in pairs]).sum()


def batch_of(one: Layer, count: int = 3) -> Tensor:
    return torch.stack([one.x, -one.x, 0.5 * one.x][:count])


def clips() -> Clip:
    return Clip(torch.tensor([1.5, 0.7, 2.0]), torch.tensor([-0.8, -0.1, 0.0]))


@pytest.mark.parametrize("name", NAMES)
def test_grad_is_autograds(name: str):
    one = layer(name)
    loss = loss_of(one)
    assert_close(grad(loss)(one.params, one.x), with_autograd(one, loss))


@pytest.mark.parametrize("name", NAMES)
def test_vjp_is_autograds(name: str):
    one = layer(name)
    y, pull = vjp(lambda params: one(one.x, params), one.params)
    upstream = directions(y)
    assert same_bits(y, one(one.x, one.params))
    assert_close(
        pull(upstream)[0], with_autograd(one, lambda params, x: (one(x, params) * upstream).sum())
    )


@pytest.mark.parametrize("name", NAMES)
def test_jvp_is_the_transpose_of_vjp(name: str):
    one = layer(name)

    def forward(x: Tensor, params: Params) -> Tensor:
        return one(x, params)

    primals = one.x, one.params
    tangents = directions(primals)
    y, pushed = jvp(forward, primals, tangents)
    upstream = directions(y, seed=2)
    _, pull = vjp(forward, *primals)
    assert same_bits(y, one(one.x, one.params))
    assert pushed.any()
    torch.testing.assert_close(
        dot(pushed, upstream), dot(tangents, pull(upstream)), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_inputs_is_a_loop(name: str):
    one = layer(name)
    batch = batch_of(one)
    y = vmap(lambda x: one(x, one.params))(batch)
    assert same_bits(y, torch.stack([one(x, one.params) for x in batch]))


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_clips_is_a_loop(name: str):
    one, ends = layer(name), clips()

    def forward(x: Tensor, clip: Clip) -> Tensor:
        return one(x, dict(one.params, clip=clip))

    y = vmap(forward, in_dims=(0, Clip(0, 0)))(batch_of(one), ends)
    looped = [forward(x, Clip(*pair)) for x, *pair in zip(batch_of(one), *ends, strict=True)]
    assert same_bits(y, torch.stack(looped))
    one_clip = vmap(forward, in_dims=(None, Clip(0, None)))(one.x, Clip(ends.max, ends.min[0]))
    looped = [forward(one.x, Clip(end, ends.min[0])) for end in ends.max]
    assert same_bits(one_clip, torch.stack(looped))


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_weights_is_a_loop(name: str):
    one = layer(name)
    weights = torch.stack([one.params["weight"], 0.3 * one.params["weight"].flip(0)])

    def forward(weight: Tensor) -> Tensor:
        return one(one.x, dict(one.params, weight=weight))

    assert same_bits(vmap(forward)(weights), torch.stack([forward(weight) for weight in weights]))


@pytest.mark.parametrize("name", NAMES)
def test_vmap_of_grad_is_a_loop_of_grads(name: str):
    one, ends = layer(name), clips()
    gradient = grad(lambda clip, x: loss_of(one)(dict(one.params, clip=clip), x))
    mapped = vmap(gradient, in_dims=(Clip(0, 0), 0))(ends, batch_of(one))
    looped = [gradient(Clip(*pair), x) for x, *pair in zip(batch_of(one), *ends, strict=True)]
    assert_close(mapped, Clip(*(torch.stack(column) for column in zip(*looped, strict=True))))
    assert mapped.max.all()


@pytest.mark.parametrize("name", NAMES)
def test_per_sample_gradients_add_up(name: str):
    one = layer(name)
    each = vmap(grad(loss_of(one)), in_dims=(None, 0))(one.params, batch_of(one))
    together = grad(lambda params: sum(loss_of(one)(params, x) for x in batch_of(one)))(one.params)
    assert_close(tree_map(lambda t: t.sum(0), each), together)


@pytest.mark.parametrize("name", NAMES)
def test_jvp_of_grad_is_grad_of_jvp(name: str):
    one = layer(name)
    loss, tangent = loss_of(one), directions(one.params)
    forward_over_reverse = jvp(lambda p: grad(loss)(p, one.x), (one.params,), (tangent,))[1]
    reverse_over_forward = grad(lambda p: jvp(lambda q: loss(q, one.x), (p,), (tangent,))[1])(
        one.params
    )
    reverse_over_reverse = grad(lambda p: dot(grad(loss)(p, one.x), tangent).float())(one.params)
    torch.testing.assert_close(
        tree_leaves(forward_over_reverse), tree_leaves(reverse_over_forward), rtol=1e-3, atol=1e-2
    )
    torch.testing.assert_close(
        tree_leaves(forward_over_reverse), tree_leaves(reverse_over_reverse), rtol=1e-3, atol=1e-2
    )
    assert forward_over_reverse["weight"].any()


def test_the_hessian_is_that_of_the_quantized_input():
    # y = x' w' is linear in w' with slope 1, so sum(y^2) has the Hessian 2 x'^T x' a row.
    one = layer("linear")
    qparams = ulq_qparams(one.params["clip"], one.spec.activation)
    x = quantize_centered(one.x, qparams, one.spec.activation) * qparams.scale
    second = hessian(lambda w: loss_of(one)(dict(one.params, weight=w), one.x))(
        one.params["weight"]
    )
    rows, inputs = one.kind.weight
    want = torch.einsum("ab,ij->aibj", torch.eye(rows), 2.0 * x.T @ x)
    assert second.shape == (rows, inputs, rows, inputs)
    torch.testing.assert_close(second, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_reverse_jacobians_agree(name: str):
    one = layer(name)

    def forward(clip: Clip) -> Tensor:
        return one(one.x, dict(one.params, clip=clip))

    forwards, backwards = (way(forward)(one.params["clip"]) for way in (jacfwd, jacrev))
    assert_close(forwards, backwards)
    assert forwards.max.any()


@pytest.mark.parametrize("name", NAMES)
def test_double_backward(name: str):
    one = layer(name)
    leaves = tree_map(lambda t: t.clone().requires_grad_(), one.params)
    first = torch.autograd.grad(loss_of(one)(leaves, one.x), tree_leaves(leaves), create_graph=True)
    second = torch.autograd.grad(
        sum(g.square().sum() for g in first), tree_leaves(leaves), allow_unused=True
    )
    assert all(torch.isfinite(g).all() for g in second)
    assert all(g.any() for g in second)


class Network(nn.Module):
    """Two quantized layers, written as a user of the functions would."""

    def __init__(self) -> None:
        super().__init__()
        conv, self.spec = layer("conv2d"), LayerSpec()
        self.options = conv.kind.options
        self.conv_weight = nn.Parameter(conv.params["weight"])
        self.conv_bias = nn.Parameter(conv.params["bias"])
        self.fc_weight = nn.Parameter(layer("linear", seed=1).params["weight"][:, :3].clone())
        self.high = nn.Parameter(torch.tensor([1.5, 2.0]))
        self.low = nn.Parameter(torch.tensor([-0.8, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        conv = {
            "weight": self.conv_weight,
            "bias": self.conv_bias,
            "clip": Clip(self.high[0], self.low[0]),
        }
        x = torch.relu(operators.conv2d(x, conv, self.spec, **self.options))
        fc = {"weight": self.fc_weight, "clip": Clip(self.high[1], self.low[1])}
        return operators.linear(x, fc, self.spec)


def test_functional_call_takes_the_parameters_given():
    network, x = Network(), layer("conv2d").x
    before = network(x)
    halved = {name: 0.5 * p.detach() for name, p in network.named_parameters()}
    y = functional_call(network, halved, (x,))
    assert not torch.equal(y, before)
    assert same_bits(network(x), before)
    network.load_state_dict(halved)
    assert same_bits(network(x), y)


def test_grad_of_functional_call_is_backwards():
    network, x = Network(), layer("conv2d").x
    params = {name: p.detach() for name, p in network.named_parameters()}
    gradients = grad(lambda p: functional_call(network, p, (x,)).square().sum())(params)
    network(x).square().sum().backward()
    assert_close(gradients, {name: p.grad for name, p in network.named_parameters()})
    assert all(g.any() for g in gradients.values())


def test_an_ensemble_is_one_vmap():
    network, x = Network(), layer("conv2d").x
    params = {name: p.detach() for name, p in network.named_parameters()}
    members = tree_map(lambda t: torch.stack([t, 0.5 * t]), params)
    y = vmap(lambda p: functional_call(network, p, (x,)))(members)
    for i in range(2):
        one = tree_map(lambda t, i=i: t[i], members)
        assert same_bits(y[i], functional_call(network, one, (x,)))
