"""The modules' shape: constructors, from_float, state and description."""

import inspect

import pytest
import torch
from torch import nn

from bridge import (
    Conv1dQAT,
    Conv2dQAT,
    Conv3dQAT,
    ConvTranspose1dQAT,
    ConvTranspose2dQAT,
    LinearQAT,
)
from bridge.modules.weighted import qat_layers
from tests.support.modules.layers import KINDS, NAMES, config

REQUIRED = inspect.Parameter.empty
CONVOLUTION = {
    "in_channels": REQUIRED,
    "out_channels": REQUIRED,
    "kernel_size": REQUIRED,
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "groups": 1,
    "bias": True,
    "padding_mode": "zeros",
    "device": None,
    "dtype": None,
    "config": None,
}


@pytest.mark.parametrize(
    ("qat", "positional", "keyword_only"),
    [
        (Conv1dQAT, CONVOLUTION, {}),
        (Conv2dQAT, CONVOLUTION, {}),
        (Conv3dQAT, CONVOLUTION, {}),
        (ConvTranspose1dQAT, CONVOLUTION, {"output_padding": 0}),
        (ConvTranspose2dQAT, CONVOLUTION, {"output_padding": 0}),
        (
            LinearQAT,
            {
                "in_features": REQUIRED,
                "out_features": REQUIRED,
                "bias": True,
                "device": None,
                "dtype": None,
                "config": None,
            },
            {},
        ),
    ],
)
def test_constructors_take_the_arguments_in_the_references_order(qat, positional, keyword_only):
    parameters = inspect.signature(qat).parameters.values()
    by_kind = {
        kind: [(p.name, p.default) for p in parameters if p.kind is kind]
        for kind in set(inspect._ParameterKind)
    }
    assert by_kind[inspect.Parameter.POSITIONAL_OR_KEYWORD] == list(positional.items())
    assert by_kind[inspect.Parameter.KEYWORD_ONLY] == list(keyword_only.items())
    assert list(inspect.signature(qat.from_float).parameters) == ["mod", "config"]
    assert inspect.signature(qat.from_float).parameters["config"].default is None


def test_arguments_arrive_by_position():
    sizes = (4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2, False, "zeros", "cpu", torch.float32, None)
    for qat in (Conv2dQAT, ConvTranspose2dQAT):
        layer = qat(*sizes)
        assert (layer.in_channels, layer.out_channels, layer.kernel_size) == (4, 6, (3, 2))
        assert (layer.stride, layer.padding, layer.dilation) == ((2, 1), (1, 0), (1, 2))
        assert (layer.groups, layer.bias, layer.padding_mode) == (2, None, "zeros")
    layer = LinearQAT(5, 4, False, "cpu", torch.float32, None)
    assert (layer.in_features, layer.out_features, layer.bias) == (5, 4, None)


