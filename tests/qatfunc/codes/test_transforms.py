"""The operators on codes under torch.func and torch.compile."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

from qatfunc import Clip
from tests.support.bits import same_bits
from tests.support.functions.code_operators import OPERATORS, CodeOperator, code_operator

COMPILED = ["add", "mul", "silu", "prelu", "average_pool", "mean", "concat"]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def loss_of(one: CodeOperator) -> Callable[[Tensor, Clip], Tensor]:
    return lambda x, clip: one(x, clip).square().sum()


def with_autograd(one: CodeOperator, function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    leaves = [t.clone().requires_grad_() for t in (one.x, *one.clip)]
    function(leaves[0], Clip(*leaves[1:])).backward()
    return tuple(leaf.grad for leaf in leaves)


@pytest.mark.parametrize("name", OPERATORS)
def test_grad_is_autograds(name):
    one = code_operator(name)
    x, clip = grad(loss_of(one), argnums=(0, 1))(one.x, one.clip)
    wanted = with_autograd(one, loss_of(one))
    torch.testing.assert_close((x, *clip), wanted, rtol=1e-5, atol=1e-5)
    assert x.any()
    assert clip.max.any()


@pytest.mark.parametrize("name", OPERATORS)
def test_vmap_over_values_and_ranges_is_a_loop(name):
    one = code_operator(name)
    batch = torch.stack([one.x, one.x.flip(0), one.x.flip(-1)])
    clips = Clip(torch.tensor([1.5, 0.7, 2.0]), torch.tensor([-0.8, -0.1, 0.0]))
    y = vmap(one, in_dims=(0, Clip(0, 0)))(batch, clips)
    pairs = zip(batch, *clips, strict=True)
    assert same_bits(y, torch.stack([one(x, Clip(*ends)) for x, *ends in pairs]))
    shared = vmap(one, in_dims=(0, Clip(None, None)))(batch, one.clip)
    assert same_bits(shared, torch.stack([one(x, one.clip) for x in batch]))


@pytest.mark.parametrize("name", OPERATORS)
def test_per_sample_gradients_add_up(name):
    one = code_operator(name)
    batch = torch.stack([one.x, one.x.flip(0)])
    each = vmap(grad(loss_of(one), argnums=1), in_dims=(0, None))(batch, one.clip)
    together = grad(lambda clip: sum(loss_of(one)(x, clip) for x in batch))(one.clip)
    torch.testing.assert_close([end.sum(0) for end in each], list(together), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OPERATORS)
def test_jvp_is_the_transpose_of_vjp(name):
    one = code_operator(name)
    random = torch.Generator().manual_seed(1)
    tangents = torch.randn(one.x.shape, generator=random), Clip(*torch.tensor([0.5, -2.0]))
    y, pushed = jvp(one, (one.x, one.clip), tangents)
    upstream = torch.randn(y.shape, generator=random)
    of_x, of_clip = vjp(one, one.x, one.clip)[1](upstream)
    pulled = (of_x * tangents[0]).sum() + sum(
        a * b for a, b in zip(of_clip, tangents[1], strict=True)
    )
    assert same_bits(y, one(one.x, one.clip))
    torch.testing.assert_close((pushed * upstream).sum(), pulled, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", OPERATORS)
def test_double_backward_is_that_of_func(name):
    one = code_operator(name)
    leaves = [t.clone().requires_grad_() for t in (one.x, *one.clip)]
    loss = loss_of(one)
    first = torch.autograd.grad(loss(leaves[0], Clip(*leaves[1:])), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)

    def squares(x: Tensor, clip: Clip) -> Tensor:
        of_x, of_clip = grad(loss, argnums=(0, 1))(x, clip)
        return of_x.square().sum() + sum(end.square() for end in of_clip)

    of_x, of_clip = grad(squares, argnums=(0, 1))(one.x, one.clip)
    torch.testing.assert_close(second, (of_x, *of_clip), rtol=1e-3, atol=1e-2)
    assert all(g.any() for g in second)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("trained", ["x", "clip"])
def test_gradients_of_a_part_are_those_of_all(name, trained):
    one = code_operator(name)
    x, clip = grad(loss_of(one), argnums=(0, 1))(one.x, one.clip)
    leaves = [t.clone().requires_grad_(wants) for t, wants in _parts(one, trained)]
    loss_of(one)(leaves[0], Clip(*leaves[1:])).backward()
    for leaf, wanted in zip(leaves, (x, *clip), strict=True):
        if leaf.requires_grad:
            torch.testing.assert_close(leaf.grad, wanted, rtol=1e-5, atol=1e-5)
        else:
            assert leaf.grad is None


def _parts(one: CodeOperator, trained: str) -> list[tuple[Tensor, bool]]:
    return [(one.x, trained == "x"), *((end, trained == "clip") for end in one.clip)]


@pytest.mark.parametrize("name", ["add", "silu", "prelu", "average_pool"])
def test_memory_format_and_expanded_gradients_change_nothing(name):
    one = code_operator(name)
    found = []
    for x in (one.x, one.x.to(memory_format=torch.channels_last), one.x.mT.contiguous().mT):
        leaf, ends = x.clone().requires_grad_(), [end.clone().requires_grad_() for end in one.clip]
        one(leaf, Clip(*ends)).sum().backward()
        found.append((leaf.grad, *(end.grad for end in ends)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_in_one_graph(name):
    one = code_operator(name)

    def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=False)

    assert same_bits(compiled(one.operator)(one.x, one.clip), one(one.x, one.clip))
    got = with_autograd(one, compiled(loss_of(one)))
    torch.testing.assert_close(got, with_autograd(one, loss_of(one)), rtol=1e-5, atol=1e-5)
    of_clip = compiled(grad(loss_of(one), argnums=1))(one.x, one.clip)
    wanted = grad(loss_of(one), argnums=1)(one.x, one.clip)
    torch.testing.assert_close(list(of_clip), list(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_autocast_changes_no_bit(name):
    one = code_operator(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = one(one.x, one.clip)
    assert same_bits(y, one(one.x, one.clip))


@pytest.mark.parametrize("name", OPERATORS)
def test_inputs_are_unchanged(name):
    one = code_operator(name)
    before = [t.clone() for t in (one.x, *one.clip)]
    one(one.x, one.clip)
    assert all(same_bits(a, b) for a, b in zip((one.x, *one.clip), before, strict=True))
