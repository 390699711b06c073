"""Moving files to their destinations, all or none."""

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
    """Move files to their destinations; if one cannot be moved, restore all of them.

    Each move is atomic, so that a reader sees the old file or the new one, never a part. The
    destination folders are locked meanwhile: if two conversions write to the same paths, all files
    are from the one that ends last. (On systems without such locks, and if the process is killed
    between two moves, each single file is still complete.)

    Args:
        made: destination of each file by the path where it was written, on the same file system;
            the files are moved in this order.
    Raises:
        OSError: a file cannot be moved; the destinations are as before.
    """
    with contextlib.ExitStack() as stack:
        for folder in sorted({path.parent.resolve() for path in made.values()}):
            stack.enter_context(_locked(folder))
        replaced = {
            folder: Path(stack.enter_context(scratch_folder(folder)))
            for folder in {path.parent for path in made.values()}
        }
        kept: dict[Path, Path | None] = {}
        try:
            for new, path in made.items():
                kept[path] = _back_up(path, replaced[path.parent] / path.name)
                os.replace(new, path)
        except BaseException:
            for path, old in reversed(kept.items()):
                _restore(path, old)
            raise


def scratch_folder(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """Create a temporary folder inside another one, and so on the same file system.

    Args:
        folder: the outer folder.
    Returns:
        a context manager that removes the temporary folder.
    """
    return tempfile.TemporaryDirectory(dir=folder, prefix=".qatfunc-")


def _back_up(path: Path, backup: Path) -> Path | None:
    """Hard-link an existing file to a backup, or copy it where the system has no hard links."""
    if not os.path.lexists(path):
        return None
    try:
        os.link(path, backup, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(path, backup, follow_symlinks=False)
    return backup


def _restore(path: Path, old: Path | None) -> None:
    with contextlib.suppress(OSError):  # the error that is being raised is the cause
        if old is None:
            path.unlink(missing_ok=True)
        else:
            os.replace(old, path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Allow only one process or thread at a time to replace files in a folder."""
    if fcntl is None:
        yield
        return
    # The folder itself is locked, so that no lock file remains.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
