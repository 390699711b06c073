"""Registered classes: what a QAT layer computes of padding and effective weights."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import bridge
from bridge.layer_classes.known import same_pads
from property_tests.strategies.examples import share_of_examples
from qatfunc import Clip, operators

_CLIPS = {"retrain_data_config": {"clip_max": 2.0, "clip_min": -1.0}}


class Drawn(nn.Conv2d):
    """Pads by what is drawn, and computes with a weight of unit norm."""

    pads: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))

    def unit(self) -> Tensor:
        return self.weight / (self.weight.norm() + 1.0)

    def forward(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = self.pads
        return self._conv_forward(F.pad(x, (left, right, top, bottom)), self.unit(), self.bias)


bridge.register_layer(Drawn, padding=lambda layer, _: layer.pads, weight=lambda m: m.unit())

_AMOUNT = st.integers(0, 3)


@share_of_examples(1 / 2)
@given(
    pads=st.tuples(st.tuples(_AMOUNT, _AMOUNT), st.tuples(_AMOUNT, _AMOUNT)),
    padding=st.sampled_from([0, 1, (0, 2), "valid", "same"]),
    kernel=st.sampled_from([1, 2, 3, (2, 3)]),
    dilation=st.sampled_from([1, (1, 2)]),
    seed=st.integers(0, 99),
)
def test_padding_adds_to_the_layers_own_and_gradients_pass(pads, padding, kernel, dilation, seed):
    """Y = conv(pad(x), w(weight)) in every bit, and so are all gradients."""
    torch.manual_seed(seed)
    layer = Drawn(2, 3, kernel, padding=padding, dilation=dilation)
    layer.pads = pads
    qat = bridge.Conv2dQAT.from_float(layer, _CLIPS)
    x = torch.randn(2, 2, 5, 6, requires_grad=True)
    y = qat(x)
    gradients = torch.autograd.grad(y.sum(), [x, qat.weight, qat.acts_clip_max])
    clip = Clip(qat.acts_clip_max.detach().requires_grad_(), qat.acts_clip_min.detach())
    (top, bottom), (left, right) = pads
    padded = F.pad(x, (left, right, top, bottom))
    params = {"weight": layer.unit(), "bias": layer.bias, "clip": clip}
    geometry = {"padding": padding, "dilation": dilation}
    wanted = operators.conv2d(padded, params, qat.config.layer, **geometry)
    assert torch.equal(y, wanted)
    others = torch.autograd.grad(wanted.sum(), [x, layer.weight, clip.max])
    for mine, other in zip(gradients, others, strict=True):
        # A sum over more zeros has another order.
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@given(
    size=st.integers(1, 40),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 5),
    dilation=st.integers(1, 3),
)
def test_same_pads_give_one_output_a_stride(size, kernel, stride, dilation):
    """The output has ceil(size / stride) values, by as few zeros as that needs."""
    layer = nn.Conv1d(1, 1, kernel, stride=stride, dilation=dilation)
    ((before, after),) = same_pads(layer, (1, 1, size))
    reach, outputs = dilation * (kernel - 1) + 1, -(-size // stride)
    assert 0 <= before <= after <= before + 1
    covered = (outputs - 1) * stride + reach
    assert before + after == max(covered - size, 0)
    assert (size + before + after - reach) // stride + 1 == outputs
