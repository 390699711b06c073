"""Checkpoints of the reference: its keys, shapes and dtypes, written here by hand."""

import copy
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import bridge
from bridge.export.normalize.model import read_model
from qatfunc import Clip, arq_qparams, calibration, ulq_qparams
from tests.support.bits import same_bits, same_state
from tests.support.exporters import EXPORTERS, export
from tests.support.graphs.reading import read
from tests.support.modules.layers import LEARNED, config, state


class Case(NamedTuple):
    make: Any
    weight: tuple[int, ...]
    out: int
    x: tuple[int, ...]

    def layer(self, data: Any = None, weight: Any = None) -> nn.Module:
        return self.make(config=config(data, weight))


CASES = {
    "conv1d": Case(
        lambda config: bridge.Conv1dQAT(4, 6, 3, groups=2, config=config), (6, 2, 3), 6, (2, 4, 5)
    ),
    "conv2d": Case(
        lambda config: bridge.Conv2dQAT(4, 6, 3, config=config), (6, 4, 3, 3), 6, (2, 4, 5, 5)
    ),
    "conv3d": Case(
        lambda config: bridge.Conv3dQAT(2, 3, 2, config=config), (3, 2, 2, 2, 2), 3, (1, 2, 3, 3, 3)
    ),
    "conv_transpose1d": Case(
        lambda config: bridge.ConvTranspose1dQAT(4, 6, 3, groups=2, config=config),
        (4, 3, 3),
        6,
        (2, 4, 5),
    ),
    "conv_transpose2d": Case(
        lambda config: bridge.ConvTranspose2dQAT(4, 6, 3, groups=2, config=config),
        (4, 3, 3, 3),
        6,
        (2, 4, 3, 3),
    ),
    "linear": Case(lambda config: bridge.LinearQAT(5, 4, config=config), (4, 5), 4, (3, 5)),
}
NAMES = list(CASES)


def nan(*shape: int) -> Tensor:
    return torch.full(shape, torch.nan)


def fresh(case: Case, *, scales: int | None = None, wide: bool = False) -> dict[str, Tensor]:
    """What the reference's state_dict is before the first forward, in its order."""
    scales = case.out if scales is None else scales
    return {
        "weight": torch.linspace(-1.0, 1.27, math.prod(case.weight)).reshape(case.weight),
        "bias": torch.linspace(-0.5, 0.5, case.out),
        "acts_clip_max": torch.tensor(1.0),
        "acts_clip_min": torch.tensor(-1.0),
        "wts_scales": nan(scales),
        "wts_offsets": nan(scales),
        "cur_batch": torch.tensor(0),
        "acts_clip_max_pre": nan(),
        "acts_clip_min_pre": nan(),
        "acts_scale": nan(1),
        "acts_offset_deploy": torch.tensor([0], dtype=torch.int16 if wide else torch.int8),
        "wts_offsets_deploy": torch.zeros(scales, dtype=torch.int8),
        "s_rec_flag": torch.tensor(False),
    }


def calibrating(case: Case, *, scales: int | None = None) -> dict[str, Tensor]:
    """The same amid its calibration: the extremes of the last batch, beside a scale of 1."""
    first = fresh(case, scales=scales)
    return first | {
        "acts_clip_max": torch.tensor(2.5),
        "acts_clip_min": torch.tensor(-3.5),
        "acts_clip_max_pre": torch.tensor(2.5),
        "acts_clip_min_pre": torch.tensor(-3.5),
        "acts_scale": torch.tensor([1.0]),
        "wts_scales": torch.full_like(first["wts_scales"], 0.01),
        "wts_offsets": torch.zeros_like(first["wts_offsets"]),
        "cur_batch": torch.tensor(3),
    }


def trained(case: Case, *, scales: int | None = None, wide: bool = False) -> dict[str, Tensor]:
    """The same after training: the clips have moved on since the scale was computed."""
    first = fresh(case, scales=scales, wide=wide)
    return first | {
        "acts_clip_max": torch.tensor(1.5),
        "acts_clip_min": torch.tensor(-0.75),
        "acts_clip_max_pre": torch.tensor(1.53),
        "acts_clip_min_pre": torch.tensor(-0.74),
        "acts_scale": torch.tensor([2.27 / 255]),
        "acts_offset_deploy": first["acts_offset_deploy"] - 45,
        "wts_scales": torch.full_like(first["wts_scales"], 0.0125),
        "wts_offsets": torch.zeros_like(first["wts_offsets"]),
        "cur_batch": torch.tensor(100),
    }


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in tensors.items()}