@pytest.mark.parametrize("qat", [ConvTranspose1dQAT, ConvTranspose2dQAT])
def test_forward_of_a_transposed_convolution_takes_an_output_size(qat):
    parameters = inspect.signature(qat.forward).parameters
    assert [(p.name, p.default) for p in parameters.values()][1:] == [
        ("input", REQUIRED),
        ("output_size", None),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_modules_are_modules_of_torch(name):
    kind = KINDS[name]
    assert isinstance(kind.layer(), kind.plain)


@pytest.mark.parametrize("name", NAMES)
def test_first_state(name):
    layer = KINDS[name].layer()
    values = {key: value.item() for key, value in layer.state_dict().items() if value.ndim == 0}
    assert values == {
        "acts_clip_max": 1.0,
        "acts_clip_min": -1.0,
        "acts_clip_max_pre": 1.0,
        "acts_clip_min_pre": -1.0,
        "cur_batch": 0,
        "s_rec_flag": False,
    }
    derived = {"acts_scale", "acts_offset_deploy", "wts_scales", "wts_offsets"}
    derived |= {"wts_offsets_deploy"}
    assert set(layer.state_dict()) == {"weight", "bias", *values, *derived}
    trained = {key for key, value in layer.named_parameters() if value.requires_grad}
    assert trained == {"weight", "bias", "acts_clip_max", "acts_clip_min"}


@pytest.mark.parametrize("name", NAMES)
def test_a_given_range_is_the_state(name):
    layer = KINDS[name].layer({"clip_max": 2.5, "clip_min": -0.25})
    assert layer.calibrated
    for suffix in ("", "_pre"):
        assert getattr(layer, f"acts_clip_max{suffix}").item() == 2.5
        assert getattr(layer, f"acts_clip_min{suffix}").item() == -0.25


@pytest.mark.parametrize(
    ("name", "channel_wise", "count"),
    [
        ("conv2d", None, 6),
        ("conv2d", False, 1),
        ("conv_transpose2d", None, 6),
        ("conv3d", None, 3),
        ("conv3d", False, 1),
        ("linear", None, 1),
        ("linear", False, 1),
    ],
)
def test_trained_weight_scales_are_one_a_channel_or_one(name, channel_wise, count):
    weight = {"weights_retrain_algo": "ulq_retrain", "channel_wise": channel_wise}
    layer = KINDS[name].layer(None, weight)
    assert layer.wts_scales.shape == (count,)
    assert layer.wts_scales.requires_grad


HYPERPARAMETERS = [
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "output_padding",
    "padding_mode",
    "in_features",
    "out_features",
]


FLOAT_LAYERS = {
    "conv1d": lambda: nn.Conv1d(4, 6, 3, 2, 1, 2, 2),
    "conv_transpose1d": lambda: nn.ConvTranspose1d(4, 6, 3, 3, 1, 2, 2, False, 2),
    "conv2d": lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2),
    "conv2d-same": lambda: nn.Conv2d(4, 6, 3, padding="same", bias=False),
    "conv2d-valid": lambda: nn.Conv2d(4, 6, 3, padding="valid"),
    "conv3d": lambda: nn.Conv3d(2, 4, (2, 3, 1), (1, 2, 1), (0, 1, 2), (1, 2, 3), 2, False),
    "conv_transpose2d": lambda: nn.ConvTranspose2d(4, 6, 3, (3, 2), 1, (2, 1), 2, True, (1, 2)),
    "linear": lambda: nn.Linear(5, 4),
    "linear-no-bias": lambda: nn.Linear(5, 4, bias=False),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", FLOAT_LAYERS.values(), ids=FLOAT_LAYERS)
def test_from_float_keeps_the_layer(make, training):
    plain = make().train(training)
    qat = next(kind.qat for kind in KINDS.values() if kind.plain is type(plain))
    layer = qat.from_float(plain)
    kept = [key for key in HYPERPARAMETERS if hasattr(plain, key)]
    assert len(kept) >= 2
    assert {key: getattr(layer, key) for key in kept} == {key: getattr(plain, key) for key in kept}
    assert layer.weight is plain.weight
    assert layer.bias is plain.bias
    assert layer.training is training
    assert {p.device for p in layer.parameters()} == {torch.device("cpu")}
    assert layer.cur_batch.device == torch.device("cpu")


@pytest.mark.parametrize("name", NAMES)
def test_from_float_keeps_dtype_and_what_is_frozen(name):
    plain = KINDS[name].float_layer(dtype=torch.float64)
    plain.weight.requires_grad_(False)
    layer = KINDS[name].qat.from_float(plain)
    assert layer.weight.dtype == layer.bias.dtype == torch.float64
    assert layer.acts_clip_max.dtype == torch.float32
    assert not layer.weight.requires_grad
    assert layer.bias.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_from_float_keeps_the_device(name):
    layer = KINDS[name].qat.from_float(KINDS[name].float_layer(device="meta"))
    assert {value.device.type for value in layer.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("name", NAMES)
def test_from_float_reads_the_config(name):
    layer = KINDS[name].qat.from_float(
        KINDS[name].float_layer(), config=config({"clip_max": 2.0, "batch_num": 3})
    )
    assert layer.acts_clip_max.item() == 2.0
    assert layer.config.search.batch_num == 3


@pytest.mark.parametrize("name", NAMES)
def test_from_float_trains_the_float_layers_own_parameters(name):
    plain = KINDS[name].float_layer()
    layer = KINDS[name].qat.from_float(plain)
    layer(KINDS[name].batch())
    layer(KINDS[name].batch()).sum().backward()
    assert plain.weight.grad.any()
    assert plain.bias.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_from_float_draws_no_random_numbers(name):
    plain = KINDS[name].float_layer()
    before = torch.get_rng_state()
    KINDS[name].qat.from_float(plain)
    assert torch.equal(torch.get_rng_state(), before)


def test_description():
    layer = Conv2dQAT(4, 6, 3, config=config({"batch_num": 2}))
    float_part = nn.Conv2d(4, 6, 3).extra_repr()
    assert layer.extra_repr() == f"{float_part}, int8 per channel x int8, 0 batches calibrated"
    layer(torch.randn(1, 4, 3, 3))
    assert layer.extra_repr().endswith(", int8 per channel x int8, 1 batches calibrated")
    layer(torch.randn(1, 4, 3, 3))
    assert layer.extra_repr().endswith(", int8 per channel x int8, calibrated")
    wide = LinearQAT(5, 4, config=config({"dst_type": "INT16", "clip_max": 1.0}))
    assert wide.extra_repr().endswith(", int8 per tensor x int16, calibrated")
    off = LinearQAT(5, 4, config={"retrain_enable": False})
    assert off.extra_repr().endswith(", not quantized")


def test_qat_layers_names_the_quantized_ones_in_order():
    off = {"retrain_enable": False}
    model = nn.Sequential(
        LinearQAT(2, 2), nn.ReLU(), nn.Sequential(LinearQAT(2, 2, config=off), LinearQAT(2, 2))
    )
    assert [(path, layer) for path, layer in qat_layers(model)] == [
        ("0", model[0]),
        ("2.1", model[2][1]),
    ]
