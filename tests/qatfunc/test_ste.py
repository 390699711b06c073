import torch

from qatfunc import straight_through
from qatfunc.ste import replace_value
from tests.support.bits import same_bits


def test_numbers_are_the_values():
    value, surrogate = torch.tensor([1.0, -2.0, 1e-30]), torch.tensor([1e30, 0.1, -7.0])
    assert same_bits(straight_through(value, surrogate), value)


def test_negative_zero_becomes_zero():
    surrogate = torch.tensor([1.0, -1.0, -0.0])
    assert same_bits(straight_through(torch.full((3,), -0.0), surrogate), torch.zeros(3))


def test_float64_stays_float64():
    value = torch.tensor([1.0], dtype=torch.float64)
    assert straight_through(value, value * 3).dtype == torch.float64


def test_the_gradient_goes_to_the_surrogate_alone():
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    a = torch.tensor([3.0, 5.0], requires_grad=True)
    straight_through(value * 7.0, a * a).backward(torch.tensor([1.0, -2.0]))
    assert value.grad is None
    assert a.grad.tolist() == [6.0, -20.0]


def test_the_tangent_is_the_surrogates():
    a, da = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 0.5])
    value, tangent = torch.func.jvp(
        lambda a: straight_through(torch.round(a / 2), a * a), (a,), (da,)
    )
    assert value.tolist() == [2.0, 2.0]
    assert tangent.tolist() == [6.0, 5.0]


def test_differentiates_twice():
    second = torch.func.grad(torch.func.grad(lambda a: straight_through(torch.round(a), a**3)))
    assert second(torch.tensor(2.3)).item() == torch.tensor(6.0).mul(2.3).item()


def test_inputs_are_left_as_they_are():
    value, surrogate = torch.tensor([-0.0, 1.0]), torch.tensor([2.0, -0.0])
    before = value.clone(), surrogate.clone()
    straight_through(value, surrogate)
    assert same_bits(value, before[0])
    assert same_bits(surrogate, before[1])


def test_what_replaces_a_number_that_is_not_finite():
    x = torch.tensor([1.0, torch.nan, torch.inf, -torch.inf], requires_grad=True)
    value = torch.tensor([2.0, 3.0, 4.0, 5.0])
    y = replace_value(x, value)
    y.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert same_bits(y, value)
    assert x.grad.tolist() == [1.0, 0.0, 0.0, 0.0]