def per_channel(name: str) -> list[bool]:
    return [False] if name == "linear" else [True, False]


TABLE = [
    (name, channel_wise, dst_type, algorithm)
    for name in NAMES
    for channel_wise in per_channel(name)
    for dst_type in ("INT8", "INT16")
    for algorithm in ("arq_retrain", "ulq_retrain")
]


@pytest.mark.parametrize(("name", "channel_wise", "dst_type", "algorithm"), TABLE)
def test_the_checkpoint_has_the_references_keys_shapes_and_dtypes(
    name, channel_wise, dst_type, algorithm
):
    case = CASES[name]
    weight = {"channel_wise": channel_wise, "weights_retrain_algo": algorithm}
    layer = case.layer({"dst_type": dst_type, "batch_num": 2}, weight)
    expected = fresh(case, scales=case.out if channel_wise else 1, wide=dst_type == "INT16")
    for batches in (0, 2, 3):
        while layer.cur_batch < min(batches, 2):
            assert shapes(layer.state_dict()).items() >= shapes(expected).items()
            layer(torch.randn(case.x))
        if batches == 3:
            layer(torch.randn(case.x)).sum().backward()
        assert shapes(layer.state_dict()) == shapes(expected)
        assert list(layer.state_dict()) == list(expected)
    layer.load_state_dict(expected, strict=True)


def test_buffers_keep_types_that_processes_and_averages_can_use():
    layer = CASES["linear"].layer({"dst_type": "INT16"}, LEARNED)
    types = {"acts_offset_deploy": torch.int32, "s_rec_flag": torch.int8}
    for how in ({}, {"assign": True}):
        layer.load_state_dict(fresh(CASES["linear"], scales=1, wide=True), **how)
        assert {name: layer.get_buffer(name).dtype for name in types} == types


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_in_the_references_order(name):
    # An optimizer's checkpoint counts parameters, it does not name them.
    names = ["weight", "bias", "acts_clip_max", "acts_clip_min", "wts_scales", "wts_offsets"]
    for algorithm in ("arq_retrain", "ulq_retrain"):
        layer = CASES[name].layer(None, {"weights_retrain_algo": algorithm})
        assert [key for key, _ in layer.named_parameters()] == names
        held = [key for key, value in layer.named_parameters() if not value.requires_grad]
        assert held == (names[4:] if algorithm == "arq_retrain" else names[5:])
        built = type(layer).from_float(layer.to_float())
        assert [key for key, _ in built.named_parameters()] == names


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_checkpoint_computes_with_its_clips_and_arqs_scales(name):
    case = CASES[name]
    scales = 1 if name == "linear" else None
    checkpoint = trained(case, scales=scales)
    layer = case.layer({"batch_num": 1000})
    layer.load_state_dict(checkpoint, strict=True)
    assert layer.calibrated
    assert layer.cur_batch == 100
    direct = case.layer({"clip_max": 1.5, "clip_min": -0.75})
    direct.load_state_dict({k: checkpoint[k] for k in ("weight", "bias")}, strict=False)
    x = torch.randn(case.x)
    assert same_bits(layer.eval()(x), direct.eval()(x))


@pytest.mark.parametrize("name", NAMES)
def test_an_untouched_checkpoint_leaves_everything_to_be_found(name):
    case = CASES[name]
    checkpoint = fresh(case, scales=1 if name == "linear" else None)
    layer = case.layer()
    layer(torch.randn(case.x))
    layer.load_state_dict(checkpoint, strict=True)
    assert not layer.calibrated
    assert (layer.acts_clip_max_pre.item(), layer.acts_clip_min_pre.item()) == (1.0, -1.0)
    layer(torch.randn(case.x))
    assert layer.calibrated


