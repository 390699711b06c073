"""Layer names from the metadata and names that each exporter writes, in order of preference."""

import json

import onnx_ir as ir
import pytest
import torch
from torch import nn

from bridge import ConvTranspose2dQAT, LinearQAT, prepare_qat
from bridge.export.graph.names import LAYER_KEY, module_path, scope_of_name, tied_name
from tests.support.exporters import EXPORTERS, export
from tests.support.graphs.reading import read
from tests.support.graphs.text import BIAS, GEMM, INTEGERS, X, model, save, the_layer
from tests.support.modules.layers import config

SCOPES = "pkg.torch.onnx.name_scopes"


def named(folder, *, node="", scopes=None, **renamed):
    """The name the reader gives to a layer whose node, weight (w) or bias (b) have these names."""
    proto = model(GEMM, b=BIAS)
    operator = proto.graph.node[-1]
    operator.name = node
    if scopes is not None:  # metadata that the default exporter writes for every node
        operator.metadata_props.add(key=SCOPES, value=scopes)
    for old, new in renamed.items():
        (tensor,) = (t for t in proto.graph.initializer if t.name == old)
        tensor.name = new
        for each in proto.graph.node:
            each.input[:] = [new if name == old else name for name in each.input]
    return the_layer(proto, folder).name


SCOPE = json.dumps(["", "layer1", "layer1.0", "layer1.0.conv1", "conv2d"]).replace('"', "'")


def test_what_a_conversion_wrote_comes_before_everything(tmp_path):
    proto = model(GEMM, b=BIAS)
    for key, value in ((SCOPES, SCOPE), (LAYER_KEY, "blocks.3.fc")):
        proto.graph.node[-1].metadata_props.add(key=key, value=value)
    assert the_layer(proto, tmp_path).name == "blocks.3.fc"


def test_the_module_scope_comes_next(tmp_path):
    assert named(tmp_path, node="/x/Gemm", w="b.weight", scopes=SCOPE) == "layer1.0.conv1"


@pytest.mark.parametrize(
    "scopes", [None, "", "not a list", "[]", "['', 'linear']", "{'a': 1}", "7"]
)
def test_then_the_weights_path(tmp_path, scopes):
    assert named(tmp_path, node="/x/Gemm", w="net.0.weight", scopes=scopes) == "net.0"
    assert named(tmp_path, w="net.0.weight", b="net.1.bias", scopes=scopes) == "net.0"


def test_the_weights_path_is_found_behind_its_pair_and_reshapes(tmp_path):
    body = X + (
        't = Transpose ("head.fc.weight") i = Identity (t) '
        "wq = QuantizeLinear <axis = 1> (i, sw, zw) "
        "wd = DequantizeLinear <axis = 1> (wq, sw, zw) y = MatMul (xd, wd)"
    )
    weight = INTEGERS.T.astype("float32").copy()
    proto = model(body, **{"head.fc.weight": weight})
    assert the_layer(proto, tmp_path).name == "head.fc"


def test_then_the_path_of_the_bias(tmp_path):
    assert named(tmp_path, node="/x/y/Gemm", b="net.3.bias") == "net.3"


def test_then_the_scopes_in_the_nodes_name(tmp_path):
    assert named(tmp_path, node="/layer1/layer1.0/conv1/Conv") == "layer1.0.conv1"


def test_then_the_nodes_name_and_last_its_output(tmp_path):
    assert named(tmp_path, node="fc") == "fc"
    assert named(tmp_path, node="/Gemm") == "/Gemm"
    assert named(tmp_path) == "y"


@pytest.mark.parametrize("weight", [".weight", "weight", "weights", "a.weight.x", "a.bias"])
def test_what_is_no_path_of_a_weight(tmp_path, weight):
    assert named(tmp_path, node="fc", w=weight) == "fc"


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/conv/Conv", "conv"),
        ("/stem/stem.0/Conv", "stem.0"),
        ("/a/b/c/Gemm_3", "a.b.c"),
        ("/net/net.1/net.1.0/MatMul", "net.1.0"),
        ("/a/ab/Conv", "a.ab"),
        ("/Conv", ""),
        ("Conv_7", ""),
        ("node_conv2d", ""),
        ("", ""),
    ],
)
def test_scopes_in_a_node_name(name, scope):
    assert scope_of_name(name) == scope


def test_the_module_path_of_a_node():
    for scopes, path in ((SCOPE, "layer1.0.conv1"), ("['', 'relu']", ""), ("['relu']", "")):
        node = ir.node("Relu", [], metadata_props={SCOPES: scopes})
        assert module_path(node) == path
    assert module_path(ir.node("Relu", [])) == ""


