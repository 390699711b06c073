"""One QDQ model in memory -> the fake-quant and the deploy model.

    target.before -> read -> (mode "fast": round) -> copy -> write both -> finish both

The model is read once; what was read is written into both copies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import onnx_ir as ir
from onnx_ir.passes import common as passes

from bridge.export.fast.models import Roundings, round_values
from bridge.export.graph.builder import Builder
from bridge.export.graph.copies import copy_model
from bridge.export.graph.graph_pass import GraphPass, run_passes
from bridge.export.graph.opset import lower_ir_version, with_16_bit_opset
from bridge.export.graph.shapes import with_shapes
from bridge.export.normalize.ceil_mode import without_ceil_mode
from bridge.export.passes.output_padding import fit_output_padding
from bridge.export.passes.outputs import keep_outputs_unrounded
from bridge.export.plan import costs
from bridge.export.plan.forms import Choice, Form
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.layers import FloatOperator, named_operators
from bridge.export.read.quantized import (
    Quantized,
    read_inputs_again,
    read_quantized,
    without_batch_norm,
)
from bridge.export.requantization.chains import Chain, Unchained
from bridge.export.result.conversion import LayerSummary
from bridge.export.result.record import record_text
from bridge.export.result.summary import summarize_elementwise, summarize_layer, summarize_product
from bridge.export.targets.table import find_target
from bridge.export.targets.target import Passes, Target

_NO_LIMIT = 1 << 62

FormChooser = Callable[[QuantizedLayer, Chain | None], Form]
"""Picks the form of a layer, given what QLinearConv can compute from it."""


class Converted(NamedTuple):
    """A conversion in memory."""

    fake: ir.Model
    """The fake-quant model."""
    deploy: ir.Model
    """The deploy model."""
    layers: list[LayerSummary]
    """What was quantized, in topological order."""
    floats: list[FloatOperator]
    """Operators left in float, and why."""
    record: str
    """The quantization factors as text."""


def convert_model(
    source: ir.Model,
    *,
    target: Target | str = "ort",
    fold_batch_norm: bool = False,
    choose: FormChooser | None = None,
    **options: Any,
) -> Converted:
    """Convert a model in memory.

    Args:
        source: as read_model returns it; it is left as it is.
        target: as convert_qat_model's.
        fold_batch_norm: as convert_qat_model's.
        choose: picks the forms instead of the target.
        options: as convert_qat_model's.
    Returns:
        both models, and what was done.
    Raises:
        TypeError: an option is of a wrong kind.
        ValueError: an option is out of range or another target's, or data does not fit the model.
        ConversionError: the model cannot be converted.
    """
    how = find_target(target, options)
    deploy = with_shapes(without_ceil_mode(with_16_bit_opset(source)))
    run_passes(deploy, how.before)
    found = read_quantized(deploy.graph, fold_batch_norm=fold_batch_norm, refusal=how.refusal)
    how.check(found.layers)
    roundings: Roundings | None = None
    sized, data = None, how.rounding_data()
    if data is not None:
        roundings = round_values(deploy, found, data)
        found = read_inputs_again(found, fold_batch_norm=fold_batch_norm)
    record = record_text(found.layers)
    fake, copy = copy_model(deploy)
    if roundings is not None:
        sized, _ = copy_model(deploy)
        roundings.write(deploy, copy)
    elif not found.layers and not found.products:
        return Converted(fake, deploy, [], found.floats, record)  # nothing to write
    copied = found.on(copy)
    found = found if how.folds_batch_norm else without_batch_norm(found)
    run_passes(deploy, how.before_deploy)
    forms = _choose_forms(deploy, how, found, choose, sized)
    names = [name for name, _ in named_operators(deploy.graph)]
    _write_fake(how, copied, forms.chains)
    summaries = _write_deploy(how, found, forms)
    _finish(fake, how.fake_operands, how.fake_last)
    _finish(deploy, how.deploy_operands, how.deploy_last)
    if roundings is not None:
        names = list(roundings.names)
        summaries += [summarize_elementwise(one) for one in roundings.elementwise]
        summaries = [replace(one, rounding=roundings.of.get(one.name)) for one in summaries]
    summaries.sort(key=lambda summary: names.index(summary.name))
    deploy = how.finish(deploy, [*found.layers, *found.products])
    return Converted(fake, deploy, summaries, found.floats, record)


@dataclass(frozen=True, slots=True)
class _Forms:
    """What each layer becomes.

    Args:
        choices: the forms, by the layer's name.
        chains: of the layers that QLinearConv computes.
        proofs: these, and why others are none.
    """

    choices: Mapping[str, Choice]
    chains: Mapping[str, Chain]
    proofs: Mapping[str, Chain | Unchained]


def _choose_forms(
    deploy: ir.Model,
    how: Target,
    found: Quantized,
    choose: FormChooser | None,
    sized: ir.Model | None,
) -> _Forms:
    layers, every = found.layers, how.find_chains(found.layers)
    chains = {name: chain for name, chain in every.items() if isinstance(chain, Chain)}
    choices: Mapping[str, Choice] = {
        layer.name: (
            how.choose(layer, chains.get(layer.name))
            if choose is None
            else Choice(choose(layer, chains.get(layer.name)), "given by the caller")
        )
        for layer in layers
    }
    choices = how.refine(choices, model=deploy, layers=layers, chains=chains, sized=sized)
    used = {n: chain for n, chain in chains.items() if choices[n].form.name in costs.CHAINED}
    proofs = {n: one for n, one in every.items() if n in used or isinstance(one, Unchained)}
    return _Forms(choices, used, proofs)


def _write_fake(how: Target, found: Quantized, chains: Mapping[str, Chain]) -> None:
    for layer in found.layers:
        chain = chains.get(layer.name)
        same = layer if chain is None else replace(layer, adjusted_rescale=chain.rescale)
        how.write_fake(Builder(layer), same)
    for product in found.products:
        how.write_fake_product(Builder(product), product)


def _write_deploy(how: Target, found: Quantized, forms: _Forms) -> list[LayerSummary]:
    """Write layers and products, and say what became of them.

    Backwards: what reads the codes of a chain is written before the chain replaces them.
    """
    summaries = []
    for product in found.products:
        how.write_product(how.builder(product), product)
        summaries.append(summarize_product(product, how.product_form))
    for layer in reversed(found.layers):
        choice = forms.choices[layer.name]
        summaries.append(summarize_layer(layer, choice, forms.proofs.get(layer.name)))
        choice.form.write(how.builder(layer), layer)
    return summaries


def _finish(model: ir.Model, operands: Passes, last: Passes) -> None:
    """Write what is left beside the layers, and tidy up."""
    lower_ir_version(model)
    run_passes(model, (passes.RemoveUnusedNodesPass(), *operands, *_TIDY, *last, *_FINAL))


def _drop_traces(graph: ir.Graph) -> None:
    """Drop what the exporter noted on nodes: stack traces, with the paths of the user's sources."""
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for key in [key for key in node.metadata_props if key.startswith("pkg.")]:
            del node.metadata_props[key]


# Initializers of inner graphs are moved to the main one, as no pass looks for unused or equal ones
# in a branch or a loop's body.
_UNUSED = (passes.LiftSubgraphInitializersToMainGraphPass(), passes.RemoveUnusedNodesPass())

_TIDY = (
    GraphPass(fit_output_padding),
    *_UNUSED,
    # Layers that share a weight share its initializer.
    passes.DeduplicateHashedInitializersPass(size_limit=_NO_LIMIT),
)

_FINAL = (
    *_UNUSED,
    GraphPass(keep_outputs_unrounded),
    passes.NameFixPass(),  # a value of the file may have the name of a written one
    GraphPass(_drop_traces),
)
