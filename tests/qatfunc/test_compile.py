"""The operators under torch.compile in one graph: same bits forward, same gradients."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from tests.support.bits import same_bits
from tests.support.functions.layers import Layer, layer

Params = dict[str, Any]
NAMES = ["linear", "conv2d", "conv3d", "conv_transpose2d"]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def compiled(function: Callable[..., Any], backend: str = "aot_eager") -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, backend=backend, dynamic=False)


def loss_of(one: Layer) -> Callable[[Params], Tensor]:
    return lambda params: one(one.x, params).square().sum()


def step_of(one: Layer) -> Callable[[Params], Params]:
    """One step of gradient descent, as a function of the parameters."""

    def step(params: Params) -> Params:
        gradients = torch.func.grad(loss_of(one))(params)
        return tree_map(lambda p, g: p - 0.01 * g, params, gradients)

    return step


def assert_close(a: Any, b: Any) -> None:
    torch.testing.assert_close(tree_leaves(a), tree_leaves(b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_forward(name: str):
    one = layer(name)
    assert same_bits(compiled(one)(one.x, one.params), one(one.x, one.params))


@pytest.mark.parametrize("name", NAMES)
def test_backward(name: str):
    one = layer(name)
    gradients = []
    for function in (compiled(loss_of(one)), loss_of(one)):
        leaves = tree_map(lambda t: t.clone().requires_grad_(), one.params)
        function(leaves).backward()
        gradients.append([leaf.grad for leaf in tree_leaves(leaves)])
    assert_close(*gradients)
    assert all(g.any() for g in gradients[0])


@pytest.mark.parametrize("name", NAMES)
def test_func_grad(name: str):
    one = layer(name)
    gradient = torch.func.grad(loss_of(one))
    got = compiled(gradient)(one.params)
    assert_close(got, gradient(one.params))
    assert all(g.any() for g in tree_leaves(got))


@pytest.mark.parametrize("name", NAMES)
def test_training_step(name: str):
    one = layer(name)
    step = step_of(one)
    quick, slow = compiled(step), step
    trained, wanted = quick(quick(one.params)), slow(slow(one.params))
    assert_close(trained, wanted)
    assert all(
        not torch.equal(new, old)
        for new, old in zip(tree_leaves(trained), tree_leaves(one.params), strict=True)
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor():
    one = layer("linear")

    def loss_and_output(params: Params) -> tuple[Tensor, Tensor]:
        y = one(one.x, params)
        return y.square().sum(), y

    gradient = torch.func.grad(loss_and_output, has_aux=True)
    gradients, y = compiled(gradient, "inductor")(one.params)
    wanted, wanted_y = gradient(one.params)
    assert same_bits(y, wanted_y)
    assert_close(gradients, wanted)
    assert all(g.any() for g in tree_leaves(gradients))
