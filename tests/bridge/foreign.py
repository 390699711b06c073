"""Checks for graphs as other tools write them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bridge import convert_qat_model
from bridge.export.result.conversion import Conversion
from property_tests.bridge.equality import LEVELS, outputs_at
from tests.bridge.graphs import save

Array = Any


def converted_right(
    proto: onnx.ModelProto, folder: Path, x: Array, *, error: float, **options: Any
) -> Conversion:
    """Convert a model, and compare what all three compute.

    Fake-quant and deploy have the same bits at every level, and are within an error of the source
    as ONNX Runtime computes it at level off, in every output.
    """
    source = save(proto, folder)
    done = convert_qat_model(source, folder / "net", **options)
    wanted = outputs_at(source.read_bytes(), x, "DISABLE_ALL")
    first = outputs_at(done.fake_quant.read_bytes(), x, "DISABLE_ALL")
    for ours, theirs in zip(first, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(np.float64) - theirs).max(initial=0) <= error
        assert len(np.unique(ours)) > 3, "an output that hardly depends on the input shows nothing"
    for path in (done.fake_quant, done.deploy):
        for level in LEVELS:
            for ours, same in zip(outputs_at(path.read_bytes(), x, level), first, strict=True):
                assert ours.tobytes() == same.tobytes(), (path.name, level)
    return done
