"""convert_qat_model: one QDQ model in, a fake-quant and a deploy model out.

read_model -> convert_model -> write_models
"""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

from bridge.export.files.destinations import (
    check_path,
    check_source_not_overwritten,
    name_destinations,
)
from bridge.export.files.training_mode import check_eval_mode
from bridge.export.files.writing import write_models
from bridge.export.graph.errors import ConversionError
from bridge.export.normalize.model import read_model
from bridge.export.pipeline import convert_model
from bridge.export.plan.tune import Tuning
from bridge.export.read.layers import FloatOperator
from bridge.export.result.conversion import Conversion
from bridge.export.targets.options import check_flag
from bridge.export.targets.table import find_target
from bridge.export.targets.target import Target


class OrtOptions(TypedDict, total=False):
    """The options of target "ort": see bridge.ort."""

    mode: str
    data: Iterable[Any] | None
    max_ulps: int
    vnni: bool
    tune: bool | Tuning


class QdqOptions(TypedDict, total=False):
    """The options of target "qdq": see bridge.qdq."""

    symmetric: bool
    opset: int | None


@overload
def convert_qat_model(
    model_file: str | PathLike[str],
    save_path: str | PathLike[str],
    record_file: str | PathLike[str] | None = None,
    *,
    target: Literal["ort"] = "ort",
    fold_batch_norm: bool = False,
    follow_symlinks: bool = False,
    **options: Unpack[OrtOptions],
) -> Conversion: ...


@overload
def convert_qat_model(
    model_file: str | PathLike[str],
    save_path: str | PathLike[str],
    record_file: str | PathLike[str] | None = None,
    *,
    target: Literal["qdq"],
    fold_batch_norm: bool = False,
    follow_symlinks: bool = False,
    **options: Unpack[QdqOptions],
) -> Conversion: ...


@overload
def convert_qat_model(
    model_file: str | PathLike[str],
    save_path: str | PathLike[str],
    record_file: str | PathLike[str] | None = None,
    *,
    target: Target | str,
    fold_batch_norm: bool = False,
    follow_symlinks: bool = False,
) -> Conversion: ...


def convert_qat_model(
    model_file: str | PathLike[str],
    save_path: str | PathLike[str],
    record_file: str | PathLike[str] | None = None,
    *,
    target: Target | str = "ort",
    fold_batch_norm: bool = False,
    follow_symlinks: bool = False,
    **options: Any,
) -> Conversion:
    """Write SAVE_PATH_fake_quant_model.onnx and SAVE_PATH_deploy_model.onnx from a QDQ model.

    Both compute y = float32(op(q_x - zero_point, q_w) + bias_int32) * (scale_x * scale_w) for
    every quantized layer, the first on integer-valued floats, the second in integers; of target
    "qdq" the second only states scales, zero points and integers, and its runtime rounds as it
    does.

    Args:
        model_file: an ONNX file with QuantizeLinear/DequantizeLinear around Conv, ConvTranspose,
            Gemm or MatMul; opset 13 or later.
        save_path: prefix of the files; folders are created.
        record_file: where to write the quantization factors as text, if anywhere.
        target: bridge.ort(...), bridge.qdq(...) or bridge.ascend(); "ort", "qdq" or "ascend" for
            one with the options given here.
        fold_batch_norm: fold the BatchNormalization after a layer into one factor and one shift a
            channel, in both models alike; torch and the models then round it differently. The
            deploy model of "qdq" keeps the BatchNormalization for its runtime to fold.
        follow_symlinks: take weights beside the model that are symbolic links to files elsewhere,
            as in the cache of a model hub; for files that you trust.
        options: of the target that is named: mode, data, max_ulps, vnni and tune of bridge.ort,
            symmetric and opset of bridge.qdq.
    Returns:
        the paths, a summary of each layer, and what was left in float.
    Raises:
        TypeError: an argument is of a wrong kind.
        FileNotFoundError: there is no model_file.
        ValueError: the target or the mode is unknown, an option is another target's, a number is
            out of range, save_path or record_file names no file or one that is read or written
            already, data is missing, does not fit the model or is given without need, or forms are
            to be timed and the size of an input is not known.
        ConversionError: the model cannot be converted or was exported in training mode; names the
            node or layer.
        OSError: a file cannot be written.
    The models and the record are written together or, whatever fails, not at all.
    Source: docs/semantics.md, 6 to 8.
    """
    how = find_target(target, options)
    check_flag("fold_batch_norm", fold_batch_norm)
    check_flag("follow_symlinks", follow_symlinks)
    check_path("model_file", model_file)
    paths = name_destinations(save_path, record_file)
    source = read_model(Path(model_file), follow_symlinks=follow_symlinks)
    check_source_not_overwritten(Path(model_file), source, paths)
    check_eval_mode(source, Path(model_file))
    made = convert_model(source, target=how, fold_batch_norm=fold_batch_norm)
    if not made.layers:
        raise ConversionError(_nothing_to_do(Path(model_file), made.floats))
    models = {paths.fake_quant: made.fake, paths.deploy: made.deploy}
    write_models(models, {} if paths.record is None else {paths.record: made.record})
    return Conversion(
        source=Path(model_file),
        fake_quant=paths.fake_quant,
        deploy=paths.deploy,
        target=how.name,
        mode="exact" if how.rounding_data() is None else "fast",
        layers=tuple(made.layers),
        left_in_float=tuple(made.floats),
        follow_symlinks=follow_symlinks,
    )


def _nothing_to_do(path: Path, floats: list[FloatOperator]) -> str:
    found = "; ".join(f"{f.op} {f.name!r}: {f.reason}" for f in floats[:5])
    return f"{path} has no quantized layer" + (f" ({found})" if found else "")
