"""Putting files in their places, all or none."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def replace_all(made: Mapping[Path, Path]) -> None:
    """Move files to their places; if one cannot be moved, put all back as they were.

    Each move is one step, so that a reader sees an old file or a new one, never a part. The
    folders are locked meanwhile: of two conversions to the same places, all files are from the
    one that ends last. (Where the system has no such locks, each file is whole all the same, and
    so it is when the process is killed between two moves.)

    Args:
        made: by the path where it was written, the place of each file, on the same file system;
            they are moved in this order.
    Raises:
        OSError: a file cannot be moved; all places are as they were.
    """
    with contextlib.ExitStack() as stack:
        for folder in sorted({place.parent.resolve() for place in made.values()}):
            stack.enter_context(_locked(folder))
        replaced = {
            folder: Path(stack.enter_context(scratch_folder(folder)))
            for folder in {place.parent for place in made.values()}
        }
        kept: dict[Path, Path | None] = {}
        try:
            for new, place in made.items():
                kept[place] = _keep(place, replaced[place.parent] / place.name)
                os.replace(new, place)
        except BaseException:
            for place, old in reversed(kept.items()):
                _put_back(place, old)
            raise


def scratch_folder(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a folder in another one, on the same file system, for files that are not ready.

    Args:
        folder: the other one.
    Returns:
        a context that removes it.
    """
    return tempfile.TemporaryDirectory(dir=folder, prefix=".qatfunc-")


def _keep(place: Path, second: Path) -> Path | None:
    """Give what is in a place a second name, or copy it where there are no second names."""
    if not os.path.lexists(place):
        return None
    try:
        os.link(place, second, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(place, second, follow_symlinks=False)
    return second


def _put_back(place: Path, old: Path | None) -> None:
    with contextlib.suppress(OSError):  # the error that is being raised says more
        if old is None:
            place.unlink(missing_ok=True)
        else:
            os.replace(old, place)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process or thread at a time replace files in a folder."""
    if fcntl is None:
        yield
        return
    # A lock of the folder itself leaves no file.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