@pytest.mark.parametrize("algorithm", ["arq_retrain", "ulq_retrain"])
@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_calibration_starts_again(name, algorithm):
    # The reference keeps the batches it has seen out of its checkpoint.
    case = CASES[name]
    checkpoint = calibrating(case, scales=1 if name == "linear" else None)
    layer = case.layer({"batch_num": 2}, {"weights_retrain_algo": algorithm})
    layer.load_state_dict(checkpoint, strict=True)
    assert not layer.calibrated
    assert layer.cur_batch == 0
    batches = [torch.randn(case.x) for _ in range(2)]
    seen = calibration.init()
    for x in batches:
        layer(x)
        seen = calibration.update(seen, x)
    clip = calibration.finish(seen, layer.config.activation, layer.config.search)
    assert layer.calibrated
    assert same_bits(layer.acts_clip_max.detach(), clip.max)


@pytest.mark.parametrize("end", ["", "_pre"])
def test_a_scale_that_really_is_1_is_not_an_interruption(end):
    checkpoint = trained(CASES["conv2d"]) | {
        f"acts_clip_max{end}": torch.tensor(127.0),
        f"acts_clip_min{end}": torch.tensor(-128.0),
        "acts_scale": torch.tensor([1.0]),
        "acts_offset_deploy": torch.tensor([0], dtype=torch.int8),
    }
    layer = CASES["conv2d"].layer()
    layer.load_state_dict(checkpoint)
    assert layer.calibrated


@pytest.mark.parametrize("reciprocal", [False, True])
def test_trained_scales_of_a_checkpoint_are_used(reciprocal):
    case = CASES["conv2d"]
    checkpoint = trained(case) | {"s_rec_flag": torch.tensor(reciprocal)}
    scale = torch.linspace(0.01, 0.02, 6)
    checkpoint["wts_scales"] = 1.0 / scale if reciprocal else scale
    layer = case.layer(None, LEARNED | {"s_rec_flag": reciprocal})
    layer.load_state_dict(checkpoint, strict=True)
    assert same_bits(layer.wts_scales.detach(), checkpoint["wts_scales"])
    x = torch.randn(case.x)
    arq = case.layer()
    arq.load_state_dict(checkpoint)
    assert not torch.equal(layer(x), arq(x))
    assert same_bits(layer.state_dict()["wts_scales"], checkpoint["wts_scales"])


def test_trained_scales_of_the_other_kind_are_refused():
    checkpoint = trained(CASES["conv2d"]) | {"s_rec_flag": torch.tensor(True)}
    model = nn.Sequential(CASES["conv2d"].layer(None, LEARNED))
    with pytest.raises(RuntimeError, match=r"0\.wts_scales was trained with s_rec_flag=True"):
        model.load_state_dict({f"0.{name}": value for name, value in checkpoint.items()})


def test_scales_that_no_batch_had_started_start_where_a_range_is_loaded():
    given = CASES["conv2d"].layer({"clip_max": 1.0}, LEARNED)
    other = CASES["conv2d"].layer(None, LEARNED)
    other.load_state_dict(given.state_dict())
    assert other.calibrated
    assert same_bits(other.wts_scales.detach(), other._arq_scale())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_derived_belongs_to_the_present_weights_and_clips(name):
    case = CASES[name]
    layer = case.layer()
    layer(torch.randn(case.x))
    earlier = layer.state_dict()
    kept = {key: value.clone() for key, value in earlier.items()}
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.randn(case.x)).square().sum().backward()
    optimizer.step()
    now = layer.state_dict()
    clip = Clip(layer.acts_clip_max.detach(), layer.acts_clip_min.detach())
    scale, zero_point = ulq_qparams(clip, layer.config.activation)
    assert same_bits(now["acts_scale"], scale.reshape(1))
    assert now["acts_offset_deploy"].item() == zero_point.item()
    assert same_bits(now["wts_scales"], layer._arq_scale())
    assert not now["wts_offsets"].any()
    assert not torch.equal(now["wts_scales"], kept["wts_scales"])
    assert all(same_bits(earlier[key], kept[key]) for key in ("acts_scale", "wts_scales")), (
        "taking a checkpoint changes no earlier one"
    )


def test_eval_brings_the_attributes_up_to_date():
    layer = CASES["linear"].layer()
    layer(torch.randn(3, 5))
    assert layer.acts_scale.isnan()
    layer.eval()
    assert layer.acts_scale.item() > 0
    assert same_bits(layer.wts_scales.detach(), layer._arq_scale())


