"""Loads a model and normalizes it to the form that read/ expects.

file -> inline functions -> Constant nodes to initializers -> fold_parameters
     -> quantize_layer_inputs -> pad_before_quantizers
"""

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common as passes

from bridge.export.files.loading import load_proto_and_model, resolve_external_data
from bridge.export.files.validity import cause, check_functions, check_model
from bridge.export.graph.constants import array_of
from bridge.export.graph.errors import ConversionError
from bridge.export.normalize.channel_padding import pad_before_quantizers
from bridge.export.normalize.computed_parameters import fold_parameters
from bridge.export.normalize.data_movement import quantize_layer_inputs

# From this IR version on, an initializer that is also an input is a default, which callers may
# override; before it, every initializer had to be an input.
_IR_VERSION_OF_DEFAULTS = 4


def read_model(path: Path, *, follow_symlinks: bool = False) -> ir.Model:
    """Load a model and normalize it.

    Functions are inlined, Constant nodes become initializers, nodes are sorted, and the rewrites of
    computed_parameters, data_movement and channel_padding are applied. Below IR version 4,
    initializers that are also inputs become constants. External data is read when it is needed.

    Args:
        path: an .onnx file.
        follow_symlinks: as in files.loading.load_model.
    Returns:
        the model.
    Raises:
        FileNotFoundError: the file, or one with its external data, does not exist.
        ConversionError: the file is not a valid ONNX model, its opset is below 13, it has no
            outputs, or its external data is outside its folder or too short.
    """
    proto, model = load_proto_and_model(path, follow_symlinks=follow_symlinks)
    check_model(path, proto, model, linked=follow_symlinks)
    if not model.graph.outputs:
        raise ConversionError(f"{path}: the model has no outputs")
    _normalize(path, model)
    resolve_external_data(path, model, follow_symlinks=follow_symlinks)  # of Constant nodes too now
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and not isinstance(tensor, ir.ExternalTensor):
                array_of(tensor, value.name)
    fold_parameters(model.graph)
    quantize_layer_inputs(model.graph)
    pad_before_quantizers(model.graph)
    return model


def _normalize(path: Path, model: ir.Model) -> None:
    if (model.ir_version or 0) < _IR_VERSION_OF_DEFAULTS:
        passes.RemoveInitializersFromInputsPass()(model)
        model.ir_version = _IR_VERSION_OF_DEFAULTS
    check_functions(path, model)
    try:
        passes.InlinePass()(model)
        passes.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=0)(model)
    except Exception as error:
        raise ConversionError(f"{path}: its functions cannot be inlined: {cause(error)}") from error
    for node, name, tensor in _tensor_attributes(model):
        if isinstance(tensor, ir.ExternalTensor):
            raise ConversionError(
                f"{path}: attribute {name!r} of {node.op_type} {node.name!r} has its data in "
                f"another file, which only initializers and Constant nodes may"
            )


def _tensor_attributes(
    model: ir.Model,
) -> Iterator[tuple[ir.Node, str, ir.TensorProtocol]]:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                yield node, name, attribute.as_tensor()
