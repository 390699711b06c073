"""Writing a model for another version of the standard operators."""

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper, version_converter
from onnxscript import version_converter as ir_converter

from bridge.export.graph.constants import constant
from bridge.export.graph.errors import ConversionError
from bridge.export.graph.operators import zero_point_input
from bridge.export.graph.protos import graphs_of

OPSETS = range(13, 22)
"""What a portable model can be written for."""

OPSET_OF_16_BIT = 21
"""The first with quantizers to 16 bits."""

_IR_VERSION_OF_OPSET_20 = 9

IR_VERSION_OF_OPSET_21 = 10
"""The first that a file of that opset may have."""

_PAIRS = ("QuantizeLinear", "DequantizeLinear")

# What version 14 changed in these is the types they take; onnx's converter knows no way back.
_MORE_TYPES_IN_14 = {"Add", "CumSum", "Div", "Identity", "Mul", "Relu", "Reshape", "Sub"}


def with_opset(model: ir.Model, opset: int) -> ir.Model:
    """Return a model for an opset.

    Args:
        model: of any opset from 13 on; it is left as it is.
        opset: one of OPSETS.
    Returns:
        the model itself if it is of that opset, else a new one; nodes keep their layers.
    Raises:
        ConversionError: an operator has no form in that opset.
    """
    if model.opset_imports[""] == opset:
        return model
    proto = ir.to_proto(model)
    try:
        if opset > 13 or model.opset_imports[""] < opset:
            proto = version_converter.convert_version(proto, opset)
        else:
            proto = _without_14(version_converter.convert_version(proto, 14))
        onnx.checker.check_model(proto)
    except (RuntimeError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise ConversionError(f"the model cannot be written for opset {opset}: {reason}") from error
    converted = ir.from_proto(proto)
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    layers = {value.name: node.metadata_props for node in nodes for value in node.outputs}
    for node in ir.traversal.RecursiveGraphIterator(converted.graph):
        node.metadata_props.update(layers.get(node.outputs[0].name, {}))
    converted.metadata_props.update(model.metadata_props)
    return converted


def lower_ir_version(model: ir.Model) -> None:
    """Lower an IR version that says nothing: older ONNX Runtimes refuse a file by it alone.

    Args:
        model: it is changed.
    """
    if model.opset_imports[""] < OPSET_OF_16_BIT:
        model.ir_version = min(model.ir_version or 0, _IR_VERSION_OF_OPSET_20)


def with_16_bit_opset(model: ir.Model) -> ir.Model:
    """Give a model that quantizes to 16 bits the first opset that knows such quantizers.

    torch's exporters write them at any opset, at which no runtime takes them.

    Args:
        model: as files.read_model returns it; it is left as it is.
    Returns:
        the model itself if it has no such quantizer, else a new one.
    """
    if not any(map(_is_wide, ir.traversal.RecursiveGraphIterator(model.graph))):
        return model
    raised = model.clone()
    if raised.opset_imports[""] < OPSET_OF_16_BIT:
        ir_converter.convert_version(raised, OPSET_OF_16_BIT, fallback=True)
        raised.opset_imports[""] = OPSET_OF_16_BIT
    raised.ir_version = max(raised.ir_version or 0, IR_VERSION_OF_OPSET_21)
    return raised


def _is_wide(node: ir.Node) -> bool:
    zero = constant(zero_point_input(node)) if node.op_type in _PAIRS else None
    return zero is not None and zero.dtype in (np.int16, np.uint16)


def _without_14(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Write a model of opset 14 for 13."""
    sizes = {
        tensor.name: numpy_helper.to_array(tensor)
        for graph in graphs_of(proto.graph)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64
    }
    for node in (node for graph in graphs_of(proto.graph) for node in graph.node):
        schema = onnx.defs.get_schema(node.op_type, 14, node.domain)
        if schema.since_version == 14 and node.op_type not in _MORE_TYPES_IN_14:
            raise ConversionError(
                f"the model cannot be written for opset 13: {node.op_type} {node.name!r}"
            )
        if node.op_type == "Reshape" and 0 not in sizes.get(node.input[1], [0]):
            del node.attribute[:]  # allowzero, new in 14 too, is the only one
    for entry in proto.opset_import:
        if not entry.domain:
            entry.version = 13
    return proto
