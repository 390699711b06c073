"""Results as text and as data: what each call returns prints itself and survives JSON."""

import dataclasses
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import bridge
from bridge.batch_norm.plan import BatchNormPlan
from bridge.export.result.verify.differences import Difference
from bridge.report.plain import plain
from bridge.selection.plan import QATPlan
from bridge.sensitivities import Sensitivities
from tests.support.exporters import quiet

SHAPE = (4, 2, 6, 6)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What every call returns for one network, by the name of the call."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("results")
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)
    )
    found = {"plan_qat": bridge.plan_qat(model, layers={"0": {"retrain_weight_config": {}}})}
    found["plan_batch_norm"] = bridge.plan_batch_norm(model)
    net = bridge.fold_batch_norm(bridge.prepare_qat(model))
    x = torch.randn(SHAPE)
    bridge.calibrate(net, [x])
    with quiet():
        torch.onnx.export(net.eval(), (x,), str(folder / "inter.onnx"), dynamo=False)
    result = bridge.convert_qat_model(folder / "inter.onnx", folder / "net")
    found["convert_qat_model"] = result
    found["explain"] = bridge.explain(result)
    files = (folder / "inter.onnx", result.fake_quant, result.deploy)
    found["verify"] = bridge.verify(net, *files, x)
    found["sensitivity"] = bridge.sensitivity(net, x)
    return found


CALLS = (
    "plan_qat",
    "plan_batch_norm",
    "convert_qat_model",
    "explain",
    "verify",
    "sensitivity",
)


@pytest.mark.parametrize("call", CALLS)
def test_a_result_prints_itself(results, call, capsys):
    print(results[call])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 2
    file = io.StringIO()
    Console(width=80, color_system=None, file=file).print(results[call])
    assert [line.rstrip() for line in file.getvalue().splitlines()] == lines


@pytest.mark.parametrize("call", CALLS)
def test_json_holds_all_of_a_result(results, call):
    data = results[call].to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data


@pytest.mark.parametrize("call", ["convert_qat_model", "explain", "verify"])
def test_data_has_the_fields_by_their_names(results, call):
    result = results[call]
    data = result.to_dict()
    names = [field.name for field in dataclasses.fields(result)]
    assert list(data)[: len(names)] == names
    assert len(data["layers"]) == len(result.layers) > 0
    for row, layer in zip(data["layers"], result.layers, strict=True):
        assert row["name"] == layer.name
        own = [field.name for field in dataclasses.fields(layer)]
        assert list(row)[: len(own)] == own


@pytest.mark.parametrize(
    ("call", "kind", "key"),
    [
        ("plan_qat", QATPlan, "layers"),
        ("plan_batch_norm", BatchNormPlan, "norms"),
        ("sensitivity", Sensitivities, "layers"),
    ],
)
def test_rows_are_a_tuple(results, call, kind, key):
    rows = results[call]
    assert type(rows) is kind
    assert isinstance(rows, tuple)
    assert rows == tuple(rows)
    assert results[call].to_dict() == {key: [plain(row) for row in rows]}
    assert [row["path"] for row in rows.to_dict()[key]] == [row.path for row in rows]


def test_some_values_of_the_data(results):
    data = {call: result.to_dict() for call, result in results.items()}
    assert data["verify"]["exact"] is results["verify"].exact
    assert data["explain"]["macs"] == results["explain"].macs > 0
    assert data["convert_qat_model"]["deploy"].endswith("net_deploy_model.onnx")
    assert data["plan_qat"]["layers"][0]["config"] == {"retrain_weight_config": {}}
    assert data["plan_batch_norm"]["norms"][0]["layer"] == "0"
    layer = results["sensitivity"][0]
    row = data["sensitivity"]["layers"][0]
    assert row["by_bits"] == {str(width): error for width, error in layer.by_bits.items()}
    assert row["by_range"]["0.25"] == layer.by_range[0.25]


def test_a_plan_of_norms_as_text(results):
    text = " ".join(str(results["plan_batch_norm"]).split())
    assert text.startswith("1 of 1 BatchNorms to be folded")
    assert str(bridge.plan_batch_norm(nn.Linear(1, 1))) == "0 of 0 BatchNorms to be folded"


def test_arrays_paths_and_numbers_that_are_not_finite():
    given = {"a": np.arange(3, dtype=np.int64), "p": Path("x") / "y", "s": np.float32(0.5)}
    assert plain(given) == {"a": [0, 1, 2], "p": "x/y", "s": 0.5}
    assert plain([np.array([-np.inf], np.float32), math.nan]) == [["-inf"], "nan"]
    assert plain(Difference(1, 2, math.inf)) == {"count": 1, "total": 2, "largest": "inf"}
    assert float(plain(-math.inf)) == -math.inf


def test_what_json_has_no_form_for_is_an_error():
    with pytest.raises(TypeError, match=r"^no JSON for set: "):
        plain({"a": {1, 2}})