def test_held_scales_are_the_ones_a_checkpoint_shows():
    layer = CASES["conv2d"].layer()
    layer(torch.randn(CASES["conv2d"].x))
    bridge.freeze_weight_scales(layer)
    before = layer._arq_scale()
    layer.weight.data.mul_(2.0)
    assert same_bits(layer.state_dict()["wts_scales"], before)


def test_a_parametrized_weight_is_not_read_for_a_checkpoint():
    class Count(nn.Module):
        calls = 0

        def forward(self, weight: Tensor) -> Tensor:
            self.calls += 1
            return weight

    layer = CASES["linear"].layer()
    count = Count()
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", count)
    calls = count.calls
    layer.state_dict()
    assert count.calls == calls


def test_a_model_of_layers():
    def make() -> nn.Module:
        return nn.ModuleDict({"stem": CASES["conv2d"].layer(), "head": CASES["linear"].layer()})

    checkpoint = {f"stem.{k}": v for k, v in trained(CASES["conv2d"]).items()}
    checkpoint |= {f"head.{k}": v for k, v in fresh(CASES["linear"], scales=1).items()}
    model = make()
    names = list(checkpoint)
    model.load_state_dict(checkpoint, strict=True)
    assert list(checkpoint) == names
    assert [layer.calibrated for layer in model.values()] == [True, False]
    again = make()
    again.load_state_dict(model.state_dict(), strict=True)
    assert same_state(state(again), state(model))


def test_loading_by_assignment_leaves_the_callers_tensors_alone():
    checkpoint = trained(CASES["conv2d"])
    kept = {key: value.clone() for key, value in checkpoint.items()}
    layer = CASES["conv2d"].make(config=None).to("meta")
    layer.load_state_dict(checkpoint, strict=True, assign=True)
    layer.eval()(torch.randn(CASES["conv2d"].x))
    layer.state_dict()
    assert same_state(checkpoint, kept)


def product(scale: float, *, found: bool) -> dict[str, Tensor]:
    """A checkpoint of the reference's MatMulQAT, which counts no batches."""
    tensors = {}
    for name in ("input", "other"):
        for end, value in (("max", 1.27), ("min", -1.28)):
            tensors[f"{name}_clip_{end}"] = torch.tensor(value if found else 0.5)
            tensors[f"{name}_clip_{end}_pre"] = tensors[f"{name}_clip_{end}"].clone()
        tensors[f"{name}_scale"] = torch.tensor([scale])
        tensors[f"{name}_offset_deploy"] = torch.tensor([0], dtype=torch.int8)
    return tensors


def test_a_product_has_the_references_state():
    layer = bridge.MatMulQAT()
    for batches in range(3):
        assert shapes(layer.state_dict()) == shapes(product(0.01, found=True)), batches
        layer(torch.randn(2, 3), torch.randn(3, 2))
    order = [f"{name}_clip_{end}" for name in ("input", "other") for end in ("max", "min")]
    assert [name for name, _ in layer.named_parameters()] == order


@pytest.mark.parametrize(("scale", "found"), [(0.01, True), (1.0, False), (torch.nan, False)])
def test_a_product_is_calibrated_where_its_scales_say_so(scale, found):
    layer = bridge.MatMulQAT(config=config({"batch_num": 2}))
    layer.load_state_dict(product(scale, found=found), strict=True)
    assert layer.calibrated is found
    if found:
        assert layer.state_dict()["input_scale"].item() == pytest.approx(0.01)


@pytest.mark.parametrize("assign", [False, True])
def test_a_product_amid_its_calibration_goes_on(assign):
    batches = [(torch.randn(2, 3), torch.randn(3, 2)) for _ in range(3)]
    layer, stopped = (bridge.MatMulQAT(config=config({"batch_num": 3})) for _ in range(2))
    for pair in batches:
        layer(*pair)
    stopped(*batches[0])
    stopped(*batches[1])
    resumed = bridge.MatMulQAT(config=config({"batch_num": 3}), device="meta" if assign else None)
    resumed.load_state_dict(stopped.state_dict(), assign=assign)
    assert resumed.cur_batch == 2
    resumed(*batches[2])
    assert resumed.calibrated
    assert same_state(state(resumed), state(layer))


