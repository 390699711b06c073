"""Loading a model and locating its external data."""

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from bridge.export.files.validity import cause
from bridge.export.graph.errors import ConversionError


def load_model(path: Path, *, follow_symlinks: bool = False) -> ir.Model:
    """Load a model without checking its nodes, so that it may have operators unknown to onnx.

    Args:
        path: an .onnx file.
        follow_symlinks: allow external data that is a symbolic link to a file outside the model's
            folder, as in the cache of a model hub. Otherwise such data is refused: a downloaded
            model could have any file of the machine copied into the results.
    Returns:
        the model; external data is read when it is needed.
    Raises:
        FileNotFoundError: the file, or one with its external data, does not exist.
        ConversionError: the file is not readable, its opset is below 13, or its external data is
            outside its folder or too short.
    """
    return load_proto_and_model(path, follow_symlinks=follow_symlinks)[1]


def load_proto_and_model(path: Path, *, follow_symlinks: bool) -> tuple[onnx.ModelProto, ir.Model]:
    """Load a model as a protobuf and as onnx_ir's model.

    Args:
        path: an .onnx file.
        follow_symlinks: as in load_model.
    Returns:
        both; external data is not read.
    Raises:
        FileNotFoundError, ConversionError: as load_model does.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no ONNX model at {path}")
    if not path.stat().st_size:
        raise ConversionError(f"{path} is empty: no ONNX model was written to it")
    try:
        proto = onnx.load(path, load_external_data=False)
        model = ir.from_proto(proto)
    except Exception as error:
        raise ConversionError(f"{path} is not a readable ONNX model: {cause(error)}") from error
    opset = model.opset_imports.get("")
    if opset is None or opset < 13:
        raise ConversionError(f"{path}: opset must be 13 or later, got {opset}")
    resolve_external_data(path, model, follow_symlinks=follow_symlinks)
    return proto, model


def _external(model: ir.Model) -> Iterator[tuple[ir.Value, ir.ExternalTensor]]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value, value.const_value


def resolve_external_data(path: Path, model: ir.Model, *, follow_symlinks: bool) -> None:
    """Set the folder of all external data, and check that the data is there.

    Args:
        path: of the model.
        model: its external tensors are changed.
        follow_symlinks: as in load_model.
    Raises:
        FileNotFoundError: a file with external data does not exist.
        ConversionError: external data is outside the model's folder or too short.
    """
    for value, tensor in _external(model):
        if tensor.base_dir:
            continue  # set by an earlier call
        tensor.base_dir = path.parent
        data = _check_external(path, tensor, follow_symlinks=follow_symlinks)
        if follow_symlinks:  # onnx_ir does not follow links
            value.const_value = ir.ExternalTensor(
                data.name,
                tensor.offset,
                tensor.length,
                tensor.dtype,
                shape=tensor.shape,
                name=tensor.name or "",
                base_dir=data.parent,
            )


def _check_external(path: Path, tensor: ir.ExternalTensor, *, follow_symlinks: bool) -> Path:
    """Return the file of a tensor's data; raise unless it is complete and in the model's folder."""
    what = f"{path}: the data of {tensor.name!r}"
    try:
        data, length = Path(tensor.path), tensor.nbytes
        data = Path(os.path.abspath(data)) if follow_symlinks else data.resolve()
        found = data.is_file()
    except (ValueError, TypeError, OSError) as error:
        raise ConversionError(f"{what} cannot be found: {error}") from error
    folder = Path(os.path.abspath(path.parent)) if follow_symlinks else path.parent.resolve()
    if not data.is_relative_to(folder):
        linked = (path.parent / str(tensor.location)).is_symlink()
        hint = "; it is a symbolic link, which follow_symlinks=True allows" if linked else ""
        raise ConversionError(
            f"{what} lies outside the model's folder, at {str(tensor.location)!r}{hint}"
        )
    if not found:
        raise FileNotFoundError(f"{what} is missing: there is no file {data}")
    offset, size = tensor.offset or 0, data.stat().st_size
    if offset < 0 or offset + length > size:
        raise ConversionError(
            f"{what} needs {length} bytes from offset {offset}, but {data} has {size}"
        )
    return data.resolve()
