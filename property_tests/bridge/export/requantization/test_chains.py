"""Convolutions that hand on codes: one QLinearConv from sums to the next layer's input."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from torch import Tensor

from bridge import (
    Conv1dQAT,
    Conv2dQAT,
    Conv3dQAT,
    ConvTranspose1dQAT,
    ConvTranspose2dQAT,
    adopt,
)
from bridge.export.plan.costs import FORMS, QLINEAR, QLINEAR_2D
from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.modules import (
    conv1d_cases,
    conv2d_cases,
    conv3d_cases,
    conv_transpose1d_cases,
    conv_transpose2d_cases,
    randoms,
)
from tests.support.bits import assert_same_bits
from tests.support.conversions import assert_fake_equals_deploy
from tests.support.graphs.builders import Graph, add_layer, inter_model
from tests.support.modules.case import Case
from tests.support.modules.numbers import Random

_CONVS = {1: Conv1dQAT, 2: Conv2dQAT, 3: Conv3dQAT}
_TRANSPOSED = {1: ConvTranspose1dQAT, 2: ConvTranspose2dQAT}
_POOLS = {
    1: torch.nn.functional.max_pool1d,
    2: torch.nn.functional.max_pool2d,
    3: torch.nn.functional.max_pool3d,
}


class Through(torch.nn.Module):
    """y = conv3(between(conv2(between(conv1(x))))), the second one depthwise.

    The first one is transposed if there are hyperparameters for that.
    """

    def __init__(
        self,
        spatial: int,
        channels: int,
        operators: list[str],
        config: Any,
        transposed: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        conv = _CONVS[spatial]
        self.spatial, self.operators = spatial, operators
        self.fixed_min = config["retrain_data_config"]["fixed_min"]
        if transposed is None:
            self.conv1 = conv(2, channels, 3, padding=1, config=config)
        else:
            self.conv1 = _TRANSPOSED[spatial](2, channels, config=config, **transposed)
        self.conv2 = conv(channels, channels, 3, padding=1, groups=channels, config=config)
        self.conv3 = conv(channels, 2, 1, config=config)

    def layers(self) -> list[Any]:
        return [self.conv1, self.conv2, self.conv3]

    def between(self, y: Tensor) -> Tensor:
        for operator in self.operators:
            if operator == "MaxPool":
                y = _POOLS[self.spatial](y, 2, 1)
            elif operator == "Relu":
                y = y.relu()
            else:
                y = y.clamp(-0.25, 1.5)
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.between(self.conv2(self.between(self.conv1(x)))))

    def model(self, x: Tensor) -> Any:
        """Return the inter model."""
        graph, y = Graph(), "x"
        for i, layer in enumerate(self.layers(), start=1):
            padding = tuple(getattr(layer, "output_padding", ()))
            case = Case(layer=layer, x=x, output_padding=padding)
            y = add_layer(graph, case, y, f"conv{i}")
            for operator in self.operators if i < 3 else ():
                if operator == "MaxPool":
                    sizes = {"kernel_shape": [2] * self.spatial, "strides": [1] * self.spatial}
                    y = graph.op("MaxPool", y, **sizes)
                elif operator == "Relu":
                    y = graph.op("Relu", y)
                else:
                    ends = [graph.constant(np.float32(end)) for end in (-0.25, 1.5)]
                    y = graph.op("Clip", y, *ends)
        return graph.model(y, x.ndim)


_FORMS = (QLINEAR, QLINEAR, *FORMS, QLINEAR_2D)
_BETWEEN = st.lists(st.sampled_from(["Relu", "Clip", "MaxPool"]), max_size=2)
_CONFIGS = st.builds(
    lambda asymmetric, fixed_min, channel_wise: {
        "retrain_data_config": {
            "asymmetric": asymmetric,
            "fixed_min": fixed_min,
            "clip_max": 1.0,
        },
        "retrain_weight_config": {"channel_wise": channel_wise},
    },
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


@share_of_examples(1 / 2)
@given(st.integers(1, 3), st.integers(1, 6), _BETWEEN, _CONFIGS, st.sampled_from(_FORMS), randoms())
def test_codes_are_handed_on_and_adopted(
    spatial: int, channels: int, operators: list[str], config: Any, form: str, random: Random
) -> None:
    """y_fake = y_deploy in every bit, and y_torch too once the adjusted rescales are adopted."""
    torch.manual_seed(int(random.integers(1 << 30)))
    net = Through(spatial, channels, operators, config).eval()
    _assert_exact_and_adopted(net, 8 - spatial, form, random)


@st.composite
def _transposed(draw: Any) -> dict[str, int]:
    stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    return {
        "kernel_size": draw(st.integers(1, 4)),
        "stride": stride,
        "padding": draw(st.integers(0, 2)),
        "dilation": dilation,
        "output_padding": draw(st.integers(0, max(stride, dilation) - 1)),
        "groups": draw(st.integers(1, 2)),
    }


@share_of_examples(1 / 4)
@given(st.integers(1, 2), _transposed(), _BETWEEN, _CONFIGS, st.sampled_from(_FORMS), randoms())
def test_codes_of_a_transposed_convolution_are_handed_on_and_adopted(
    spatial: int,
    transposed: dict[str, int],
    operators: list[str],
    config: Any,
    form: str,
    random: Random,
) -> None:
    """y_fake = y_deploy in every bit, and y_torch too once the adjusted rescales are adopted."""
    torch.manual_seed(int(random.integers(1 << 30)))
    channels = transposed["groups"] * int(random.integers(1, 4))
    net = Through(spatial, channels, operators, config, transposed).eval()
    # Padding takes from the output, of which four pools must leave something.
    _assert_exact_and_adopted(net, 5 + 2 * transposed["padding"], form, random)


class Joined(torch.nn.Module):
    """y = last(cat(first(x), second(x))), first and second of one size of output."""

    def __init__(self, channels: tuple[int, int], config: Any) -> None:
        super().__init__()
        first, second = channels
        self.first = ConvTranspose2dQAT(2, first, 2, stride=2, config=config)
        self.second = ConvTranspose2dQAT(2, second, 4, stride=2, padding=1, config=config)
        self.last = Conv2dQAT(first + second, 2, 1, config=config)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.first(x), self.second(x).relu()], 1))

    def model(self, x: Tensor) -> Any:
        """Return the inter model."""
        graph, nothing = Graph(), (0, 0)
        parts = [
            add_layer(graph, Case(layer=layer, x=x, output_padding=nothing), "x", name)
            for name, layer in (("first", self.first), ("second", self.second))
        ]
        joined = graph.op("Concat", parts[0], graph.op("Relu", parts[1]), axis=1)
        return graph.model(add_layer(graph, Case(layer=self.last, x=x), joined, "last"), x.ndim)


@share_of_examples(1 / 4)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4)), _CONFIGS, st.sampled_from(_FORMS), randoms()
)
def test_codes_are_joined(
    channels: tuple[int, int], config: Any, form: str, random: Random
) -> None:
    """y_fake = y_deploy in every bit where a Concat joins codes, and y_torch too once adopted."""
    torch.manual_seed(int(random.integers(1 << 30)))
    net = Joined(channels, config).eval()
    x = torch.randn(2, 2, 4, 3) * float(random.uniform(0.2, 3.0))
    with torch.no_grad():
        for layer in (net.first, net.second, net.last):
            layer.weight.copy_(torch.randn_like(layer.weight) * float(random.uniform(0.1, 2.0)))
    y, summaries = assert_fake_equals_deploy(net.model(x), x.numpy(), form=form)
    event(f"{[summary.form for summary in summaries].count(form)} of 3 as {form}")
    done = SimpleNamespace(layers=summaries, mode="exact", left_in_float=[])
    adopt(net, done)  # type: ignore[arg-type]
    with torch.no_grad():
        assert_same_bits(net(x).numpy(), y, "torch")


def _assert_exact_and_adopted(net: Through, size: int, form: str, random: Random) -> None:
    x = torch.randn(2, 2, *(size,) * net.spatial) * float(random.uniform(0.2, 3.0))
    with torch.no_grad():
        inner = x
        for layer in net.layers():
            layer.weight.copy_(torch.randn_like(layer.weight) * float(random.uniform(0.1, 2.0)))
            layer.acts_clip_max.copy_(inner.max().clamp(min=1e-3) * random.uniform(0.7, 1.3))
            if not net.fixed_min:
                low = inner.min().clamp(max=0.0) * random.uniform(0.7, 1.3)
                layer.acts_clip_min.copy_(low)
            inner = net.between(layer(inner)) if layer is not net.conv3 else layer(inner)
    source = net.model(x)
    y, summaries = assert_fake_equals_deploy(source, x.numpy(), form=form)
    forms = [summary.form for summary in summaries]
    event(f"{forms.count(form)} of 3 as {form}")
    adjusted = sum(summary.adjusted is not None for summary in summaries)
    event(f"{adjusted} adjusted")
    done = SimpleNamespace(layers=summaries, mode="exact", left_in_float=[])
    adopt(net, done)  # type: ignore[arg-type]
    with torch.no_grad():
        assert_same_bits(net(x).numpy(), y, "torch")


@share_of_examples(1 / 4)
@given(
    st.one_of(
        conv1d_cases(),
        conv2d_cases(),
        conv3d_cases(),
        conv_transpose1d_cases(),
        conv_transpose2d_cases(),
    ),
    st.sampled_from(FORMS[1:]),
)
def test_every_form_of_one_layer_is_exact(case: Case, form: str) -> None:
    """y_torch = y_fake = y_deploy in every bit, whichever form the layer takes."""
    y, (layer,) = assert_fake_equals_deploy(inter_model(case), case.x.numpy(), form=form)
    assert layer.form == form
    assert_same_bits(case.run(), y, "torch")
