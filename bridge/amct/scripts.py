"""Running a script that imports AMCT."""

import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from bridge.amct.aliases import install

_MODULE_NAMES = {"__name__", "__spec__", "__file__", "__cached__", "__loader__", "__package__"}


def run(
    script: str | PathLike[str],
    args: Sequence[str] = (),
    *,
    namespace: Mapping[str, Any] | None = None,
    prelude: str | PathLike[str] | None = None,
    target: str = "ort",
    force: bool = False,
) -> dict[str, Any]:
    """Run a script as `python script args...` would, with AMCT's names resolved to bridge.

    The aliases remain installed afterwards.

    Args:
        script: path of the script.
        args: sys.argv[1:] of the script.
        namespace: global names that are defined before the script starts.
        prelude: a script that runs first, in the same way; its global names are defined as well.
        target: as install's.
        force: as install's.
    Returns:
        the script's global names and their values.
    Raises:
        FileNotFoundError: there is no such script or prelude.
        ImportError, ValueError: as install.
    """
    paths = [Path(path) for path in (prelude, script) if path is not None]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no script at {path}")
    install(target=target, force=force)
    names = dict(namespace or {})
    for path in paths:
        with _command_line(path, args):
            ran = runpy.run_path(str(path), init_globals=names, run_name="__main__")
        names = {name: value for name, value in ran.items() if name not in _MODULE_NAMES}
    return names


@contextmanager
def _command_line(script: Path, args: Sequence[str]) -> Iterator[None]:
    """Set sys.argv and sys.path as `python script args...` does."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = [str(script), *args]
    sys.path[0] = str(script.resolve().parent)
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path
