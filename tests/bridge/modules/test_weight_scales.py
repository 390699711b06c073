"""Trained weight scales that training makes meaningless: each goes on from its last valid value."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

from bridge import ConversionError, LinearQAT, calibrate, convert_qat_model, functionalize, verify
from bridge.modules import weight_scales
from tests.support.bits import same_bits, same_state
from tests.support.exporters import EXPORTERS, export
from tests.support.functions.composed import without_fusing
from tests.support.modules.layers import KINDS, config, state

INVALID = [0.0, -0.01, torch.nan, torch.inf, -torch.inf, 1e-9, 1e30]
FORMS = [False, True]


def trained(name="linear", *, reciprocal=False, **weight):
    """A layer whose scales are in use, and an input."""
    algorithm = {"weights_retrain_algo": "ulq_retrain", "s_rec_flag": reciprocal}
    kind = KINDS[name]
    layer, x = kind.layer(None, algorithm | weight), kind.batch()
    calibrate(layer, [x])
    layer.train()(x)
    return layer, x


def make(layer, scale, index=0):
    """Give one scale a value, as an optimizer would."""
    value = torch.tensor(scale)
    with torch.no_grad():
        layer.wts_scales[index] = 1.0 / value if layer.config.reciprocal_scale else value


@pytest.fixture(params=[True, False], ids=["read", "not read"])
def reads(request, monkeypatch):
    """Whether values are read off scales, which a CUDA device would wait for."""
    if not request.param:
        monkeypatch.setattr(weight_scales, "_is_read", lambda stored: False)
    return request.param


@pytest.mark.usefixtures("reads")
@pytest.mark.parametrize("scale", INVALID)
@pytest.mark.parametrize("reciprocal", FORMS)
@pytest.mark.parametrize("name", ["linear", "conv2d", "conv_transpose2d"])
def test_an_invalid_scale_is_replaced_by_the_last_valid_one(name, reciprocal, scale):
    layer, x = trained(name, reciprocal=reciprocal)
    last = layer.wts_scales.detach() * 1.25
    layer.wts_scales.data.copy_(last)
    wanted = layer(x)
    layer.eval()
    make(layer, scale)
    broken = layer.wts_scales.detach().clone()
    assert same_bits(layer(x), wanted)
    assert same_bits(layer.wts_scales.detach(), broken), "a forward in eval mode writes nothing"
    assert same_bits(layer.train()(x), wanted)
    assert same_bits(layer.wts_scales.detach(), last)
    layer(x).square().sum().backward()
    assert layer.wts_scales.grad.isfinite().all()
    assert layer.wts_scales.grad.any()


def test_each_channel_is_replaced_for_itself():
    layer, x = trained("conv2d")
    start = layer.wts_scales.detach().clone()
    layer.wts_scales.data.mul_(1.5)
    make(layer, -1.0, index=2)
    layer(x)
    kept = [i for i in range(len(start)) if i != 2]
    assert same_bits(layer.wts_scales[kept].detach(), 1.5 * start[kept])
    assert same_bits(layer.wts_scales[2].detach(), start[2])
    assert same_bits(layer.wts_scales_pre, layer.wts_scales.detach())


@pytest.mark.parametrize("scale", INVALID)
@pytest.mark.parametrize("reciprocal", FORMS)
def test_entering_eval_mode_puts_valid_scales_back(reciprocal, scale):
    layer, x = trained("conv2d", reciprocal=reciprocal)
    wanted, valid = layer(x), layer.wts_scales.detach().clone()
    make(layer, scale)
    layer.eval()
    assert same_bits(layer.wts_scales.detach(), valid)
    assert same_bits(layer(x), wanted)


@pytest.mark.usefixtures("reads")
@pytest.mark.parametrize("reciprocal", FORMS)
def test_a_layer_called_twice_in_a_step_replaces_once(reciprocal):
    layer, x = trained("conv2d", reciprocal=reciprocal)
    make(layer, torch.nan)
    (layer(x) + layer(2 * x)).square().sum().backward()
    assert layer.wts_scales.isfinite().all()
    assert layer.wts_scales.grad.all()


@pytest.mark.parametrize("scale", [0.0, torch.nan])
@pytest.mark.parametrize("reciprocal", FORMS)
def test_the_fused_operator_and_its_composition_agree(reciprocal, scale):
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        layer, x = trained("conv2d", reciprocal=reciprocal)
        make(layer, scale)
        if fused:
            results.append(layer(x))
        else:
            with without_fusing():
                results.append(layer(x))
    assert same_bits(*results)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("reciprocal", FORMS)
@pytest.mark.parametrize("scale", [0.0, -1.0, torch.nan])
def test_an_export_has_the_last_valid_scale(tmp_path, exporter, reciprocal, scale):
    layer, x = trained(reciprocal=reciprocal)
    wanted = layer.eval()(x)
    make(layer, scale)
    source = export(nn.Sequential(layer).eval(), (x,), tmp_path / "inter.onnx", exporter)
    done = convert_qat_model(source, tmp_path / "net")
    assert same_bits(layer(x), wanted)
    assert verify(nn.Sequential(layer), source, done.fake_quant, done.deploy, x).exact


def test_a_weight_that_is_not_a_number_is_named(tmp_path):
    layer, x = trained()
    layer.weight.data[0, 0] = torch.nan
    net = nn.Sequential(nn.Identity(), layer).eval()
    with pytest.raises((ValueError, ConversionError), match=r"1 \(LinearQAT\).*NaN or infinite"):
        export(net, (x,), tmp_path / "inter.onnx", "torchscript")


# Checkpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("scale", INVALID)
@pytest.mark.parametrize("reciprocal", FORMS)
def test_a_checkpoint_with_an_invalid_scale(reciprocal, scale, assign):
    layer, x = trained("conv2d", reciprocal=reciprocal)
    wanted = layer(x)
    make(layer, scale)
    saved = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    before = copy.deepcopy(saved)
    loaded, _ = trained("conv2d", reciprocal=reciprocal)
    loaded.load_state_dict(saved, assign=assign)
    assert same_bits(loaded.eval()(x), wanted)
    assert same_bits(loaded.wts_scales.detach(), layer.wts_scales_pre)
    assert same_bits(loaded.train()(x), wanted)
    assert same_state(saved, before)


@pytest.mark.parametrize("reciprocal", FORMS)
def test_a_checkpoint_without_the_last_valid_scales(reciprocal):
    """As AMCT and earlier versions write it: invalid scales start at ARQ's, valid ones stay."""
    layer, x = trained("conv2d", reciprocal=reciprocal)
    start = layer.wts_scales.detach().clone()
    layer.wts_scales.data.mul_(1.5)
    make(layer, -1.0, index=1)
    saved = layer.state_dict()
    del saved["wts_scales_pre"]
    loaded, _ = trained("conv2d", reciprocal=reciprocal)
    loaded.load_state_dict(saved, strict=True)
    wanted = torch.where(torch.arange(len(start)) == 1, start, 1.5 * start)
    assert same_bits(loaded.wts_scales.detach(), wanted)
    assert same_bits(loaded.wts_scales_pre, wanted)
    loaded(x)
    assert same_bits(loaded.wts_scales.detach(), wanted)


