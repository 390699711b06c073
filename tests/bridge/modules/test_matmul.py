"""MatMulQAT: the product of two quantized activations, from training to the deployed models."""

import onnx
import pytest
import torch
from torch import Tensor, nn

from bridge import LinearQAT, MatMulQAT, calibrate, convert_qat_model, verify
from bridge.modules.weighted import qat_layers
from qatfunc import ActivationSpec, Clip, operators, resolve_clip, ulq_qparams
from qatfunc.affine import fake_quantize
from tests.support.bits import same_state
from tests.support.exporters import EXPORTERS, dynamic, export
from tests.support.modules.layers import config, state

NAMES = [
    "input_clip_max",
    "input_clip_min",
    "other_clip_max",
    "other_clip_min",
]
BUFFERS = [f"{name}_pre" for name in NAMES] + ["cur_batch"]
BUFFERS += [
    f"{name}_{value}" for name in ("input", "other") for value in ("scale", "offset_deploy")
]


class Scores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.product = MatMulQAT()

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, x.transpose(-1, -2))


class Attention(nn.Module):
    """Two products and a layer; the values are fed in beside the input."""

    def __init__(self) -> None:
        super().__init__()
        self.query = LinearQAT(6, 8)
        self.scores = Scores()
        self.mixed = MatMulQAT()

    def forward(self, x: Tensor) -> Tensor:
        y = self.query(x)
        return self.mixed(torch.relu(self.scores(y)), x)


@pytest.fixture(scope="module", params=EXPORTERS)
def exported(request, tmp_path_factory):
    torch.manual_seed(5)
    model, x = Attention(), torch.randn(3, 5, 6)
    calibrate(model, [x])
    model.train()
    model(x).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    folder = tmp_path_factory.mktemp(request.param)
    path = export(
        model.eval(), (x,), folder / "inter.onnx", request.param, **dynamic(request.param)
    )
    return model, x, path


def calibrated(data=None):
    product = MatMulQAT(config=config(data))
    a, b = torch.randn(2, 3, 4), 3.0 * torch.randn(2, 4, 5)
    product(a, b)
    return product, a, b


def test_its_state_is_two_ranges():
    product = MatMulQAT()
    assert [name for name, _ in product.named_parameters()] == NAMES
    assert sorted(name for name, _ in product.named_buffers()) == sorted(BUFFERS)
    assert product.extra_repr() == "int8 x int8, 0 batches calibrated"
    assert [path for path, _ in qat_layers(nn.Sequential(product))] == ["0"]


def test_calibration_finds_a_range_for_each_operand():
    product, a, b = calibrated()
    for name, x in (("input", a), ("other", b)):
        high, low = (getattr(product, f"{name}_clip_{end}") for end in ("max", "min"))
        assert high <= x.abs().max() * 1.1
        assert high > 0.5 * x.abs().max()
        assert -1.02 * high < low < -0.98 * high, "symmetric, up to the grid's own asymmetry"
        assert torch.equal(high, getattr(product, f"{name}_clip_max_pre"))
    assert product.other_clip_max > 2 * product.input_clip_max
    assert product.cur_batch == 1
    assert product.extra_repr() == "int8 x int8, calibrated"


def test_the_first_batch_passes_as_it_is():
    product = MatMulQAT()
    a, b = torch.randn(2, 3, 4), torch.randn(2, 4, 5)
    assert torch.equal(product(a, b), a @ b)
    assert not torch.equal(product(a, b), a @ b)


def test_it_is_the_pure_function_of_its_clips():
    product, a, b = calibrated()
    params = {
        f"{name}_clip": Clip(
            getattr(product, f"{name}_clip_max"), getattr(product, f"{name}_clip_min")
        )
        for name in ("input", "other")
    }
    spec = ActivationSpec(symmetric=True)
    y = product.eval()(a, b)
    previous = {k: Clip(*(v.detach() for v in c)) for k, c in params.items()}
    resolved = {k: resolve_clip(c, previous[k], spec) for k, c in params.items()}
    assert torch.equal(y, operators.matmul(a, b, resolved, spec))
    on_grid = [
        fake_quantize(x, ulq_qparams(clip, spec), spec)
        for x, clip in zip((a, b), resolved.values(), strict=True)
    ]
    torch.testing.assert_close(y, on_grid[0] @ on_grid[1], rtol=1e-5, atol=1e-5)
    assert not torch.equal(y, a @ b)


def test_all_four_ends_and_both_operands_are_trained():
    product, a, b = calibrated()
    a, b = 2 * a.requires_grad_(), (2 * b).requires_grad_()
    a.retain_grad()
    product(a, b).square().sum().backward()
    assert all(p.grad is not None and p.grad != 0 for p in product.parameters())
    assert a.grad.any()
    assert b.grad.any()


def test_a_meaningless_range_is_replaced_alone():
    product, a, b = calibrated()
    y = product(a, b).detach()
    with torch.no_grad():
        product.other_clip_max.fill_(-1.0)
    assert torch.equal(product.train()(a, b), y)
    assert torch.equal(product.other_clip_max.detach(), product.other_clip_max_pre)


def test_checkpoints_go_on_where_they_stopped():
    stopped, whole = (MatMulQAT(config=config({"batch_num": 2})) for _ in range(2))
    pairs = [(torch.randn(2, 3, 4), torch.randn(4, 2)) for _ in range(2)]
    for pair in pairs:
        whole(*pair)
    stopped(*pairs[0])
    saved = state(stopped)
    assert {name.partition(".")[2].partition(".")[0] for name in saved if "." in name} == {
        "input",
        "other",
    }
    loaded = MatMulQAT(config=config({"batch_num": 2}))
    loaded.load_state_dict(saved)
    loaded(*pairs[1])
    assert same_state(state(loaded), state(whole))
    ready = MatMulQAT()
    ready.load_state_dict(state(whole))
    assert torch.equal(ready.eval()(*pairs[0]), whole.eval()(*pairs[0]))


