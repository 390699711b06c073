"""convert_qat_model: one QDQ model in, a fake-quant and a deploy model out.

read_model -> convert_model -> write_models
"""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

from bridge.arguments import check_flag
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
    every quantized layer: the fake-quant model with integer-valued floats, the deploy model with
    integers. The deploy model of target "qdq" only contains scales, zero points and integers as
    QuantizeLinear and DequantizeLinear; the runtime that loads it determines the rounding.

    Args:
        model_file: an ONNX file with QuantizeLinear/DequantizeLinear around Conv, ConvTranspose,
            Gemm or MatMul; opset 13 or later.
        save_path: prefix of the files; folders are created.
        record_file: path of a text file for the quantization factors, None to write none.
        target: bridge.ort(...), bridge.qdq(...) or bridge.ascend(); or "ort", "qdq" or "ascend"
            with `options`.
        fold_batch_norm: fold a BatchNormalization after a layer into a factor and a shift per
            channel, in both models; torch then rounds it differently from the models. The deploy
            model of "qdq" keeps the BatchNormalization, which its runtime folds.
        follow_symlinks: allow external data that is a symbolic link to a file outside the model's
            folder, as in the cache of a model hub; only for files that you trust.
        options: of the named target: mode, data, max_ulps, vnni and tune of bridge.ort; symmetric
            and opset of bridge.qdq.
    Returns:
        the paths, a summary of each quantized layer, and the operators that stay in float.
    Raises:
        TypeError: an argument has a wrong type.
        FileNotFoundError: model_file does not exist.
        ValueError: the target or the mode is unknown; an option belongs to another target or is out
            of range; save_path or record_file does not name a file, or names one that is read or
            written already; data is missing, does not fit the model or is given in mode "exact"; or
            forms are to be timed and the shape of an input is not known.
        ConversionError: the model cannot be converted or was exported in training mode; names the
            node or layer.
        OSError: a file cannot be written.
    If anything fails, none of the models and the record is written.
    Source: docs/semantics.md, 6 to 8.
    """
    target = find_target(target, options)
    check_flag("fold_batch_norm", fold_batch_norm)
    check_flag("follow_symlinks", follow_symlinks)
    check_path("model_file", model_file)
    paths = name_destinations(save_path, record_file)
    source = read_model(Path(model_file), follow_symlinks=follow_symlinks)
    check_source_not_overwritten(Path(model_file), source, paths)
    check_eval_mode(source, Path(model_file))
    made = convert_model(source, target=target, fold_batch_norm=fold_batch_norm)
    if not made.layers:
        raise ConversionError(_nothing_to_do(Path(model_file), made.floats))
    models = {paths.fake_quant: made.fake, paths.deploy: made.deploy}
    write_models(models, {} if paths.record is None else {paths.record: made.record})
    return Conversion(
        source=Path(model_file),
        fake_quant=paths.fake_quant,
        deploy=paths.deploy,
        target=target.name,
        mode="exact" if target.rounding_data() is None else "fast",
        layers=tuple(made.layers),
        left_in_float=tuple(made.floats),
        follow_symlinks=follow_symlinks,
    )


def _nothing_to_do(path: Path, floats: list[FloatOperator]) -> str:
    found = "; ".join(f"{f.op} {f.name!r}: {f.reason}" for f in floats[:5])
    return f"{path} has no quantized layer" + (f" ({found})" if found else "")