class Branches(nn.Module):
    """Layers of the same name in different branches."""

    def __init__(self):
        super().__init__()
        given = config({"clip_max": 1.0})
        self.branches = nn.ModuleDict(
            {
                name: nn.ModuleList([nn.Sequential(LinearQAT(3, 3, config=given))])
                for name in ("left", "right")
            }
        )
        self.ups = nn.ModuleList(
            ConvTranspose2dQAT(2, 2, 1, groups=2, config=given) for _ in range(2)
        )

    def forward(self, x):
        for name in ("left", "right"):
            x = self.branches[name][0](x)
        x = x.reshape(1, 2, 1, 3)
        for up in self.ups:
            x = up(x)
        return x


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_paths_through_containers(tmp_path, exporter):
    path = export(Branches().eval(), torch.ones(2, 3), tmp_path / "m.onnx", exporter)
    assert [layer.name for layer in read(path)] == [
        "branches.left.0.0",
        "branches.right.0.0",
        "ups.0",
        "ups.1",
    ]


def test_what_torchscript_leaves_of_a_name(tmp_path):
    # Its scopes contain only the last part of a path. If the weight is transposed, its name is
    # folded away; without a bias, that part is the name then.
    given = config({"clip_max": 1.0})
    up = ConvTranspose2dQAT(2, 2, 1, groups=2, bias=False, config=given)
    holder = nn.ModuleDict({"up": up})

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = holder

        def forward(self, x):
            return self.parts["up"](x)

    path = export(Root().eval(), torch.ones(1, 2, 1, 1), tmp_path / "m.onnx", "torchscript")
    assert [layer.name for layer in read(path)] == ["up"]


@pytest.mark.parametrize(
    ("node", "bias", "name"),
    [
        ("/second/Conv", "net.second.bias", "net.second"),
        ("/second/Conv", None, "second"),
        ("/net/net.1/Conv", None, "net.1"),
        ("/second/Conv", "net.first.bias", "second"),  # both are shared
        ("/first_1/Conv", "net.first.bias", "net.first"),  # the layer's second call
        ("/net/first_12/Conv", None, "net.first"),
        ("/net/first/Conv", None, "net.first"),
        ("Conv_3", None, "net.first"),
    ],
)
def test_a_layer_whose_weight_has_another_layers_name(node, bias, name):
    value = None if bias is None else ir.Value(name=bias)
    assert tied_name(ir.node("Conv", [], name=node), value, "net.first") == name
    known = ir.node("Conv", [], name=node, metadata_props={SCOPES: SCOPE})
    assert tied_name(known, value, "net.first") == "net.first", "the default exporter says all"


def test_a_name_that_another_layer_has_is_not_taken(tmp_path):
    body = X + (
        'ad = DequantizeLinear <axis = 1> ("a.weight", sw, zw) '
        'bd = DequantizeLinear <axis = 1> ("b.weight", sw, zw) '
        '["/a/MatMul"] y = MatMul (xd, ad) ["/b/MatMul"] z = MatMul (xd, ad) u = MatMul (xd, bd)'
    )
    three = "float[N, 2] y, float[N, 2] z, float[N, 2] u"
    proto = model(body, outputs=three, **{"a.weight": INTEGERS, "b.weight": INTEGERS})
    assert [layer.name for layer in read(save(proto, tmp_path))] == ["a", "a#2", "b"]


class TiedHead(nn.Module):
    """A language model with two heads whose weights are tied to the embedding's."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict({"proj": nn.Embedding(11, 6), "h": nn.Linear(6, 6)})
        self.heads = nn.ModuleDict({n: nn.Linear(6, 11, bias=bias) for n in ("proj", "aux")})
        for head in self.heads.values():
            head.weight = self.transformer["proj"].weight

    def forward(self, ids):
        h = torch.relu(self.transformer["h"](self.transformer["proj"](ids)))
        return self.heads["aux"](h) + self.heads["aux"](2 * h)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_layer_tied_to_an_embedding_has_its_own_name(tmp_path, exporter, bias):
    net = prepare_qat(nn.Sequential(TiedHead(bias=bias)), config({"clip_max": 1.0}))
    ids = torch.arange(8).reshape(2, 4)
    path = export(net.eval(), ids, tmp_path / "m.onnx", exporter)
    # The TorchScript exporter writes only this part of the second path.
    aux = "0.heads.aux" if exporter == "default" else "0.aux"
    assert [layer.name for layer in read(path)] == ["0.transformer.h", aux, f"{aux}#2"]


def test_an_embedding_function_on_a_layers_own_weight(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 11)

        def forward(self, ids):
            return self.head(self.body(nn.functional.embedding(ids, self.head.weight)))

    net = prepare_qat(Own(), config({"clip_max": 1.0}))
    path = export(net.eval(), torch.arange(4), tmp_path / "m.onnx", "torchscript")
    assert [layer.name for layer in read(path)] == ["body", "head"]


@pytest.mark.parametrize(
    ("scope", "name"),
    [
        ("first", "net.first"),
        ("other.first", "other.first"),
        ("net_1.first_2", "net.first"),
        ("first.net", "first.net"),
    ],
)
def test_a_scope_that_may_be_the_layers(scope, name):
    node = ir.node("Conv", [], name=f"/{scope.replace('.', '/')}/Conv")
    assert tied_name(node, None, "net.first") == ("net.first" if name == "net.first" else scope)
