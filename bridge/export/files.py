"""Reading models and writing them so that no reader ever sees half of one."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from bridge.export.channel_scales import pad_before_pairs
from bridge.export.computed_parameters import compute_parameters
from bridge.export.constants import array_of
from bridge.export.data_movement import quantize_after_movement
from bridge.export.destinations import data_file
from bridge.export.errors import ConversionError
from bridge.export.replacement import replace_all, scratch_folder
from bridge.export.validity import cause, check_functions, check_model

# protobuf ends at 2 GiB; above this the tensors go to a file beside the model.
_INLINE_LIMIT = 1_800_000_000

# From this version on an initializer that is an input too is a default that callers may override;
# before it every initializer had to be an input.
_IR_VERSION_OF_DEFAULTS = 4


def read_model(path: Path, *, follow_symlinks: bool = False) -> ir.Model:
    """Load a model and bring it to the form the reader expects.

    Functions are inlined, Constant nodes become initializers, nodes are sorted, and layers whose
    input was quantized before data movement get a pair of their own. Where the IR version is below
    4, initializers that are inputs too become constants. Weights in external files are not read
    before they are needed.

    Args:
        path: an .onnx file.
        follow_symlinks: as load_model's.
    Returns:
        the model.
    Raises:
        FileNotFoundError: there is no such file, or a file with its data is missing.
        ConversionError: the file is not a valid ONNX model, its opset is below 13, it has no
            outputs, or its data lies outside its folder or ends too early.
    """
    proto, model = _load(path, follow_symlinks=follow_symlinks)
    check_model(path, proto, model, linked=follow_symlinks)
    if not model.graph.outputs:
        raise ConversionError(f"{path}: the model has no outputs")
    _normalize(path, model)
    _find_external(path, model, follow_symlinks=follow_symlinks)  # of Constant nodes too now
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and not isinstance(tensor, ir.ExternalTensor):
                array_of(tensor, value.name)
    compute_parameters(model.graph)
    quantize_after_movement(model.graph)
    pad_before_pairs(model.graph)
    return model


def load_model(path: Path, *, follow_symlinks: bool = False) -> ir.Model:
    """Load a model as it is, one that onnx.checker does not know all nodes of, too.

    Args:
        path: an .onnx file.
        follow_symlinks: let data beside the model be a symbolic link to a file elsewhere, as in the
            cache of a model hub; without it data outside the model's folder is refused, as a
            downloaded file could otherwise have any file of the machine written into the results.
    Returns:
        the model; weights in external files are not read before they are needed.
    Raises:
        FileNotFoundError: there is no such file, or a file with its data is missing.
        ConversionError: the file is not readable, its opset is below 13, or its data lies outside
            its folder or ends too early.
    """
    return _load(path, follow_symlinks=follow_symlinks)[1]


def _load(path: Path, *, follow_symlinks: bool) -> tuple[onnx.ModelProto, ir.Model]:
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
    _find_external(path, model, follow_symlinks=follow_symlinks)
    return proto, model


def _external(model: ir.Model) -> Iterator[tuple[ir.Value, ir.ExternalTensor]]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value, value.const_value


def _find_external(path: Path, model: ir.Model, *, follow_symlinks: bool) -> None:
    """Say of all external data where it is, and check that it is there."""
    for value, tensor in _external(model):
        if tensor.base_dir:
            continue  # found before
        tensor.base_dir = path.parent
        data = _check_external(path, tensor, follow_symlinks=follow_symlinks)
        if follow_symlinks:  # onnx_ir follows none
            value.const_value = ir.ExternalTensor(
                data.name,
                tensor.offset,
                tensor.length,
                tensor.dtype,
                shape=tensor.shape,
                name=tensor.name or "",
                base_dir=data.parent,
            )


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


def _check_external(path: Path, tensor: ir.ExternalTensor, *, follow_symlinks: bool) -> Path:
    """Return the file of a tensor's data; raise unless all of it is there, in the folder."""
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
            f"{what} takes {length} bytes from {offset} on, but {data} has {size}"
        )
    return data.resolve()


def write_models(models: Mapping[Path, ir.Model], texts: Mapping[Path, str] | None = None) -> None:
    """Write models and texts, all or none.

    Each is written completely to a temporary folder beside its place; then all are moved to their
    places, as replacement.replace_all does.

    Args:
        models: by path; folders are created.
        texts: by path, in UTF-8.
    Raises:
        OSError: a file cannot be written; nothing was replaced or created then.
        ConversionError: a model has names that no file can hold; nothing has changed then either.
    """
    places = [*models, *(texts or {})]
    created: list[Path] = []
    try:
        with contextlib.ExitStack() as stack:
            scratch = {
                folder: stack.enter_context(_scratch(folder, created))
                for folder in dict.fromkeys(place.parent for place in places)
            }
            for path, model in models.items():
                _write_model(scratch[path.parent] / path.name, model)
            for path, text in (texts or {}).items():
                (scratch[path.parent] / path.name).write_text(text, encoding="utf-8")
            made = [
                (written, folder / written.name)
                for folder, written_in in scratch.items()
                for written in sorted(written_in.iterdir())
            ]
            # Data before models: a model never stands without its data.
            replace_all(dict(sorted(made, key=lambda pair: pair[0].suffix != ".data")))
    except BaseException:
        for path in reversed(created):
            with contextlib.suppress(OSError):  # someone else may have put something there
                path.rmdir()
        raise


@contextlib.contextmanager
def _scratch(folder: Path, created: list[Path]) -> Iterator[Path]:
    """Make a folder to write files in that are for another one, which is created."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    created += reversed(missing)
    folder.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder) as scratch:
        yield Path(scratch)


def _write_model(path: Path, model: ir.Model) -> None:
    external = data_file(path).name if _size(model) > _INLINE_LIMIT else None
    if external is None:
        _take_in(model)
    _state_types_once(model)
    try:
        ir.save(model, path, external_data=external)
    except ir.serde.SerdeError as error:  # a name that is not UTF-8
        raise ConversionError(f"{path.name} cannot be written: {cause(error)}") from error


def _take_in(model: ir.Model) -> None:
    """Take in what lies in the source's data file: it would be looked for beside the result.

    onnx_ir's own loading closes the file, which models in memory and layers still read from.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)


def _state_types_once(model: ir.Model) -> None:
    """Drop the types of initializers: their tensors have them, and a file would say them again."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            # Of inputs and outputs a file has to say them.
            listed = value.is_graph_input() or value.is_graph_output()
            if value.const_value is not None and not listed:
                value.type = value.shape = None


def _size(model: ir.Model) -> int:
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
