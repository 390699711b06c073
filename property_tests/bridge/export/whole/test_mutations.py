"""Damaged files: a clear error and an empty folder, or two models that load and agree."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from bridge import ConversionError, convert_qat_model
from tests.support.graphs.mutations.damage import mutated

BLOCKS = 4
SECONDS = 20


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in what takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def session(data: bytes) -> onnxruntime.InferenceSession | None:
    """A session as the file says, without optimizations; None if ONNX Runtime refuses it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(data, options)
    except Exception:
        return None


def run(one: onnxruntime.InferenceSession, shape: tuple[int, ...]) -> list[np.ndarray] | None:
    x = np.random.default_rng(0).normal(0.0, 2.0, shape).astype(np.float32)
    try:
        return one.run(None, {one.get_inputs()[0].name: x})
    except Exception:
        return None


def check_written(source: Path, fake: Path, deploy: Path, shape: tuple[int, ...]) -> None:
    """Both models are valid; where the source loads and runs, they do, and with the same bits."""
    written = [path.read_bytes() for path in (fake, deploy)]
    for data in written:
        onnx.checker.check_model(data)
    whole = session(source.read_bytes()) if not (source.parent / "inter.data").exists() else None
    if whole is None:
        return
    sessions = [session(data) for data in written]
    assert None not in sessions, "ONNX Runtime takes the source but not what was written"
    if len(whole.get_inputs()) != 1 or run(whole, shape) is None:
        return
    if whole.get_inputs()[0].name in {value.name for value in whole.get_outputs()}:
        return  # one value with two declarations, which may contradict each other
    first, second = (run(one, shape) for one in sessions)
    assert first is not None, "the source runs but not the fake-quant model"
    assert second is not None, "the source runs but not the deploy model"
    assert [y.tobytes() for y in first] == [y.tobytes() for y in second]


def check(seed: int, folder: Path) -> bool:
    """Convert one damaged file; return whether it was taken."""
    data, _, shape = mutated(seed, folder)
    source, out = folder / "inter.onnx", folder / "out"
    source.write_bytes(data)
    before = sorted(folder.iterdir())
    target = "ascend" if seed % 4 == 0 else "ort"
    error: Exception | None = None
    try:
        with limited(SECONDS):
            done = convert_qat_model(
                source, out / "net", target=target, fold_batch_norm=bool(seed % 2)
            )
    except (ConversionError, FileNotFoundError) as caught:
        error = caught
    if error is not None:
        assert re.search(r"inter\.onnx|'[^']+'", str(error)), f"it names nothing: {error}"
        assert sorted(folder.iterdir()) == before, "something was written"
        return False
    assert sorted(folder.iterdir()) == sorted([*before, out])
    assert sorted(path.name for path in out.iterdir()) == [
        "net_deploy_model.onnx",
        "net_fake_quant_model.onnx",
    ]
    if target == "ort":
        check_written(source, done.fake_quant, done.deploy, shape)
    return True


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.filterwarnings("error")
def test_damaged_files(tmp_path, block, pytestconfig):
    count = (2000 if pytestconfig.getoption("--deep") else 200) // BLOCKS
    taken = 0
    for seed in range(block * count, (block + 1) * count):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            taken += check(seed, folder)
        except Exception as error:
            raise AssertionError(f"seed {seed}, {mutated(seed, folder)[1]}") from error
    assert 0 < taken < count, "mutations all harmless, or all fatal"
