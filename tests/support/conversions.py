"""Converting models, and comparing every bit of what torch and both files compute."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from bridge import convert_qat_model
from bridge.export.pipeline import convert_model
from bridge.export.plan import costs
from bridge.export.plan.forms import Choice, Estimates, Form, choose_ort_form, ort_candidates
from bridge.export.read.layer import QuantizedLayer
from bridge.export.requantization.chains import Chain
from bridge.export.result.conversion import Conversion, LayerSummary
from bridge.export.running.runtime import ASCEND_OPERATORS
from bridge.export.targets.ascend.twin import twin_of
from bridge.export.targets.ort import Ort
from tests.support.bits import assert_same_bits
from tests.support.graphs.text import save
from tests.support.runtime import LEVELS, outputs_at, run_at

Array = np.ndarray


def forced(name: str) -> Callable[[QuantizedLayer, Chain | None], Form]:
    """Choose one form for every layer that has it, the usual ones for the others."""

    def choose(layer: QuantizedLayer, chain: Chain | None) -> Form:
        candidates = {form.name: form for form in ort_candidates(layer, chain)}
        return candidates.get(name) or choose_ort_form(layer, chain).form

    return choose


def assert_fake_equals_deploy(
    source: ir.Model, x: Array, *, form: str | None = None, data: list[Array] | None = None
) -> tuple[Array, list[LayerSummary]]:
    """Convert for ONNX Runtime and compare at every level; return the values and the layers.

    With data the mode is "fast".
    """
    choose = None if form is None else forced(form)
    options = {} if data is None else {"mode": "fast", "data": data}
    fake, deploy, layers, floats, _ = convert_model(source, choose=choose, **options)
    assert not floats
    models = [ir.to_proto(model).SerializeToString() for model in (fake, deploy)]
    results = {level: run_at(models[0], x, level) for level in LEVELS}
    expected = results["DISABLE_ALL"]
    for level, result in results.items():
        assert_same_bits(result, expected, f"fake-quant at {level}")
        assert_same_bits(run_at(models[1], x, level), expected, f"deploy at {level}")
    return expected, layers


def assert_fake_equals_ascend(source: ir.Model, x: Array) -> None:
    """Convert for Ascend; compare the dialect, evaluated, with fake-quant and its runnable twin."""
    fake, deploy, _, floats, _ = convert_model(source, target="ascend")
    assert not floats
    evaluator = ReferenceEvaluator(ir.to_proto(deploy), new_ops=ASCEND_OPERATORS)
    expected = evaluator.run(None, {"x": x})[0]
    for name, model in {"fake-quant": fake, "twin": twin_of(deploy)}.items():
        proto = ir.to_proto(model).SerializeToString()
        for level in LEVELS:
            assert_same_bits(run_at(proto, x, level), expected, f"{name} at {level}")


def converted_right(
    proto: onnx.ModelProto, folder: Path, x: Array, *, error: float, **options: Any
) -> Conversion:
    """Convert a model, and compare what all three compute.

    Fake-quant and deploy have the same bits at every level, and are within an error of the source
    as ONNX Runtime computes it at level off, in every output.
    """
    source = save(proto, folder)
    done = convert_qat_model(source, folder / "net", **options)
    wanted = outputs_at(source.read_bytes(), x, "DISABLE_ALL")
    first = outputs_at(done.fake_quant.read_bytes(), x, "DISABLE_ALL")
    for ours, theirs in zip(first, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(np.float64) - theirs).max(initial=0) <= error
        assert len(np.unique(ours)) > 3, "an output that hardly depends on the input shows nothing"
    for path in (done.fake_quant, done.deploy):
        for level in LEVELS:
            for ours, same in zip(outputs_at(path.read_bytes(), x, level), first, strict=True):
                assert ours.tobytes() == same.tobytes(), (path.name, level)
    return done


def convert(
    proto: onnx.ModelProto, folder: Path, *, name: str = "net", **options: Any
) -> Conversion:
    """Write a model to a folder, and convert it there."""
    return convert_qat_model(save(proto, folder), folder / name, **options)


def integers_first(
    layer: QuantizedLayer, forms: Sequence[str], *, chained: bool
) -> dict[str, float]:
    """Costs by which QLinearConv is taken where it is proven equal, and ConvInteger elsewhere."""
    order = (*costs.FORMS, costs.QLINEAR_2D)
    return {form: 1.0 + order.index(form) for form in forms} | {costs.FLOAT32: 6.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated(Ort):
    """Target "ort" by other costs than the measured ones.

    Args:
        estimates: the costs.
    """

    estimates: Estimates = integers_first

    def choose(self, layer: QuantizedLayer, chain: Chain | None) -> Choice:
        """Choose the form with the lowest of the given costs."""
        return choose_ort_form(layer, chain, estimates=self.estimates)


def convert_integers_first(source: Path, save_path: Path, **options: Any) -> Conversion:
    """Call convert_qat_model so that no measured cost decides which forms layers take.

    A target that is given has costs of its own, or knows none.
    """
    if "target" in options:
        return convert_qat_model(source, save_path, **options)
    own = {key: options.pop(key) for key in ("fold_batch_norm", "record_file") if key in options}
    return convert_qat_model(source, save_path, target=Estimated(**options), **own)


def convert_chain(proto: onnx.ModelProto, folder: Path, **options: Any) -> Conversion:
    """Write a model to a folder, and convert it there with integers first."""
    return convert_integers_first(save(proto, folder), folder / "net", **options)
