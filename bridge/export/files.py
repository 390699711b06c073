"""Reading models and writing them so that no reader ever sees half of one."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common as passes

from bridge.export.errors import ConversionError

# protobuf ends at 2 GiB; above this the tensors go to a file beside the model.
_INLINE_LIMIT = 1_800_000_000


def read_model(path: Path) -> ir.Model:
    """Load a model and bring it to the form the reader expects.

    Functions are inlined, Constant nodes become initializers, and initializers that are inputs
    too become constants. Weights in external files are not read before they are needed.

    Args:
        path: an .onnx file.
    Returns:
        the model.
    Raises:
        FileNotFoundError: there is no such file.
        ConversionError: the file is not an ONNX model, or its opset is below 13.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no ONNX model at {path}")
    try:
        model = ir.load(path)
    except Exception as error:
        raise ConversionError(f"{path} is not a readable ONNX model: {error}") from error
    opset = model.opset_imports.get("")
    if opset is None or opset < 13:
        raise ConversionError(f"{path}: opset must be 13 or later, got {opset}")
    passes.InlinePass()(model)
    passes.RemoveInitializersFromInputsPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=0)(model)
    return model


def write_models(models: Mapping[Path, ir.Model]) -> None:
    """Write several models, all or none.

    Each is written completely to a temporary folder on the same file system; then all are moved
    to their places, each in one step.

    Args:
        models: by target path; folders are created.
    Raises:
        OSError: a file cannot be written; nothing was replaced then.
    """
    for path in models:
        path.parent.mkdir(parents=True, exist_ok=True)
    folder = next(iter(models)).parent
    with tempfile.TemporaryDirectory(dir=folder, prefix=".qatfunc-") as scratch:
        for path, model in models.items():
            external = _external_name(path, model)
            if external is None:
                # What still lies in the source's data file would be looked for beside the result.
                model = ir.external_data.load_to_model(model)
            ir.save(model, Path(scratch) / path.name, external_data=external)
        # Data before models: a model never stands without its data.
        for made in sorted(Path(scratch).iterdir(), key=lambda p: p.suffix != ".data"):
            os.replace(made, folder / made.name)


def _external_name(path: Path, model: ir.Model) -> str | None:
    size = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    return f"{path.name}.data" if size > _INLINE_LIMIT else None
