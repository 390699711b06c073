"""The arguments of verify in either form: a conversion's result, or three files."""

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
    """The files and the data of a call of verify.

    Args:
        inter: path of the model that was converted.
        fake: path of the fake-quant model.
        deploy: path of the deploy model.
        data: one batch.
        follow_symlinks: whether external data of inter may be symbolic links to files elsewhere.
    """

    inter: Path
    fake: Path
    deploy: Path
    data: Any
    follow_symlinks: bool = False


def read_arguments(given: Sequence[Any], named: Mapping[str, Any]) -> Compared:
    """Bind the arguments after `model` in a call of verify.

    Args:
        given: positional arguments: (result, data) or (inter, fake, deploy, data).
        named: arguments given by these names.
    Returns:
        the files and the data.
    Raises:
        TypeError: the arguments are neither, or a path has a wrong type.
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
