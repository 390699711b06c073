"""verify: what models do between their layers, take and return, and what data may hold."""

from collections import OrderedDict, namedtuple

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from bridge import MatMulQAT, calibrate, convert_qat_model, prepare_qat, verify
from tests.support.exporters import EXPORTERS, export

SHAPE = (2, 3, 5)


class Net(nn.Module):
    """Two layers, and a function of the input and of what they make of it."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 4, 1), nn.Conv1d(3, 4, 1)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


class Files:
    """A model that was converted, and a batch."""

    def __init__(self, net, folder, exporter="torchscript", *, x=None, **options):
        self.x = torch.randn(SHAPE) if x is None else x
        self.net = prepare_qat(net)
        calibrate(self.net, [self.x])
        self.net.eval()
        args = self.x if isinstance(self.x, tuple) else (self.x.clone(),)
        self.inter = export(self.net, args, folder / "m.onnx", exporter, **options)
        self.done = convert_qat_model(self.inter, folder / "net")

    def verify(self, data=None, model=...):
        model = self.net if model is ... else model
        data = self.x if data is None else data
        return verify(model, self.inter, self.done.fake_quant, self.done.deploy, data)


def counts(check):
    fields = ("codes_torch_fake", "codes_fake_deploy", "output_torch_fake", "output_fake_deploy")
    return [None if (d := getattr(check, field)) is None else d.count for field in fields]


def same(seen):
    assert seen.exact
    assert seen.first_torch_fake is None
    assert seen.first_fake_deploy is None
    return all(counts(check) == [0, 0, 0, 0] for check in seen.layers)


def both(net, x):
    return net.a(x) + net.b(x)


def in_place_sum(net, x):
    y = net.a(x)
    y += net.b(x)
    return y


def in_place_input(net, x):
    y = net.a(x)
    x.mul_(3.0)
    return y + net.b(x)


class InPlace(nn.Sequential):
    def __init__(self, *modules):
        super().__init__(nn.Conv1d(3, 3, 1), *modules, nn.Conv1d(3, 2, 1))


@pytest.mark.parametrize(
    "net",
    [
        InPlace(nn.ReLU(inplace=True)),
        InPlace(nn.BatchNorm1d(3), nn.ReLU6(inplace=True)),
        InPlace(nn.Hardtanh(-0.1, 0.1, inplace=True), nn.Dropout(inplace=True)),
        nn.Sequential(nn.ReLU(inplace=True), nn.Conv1d(3, 3, 1), nn.LeakyReLU(inplace=True)),
        Net(in_place_sum),
        Net(in_place_input),
    ],
    ids=["relu", "norm", "limits", "of the input", "a sum", "by hand"],
)
@pytest.mark.filterwarnings("ignore:ONNX Preprocess")
def test_modules_that_work_in_place(tmp_path, net):
    """What a layer computed is compared, not what a later operator made of the same memory."""
    made = Files(net, tmp_path)
    before = made.x.clone()
    assert same(made.verify())
    assert torch.equal(made.x, before)


def shared(net, x):
    return net.a(net.b(x)[:, :3]) + net.a(x) + net.a(2 * x)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_the_nth_call_is_compared_with_the_nth_operator(tmp_path, exporter):
    made = Files(Net(shared), tmp_path, exporter)
    seen = made.verify()
    assert same(seen)
    assert {check.name for check in seen.layers} == {"a", "b", "a#2", "a#3"}
    made.net.b.weight.data.flatten()[1] *= -0.5
    assert made.verify().first_torch_fake == "b"


def test_a_difference_of_a_later_call_is_found(tmp_path):
    made = Files(Net(shared), tmp_path)

    def later(net, x):
        return net.a(net.b(x)[:, :3]) + net.a(x) + net.a(3 * x)

    made.net.function = later
    seen = made.verify()
    assert seen.first_torch_fake == "a#3"
    named = {check.name: counts(check) for check in seen.layers}
    assert named["a"] == named["a#2"] == named["b"] == [0, 0, 0, 0]
    assert named["a#3"][0] > 0 < named["a#3"][2]


def test_other_numbers_of_calls_and_operators_are_not_matched(tmp_path):
    made = Files(Net(both), tmp_path)
    made.net.function = lambda net, x: net.a(x) + 0 * net.a(2 * x) + net.b(x)
    seen = made.verify()
    named = {check.name: counts(check) for check in seen.layers}
    assert named["a"] == [None, 0, None, 0]
    assert named["b"] == [0, 0, 0, 0]
    assert seen.unmatched == ("a",)
    why = "not compared with torch, as calls and operators in the file differ in number: a"
    assert why in " ".join(str(seen).split())


def test_a_layer_that_has_two_names(tmp_path):
    net = nn.Sequential(OrderedDict(a=nn.Conv1d(3, 3, 1), act=nn.ReLU()))
    net.add_module("again", net.a)
    assert same(Files(net, tmp_path).verify())


def test_keyword_arguments_of_layers(tmp_path):
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.product = nn.Linear(5, 5), MatMulQAT()

        def forward(self, x):
            return self.product(other=self.a(x).transpose(1, 2), input=x)

    seen = Files(Product(), tmp_path).verify()
    assert same(seen)
    assert {check.name for check in seen.layers} == {"a", "product.input", "product.other"}


Pair = namedtuple("Pair", "first second")


RETURNED = {
    "none": lambda x, y, z: (None, y, None, z),
    "repeated": lambda x, y, z: (y, y, z, y),
    "the input": lambda x, y, z: (x, y),
    "a dict": lambda x, y, z: {"z": z, "a": y},
    "a named tuple": lambda x, y, z: Pair(second=y, first=z),
    "nested": lambda x, y, z: [y, (z, {"b": y * 2, "a": [z * 2, None]})],
    "an ordered dict": lambda x, y, z: OrderedDict(z=z, b=y),
    "a size": lambda x, y, z: (y, y.shape[0]),
    "text": lambda x, y, z: {"y": y, "name": "text"},
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", RETURNED)
def test_outputs(tmp_path, name):
    """In the order of the exporter, which leaves None out."""
    made = Files(Net(lambda net, x: RETURNED[name](x, net.a(x), net.b(x))), tmp_path)
    assert same(made.verify())


def test_outputs_that_are_no_tensors(tmp_path):
    made = Files(Net(both), tmp_path)
    made.net.function = lambda net, x: {both(net, x)}
    with pytest.raises(TypeError, match=r"^a set cannot be compared with an ONNX model's tensors"):
        made.verify()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.manual_seed(0)
    names = {"input_names": ["picture"], "output_names": ["y"]}
    return Files(Net(both), tmp_path_factory.mktemp("made"), **names)


def test_data_of_any_kind(made):
    for data in (made.x, made.x.numpy(), (made.x,), [made.x.numpy()]):
        assert same(made.verify(data))
    for name in ("x", "picture"):
        assert same(made.verify({name: made.x}))
        assert same(made.verify({name: made.x.numpy()}))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda x: x.double(), TypeError, r"input 'picture' of .*m.onnx must be float32, got floa"),
        (lambda x: x.numpy().astype(np.int64), TypeError, r"must be float32, got int64"),
        (lambda x: x[:1], ValueError, r"must have the shape \[2,3,5\], got \(1, 3, 5\); axes that"),
        (lambda x: x[0], ValueError, r"must have the shape \[2,3,5\], got \(3, 5\)"),
        (lambda x: (x, x), ValueError, r"takes 1 inputs \['picture'\], got 2 arrays; .*labels$"),
        (lambda x: (), ValueError, r"takes 1 inputs \['picture'\], got 0 arrays"),
        (lambda x: {"z": x}, ValueError, r"data has \['z'\], but .* takes \['x'\] and the file ha"),
        (lambda x: 3, TypeError, r"^data must be a tensor, an array, .*; got int$"),
        (lambda x: "x", TypeError, r"^data must be .*; got str$"),
        (lambda x: {x}, TypeError, r"^data must be .*; got set$"),
        (lambda x: ({x},), TypeError, r"^a set cannot be compared"),
    ],
)
def test_data_that_does_not_fit(made, change, kind, message):
    with pytest.raises(kind, match=message):
        made.verify(change(made.x))


def test_inputs_of_several_kinds(tmp_path):
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.fc = nn.Embedding(7, 5), nn.Linear(5, 4)

        def forward(self, ids, scale, mask=None, extra=()):
            y = self.fc(self.embedding(ids)) * scale
            return y if mask is None else y * mask + extra[0]

    ids, scale, mask = torch.tensor([[1, 2, 6]]), torch.randn(1), torch.ones(1, 3, 4)
    data = (ids, scale, mask, (torch.randn(1, 3, 4),))
    made = Files(Many(), tmp_path, x=data)
    assert same(made.verify())
    assert same(made.verify([ids.numpy(), scale, mask.numpy(), (data[3][0].numpy(),)]))
    named = {"extra": data[3], "mask": mask, "ids": ids, "scale": scale}
    assert same(made.verify(named))
    with pytest.raises(TypeError, match="must be int64, got int32"):
        made.verify((ids.int(), *data[1:]))


@pytest.mark.parametrize("data", ["x", "a dict"])
def test_files_without_a_torch_model(made, data):
    seen = made.verify(made.x if data == "x" else {"picture": made.x}, model=None)
    assert seen.exact
    assert [counts(check) for check in seen.layers] == [[None, 0, None, 0]] * 2
    assert [output.torch_fake for output in seen.outputs] == [None]
    assert all(check.measured > 0 for check in seen.layers)


@pytest.mark.parametrize("model", ["net.pt", {"a": torch.ones(1)}])
def test_models_of_another_kind(made, model):
    with pytest.raises(
        TypeError, match=r"^verify: model must be a torch.nn.Module, got ('net|dict)"
    ):
        made.verify(model=model)


@pytest.mark.parametrize("name", ["inter", "fake", "deploy"])
def test_paths_of_another_kind(made, name):
    paths = {"inter": made.inter, "fake": made.done.fake_quant, "deploy": made.done.deploy}
    with pytest.raises(TypeError, match=f"^{name} must be a str or a path, got Conversion"):
        verify(made.net, **{**paths, name: made.done}, data=made.x)


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, lambda net: torch.compile(net, backend="eager")],
    ids=["dp", "compile"],
)
def test_a_model_in_a_wrapper(made, wrap):
    assert same(made.verify(model=wrap(made.net)))


@pytest.mark.parametrize("model", [..., None])
def test_a_nan_is_named(made, model):
    x = made.x.clone()
    x[0, 0, 0] = torch.nan
    seen = made.verify(x, model=model)
    assert seen.first_nan == "a"
    assert not seen.exact


def test_a_nan_that_no_quantizer_meets_is_no_difference(tmp_path):
    made = Files(Net(lambda net, x: (both(net, x), (x - 10).sqrt())), tmp_path)
    seen = made.verify()
    assert seen.first_nan is None
    assert seen.exact


def test_a_nan_between_layers_is_named(tmp_path):
    made = Files(Net(lambda net, x: net.a(x) + net.b(x / x.abs().sum())), tmp_path)
    seen = made.verify(torch.zeros(SHAPE))
    assert seen.first_nan == "b"


def test_infinities_saturate(made):
    x = made.x.clone()
    x[0, 0, 0], x[1, 1, 1] = torch.inf, -torch.inf
    seen = made.verify(x)
    assert same(seen)
    assert seen.first_nan is None


@pytest.mark.parametrize(("value", "exact"), [(torch.nan, False), (torch.inf, True)])
def test_neither_stops_the_ascend_model(made, tmp_path, value, exact):
    x = made.x.clone()
    x[0, 0, 0] = value
    done = convert_qat_model(made.inter, tmp_path / "net", target="ascend")
    seen = verify(made.net, made.inter, done.fake_quant, done.deploy, x)
    assert (seen.exact, seen.first_nan) == (exact, None if exact else "a")


def reorder(path, which):
    proto = onnx.load(path)
    values = getattr(proto.graph, which)
    copies = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in reversed(values)]
    del values[:]
    values.extend(copies)
    onnx.save(proto, path)


@pytest.mark.parametrize("file", ["fake_quant", "deploy"])
@pytest.mark.parametrize("cut", [4, 2])
def test_outputs_in_another_order(tmp_path, file, cut):
    net = Net(lambda net, x: (net.a(x), net.b(x)[:, :cut]))
    made = Files(net, tmp_path, output_names=["first", "second"])
    assert made.verify().exact
    reorder(getattr(made.done, file), "output")
    seen = made.verify()
    assert not seen.exact
    wanted = f"net_{file}_model.onnx has the outputs ['second', 'first'], m.onnx ['first', 'second'"
    assert seen.interface == (f"{wanted}]",)


def test_equal_outputs_in_another_order(tmp_path):
    """By their values nobody can tell."""
    made = Files(Net(lambda net, x: (net.a(x) + net.b(x), net.b(x) + net.a(x))), tmp_path)
    reorder(made.done.deploy, "output")
    assert not made.verify().exact


def test_inputs_in_another_order(tmp_path):
    class Difference(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(5, 4)

        def forward(self, x, y):
            return self.a(x - y)

    made = Files(Difference(), tmp_path, x=(torch.randn(2, 5), torch.randn(2, 5)))
    assert made.verify().interface == ()
    reorder(made.done.deploy, "input")
    seen = made.verify()
    assert [output.fake_deploy.count for output in seen.outputs] == [0]
    assert not seen.exact
    assert "has the inputs" in seen.interface[0]


def test_layers_that_the_file_lacks(tmp_path):
    class Auxiliary(Net):
        def __init__(self):
            super().__init__(lambda net, x: net.a(x))
            self.head = nn.Linear(4, 2)

    made = Files.__new__(Files)
    made.x = torch.randn(SHAPE)
    made.net = prepare_qat(Auxiliary())
    for layer in (made.net.a, made.net.b):
        calibrate(layer, [made.x])
    calibrate(made.net.head, [torch.randn(2, 4)])
    made.net.eval()
    made.inter = export(made.net, (made.x,), tmp_path / "m.onnx", "torchscript")
    made.done = convert_qat_model(made.inter, tmp_path / "net")
    made.net.function = lambda net, x: (net.b(x), net.a(x))[1]
    seen = made.verify()
    assert seen.exact
    assert seen.missing == ("b", "head")
    assert seen.uncalled == ("head",)
