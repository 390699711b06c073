"""convert_qat_model: one QDQ model in, a fake-quant and a deploy model out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common as passes

from bridge.export import costs
from bridge.export.ceil_mode import with_stated_windows
from bridge.export.chains import Chain, Unchained
from bridge.export.destinations import check_source_is_kept, name_destinations
from bridge.export.errors import ConversionError
from bridge.export.fast import Fast, make_fast
from bridge.export.files import read_model, write_models
from bridge.export.float_operator import fit_transposed
from bridge.export.forms import TARGETS, Choice, Form, Target
from bridge.export.int8_weights import reason_for_bytes
from bridge.export.layer import QuantizedLayer
from bridge.export.opset import (
    IR_VERSION_OF_OPSET_21,
    OPSET_OF_16_BIT,
    of_sixteen_bits,
    with_opset,
)
from bridge.export.options import MAX_ULPS, check_options, check_path
from bridge.export.outputs import keep_outputs_unrounded
from bridge.export.product import QuantizedProduct, read_products
from bridge.export.qdq import check_symmetric
from bridge.export.reader import FloatOperator, Refusal, named_operators, read_layers
from bridge.export.record import record_text
from bridge.export.scribe import Scribe
from bridge.export.shapes import with_shapes
from bridge.export.summary import (
    Conversion,
    LayerSummary,
    summarize_elementwise,
    summarize_layer,
    summarize_product,
)
from bridge.export.training_mode import check_eval_mode
from bridge.export.tune import Tuning, tune_choices
from bridge.export.unsigned import count_from_zero

_IR_VERSION_OF_OPSET_20 = 9

_NO_LIMIT = 1 << 62

FormChooser = Callable[[QuantizedLayer, Chain | None], Form]
"""Picks the form of a layer, given what QLinearConv can compute from it."""


def convert_qat_model(
    model_file: str | PathLike[str],
    save_path: str | PathLike[str],
    record_file: str | PathLike[str] | None = None,
    *,
    target: str = "ort",
    fold_batch_norm: bool = False,
    max_ulps: int = MAX_ULPS,
    vnni: bool = False,
    symmetric: bool = False,
    opset: int | None = None,
    tune: bool | Tuning = False,
    mode: str = "exact",
    data: Iterable[Any] | None = None,
    follow_symlinks: bool = False,
) -> Conversion:
    """Write SAVE_PATH_fake_quant_model.onnx and SAVE_PATH_deploy_model.onnx from a QDQ model.

    Both compute y = float32(op(q_x - zero_point, q_w) + bias_int32) * (scale_x * scale_w) for
    every quantized layer, the first on integer-valued floats, the second in integers; of target
    "qdq" the second only states these numbers, and its runtime rounds as it does.

    Args:
        model_file: an ONNX file with QuantizeLinear/DequantizeLinear around Conv, ConvTranspose,
            Gemm or MatMul; opset 13 or later.
        save_path: prefix of the files; folders are created.
        record_file: where to write the quantization factors as text, if anywhere.
        target: "ort", "qdq" or "ascend".
        fold_batch_norm: fold the BatchNormalization behind a layer into one factor and one shift a
            channel, in both models alike; torch and the models then round it differently. The
            deploy model of "qdq" keeps the BatchNormalization for its runtime to fold.
        max_ulps: how far the factor scale_x * scale_w of a channel may be moved, in both models
            alike, where that lets a faster integer operator compute the same bits, for target
            "ort"; bridge.adopt moves the torch model's. 0 moves none; such layers take another
            form. At most 4,096.
        vnni: write weights as int8 beside uint8 activations, for target "ort": for processors with
            VNNI, which have faster kernels for them; older x86 ones saturate, so that results are
            wrong there. bridge.sums_int8_exactly() tells which this machine is. A layer with two
            weights of -128 in an output channel keeps uint8 ones, for ARM64's sake.
        symmetric: refuse activations with a zero point other than 0, for target "qdq": runtimes
            such as TensorRT take no others.
        opset: of the deploy model, 13 to 21, for target "qdq"; None keeps the file's.
        tune: time the forms that each layer can take on this machine, for target "ort", and take
            the fastest; all have the same bits. bridge.Tuning says how, and gives the sizes of
            inputs that the model leaves open.
        mode: "exact", or "fast", for target "ort": outputs of layers and sums of two activations
            that integer operators read are rounded to 8 bits too. Fake-quant and deploy then agree
            in every bit as ever, but compute something else than the torch model.
        data: for mode "fast" the batches that give what is rounded there its range: arrays or
            tensors, tuples of them for several inputs, or dicts by the names of the inputs.
        follow_symlinks: take weights beside the model that are symbolic links to files elsewhere,
            as in the cache of a model hub; for files that you trust.
    Returns:
        the paths, a summary of each layer, and what was left in float.
    Raises:
        TypeError: an argument is of a wrong kind.
        FileNotFoundError: there is no model_file.
        ValueError: the target or the mode is unknown or would ignore an option, a number is out of
            range, save_path or record_file names no file or one that is read or written already,
            data is missing, does not fit the model or is given without need, or forms are to be
            timed and the size of an input is not known.
        ConversionError: the model cannot be converted or was exported in training mode; names the
            node or layer.
        OSError: a file cannot be written.
    The models and the record are written together or, whatever fails, not at all.
    Source: docs/semantics.md, 6 to 8.
    """
    check_options(
        target=target,
        mode=mode,
        data=data,
        fold_batch_norm=fold_batch_norm,
        max_ulps=max_ulps,
        vnni=vnni,
        symmetric=symmetric,
        opset=opset,
        tune=tune,
        follow_symlinks=follow_symlinks,
    )
    check_path("model_file", model_file)
    paths = name_destinations(save_path, record_file)
    source = read_model(Path(model_file), follow_symlinks=follow_symlinks)
    check_source_is_kept(Path(model_file), source, paths)
    check_eval_mode(source, Path(model_file))
    fake, deploy, layers, floats, record = convert_model(
        source,
        target=target,
        fold_batch_norm=fold_batch_norm,
        max_ulps=max_ulps,
        vnni=vnni,
        tune=Tuning() if tune is True else tune or None,
        data=data,
    )
    if not layers:
        raise ConversionError(_nothing_to_do(Path(model_file), floats))
    if symmetric:
        check_symmetric(deploy.graph)
    if opset is not None:
        deploy = _for_opset(deploy, opset, layers)
    models = {paths.fake_quant: fake, paths.deploy: deploy}
    write_models(models, {} if paths.record is None else {paths.record: record})
    return Conversion(
        source=Path(model_file),
        fake_quant=paths.fake_quant,
        deploy=paths.deploy,
        target=target,
        mode=mode,
        layers=tuple(layers),
        left_in_float=tuple(floats),
        follow_symlinks=follow_symlinks,
    )


def convert_model(
    source: ir.Model,
    *,
    target: str = "ort",
    fold_batch_norm: bool = False,
    max_ulps: int = MAX_ULPS,
    vnni: bool = False,
    choose: FormChooser | None = None,
    tune: Tuning | None = None,
    data: Iterable[Any] | None = None,
) -> tuple[ir.Model, ir.Model, list[LayerSummary], list[FloatOperator], str]:
    """Convert a model in memory.

    Args:
        source: as files.read_model returns it; it is left as it is.
        target: a key of TARGETS.
        fold_batch_norm: as convert_qat_model's.
        max_ulps: as convert_qat_model's.
        vnni: as convert_qat_model's.
        choose: picks the forms instead of the target's own rule.
        tune: how to time forms, None to believe the target's rule.
        data: as convert_qat_model's; with it, the mode is "fast".
    Returns:
        the fake-quant model, the deploy model, the layers and what else computes with codes, the
        operators left in float, and the record of the quantization factors.
    Raises:
        ValueError: data does not fit the model.
        ConversionError: the model cannot be converted.
    """
    source = with_shapes(with_stated_windows(of_sixteen_bits(source)))
    how = TARGETS[target]
    folded = fold_batch_norm and how.folds_batch_norm
    fast = None if data is None else _make_fast(source, data, fold_batch_norm=folded)
    fake, deploy = (source.clone(), source.clone()) if fast is None else (fast.fake, fast.deploy)
    how.prepare(deploy.graph)
    layers, products, floats = read_quantized(
        deploy.graph, fold_batch_norm=folded, refusal=how.refusal
    )
    how.check(layers)
    record = record_text(layers)
    if fast is None and not layers and not products:
        return fake, deploy, [], floats, record  # nothing to write
    names = (name for name, _ in named_operators(deploy.graph))
    order = {name: i for i, name in enumerate(names if fast is None else fast.names)}
    summaries = [] if fast is None else [summarize_elementwise(e) for e in fast.elementwise]
    found = how.chains(layers, max_ulps)
    chains = {name: chain for name, chain in found.items() if isinstance(chain, Chain)}
    choices = _choose(layers, chains, how, choose)
    if tune is not None:
        sized = None if fast is None else fast.rounded
        choices = tune_choices(deploy, layers, chains, choices, tuning=tune, vnni=vnni, sized=sized)
    if vnni:
        choices = {layer.name: _with_bytes(choices[layer.name], layer) for layer in layers}
    chains = {n: chain for n, chain in chains.items() if choices[n].form.name in costs.CHAINED}
    proofs = {n: one for n, one in found.items() if n in chains or isinstance(one, Unchained)}
    _write_fake(fake.graph, how, chains, fold_batch_norm=fold_batch_norm)
    # Backwards: what reads a chain's codes is written before the chain takes their place.
    for product in products:
        how.product(Scribe(product), product)
        summaries.append(summarize_product(product, how.product_form, how.product_arithmetic))
    for layer in reversed(layers):
        choice = choices[layer.name]
        summaries.append(summarize_layer(layer, choice, proofs.get(layer.name)))
        choice.form.write(Scribe(layer, vnni=vnni), layer)
    _finish(fake, deploy, how)
    summaries.sort(key=lambda summary: order[summary.name])
    if fast is not None:
        summaries = [replace(one, rounding=fast.roundings.get(one.name)) for one in summaries]
    return fake, deploy, summaries, floats, record


def _choose(
    layers: Sequence[QuantizedLayer],
    chains: Mapping[str, Chain],
    how: Target,
    choose: FormChooser | None,
) -> dict[str, Choice]:
    if choose is None:
        return {layer.name: how.choose(layer, chains.get(layer.name)) for layer in layers}
    forms = {layer.name: choose(layer, chains.get(layer.name)) for layer in layers}
    return {name: Choice(form, "given by the caller") for name, form in forms.items()}


def _with_bytes(choice: Choice, layer: QuantizedLayer) -> Choice:
    return replace(choice, reason=choice.reason + reason_for_bytes(layer, choice.form.name))


def _finish(fake: ir.Model, deploy: ir.Model, how: Target) -> None:
    """Write what is left beside the layers, and tidy up."""
    for model in (fake, deploy):
        passes.RemoveUnusedNodesPass()(model)
        _lower_ir_version(model)
    how.store_fake(fake.graph)
    how.store(deploy.graph)
    for model in (fake, deploy):
        fit_transposed(model.graph)
        _remove_unused(model)
        # Layers that share a weight share its initializer.
        passes.DeduplicateHashedInitializersPass(size_limit=_NO_LIMIT)(model)
    how.finish_fake(fake.graph)
    how.finish(deploy.graph)
    for model in (fake, deploy):
        _remove_unused(model)
        keep_outputs_unrounded(model.graph)
        # A value of the file may have the name of a written one.
        passes.NameFixPass()(model)
        _drop_traces(model.graph)


def _remove_unused(model: ir.Model) -> None:
    """Remove what nothing reads, and move the initializers of inner graphs to the main one.

    No pass looks for unused initializers, or for equal ones, in a branch or a loop's body.
    """
    passes.LiftSubgraphInitializersToMainGraphPass()(model)
    passes.RemoveUnusedNodesPass()(model)


def _make_fast(source: ir.Model, data: Iterable[Any], *, fold_batch_norm: bool) -> Fast:
    model = source.clone()
    count_from_zero(model.graph)
    layers, products, _ = read_quantized(model.graph, fold_batch_norm=fold_batch_norm)
    return make_fast(model, [*layers, *products], data)


def _drop_traces(graph: ir.Graph) -> None:
    """Drop what the exporter noted on nodes: stack traces, with the paths of the user's sources."""
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for key in [key for key in node.metadata_props if key.startswith("pkg.")]:
            del node.metadata_props[key]


