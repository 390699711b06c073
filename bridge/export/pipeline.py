"""Converts a QDQ model in memory to the fake-quant and the deploy model.

    target.before -> read -> (mode "fast": add quantizers) -> copy -> write both -> finish both

The model is read once, and the records are written into both copies.
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
"""Chooses the form of a layer; the chain is given if QLinearConv can compute the layer."""


class Converted(NamedTuple):
    """A converted model, in memory."""

    fake: ir.Model
    """The fake-quant model."""
    deploy: ir.Model
    """The deploy model."""
    layers: list[LayerSummary]
    """Summaries of the quantized operators, in topological order."""
    floats: list[FloatOperator]
    """Operators that stay in float, with the reasons."""
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
        source: from normalize.model.read_model; it is not changed.
        target: as in convert_qat_model.
        fold_batch_norm: as in convert_qat_model.
        choose: chooses the form of each layer in place of the target.
        options: as in convert_qat_model.
    Returns:
        both models, and the summaries.
    Raises:
        TypeError: an option has a wrong type.
        ValueError: an option is out of range or belongs to another target, or data does not fit
            the model.
        ConversionError: the model cannot be converted.
    """
    target = find_target(target, options)
    deploy = with_shapes(without_ceil_mode(with_16_bit_opset(source)))
    run_passes(deploy, target.before)
    found = read_quantized(deploy.graph, fold_batch_norm=fold_batch_norm, refusal=target.refusal)
    target.check(found.layers)
    roundings: Roundings | None = None
    sized, data = None, target.rounding_data()
    if data is not None:
        roundings = round_values(deploy, found, data)
        found = read_inputs_again(found)
    record = record_text(found.layers)
    fake, copy = copy_model(deploy)
    if roundings is not None:
        sized = deploy.clone()
        roundings.write(deploy, copy)
    elif not found.layers and not found.products:
        return Converted(fake, deploy, [], found.floats, record)  # nothing is quantized
    copied = found.on(copy)
    found = found if target.folds_batch_norm else without_batch_norm(found)
    run_passes(deploy, target.before_deploy)
    forms = _choose_forms(deploy, target, found, choose, sized)
    names = [name for name, _ in named_operators(deploy.graph)]
    _write_fake(target, copied, forms.chains)
    summaries = _write_deploy(target, found, forms)
    _finish(fake, target.fake_operands, target.fake_last)
    _finish(deploy, target.deploy_operands, target.deploy_last)
    if roundings is not None:
        names = list(roundings.names)
        summaries += [summarize_elementwise(one) for one in roundings.elementwise]
        summaries = [replace(one, rounding=roundings.of.get(one.name)) for one in summaries]
    order = {name: i for i, name in enumerate(names)}
    summaries.sort(key=lambda summary: order[summary.name])
    deploy = target.finish(deploy, [*found.layers, *found.products])
    return Converted(fake, deploy, summaries, found.floats, record)


@dataclass(frozen=True, slots=True)
class _Forms:
    """The forms of all layers, by the layer's name.

    Args:
        choices: form and reason.
        chains: of the layers that QLinearConv computes.
        proofs: these, and the reasons why other convolutions have no chain.
    """

    choices: Mapping[str, Choice]
    chains: Mapping[str, Chain]
    proofs: Mapping[str, Chain | Unchained]


def _choose_forms(
    deploy: ir.Model,
    target: Target,
    found: Quantized,
    choose: FormChooser | None,
    sized: ir.Model | None,
) -> _Forms:
    layers, every = found.layers, target.find_chains(found.layers)
    chains = {name: chain for name, chain in every.items() if isinstance(chain, Chain)}
    choices: Mapping[str, Choice] = {
        layer.name: (
            target.choose(layer, chains.get(layer.name))
            if choose is None
            else Choice(choose(layer, chains.get(layer.name)), "given by the caller")
        )
        for layer in layers
    }
    choices = target.refine(choices, model=deploy, layers=layers, chains=chains, sized=sized)
    used = {n: chain for n, chain in chains.items() if choices[n].form.name in costs.CHAINED}
    proofs = {n: one for n, one in every.items() if n in used or isinstance(one, Unchained)}
    return _Forms(choices, used, proofs)


def _write_fake(target: Target, found: Quantized, chains: Mapping[str, Chain]) -> None:
    for layer in found.layers:
        chain = chains.get(layer.name)
        same = layer if chain is None else replace(layer, adjusted_rescale=chain.rescale)
        target.write_fake(Builder(layer), same)
    for product in found.products:
        target.write_fake_product(Builder(product), product)


def _write_deploy(target: Target, found: Quantized, forms: _Forms) -> list[LayerSummary]:
    """Write layers and products into the deploy model, and summarize them.

    In reverse order: the consumers of a chain's codes are written before the chain replaces them.
    """
    summaries = []
    for product in found.products:
        target.write_product(target.builder(product), product)
        summaries.append(summarize_product(product, target.product_form, target.product_arithmetic))
    for layer in reversed(found.layers):
        choice = forms.choices[layer.name]
        summaries.append(summarize_layer(layer, choice, forms.proofs.get(layer.name)))
        choice.form.write(target.builder(layer), layer)
    return summaries


def _finish(model: ir.Model, operands: Passes, last: Passes) -> None:
    """Run the passes on what stays in float, and the clean-up passes."""
    lower_ir_version(model)
    run_passes(model, (passes.RemoveUnusedNodesPass(), *operands, *_CLEAN_UP, *last, *_FINAL))


def _drop_exporter_metadata(graph: ir.Graph) -> None:
    """Drop the exporter's metadata of nodes: stack traces, with paths of the user's sources."""
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for key in [key for key in node.metadata_props if key.startswith("pkg.")]:
            del node.metadata_props[key]


# Initializers of subgraphs are moved to the main graph, as no pass removes unused or equal ones in
# subgraphs.
_REMOVE_UNUSED = (passes.LiftSubgraphInitializersToMainGraphPass(), passes.RemoveUnusedNodesPass())

_CLEAN_UP = (
    GraphPass(fit_output_padding),
    *_REMOVE_UNUSED,
    # Layers with tied weights share an initializer.
    passes.DeduplicateHashedInitializersPass(size_limit=_NO_LIMIT),
)

_FINAL = (
    *_REMOVE_UNUSED,
    GraphPass(keep_outputs_unrounded),
    passes.NameFixPass(),  # a value of the file may have the same name as a written one
    GraphPass(_drop_exporter_metadata),
)
