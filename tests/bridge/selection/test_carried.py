"""What a layer carries beside what its class defines stays when it is replaced, and back."""

import types

import pytest
import torch
from torch import nn

from bridge import Conv2dQAT, float_model, prepare_qat
from bridge.modules import LAYER_CLASSES

INPUTS = {0: (4, 2), 1: (4, 2, 9), 2: (4, 2, 9, 9), 3: (4, 2, 9, 9, 9)}


def laden():
    layer = nn.Conv2d(3, 4, 3)
    layer.index, layer.tags = -1, ["a"]
    layer.register_buffer("mask", torch.ones(2))
    layer.register_buffer("scratch", torch.ones(3), persistent=False)
    layer.gain = nn.Parameter(torch.ones(1))
    layer.adapter = nn.Identity()
    layer.shape = types.MethodType(lambda self: tuple(self.weight.shape), layer)
    return nn.Sequential(layer)


@pytest.mark.parametrize("inplace", [True, False])
def test_attributes_buffers_parameters_and_children(inplace):
    model = laden()
    names = set(model.state_dict())
    prepared = prepare_qat(model, inplace=inplace)
    assert type(prepared[0]) is Conv2dQAT
    assert names < set(prepared.state_dict())
    prepared[0].index = 7
    prepared(torch.randn(1, 3, 5, 5))
    back = float_model(prepared, inplace=inplace)
    for layer, index in ((prepared[0], 7), (back[0], 7)):
        assert layer.index == index
        assert layer.tags == ["a"]
        assert layer.shape() == (4, 3, 3, 3)
        assert layer.shape.__self__ is layer
        assert torch.equal(layer.mask, torch.ones(2))
        assert torch.equal(layer.scratch, torch.ones(3))
        assert isinstance(layer.gain, nn.Parameter)
        assert type(layer.adapter) is nn.Identity
    assert set(back.state_dict()) == names
    assert set(vars(back[0])) == set(vars(laden()[0]))


def test_hooks_of_the_state_follow():
    model, seen = nn.Sequential(nn.Linear(2, 2)), []
    model[0].register_state_dict_post_hook(lambda m, *_: seen.append(("save", type(m))))
    model[0].register_load_state_dict_pre_hook(lambda m, *_: seen.append(("load", type(m))))
    prepared = prepare_qat(model)
    prepared.load_state_dict(prepared.state_dict())
    kind = type(prepared[0])
    assert seen == [("save", kind), ("load", kind)]


@pytest.mark.parametrize("qat_class", LAYER_CLASSES.values(), ids=lambda c: c.__name__)
@pytest.mark.parametrize("enabled", [True, False])
def test_the_input_by_its_name(qat_class, enabled):
    size = (2, 3) if qat_class.operator.spatial == 0 else (2, 3, 3)
    layer = qat_class(*size, config={"retrain_enable": enabled})
    x = torch.randn(INPUTS[qat_class.operator.spatial])
    layer(x)
    assert torch.equal(layer.eval()(input=x), layer(x))
    if qat_class.operator.transposed:
        wanted = list(layer(x).shape[2:])
        assert torch.equal(layer(input=x, output_size=wanted), layer(x, wanted))