def test_given_ranges_and_symmetry():
    product = MatMulQAT(config=config({"clip_max": 2.0, "clip_min": -1.0, "asymmetric": True}))
    assert product.calibrated
    assert product.config.activation.symmetric, "always"
    assert [p.item() for p in product.parameters()] == [2.0, -1.0, 2.0, -1.0]


def test_switched_off_it_is_torchs():
    product = MatMulQAT(config={"retrain_enable": False})
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    assert torch.equal(product(a, b), a @ b)
    assert product.extra_repr() == "not quantized"
    assert list(qat_layers(product)) == []


@pytest.mark.parametrize("rank", [1, 7])
@pytest.mark.parametrize("which", ["input", "other"])
def test_ranks_below_2_and_above_6_are_errors(which, rank):
    fits = {"input": torch.ones(2, 2), "other": torch.ones(2, 2)}
    fits[which] = torch.ones((2,) * rank)
    message = (
        rf"^MatMulQAT: {which} must have rank 2 to 6, got shape \({', '.join('2' * rank)},?\)$"
    )
    with pytest.raises(RuntimeError, match=message):
        MatMulQAT()(**fits)


@pytest.mark.parametrize("which", ["input", "other"])
def test_other_dtypes_are_errors(which):
    fits = {"input": torch.ones(2, 2), "other": torch.ones(2, 2)}
    fits[which] = fits[which].double()
    message = rf"^MatMulQAT: {which} must be float32, got torch\.float64; call x\.float"
    with pytest.raises(ValueError, match=message):
        MatMulQAT()(**fits)


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (torch.ones(2, 3, 4), RuntimeError, r"expected other with 4 rows.*got 3 \(shapes"),
        (torch.ones(5, 4, 3), RuntimeError, r"batch axes .*\(2, 3, 4\) and \(5, 4, 3\)"),
        (torch.ones(2, 4, 3).numpy(), TypeError, r"other must be a torch\.Tensor, got numpy"),
        (torch.ones(2, 4, 3, device="meta"), RuntimeError, "input is on cpu, other on meta"),
    ],
)
def test_operands_that_do_not_fit_are_errors(other, error, message):
    product = MatMulQAT()
    with pytest.raises(error, match=rf"^MatMulQAT: .*{message}"):
        product(torch.ones(2, 3, 4), other)
    assert not product.calibrated


def test_sixteen_bits_are_an_error():
    message = r"^MatMulQAT: retrain_data_config\['dst_type'\] must be 'INT8', got 'INT16'$"
    with pytest.raises(ValueError, match=message):
        MatMulQAT(config=config({"dst_type": "INT16"}))


def test_autocast_computes_in_float32():
    product, a, b = calibrated()
    expected = product(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = product(a.bfloat16(), b)
        assert torch.equal(product(a, b), expected)
    assert y.dtype == torch.float32
    assert torch.equal(y, product(a.bfloat16().float(), b))


def test_an_uncalibrated_product_cannot_be_exported(tmp_path):
    model = nn.ModuleDict({"product": MatMulQAT()})
    model.forward = lambda a, b: model["product"](a, b)
    with pytest.raises(RuntimeError, match="cannot export: not calibrated: "):
        export(model.eval(), (torch.ones(2, 2),) * 2, tmp_path / "a.onnx", "torchscript")


def test_the_file_has_a_pair_for_each_operand(exported):
    _, _, path = exported
    graph = onnx.load(path).graph
    onnx.checker.check_model(onnx.load(path), full_check=True)
    count = {op: sum(node.op_type == op for node in graph.node) for op in ("MatMul", "Gemm")}
    assert count == {"MatMul": 3, "Gemm": 0}
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) == 2 + 2 * 2


@pytest.mark.parametrize("target", ["ort", "ascend"])
def test_conversion_is_exact_and_names_the_products(exported, tmp_path, target):
    model, x, path = exported
    conversion = convert_qat_model(path, tmp_path / "out", target=target)
    assert [layer.name for layer in conversion.layers] == ["query", "scores.product", "mixed"]
    assert not conversion.left_in_float
    query, scores, mixed = conversion.layers
    form = "MatMulInteger" if target == "ort" else "AscendQuant/AscendDequant"
    assert query.form == scores.form == mixed.form == form
    assert scores.bits == mixed.bits == 8
    assert scores.channels == mixed.channels == 0
    assert mixed.zero_point_x == 0
    assert mixed.scale_x == model.mixed._export_constants()[0][0]
    if scores.bound is not None:
        assert scores.bound == 8 * 128 * 128
        assert scores.proven
    for batch in (x, x[:1], torch.randn(7, 5, 6)):
        verification = verify(model, path, conversion.fake_quant, conversion.deploy, batch)
        assert verification.exact
        assert verification.first_torch_fake is None
        assert verification.first_fake_deploy is None
    names = [layer.name for layer in verification.layers]
    assert names == [
        "query",
        "scores.product.input",
        "scores.product.other",
        "mixed.input",
        "mixed.other",
    ]
    for layer in verification.layers:
        assert layer.codes_torch_fake.count == layer.output_torch_fake.count == 0
        assert layer.measured > 0
    kinds = {node.op_type for node in onnx.load(conversion.deploy).graph.node}
    wanted = {"MatMulInteger"} if target == "ort" else {"AscendQuant", "AscendDequant"}
    assert wanted <= kinds
    assert not {"QuantizeLinear", "DequantizeLinear"} & kinds - (
        {"QuantizeLinear"} if target == "ort" else set()
    )
