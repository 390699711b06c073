"""Files are replaced all together or not at all, and all are from the same run."""

import os
import threading
import time

import pytest

from bridge import convert_qat_model
from bridge.export.files.writing import write_models
from tests.support.graphs.text import MATMUL, model, save


def contents(folder):
    return {path.name: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


class StuckError(OSError):
    pass


def no_links(*_, **__):
    raise OSError("the file system has no hard links")


def failing(monkeypatch, which):
    """Let the which-th move of a file to its destination fail."""
    moves, replace = [], os.replace

    def replace_or_fail(old, new):
        moves.append(new)
        if len(moves) == which:
            raise StuckError("the file is in use")
        replace(old, new)

    monkeypatch.setattr(os, "replace", replace_or_fail)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_move_that_fails_takes_back_the_others(tmp_path, monkeypatch, which, earlier, links):
    source, folder = save(model(MATMUL), tmp_path), tmp_path / "out"
    if earlier:
        convert_qat_model(source, folder / "net", folder / "record.txt", max_ulps=0)
        (folder / "record.txt").write_text("of an earlier run")
    if not links:
        monkeypatch.delattr(os, "link")
        monkeypatch.setattr(
            os, "link", lambda *_, **__: os.stat(tmp_path / "absent"), raising=False
        )
    before = contents(tmp_path)
    failing(monkeypatch, which)
    with pytest.raises(StuckError):
        convert_qat_model(source, folder / "net", folder / "record.txt")
    assert contents(tmp_path) == before


def test_a_record_that_cannot_be_written_leaves_no_model(tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(UnicodeEncodeError):
        write_models({}, {folder / "one": "text", folder / "record.txt": "\udcff"})
    assert contents(tmp_path) == {}


def test_of_two_runs_at_once_all_files_are_of_one(tmp_path, monkeypatch):
    places = [tmp_path / folder / name for folder in ("a", "b") for name in ("x", "y")]
    replace = os.replace

    def slowly(old, new):
        replace(old, new)
        time.sleep(0.002)

    monkeypatch.setattr(os, "replace", slowly)
    for _ in range(5):
        start = threading.Barrier(4)

        def run(text, start=start):
            start.wait()
            write_models({}, dict.fromkeys(places, text))

        threads = [threading.Thread(target=run, args=(str(i),)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({place.read_text() for place in places}) == 1
    assert contents(tmp_path).keys() == {"a", "b", "x", "y"}