def test_a_float_checkpoint_says_nothing_about_a_product():
    model = nn.ModuleDict({"product": bridge.MatMulQAT(), "fc": nn.Linear(2, 2)})
    model["product"](torch.randn(2, 3), torch.randn(3, 2))
    model.load_state_dict({"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}, strict=False)
    assert model["product"].calibrated


@pytest.mark.parametrize(
    ("data", "weight"),
    [
        (None, None),
        ({"dst_type": "INT16", "batch_num": 4, "fixed_min": True}, LEARNED),
        ({"clip_max": 2.0, "clip_min": -0.5, "asymmetric": False}, LEARNED | {"s_rec_flag": True}),
    ],
)
def test_the_references_attributes(data, weight):
    layer = CASES["conv2d"].layer(data, weight)
    given = data or {}
    assert layer.retrain_enable
    assert layer.do_init is ("clip_max" not in given)
    assert layer.act_num_bits == (16 if given.get("dst_type") == "INT16" else 8)
    assert layer.wts_num_bits == 8
    assert layer.retrain_data_config.items() >= given.items()
    assert layer.retrain_weight_config.items() >= (weight or {}).items()
    twin = CASES["conv2d"].layer(layer.retrain_data_config, layer.retrain_weight_config)
    assert twin.config == layer.config


def test_the_references_attributes_of_linear_and_product():
    assert bridge.LinearQAT(3, 2).out_channels == 2
    assert not bridge.LinearQAT(3, 2).retrain_weight_config["channel_wise"]
    given = {"retrain_data_config": {"batch_num": 2}}
    layer = bridge.MatMulQAT(config=given)
    assert not layer.retrain_data_config["asymmetric"]
    assert given == {"retrain_data_config": {"batch_num": 2}}


@pytest.mark.parametrize("exporter", list(EXPORTERS))
def test_nothing_of_the_state_is_in_an_exported_file(tmp_path, exporter):
    layer = CASES["conv2d"].layer()
    x = torch.randn(CASES["conv2d"].x)
    layer(x)
    path = export(nn.Sequential(layer).eval(), x, tmp_path / "m.onnx", exporter)
    stored = {name.rpartition(".")[2] for name in read_model(path).graph.initializers}
    assert stored & set(state(layer)) <= {"weight", "bias"}
    assert read(path)[0].scale_x.item() == layer.state_dict()["acts_scale"].item()


@pytest.mark.parametrize("algorithm", ["arq_retrain", "ulq_retrain"])
def test_the_functional_form_trains_what_is_trained(algorithm):
    case = CASES["conv2d"]
    model = nn.Sequential(case.layer(None, {"weights_retrain_algo": algorithm}))
    x = torch.randn(case.x)
    functions = bridge.functionalize(model)
    params, carried = functions.init()
    names = {"0.weight", "0.bias", "0.acts_clip_max", "0.acts_clip_min"}
    scales = {"0.wts_scales"} if algorithm == "ulq_retrain" else set()
    assert set(params) == names | scales
    kept = {f"{name}_pre" for name in {"0.acts_clip_max", "0.acts_clip_min"} | scales}
    assert set(carried.buffers) == {"0.cur_batch"} | kept
    params, carried = functions.finish(params, functions.calibrate(params, carried, x))
    back = bridge.to_module(model, params, carried)
    stepped = copy.deepcopy(model)
    stepped(x)
    assert same_bits(functions.apply(params, carried, x), stepped(x))
    assert same_state(state(back), state(bridge.to_module(stepped, *_functional(stepped))))


def _functional(model: nn.Module) -> Any:
    return bridge.functionalize(model).init()


def test_arqs_scales_by_hand():
    layer = CASES["linear"].layer({"clip_max": 1.0})
    layer.weight.data = torch.tensor([[1.27, -1.0], [0.5, -1.28]])
    expected = arq_qparams(layer.weight, layer.config.weight).scale
    assert same_bits(layer.state_dict()["wts_scales"], expected.reshape(1))
    assert layer.state_dict()["acts_scale"].item() == pytest.approx(2 / 255)
