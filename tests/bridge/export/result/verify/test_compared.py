"""Both forms of a call of verify: with a conversion, and with three files."""

import re

import pytest
import torch
from torch import nn

from bridge import calibrate, convert_qat_model, prepare_qat, verify
from tests.support.exporters import export

FORMS = "call verify(model, result, data) or verify(model, inter, fake, deploy, data)"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, its conversion and a batch."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("made")
    x = torch.randn(3, 4)
    net = prepare_qat(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))
    calibrate(net, [x])
    inter = export(net.eval(), (x,), folder / "inter.onnx", "torchscript")
    return net, convert_qat_model(inter, folder / "net"), x


@pytest.mark.parametrize("with_model", [True, False])
def test_a_conversion_is_its_three_files(made, with_model):
    net, result, x = made
    net = net if with_model else None
    expected = verify(net, result.source, result.fake_quant, result.deploy, x)
    assert expected.exact
    assert verify(net, result, x) == expected
    assert verify(net, result, data=x) == expected
    assert verify(model=net, result=result, data=x) == expected
    files = {"inter": result.source, "fake": result.fake_quant, "deploy": str(result.deploy)}
    assert verify(net, **files, data=x) == expected
    assert verify(net, result.source, result.fake_quant, deploy=result.deploy, data=x) == expected


def test_its_differences_are_those_of_its_files(made):
    _, result, x = made
    other = prepare_qat(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))
    calibrate(other, [x])
    seen = verify(other, result, x)
    assert not seen.exact
    assert seen == verify(other, result.source, result.fake_quant, result.deploy, x)


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        (("result",), {}, "missing a required argument: 'data'"),
        ((), {"result": "result"}, "missing a required argument: 'data'"),
        (("result", "x", "x"), {}, "too many positional arguments"),
        (("result", "x"), {"fake": "f"}, "got an unexpected keyword argument 'fake'"),
        (("i", "f", "d"), {}, "missing a required argument: 'data'"),
        (("i", "f", "d", "x", "x"), {}, "too many positional arguments"),
        ((), {}, "missing a required argument: 'inter'"),
    ],
)
def test_arguments_of_neither_form(made, arguments, named, message):
    _, result, _ = made
    known = {"result": result}
    arguments = [known.get(one, one) for one in arguments]
    named = {name: known.get(one, one) for name, one in named.items()}
    with pytest.raises(TypeError, match=f"^verify: {re.escape(f'{message}; {FORMS}')}$"):
        verify(None, *arguments, **named)


def test_a_result_of_another_kind():
    with pytest.raises(TypeError, match=r"result must be what convert_qat_model returned, got str"):
        verify(None, result="net", data=torch.zeros(1))
