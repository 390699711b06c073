"""A sample of the layers through torch's own exporters; they take seconds, hence so few."""

from collections import OrderedDict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bridge import Conv2dQAT, Conversion, convert_qat_model
from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.modules import (
    conv2d_cases,
    conv3d_cases,
    conv_transpose2d_cases,
    linear_cases,
)
from tests.support.bits import assert_same_bits
from tests.support.exporters import EXPORTERS, dynamic, export_network
from tests.support.modules.case import Case
from tests.support.runtime import LEVELS, run_at

_CASES = {
    "conv2d": conv2d_cases,
    "conv3d": conv3d_cases,
    "conv_transpose2d": conv_transpose2d_cases,
    "linear": linear_cases,
}


class Block(nn.Module):
    """Holds a layer, and what its forward takes beside x."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.layer = case.layer
        self.more = () if case.output_size is None else (case.output_size,)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, *self.more)


@pytest.mark.parametrize("operator", _CASES)
@settings(
    share_of_examples(1 / 50),
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data(), bits=st.sampled_from([8, 8, 16]))
def test_exported_layers_are_exact_and_named(operator: str, data: Any, bits: int) -> None:
    """Through both exporters: y_torch = y_fake = y_deploy for any batch; the same layers, named."""
    case = data.draw(_CASES[operator](bits=bits))
    model = nn.Sequential(OrderedDict(stages=nn.Sequential(Block(case)))).eval()
    batch = torch.cat([case.x, case.x.flip(0), case.x])
    expected = model(batch).detach().numpy()
    summaries = []
    with TemporaryDirectory() as folder:
        for exporter, dynamo in EXPORTERS.items():
            path = Path(folder, f"{exporter}.onnx")
            export_network(model, batch[:2], path, dynamo=dynamo, **dynamic(exporter))
            conversion = convert_qat_model(path, Path(folder, exporter))
            _assert_exact(conversion, batch, expected)
            summaries.append(conversion.layers)
    (layer,) = summaries[0]
    assert layer.name == "stages.0.layer"
    assert [_facts(layer) for layer in summaries[1]] == [_facts(layer)]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_layers_with_equal_parameters_keep_their_names(exporter: str, tmp_path: Path) -> None:
    """The TorchScript exporter merges equal initializers; both layers are still told apart."""
    layers = [Conv2dQAT(2, 2, 1, config={"retrain_data_config": {"clip_max": 1.0}}) for _ in "ab"]
    layers[1].load_state_dict(layers[0].state_dict())
    model = nn.Sequential(OrderedDict(zip("ab", layers, strict=True))).eval()
    path = export_network(
        model, torch.ones(1, 2, 3, 3), tmp_path / "i.onnx", dynamo=EXPORTERS[exporter]
    )
    assert [layer.name for layer in convert_qat_model(path, tmp_path / "m").layers] == ["a", "b"]


def _assert_exact(conversion: Conversion, x: Tensor, expected: Any) -> None:
    for path in (conversion.fake_quant, conversion.deploy):
        model = path.read_bytes()
        for level in LEVELS:
            assert_same_bits(run_at(model, x.numpy(), level), expected, f"{path.name} at {level}")


def _facts(layer: Any) -> tuple[Any, ...]:
    """Return what a summary says, save for the operator: exporters differ in Gemm or MatMul."""
    names = ("name", "form", "bits", "scale_x", "zero_point_x", "channels", "bound", "proven")
    return tuple(getattr(layer, name) for name in names)
