"""The runnable twin of an Ascend deploy model: its nodes as ONNX functions in a custom domain.

    AscendQuant -> Conv -> AscendDequant                          (default domain)
        becomes
    qatfunc.ascend.AscendQuant -> .Conv -> .AscendDequant         (functions in the file)

Neither onnx.checker nor ONNX Runtime knows the dialect, which is in the default domain. With the
functions, onnx.checker accepts the twin and ONNX Runtime runs it.
"""

from os import PathLike
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnx_ir.traversal import RecursiveGraphIterator

from bridge.export.files.destinations import check_not_overwritten, data_file, external_files
from bridge.export.files.loading import load_model
from bridge.export.files.writing import write_models
from bridge.export.geometry.output_padding import pad_kernel
from bridge.export.graph.builder import add_initializer, graph_of
from bridge.export.graph.constants import constant, name_of
from bridge.export.graph.errors import ConversionError
from bridge.export.graph.operators import is_standard
from bridge.export.targets.ascend.functions import DOMAIN, ascend_functions

_DIALECT = ("AscendQuant", "AscendDequant", "AscendAntiQuant")
_SUMS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_IR_VERSION_OF_FUNCTIONS = 8
_VERSION = 1


def ascend_twin(deploy_file: str | PathLike[str], save_file: str | PathLike[str]) -> Path:
    """Write a twin, which ONNX Runtime runs, of a deploy model of target "ascend".

    Every node of the dialect, and every operator on its integers, gets the domain
    "qatfunc.ascend", whose functions are in the file. These operators get an attribute `offset`,
    that of the AscendQuant before them. Weights, biases and packed scales are those of the deploy
    model. Where the dialect is in a branch or a loop, the functions are inlined.

    Args:
        deploy_file: what convert_qat_model(..., target="ascend") wrote.
        save_file: where to write the twin; folders are created.
    Returns:
        the path of the twin.
    Raises:
        FileNotFoundError: deploy_file does not exist.
        ValueError: save_file is deploy_file, or a file of its external data.
        ConversionError: the file is not an ONNX model in the dialect; names the node.
    """
    path, saved = Path(deploy_file), Path(save_file)
    model = load_model(path)
    for written in (saved, data_file(saved)):
        check_not_overwritten("save_file", written, [path, *external_files(model)])
    nodes = RecursiveGraphIterator(model.graph)
    if not any(node.op_type in _DIALECT and is_standard(node) for node in nodes):
        raise ConversionError(f"{path} has no AscendQuant, which target 'ascend' writes")
    write_models({saved: twin_of(model)})
    return saved


def twin_of(model: ir.Model) -> ir.Model:
    """Create the twin of an Ascend model in memory.

    Args:
        model: in the dialect; not changed.
    Returns:
        the twin.
    Raises:
        ConversionError: a node has attributes or values that its function does not have.
    """
    twin = model.clone()
    functions = {f.name: f for f in ascend_functions(twin.opset_imports[""])}
    for node in list(RecursiveGraphIterator(twin.graph)):
        if not is_standard(node):
            continue
        if node.op_type in _DIALECT:
            _check_values(node)
            node.domain = DOMAIN
        elif node.op_type in _SUMS and _offset(node, 0) is not None:
            _move(graph_of(node), node)
        else:
            continue
        _check_names(node, functions[node.op_type])
    for function in functions.values():
        twin.functions[function.identifier()] = function
    twin.opset_imports[DOMAIN] = _VERSION
    twin.ir_version = max(twin.ir_version or 0, _IR_VERSION_OF_FUNCTIONS)
    nodes = RecursiveGraphIterator(twin.graph)
    if any(node.domain == DOMAIN and node.graph is not twin.graph for node in nodes):
        # When ONNX Runtime inlines functions in nested graphs, names clash.
        passes.InlinePass()(twin)
        del twin.opset_imports[DOMAIN]
    return twin


def _check_values(node: ir.Node) -> None:
    for name, wanted in (("dst_type", "INT8"), ("dtype", 0)):
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.value != wanted:
            raise ConversionError(
                f"{node.op_type} {name_of(node)!r}: {name} must be {wanted!r}, "
                f"got {attribute.value!r}"
            )


def _check_names(node: ir.Node, function: ir.Function) -> None:
    """Raise unless a node's attributes are its function's; operators may leave some out."""
    known, given = set(function.attributes), set(node.attributes)
    wrong = given - known or (known - given if node.op_type in _DIALECT else set())
    if wrong:
        raise ConversionError(
            f"{node.op_type} {name_of(node)!r} must have the attributes {sorted(known)}, "
            f"got {sorted(given)}"
        )


def _offset(node: ir.Node, index: int) -> float | None:
    """Return the zero point of an operand; None if AscendQuant does not produce it."""
    value = node.inputs[index]
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "AscendQuant":
        return None
    offset = producer.attributes.get("offset")
    return 0.0 if offset is None else offset.as_float()  # _check_names refuses such a producer


def _move(graph: ir.Graph, node: ir.Node) -> None:
    """Move an operator on int8 codes to the twin's domain, with its zero points as attributes."""
    node.attributes["offset"] = ir.AttrFloat32("offset", _offset(node, 0) or 0.0)
    if node.op_type == "MatMul":
        other = _offset(node, 1) or 0.0
        node.attributes["other_offset"] = ir.AttrFloat32("other_offset", other)
    elif len(node.inputs) < 3:
        zero = add_initializer(graph, f"{name_of(node)}_no_bias", np.zeros(1, np.int32))
        node.resize_inputs(3)
        node.replace_input_with(2, zero)
    if node.op_type == "ConvTranspose":
        _fit(graph, node)
    node.domain = DOMAIN


def _fit(graph: ir.Graph, node: ir.Node) -> None:
    """Rewrite a transposed convolution whose output_padding ONNX Runtime rejects."""
    weight = constant(node.inputs[1])
    if weight is None:
        raise ConversionError(f"{node.op_type} {name_of(node)!r}: its weight is not constant")
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    fitted, attributes = pad_kernel(weight, given)
    if fitted is weight:
        return
    node.replace_input_with(1, add_initializer(graph, f"{name_of(node)}_weight", fitted))
    for name in ("pads", "output_padding", "kernel_shape"):
        node.attributes[name] = ir.AttrInt64s(name, attributes[name])
