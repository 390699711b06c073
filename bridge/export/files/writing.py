"""Writing models so that no reader ever sees half of one."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx_ir as ir

from bridge.export.files.destinations import data_file
from bridge.export.files.replacement import replace_all, scratch_folder
from bridge.export.files.validity import cause
from bridge.export.graph.errors import ConversionError

# protobuf ends at 2 GiB; above this the tensors go to a file beside the model.
_INLINE_LIMIT = 1_800_000_000


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
