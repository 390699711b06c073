"""What the reference was recorded to compute, as pytest parameters.

The recordings lie beside the repository, in ../shared/golden. Where they are absent the tests
that need them are skipped; hand-written numbers in the ordinary tests cover the same formulas.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

DIRECTORY = Path(__file__).resolve().parents[4] / "shared" / "golden"


class Case(NamedTuple):
    meta: dict[str, Any]
    arrays: dict[str, Tensor]


@cache
def load(name: str) -> list[Case]:
    """Read every case of a recording, e.g. "arq_weight"."""
    with np.load(DIRECTORY / f"{name}.npz") as archive:
        metas = json.loads(archive["meta"].tobytes().decode())
        arrays: list[dict[str, Tensor]] = [{} for _ in metas]
        for key in archive.files:
            if key != "meta":
                number, field = key.split(".", 1)
                arrays[int(number)][field] = torch.from_numpy(np.array(archive[key]))
    return [Case(meta, fields) for meta, fields in zip(metas, arrays, strict=True)]


def parameters(name: str, **wanted: Any) -> list[Any]:
    """One pytest parameter a case whose meta is as wanted, or a skipped one that says why."""
    if not (DIRECTORY / f"{name}.npz").exists():
        absent = pytest.mark.skip(reason=f"../shared/golden/{name}.npz is absent")
        return [pytest.param(None, marks=absent, id="absent")]
    return [
        pytest.param(case, id=f"{i:03d}")
        for i, case in enumerate(load(name))
        if wanted.items() <= case.meta.items()
    ]