@pytest.mark.parametrize("reciprocal", FORMS)
def test_a_checkpoint_has_the_last_valid_scales_only_where_it_needs_them(reciprocal):
    layer, x = trained("conv2d", reciprocal=reciprocal)
    layer(x)
    assert "wts_scales_pre" not in layer.state_dict()
    make(layer, torch.nan)
    assert same_bits(layer.state_dict()["wts_scales_pre"], layer.wts_scales_pre)


def test_a_layer_of_no_device_takes_a_checkpoint():
    layer, x = trained("conv2d")
    make(layer, -1.0)
    saved = layer.state_dict()
    kind = KINDS["conv2d"]
    empty = kind.layer(None, {"weights_retrain_algo": "ulq_retrain"}, device="meta")
    empty.load_state_dict(saved, assign=True)
    assert same_bits(empty(x), layer(x))
    assert same_bits(empty.wts_scales_pre, layer.wts_scales_pre)


def test_layers_without_trained_scales_take_and_give_such_checkpoints():
    layer, x = trained()
    make(layer, 0.0)
    plain = KINDS["linear"].layer({})
    plain.load_state_dict(layer.state_dict(), strict=True)
    assert "wts_scales_pre" not in plain.state_dict()
    layer.load_state_dict(plain.eval().state_dict(), strict=True)
    assert same_bits(layer.wts_scales_pre, plain.wts_scales.detach())
    layer(x)


def test_a_layer_that_saw_nothing_loads_and_starts():
    first, second = (
        KINDS["linear"].layer({}, {"weights_retrain_algo": "ulq_retrain"}) for _ in "ab"
    )
    second.load_state_dict(first.state_dict(), strict=True)
    x = KINDS["linear"].batch()
    first(x), second(x)
    assert same_state(state(first), state(second))
    assert same_bits(first.wts_scales_pre, first.wts_scales.detach())


