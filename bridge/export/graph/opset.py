"""Converting a model to another opset of the standard operators."""

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper, version_converter
from onnxscript import version_converter as ir_converter

from bridge.export.graph.constants import constant
from bridge.export.graph.errors import ConversionError
from bridge.export.graph.operators import QUANTIZERS, zero_point_input
from bridge.export.graph.protos import graphs_of

OPSETS = range(13, 22)
"""The opsets that a portable model can be written in."""

OPSET_OF_16_BIT = 21
"""The first opset whose QuantizeLinear has int16 and uint16."""

_IR_VERSION_OF_OPSET_20 = 9

IR_VERSION_OF_OPSET_21 = 10
"""The lowest IR version that a file of opset 21 may have."""


# Opset 14 only added data types to these, but onnx's version converter has no adapter from 14 to 13
# for them.
_MORE_TYPES_IN_14 = {"Add", "CumSum", "Div", "Identity", "Mul", "Relu", "Reshape", "Sub"}


def with_opset(model: ir.Model, opset: int) -> ir.Model:
    """Convert a model to an opset.

    Args:
        model: of opset 13 or later; it is not changed.
        opset: one of OPSETS.
    Returns:
        the model itself if it has that opset, else a new one, whose nodes keep their metadata.
    Raises:
        ConversionError: an operator cannot be expressed in that opset.
    """
    if model.opset_imports[""] == opset:
        return model
    proto = ir.to_proto(model)
    try:
        if opset > 13 or model.opset_imports[""] < opset:
            proto = version_converter.convert_version(proto, opset)
        else:
            proto = _to_opset_13(version_converter.convert_version(proto, 14))
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
    """Lower the IR version to what the opset needs: older ONNX Runtimes refuse newer IR versions.

    Args:
        model: it is changed.
    """
    if model.opset_imports[""] < OPSET_OF_16_BIT:
        model.ir_version = min(model.ir_version or 0, _IR_VERSION_OF_OPSET_20)


def with_16_bit_opset(model: ir.Model) -> ir.Model:
    """Raise the opset of a model that quantizes to 16 bits to the first that allows it.

    torch's exporters write 16-bit quantizers in any opset; runtimes accept them from 21 on.

    Args:
        model: from normalize.model.read_model; it is not changed.
    Returns:
        the model itself if it has no 16-bit quantizer, else a new one.
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
    zero = constant(zero_point_input(node)) if node.op_type in QUANTIZERS else None
    return zero is not None and zero.dtype in (np.int16, np.uint16)


def _to_opset_13(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a model from opset 14 to 13."""
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
            del node.attribute[:]  # allowzero, the only attribute, is new in 14
    for entry in proto.opset_import:
        if not entry.domain:
            entry.version = 13
    return proto
