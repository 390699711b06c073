"""convert_qat_model: one QDQ model in, a fake-quant and a deploy model out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import version_converter

from bridge.export import ascend
from bridge.export.errors import ConversionError
from bridge.export.files import read_model, write_models
from bridge.export.float_form import write_fake, write_float_deploy
from bridge.export.integer_form import write_integer
from bridge.export.product import (
    QuantizedProduct,
    read_products,
    write_ascend_fake_product,
    write_ascend_product,
    write_fake_product,
    write_integer_product,
)
from bridge.export.reader import (
    FloatOperator,
    QuantizedLayer,
    named_operators,
    read_layers,
)
from bridge.export.record import record_text, write_record
from bridge.export.scribe import Scribe
from bridge.export.stored_weights import write_stored_weights

_OPSET_OF_16_BIT = 21
_IR_VERSION_OF_OPSET_21 = 10

_NO_LIMIT = 1 << 62

Writer = Callable[[Scribe, QuantizedLayer], None]
ProductWriter = Callable[[Scribe, QuantizedProduct], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSummary:
    """What became of one quantized layer.

    Args:
        name: module path.
        op: operator in the inter model.
        form: what it became in the deploy model.
        bits: width of the input's integers.
        scale_x: scale of the input, the first one of a product of two activations.
        zero_point_x: zero point of that input, signed.
        channels: weight scales, 1 for one a tensor; 0 where there is no weight.
        bound: largest |accumulator| any input can cause, bias included; None if not known.
        proven: bound < 2^24, so float32 sums are exact for every input.
    """

    name: str
    op: str
    form: str
    bits: int
    scale_x: float
    zero_point_x: int
    channels: int
    bound: int | None
    proven: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """The outcome of a conversion.

    Args:
        fake_quant: path of the fake-quant model.
        deploy: path of the deploy model.
        target: what the deploy model is for.
        layers: the quantized layers, in topological order.
        left_in_float: operators that could have been layers, and why they are not.
    """

    fake_quant: Path
    deploy: Path
    target: str
    layers: tuple[LayerSummary, ...]
    left_in_float: tuple[FloatOperator, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write a layer in a deploy model."""

    name: str
    write: Writer


@dataclass(frozen=True, slots=True)
class Target:
    """How models are written for a target.

    Args:
        fake: writes a layer of the fake-quant model.
        choose: picks the form of a layer of the deploy model.
        fake_product: writes a product of two activations of the fake-quant model.
        product: writes one of the deploy model.
        keeps_integers: whether constants of operators left in float stay integers in the file.
        check: refuses layers that the target cannot hold.
        finish: last changes to the deploy model.
    """

    fake: Writer
    choose: Callable[[QuantizedLayer], Form]
    fake_product: ProductWriter
    product: ProductWriter
    keeps_integers: bool
    check: Callable[[Sequence[QuantizedLayer]], None]
    finish: Callable[[ir.Graph], None]


_INTEGER_CONV = Form("ConvInteger", write_integer)
_INTEGER_MATMUL = Form("MatMulInteger", write_integer)
_FLOAT = Form("integer-valued float", write_float_deploy)
_ASCEND = Form("AscendQuant/AscendDequant", ascend.write_ascend)


def choose_ort_form(layer: QuantizedLayer) -> Form:
    """Pick the form of a layer for ONNX Runtime on a CPU; every form here is exact.

    Args:
        layer: as read.
    Returns:
        an integer operator where the runtime has one.
    """
    return {"Conv": _INTEGER_CONV, "MatMul": _INTEGER_MATMUL, "ConvTranspose": _FLOAT}[layer.op]


TARGETS: Mapping[str, Target] = {
    "ort": Target(
        fake=write_fake,
        choose=choose_ort_form,
        fake_product=write_fake_product,
        product=write_integer_product,
        keeps_integers=True,
        check=lambda layers: None,  # noqa: ARG005
        finish=lambda graph: None,  # noqa: ARG005
    ),
    "ascend": Target(
        fake=ascend.write_ascend_fake,
        choose=lambda layer: _ASCEND,  # noqa: ARG005
        fake_product=write_ascend_fake_product,
        product=write_ascend_product,
        keeps_integers=False,
        check=ascend.check_layers,
        finish=ascend.rewrite_remaining_pairs,
    ),
}


def convert_qat_model(
    model_file: str | PathLike[str],
    save_path: str | PathLike[str],
    record_file: str | PathLike[str] | None = None,
    *,
    target: str = "ort",
    fold_batch_norm: bool = False,
) -> Conversion:
    """Write SAVE_PATH_fake_quant_model.onnx and SAVE_PATH_deploy_model.onnx from a QDQ model.

    Both compute y = float32(op(q_x - zero_point, q_w) + bias_int32) * (scale_x * scale_w) for
    every quantized layer, the first on integer-valued floats, the second in integers.

    Args:
        model_file: an ONNX file with QuantizeLinear/DequantizeLinear around Conv, ConvTranspose,
            Gemm or MatMul; opset 13 or later.
        save_path: prefix of the files; folders are created.
        record_file: where to write the quantization factors as text, if anywhere.
        target: "ort" or "ascend".
        fold_batch_norm: fold the BatchNormalization behind a layer into one factor and one shift a
            channel, in both models alike; torch and the models then round it differently.
    Returns:
        the paths, a summary of each layer, and what was left in float.
    Raises:
        FileNotFoundError: there is no model_file.
        ValueError: the target is unknown, or save_path names no file.
        ConversionError: the model cannot be converted; names the node or layer. Nothing is
            written then.
    Source: docs/semantics.md, 6 to 8.
    """
    if target not in TARGETS:
        raise ValueError(f"target must be {' or '.join(map(repr, TARGETS))}, got {target!r}")
    prefix = Path(save_path)
    if str(save_path).endswith(("/", "\\")) or not prefix.name or prefix.is_dir():
        raise ValueError(f"save_path must end in a file name prefix, got {str(save_path)!r}")
    source = read_model(Path(model_file))
    paths = [prefix.with_name(f"{prefix.name}_{k}_model.onnx") for k in ("fake_quant", "deploy")]
    fake, deploy, layers, floats, record = convert_model(
        source, target=target, fold_batch_norm=fold_batch_norm
    )
    if not layers:
        raise ConversionError(_nothing_to_do(Path(model_file), floats))
    write_models({paths[0]: fake, paths[1]: deploy})
    if record_file is not None:
        write_record(Path(record_file), record)
    return Conversion(
        fake_quant=paths[0],
        deploy=paths[1],
        target=target,
        layers=tuple(layers),
        left_in_float=tuple(floats),
    )


