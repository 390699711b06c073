"""Paths that a conversion writes to: all different, and none of a file that it reads."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import onnx_ir as ir

_KINDS = ("fake_quant", "deploy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Destinations:
    """Paths of the files that a conversion writes.

    Args:
        fake_quant: of the fake-quant model.
        deploy: of the deploy model.
        record: of the quantization factors, None if they are not written.
    """

    fake_quant: Path
    deploy: Path
    record: Path | None


def name_destinations(
    save_path: str | PathLike[str], record_file: str | PathLike[str] | None
) -> Destinations:
    """Return the paths of the files that a conversion writes.

    Args:
        save_path: prefix of the models.
        record_file: path of the quantization factors, None if they are not written.
    Returns:
        the paths.
    Raises:
        TypeError: an argument is not a path.
        ValueError: an argument does not name a file, or the record would replace a model.
    """
    check_path("save_path", save_path)
    prefix = Path(save_path)
    if str(save_path).endswith(("/", "\\")) or not prefix.name or prefix.is_dir():
        raise ValueError(f"save_path must end in a file name prefix, got {str(save_path)!r}")
    fake, deploy = (prefix.with_name(f"{prefix.name}_{k}_model.onnx") for k in _KINDS)
    record = None if record_file is None else _name_record(record_file, (fake, deploy))
    paths = (fake, deploy) if record is None else (fake, deploy, record)
    for path in paths:
        if path.is_dir():
            raise ValueError(f"a file cannot be written to {path}, which is a folder")
    return Destinations(fake_quant=fake, deploy=deploy, record=record)


def _name_record(record_file: str | PathLike[str], models: Iterable[Path]) -> Path:
    check_path("record_file", record_file)
    record = Path(record_file)
    if str(record_file).endswith(("/", "\\")) or not record.name:
        raise ValueError(f"record_file must name a file, got {str(record_file)!r}")
    for model in models:
        for path in (model, data_file(model)):
            # Some file systems ignore upper and lower case.
            if _is_same(record, path) or _real(record).lower() == _real(path).lower():
                raise ValueError(
                    f"record_file must differ from the models that are written, got "
                    f"{str(record_file)!r}, which is {path}"
                )
    return record


def check_source_not_overwritten(source: Path, model: ir.Model, destinations: Destinations) -> None:
    """Raise if a written file would replace a file of the model that is converted.

    Args:
        source: path of the model.
        model: the model, with its external data.
        destinations: paths that are written.
    Raises:
        ValueError: a path is that of the model or of its external data, or links to it.
    """
    sources = [source, *external_files(model)]
    record = destinations.record
    if record is not None:
        check_not_overwritten("record_file", record, sources)
    for path in (destinations.fake_quant, destinations.deploy):
        check_not_overwritten("save_path", path, sources)
        check_not_overwritten("save_path", data_file(path), sources)


def check_not_overwritten(argument: str, path: Path, sources: Iterable[Path]) -> None:
    """Raise if a written file would replace one that is read.

    Args:
        argument: name of the argument that the path comes from.
        path: of the written file.
        sources: paths that are read.
    Raises:
        ValueError: the path is one of the sources, or links to one.
    """
    for source in sources:
        if _is_same(path, source):
            raise ValueError(
                f"{argument}: {path} would replace {source}, which is being converted; choose "
                f"another {argument}"
            )


def external_files(model: ir.Model) -> list[Path]:
    """List the files that contain a model's external data.

    Args:
        model: as loaded.
    Returns:
        their paths.
    """
    tensors = (
        value.const_value for graph in model.graphs() for value in graph.initializers.values()
    )
    found = {Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    return sorted(found)


def data_file(path: Path) -> Path:
    """Return the path of the external data that is written for a large model.

    Args:
        path: of the model.
    Returns:
        the same with ".data" appended.
    """
    return path.with_name(f"{path.name}.data")


def _is_same(path: Path, other: Path) -> bool:
    """Whether two paths lead to the same file, also through links."""
    try:
        return path.samefile(other)
    except OSError:  # one does not exist yet
        return _real(path) == _real(other)


def _real(path: Path) -> str:
    return os.path.realpath(path)


def check_path(name: str, path: object) -> None:
    """Raise unless an argument is a path.

    Args:
        name: of the argument.
        path: its value.
    Raises:
        TypeError: it is neither a str nor a path.
    """
    if not isinstance(path, str | PathLike):
        raise TypeError(f"{name} must be a str or a path, got {path!r:.80}")
