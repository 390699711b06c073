"""What operators, specs and models of functions refuse, and what they say."""

import re

import numpy as np
import pytest
import torch

from qatfunc import (
    ActivationSpec,
    Adopted,
    Clip,
    LayerSpec,
    SearchSpec,
    WeightSpec,
    calibration,
    operators,
)
from qatfunc.model import transform

X, WEIGHT, SPEC = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3), LayerSpec()
CLIP = Clip(torch.tensor(1.0), torch.tensor(-1.0))


def conv2d(x=X, spec=SPEC, **params):
    return operators.conv2d(x, {"weight": WEIGHT, **params}, spec)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv2d(X.numpy()), "x must be a float32 torch.Tensor, got ndarray"),
        (lambda: conv2d(spec=8), "spec must be LayerSpec, got 8; such as LayerSpec(weight="),
        (lambda: conv2d(spec=ActivationSpec()), "spec must be LayerSpec, got ActivationSpec"),
        (lambda: conv2d(weight=WEIGHT.numpy()), "weight must be Tensor, got ndarray"),
        (lambda: conv2d(clip=(1.0, -1.0)), "clip must be Clip, got tuple; such as Clip(torch."),
        (lambda: conv2d(clip=Clip(1.0, -1.0)), "clip must hold tensors, got 1.0; such as Clip("),
        (lambda: conv2d(bias=np.zeros(4)), "bias must be Tensor, got ndarray"),
        (lambda: conv2d(weight_scale=0.1), "weight_scale must be Tensor, got 0.1"),
        (lambda: conv2d(adopted=1.0), "adopted must be Adopted, got 1.0"),
        (lambda: conv2d(adopted=Adopted(1.0, 1.0)), "adopted must hold tensors, got 1.0"),
        (
            lambda: operators.conv2d(X, WEIGHT, SPEC),
            "params must be a dict of tensors, got a Tensor of shape (4, 3, 3, 3)",
        ),
    ],
)
def test_values_of_a_wrong_kind(call, message):
    with pytest.raises(TypeError, match="^conv2d: " + re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: operators.conv2d(X, {"bias": torch.ones(4)}, SPEC),
            "params has no 'weight', got ['bias']",
        ),
        (lambda: conv2d(bais=torch.ones(4)), "params has no 'bais'; did you mean 'bias'? (known:"),
        (lambda: conv2d(clips=CLIP), "params has no 'clips'; did you mean 'clip'?"),
        (lambda: conv2d(bias=torch.ones(())), "bias must have one element an output, got shape ()"),
    ],
)
def test_names_and_shapes_that_mean_nothing(call, message):
    with pytest.raises(ValueError, match="^conv2d: " + re.escape(message)):
        call()


def test_what_is_none_is_not_given():
    assert torch.equal(conv2d(bias=None, clip=None, weight_scale=None, adopted=None), conv2d())


@pytest.mark.parametrize(
    ("params", "spec", "error", "message"),
    [
        ({}, 8, TypeError, "spec must be ActivationSpec, got 8"),
        ({"inputclip": CLIP}, None, ValueError, "params has no 'inputclip'; did you mean 'input_"),
        ({"input_clip": CLIP}, None, ValueError, "params has no 'other_clip'; give both clips"),
        ({"input_clip": 1.0, "other_clip": CLIP}, None, TypeError, "input_clip must be Clip, got"),
        (None, None, TypeError, "params must be a dict of Clips, got None"),
    ],
)
def test_products(params, spec, error, message):
    with pytest.raises(error, match="^matmul: " + re.escape(message)):
        operators.matmul(X, X, params, spec or ActivationSpec())


@pytest.mark.parametrize(
    "make",
    [
        lambda: LayerSpec(weight=8),
        lambda: LayerSpec(activation=None),
        lambda: WeightSpec(per_channel="no"),
        lambda: ActivationSpec(symmetric="no"),
        lambda: ActivationSpec(fixed_min=1),
        lambda: SearchSpec(batch_num=1.5),
        lambda: SearchSpec(max_percentile="a"),
        lambda: SearchSpec(symmetric="no"),
        lambda: operators.conv2d(X, {"weight": WEIGHT}, SPEC, padding=1.5),
        lambda: calibration.update(None, X),
        lambda: calibration.update(calibration.init(), X.numpy()),
        lambda: calibration.finish(calibration.update(calibration.init(), X), 8),
    ],
)
def test_descriptions_and_calibration(make):
    with pytest.raises(TypeError, match=r" must be .*, got "):
        make()


def test_a_step_that_is_no_number():
    with pytest.raises(ValueError, match="step=nan"):
        SearchSpec(step=float("nan"))


def net(quantized, x):
    return quantized("conv", operators.conv2d, x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: transform(3, SPEC), TypeError, "net must be a function, got 3"),
        (lambda: transform(net, 8), TypeError, "spec must be LayerSpec, got 8"),
        (lambda: transform(net, {"conv": 8}), TypeError, "spec['conv'] must be LayerSpec, got 8"),
        (lambda: transform(net, SPEC, 3), TypeError, "search must be SearchSpec, got 3"),
        (
            lambda: transform(net, SPEC).init({"conv": {"wieght": WEIGHT}}),
            ValueError,
            "'conv': params has no 'wieght'; did you mean 'weight'?",
        ),
        (
            lambda: transform(net, SPEC).init({"conv": WEIGHT}),
            TypeError,
            "'conv': params must be a dict",
        ),
        (lambda: transform(net, SPEC).init([WEIGHT]), TypeError, "params must be {name: params"),
    ],
)
def test_models_of_functions(call, error, message):
    with pytest.raises(error, match="^(transform|init): " + re.escape(message)):
        call()


def test_a_layer_that_params_have_not():
    model = transform(net, SPEC)
    params, state = model.init({"other": {"weight": WEIGHT}})
    with pytest.raises(KeyError, match=r"'conv' is no layer of params, which has \['other'\]"):
        model.apply(params, state, X)
