"""Writing models so that a reader never sees an incomplete one."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx_ir as ir

from bridge.export.files.destinations import data_file
from bridge.export.files.replacement import replace_all, scratch_folder
from bridge.export.files.validity import cause
from bridge.export.graph.errors import ConversionError

# A protobuf has at most 2 GiB; larger models get a file of external data.
_INLINE_LIMIT = 1_800_000_000


def write_models(models: Mapping[Path, ir.Model], texts: Mapping[Path, str] | None = None) -> None:
    """Write models and texts, all or none.

    Each is first written completely to a temporary folder inside its destination folder; then
    replacement.replace_all moves them to their destinations.

    Args:
        models: by path; folders are created.
        texts: by path; written as UTF-8.
    Raises:
        OSError: a file cannot be written; nothing has been replaced or created.
        ConversionError: a model has names that are not UTF-8; nothing has been replaced or created.
    """
    paths = [*models, *(texts or {})]
    created: list[Path] = []
    try:
        with contextlib.ExitStack() as stack:
            scratch = {
                folder: stack.enter_context(_scratch(folder, created))
                for folder in dict.fromkeys(path.parent for path in paths)
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
            # External data first, so that no model is there without its data.
            replace_all(dict(sorted(made, key=lambda pair: pair[0].suffix != ".data")))
    except BaseException:
        for path in reversed(created):
            with contextlib.suppress(OSError):  # another process may have written into it
                path.rmdir()
        raise


@contextlib.contextmanager
def _scratch(folder: Path, created: list[Path]) -> Iterator[Path]:
    """Create a folder, if it is missing, and a temporary folder inside it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    created += reversed(missing)
    folder.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder) as scratch:
        yield Path(scratch)


def _write_model(path: Path, model: ir.Model) -> None:
    external = data_file(path).name if _size(model) > _INLINE_LIMIT else None
    if external is None:
        _load_external_data(model)
    _drop_redundant_types(model)
    try:
        ir.save(model, path, external_data=external)
    except ir.serde.SerdeError as error:  # a name that is not UTF-8
        raise ConversionError(f"{path.name} cannot be written: {cause(error)}") from error


def _load_external_data(model: ir.Model) -> None:
    """Load the source's external data, whose path would be wrong relative to the written file.

    onnx_ir's own function closes the source's file, which other models and layers still read.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)


def _drop_redundant_types(model: ir.Model) -> None:
    """Drop the value types of initializers, which a file would repeat beside their tensors."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            # Graph inputs and outputs need a type.
            listed = value.is_graph_input() or value.is_graph_output()
            if value.const_value is not None and not listed:
                value.type = value.shape = None


def _size(model: ir.Model) -> int:
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
