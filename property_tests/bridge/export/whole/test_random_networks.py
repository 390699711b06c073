"""Random networks: fake-quant and deploy agree in every bit, whatever lies between the layers."""

from typing import Any

import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bridge.export.graph.errors import ConversionError
from bridge.export.pipeline import convert_model
from bridge.export.plan.costs import FORMS, QLINEAR_2D
from bridge.export.targets.ascend.twin import twin_of
from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.networks import Network, networks
from tests.support.bits import assert_same_bits
from tests.support.conversions import forced
from tests.support.runtime import LEVELS, outputs_at

_SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]


@pytest.mark.parametrize("mode", ["exact", "fast", "ascend"])
@settings(share_of_examples(1 / 5), suppress_health_check=_SLOW)
@given(network=networks(), form=st.sampled_from([None, *FORMS, QLINEAR_2D]))
def test_random_networks_have_the_same_bits_in_both_files(
    mode: str, network: Network, form: str | None
) -> None:
    """fake-quant = deploy in every output, at every optimization level, in any form."""
    options: dict[str, Any] = {
        "exact": {} if form is None else {"choose": forced(form)},
        "fast": {"mode": "fast", "data": [network.x]},
        "ascend": {"target": "ascend"},
    }[mode]
    assume(_runs(network))
    source = ir.serde.deserialize_model(network.model)
    try:
        fake, deploy, layers, _, _ = convert_model(source, **options)
    except ConversionError:
        assume(False)  # refused by name; what is refused is tested where it is
    assume(layers)
    models = fake, twin_of(deploy) if mode == "ascend" else deploy
    written = [ir.to_proto(model).SerializeToString() for model in models]
    for level in LEVELS:
        expected, actual = (outputs_at(model, network.x, level) for model in written)
        for i, (wanted, got) in enumerate(zip(expected, actual, strict=True)):
            assert_same_bits(got, wanted, f"output {i} of {mode} at {level}")


def _runs(network: Network) -> bool:
    """Whether ONNX Runtime agrees with the shapes that were inferred; ceil_mode is read twice."""
    try:
        outputs_at(network.model.SerializeToString(), network.x, "DISABLE_ALL")
    except Exception:  # its own classes have no common base
        return False
    return True