def convert_model(
    source: ir.Model, *, target: str = "ort", fold_batch_norm: bool = False
) -> tuple[ir.Model, ir.Model, list[LayerSummary], list[FloatOperator], str]:
    """Convert a model in memory.

    Args:
        source: as files.read_model returns it; it is left as it is.
        target: a key of TARGETS.
        fold_batch_norm: as convert_qat_model's.
    Returns:
        the fake-quant model, the deploy model, the layers, the operators left in float, and the
        record of the quantization factors.
    Raises:
        ConversionError: the model cannot be converted.
    """
    how = TARGETS[target]
    fake, deploy = source.clone(), source.clone()
    layers, products, _ = read_quantized(fake.graph, fold_batch_norm=fold_batch_norm)
    how.check(layers)
    for layer in layers:
        how.fake(Scribe(fake.graph, layer), layer)
    for product in products:
        how.fake_product(Scribe(fake.graph, product), product)
    layers, products, floats = read_quantized(deploy.graph, fold_batch_norm=fold_batch_norm)
    record = record_text(layers)
    order = {name: i for i, (name, _) in enumerate(named_operators(deploy.graph))}
    summaries = [_summarize_product(product, target) for product in products]
    for layer in layers:
        form = how.choose(layer)
        summaries.append(_summarize(layer, form))
        form.write(Scribe(deploy.graph, layer), layer)
    for product in products:
        how.product(Scribe(deploy.graph, product), product)
    for model in (fake, deploy):
        passes.RemoveUnusedNodesPass()(model)
        if any(layer.wide for layer in layers):
            _raise_opset(model)
    write_stored_weights(fake.graph, keep_integers=False)
    write_stored_weights(deploy.graph, keep_integers=how.keeps_integers)
    how.finish(deploy.graph)
    for model in (fake, deploy):
        passes.RemoveUnusedNodesPass()(model)
        # Layers that share a weight share its initializer.
        passes.DeduplicateHashedInitializersPass(size_limit=_NO_LIMIT)(model)
        # A value of the file may have the name of a written one.
        passes.NameFixPass()(model)
    summaries.sort(key=lambda summary: order[summary.name])
    return fake, deploy, summaries, floats, record


def read_quantized(
    graph: ir.Graph, *, fold_batch_norm: bool = False
) -> tuple[list[QuantizedLayer], list[QuantizedProduct], list[FloatOperator]]:
    """Find everything quantized in a graph.

    Args:
        graph: the main graph of a QDQ model.
        fold_batch_norm: as convert_qat_model's.
    Returns:
        weighted layers, products of two activations, and the operators that stay float.
    Raises:
        ConversionError: something cannot be converted.
    """
    layers, floats = read_layers(graph, fold_batch_norm=fold_batch_norm)
    products = read_products(graph, [layer.node for layer in layers])
    names = {product.name for product in products}
    return layers, products, [operator for operator in floats if operator.name not in names]


def _summarize_product(product: QuantizedProduct, target: str) -> LayerSummary:
    first = product.operands[0]
    unsigned = 128 if first.zero_point.dtype.kind == "u" else 0
    return LayerSummary(
        name=product.name,
        op=product.node.op_type,
        form="MatMulInteger" if target == "ort" else _ASCEND.name,
        bits=8,
        scale_x=float(first.scale),
        zero_point_x=int(first.zero_point) - unsigned,
        channels=0,
        bound=product.accumulator_bound,
        proven=product.proven,
    )


def _summarize(layer: QuantizedLayer, form: Form) -> LayerSummary:
    info = layer.zero_point_x.dtype
    unsigned = 1 << (8 * info.itemsize - 1) if info.kind == "u" else 0
    return LayerSummary(
        name=layer.name,
        op=layer.node.op_type,
        form=form.name if layer.norm is None else f"{form.name}, BatchNorm folded",
        bits=8 * info.itemsize,
        scale_x=float(layer.scale_x),
        zero_point_x=int(layer.zero_point_x) - unsigned,
        channels=layer.scale_w.size,
        bound=layer.accumulator_bound,
        proven=layer.proven,
    )


def _raise_opset(model: ir.Model) -> None:
    """Give a model with 16-bit quantizers the first opset that knows them."""
    if model.opset_imports[""] < _OPSET_OF_16_BIT:
        version_converter.convert_version(model, _OPSET_OF_16_BIT, fallback=True)
        model.opset_imports[""] = _OPSET_OF_16_BIT
    model.ir_version = max(model.ir_version or 0, _IR_VERSION_OF_OPSET_21)


def _nothing_to_do(path: Path, floats: list[FloatOperator]) -> str:
    found = "; ".join(f"{f.op} {f.name!r}: {f.reason}" for f in floats[:5])
    return f"{path} has no quantized layer" + (f" ({found})" if found else "")