def _write_fake(
    graph: ir.Graph, how: Target, chains: Mapping[str, Chain], *, fold_batch_norm: bool
) -> None:
    layers, products, _ = read_quantized(
        graph, fold_batch_norm=fold_batch_norm, refusal=how.refusal
    )
    for layer in layers:
        chain = chains.get(layer.name)
        same = layer if chain is None else replace(layer, moved=chain.rescale)
        how.fake(Scribe(layer), same)
    for product in products:
        how.fake_product(Scribe(product), product)


def read_quantized(
    graph: ir.Graph, *, fold_batch_norm: bool = False, refusal: Refusal = lambda _: None
) -> tuple[list[QuantizedLayer], list[QuantizedProduct], list[FloatOperator]]:
    """Find everything quantized in a graph.

    Args:
        graph: the main graph of a QDQ model; those inside it are read too.
        fold_batch_norm: as convert_qat_model's.
        refusal: as read_layers'.
    Returns:
        weighted layers, products of two activations, and the operators that stay float.
    Raises:
        ConversionError: something cannot be converted.
    """
    layers, floats = read_layers(graph, fold_batch_norm=fold_batch_norm, refusal=refusal)
    products, reasons = read_products(graph, [layer.node for layer in layers])
    names = {product.name for product in products}
    left = [
        replace(operator, reason=reasons.get(operator.name, operator.reason))
        for operator in floats
        if operator.name not in names
    ]
    return layers, products, left


def _for_opset(model: ir.Model, opset: int, layers: list[LayerSummary]) -> ir.Model:
    wide = [layer.name for layer in layers if layer.bits > 8]
    if wide and opset < OPSET_OF_16_BIT:
        raise ConversionError(
            f"layer {wide[0]!r}: 16-bit activations need opset {OPSET_OF_16_BIT}, got {opset}"
        )
    written = with_opset(model, opset)
    written.ir_version = max(written.ir_version or 0, IR_VERSION_OF_OPSET_21)
    _lower_ir_version(written)
    return written


def _lower_ir_version(model: ir.Model) -> None:
    """Lower a version that says nothing: older ONNX Runtimes refuse a file by it alone."""
    if model.opset_imports[""] < OPSET_OF_16_BIT:
        model.ir_version = min(model.ir_version or 0, _IR_VERSION_OF_OPSET_20)


def _nothing_to_do(path: Path, floats: list[FloatOperator]) -> str:
    found = "; ".join(f"{f.op} {f.name!r}: {f.reason}" for f in floats[:5])
    return f"{path} has no quantized layer" + (f" ({found})" if found else "")