# Other ways to hold and call a layer --------------------------------------------------------------


def test_layers_that_share_a_scale_share_the_last_valid_one():
    layer, x = trained()
    twin = layer.share()
    calibrate(twin, [x])
    layer.wts_scales.data.mul_(1.5)
    layer.train()(x)
    make(layer, 0.0)
    assert same_bits(twin.eval()(x), layer.eval()(x))
    assert same_bits(twin.wts_scales_pre, layer.wts_scales_pre)


def test_held_scales_are_valid_ones():
    layer, x = trained()
    wanted = layer.eval()(x)
    make(layer, torch.nan)
    layer.freeze_weight_scales()
    assert same_bits(layer(x), wanted)
    layer.freeze_weight_scales(frozen=False)
    assert same_bits(layer(x), wanted)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_replaces_once(reentrant):
    layer, x = trained("conv2d")
    make(layer, -1.0)
    twin, x = copy.deepcopy(layer), x.requires_grad_()
    checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    twin(x).square().sum().backward()
    assert same_state(state(layer), state(twin))
    assert same_bits(layer.wts_scales.grad, twin.wts_scales.grad)


@pytest.mark.parametrize("scale", [0.0, -1.0, torch.nan])
@pytest.mark.parametrize("training", [True, False])
def test_a_compiled_layer_does_the_same(training, scale):
    torch._dynamo.reset()
    layer, x = trained("conv2d")
    make(layer, scale)
    layer.train(training)
    eager = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y, wanted = compiled(x), eager(x)
    assert same_bits(y, wanted)
    assert same_state(state(layer), state(eager))
    y.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(layer.wts_scales.grad, eager.wts_scales.grad)


def test_functional_call_leaves_the_callers_scale_alone():
    layer, x = trained()
    given = {"wts_scales": torch.tensor([-1.0])}
    buffers = {name: b.clone() for name, b in layer.named_buffers()}
    wanted = layer(x)
    y = functional_call(layer, given | buffers, (x,))
    assert same_bits(y, wanted)
    assert given["wts_scales"].item() == -1.0


@pytest.mark.parametrize("reciprocal", FORMS)
def test_the_functional_form_holds_the_last_valid_scale_in_its_state(reciprocal):
    layer, x = trained("conv2d", reciprocal=reciprocal)
    model = functionalize(layer)
    params, held = model.init()
    wanted = model.apply(params, held, x)
    broken = params | {"wts_scales": torch.full_like(params["wts_scales"], torch.nan)}
    y, after = model.update(broken, held, x)
    assert same_bits(y, wanted)
    assert same_bits(after.buffers["wts_scales_pre"], held.buffers["wts_scales_pre"])
    assert broken["wts_scales"].isnan().all()
    slope = grad(lambda p: model.apply(p, held, x).square().sum())(
        params | {"wts_scales": -params["wts_scales"]}
    )
    expected = grad(lambda p: model.apply(p, held, x).square().sum())(params)
    if not reciprocal:
        assert same_bits(slope["wts_scales"], expected["wts_scales"])
    assert slope["wts_scales"].any()


def test_an_ensemble_replaces_each_members_scale():
    layers = [trained()[0].eval() for _ in range(3)]
    x = KINDS["linear"].batch()
    make(layers[1], 0.0)
    params, buffers = stack_module_state(layers)
    base = copy.deepcopy(layers[0])
    together = vmap(lambda p, b: functional_call(base, (p, b), (x,)))(params, buffers)
    for y, layer in zip(together, layers, strict=True):
        assert same_bits(y, layer(x))


def test_replicas_use_valid_scales_and_keep_nothing():
    layer, x = trained()
    make(layer, torch.inf)
    wanted = copy.deepcopy(layer)(x)
    replica = layer._replicate_for_data_parallel()
    for name, parameter in layer.named_parameters():
        setattr(replica, name, parameter)
    assert same_bits(replica(x), wanted)
    assert layer.wts_scales.isfinite().all()


def test_a_layer_without_quantized_input_is_guarded_too():
    layer = LinearQAT(3, 2, config=config(None, {"weights_retrain_algo": "ulq_retrain"}))
    layer.quantizes_input = False
    x = torch.randn(4, 3)
    wanted = layer(x)
    make(layer, -2.0)
    assert same_bits(layer(x), wanted)
    assert layer.wts_scales.item() > 0
