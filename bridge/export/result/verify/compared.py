"""The files and the batch that verify compares, from either form of its arguments."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from bridge.export.files.destinations import check_path
from bridge.export.result.conversion import Conversion

_FORMS = "verify(model, result, data) or verify(model, inter, fake, deploy, data)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What is compared with a model.

    Args:
        inter: the model that was converted.
        fake: the fake-quant model.
        deploy: the deploy model.
        data: one batch.
        follow_symlinks: whether weights of inter may be symbolic links to files elsewhere.
    """

    inter: Path
    fake: Path
    deploy: Path
    data: Any
    follow_symlinks: bool = False


def read_arguments(given: Sequence[Any], named: Mapping[str, Any]) -> Compared:
    """Read what follows the model in a call of verify.

    Args:
        given: positional arguments: (result, data) or (inter, fake, deploy, data).
        named: those that are given by these names.
    Returns:
        the files, and the batch.
    Raises:
        TypeError: they are neither, or a path is of a wrong kind.
    """
    of_result = isinstance(given[0], Conversion) if given else "result" in named
    form = _of_conversion if of_result else _of_files
    try:
        arguments = inspect.signature(form).bind(*given, **named)
    except TypeError as error:
        raise TypeError(f"verify: {error}; call {_FORMS}") from None
    return form(*arguments.args, **arguments.kwargs)


def _of_conversion(result: Conversion, data: Any) -> Compared:
    if not isinstance(result, Conversion):
        raise TypeError(
            f"verify: result must be what convert_qat_model returned, got {type(result).__name__}"
        )
    return Compared(
        inter=result.source,
        fake=result.fake_quant,
        deploy=result.deploy,
        data=data,
        follow_symlinks=result.follow_symlinks,
    )


def _of_files(
    inter: str | PathLike[str], fake: str | PathLike[str], deploy: str | PathLike[str], data: Any
) -> Compared:
    for name, path in (("inter", inter), ("fake", fake), ("deploy", deploy)):
        check_path(name, path)
    return Compared(inter=Path(inter), fake=Path(fake), deploy=Path(deploy), data=data)
