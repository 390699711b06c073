"""The recordings, as pytest parameters: a subset in this folder, all of them in ../shared/golden.

A file NAME.npz holds the arrays of case 17 as "017.weight", "017.scale", ..., and what the cases
are as JSON in "meta": a list, or in a subset a dict by their numbers.
"""

import json
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.source import ROOT

SUBSET = Path(__file__).parent
WHOLE = ROOT.parent / "shared" / "golden"
"""Beside the repository, where somebody put it there."""


class Case:
    """One case of a recording, whose arrays are read when a test asks for them."""

    def __init__(self, archive: Any, number: int, meta: dict[str, Any]) -> None:
        self._archive, self._prefix, self.meta = archive, f"{number:03d}.", meta

    @cached_property
    def arrays(self) -> dict[str, Tensor]:
        return {
            key.removeprefix(self._prefix): torch.from_numpy(np.array(self._archive[key]))
            for key in self._archive.files
            if key.startswith(self._prefix)
        }


def read(folder: Path, name: str) -> dict[int, Case]:
    """The cases of a recording, e.g. "arq_weight", in a folder, by their numbers."""
    archive = np.load(folder / f"{name}.npz")
    metas = json.loads(archive["meta"].tobytes().decode())
    numbered = enumerate(metas) if isinstance(metas, list) else metas.items()
    return {int(number): Case(archive, int(number), meta) for number, meta in numbered}


def is_whole(name: str) -> bool:
    """Whether all cases of a recording are at hand."""
    return (WHOLE / f"{name}.npz").exists()


@cache
def load(name: str) -> dict[int, Case]:
    """All cases of a recording where they are at hand, those of the subset elsewhere."""
    return read(WHOLE if is_whole(name) else SUBSET, name)


def cases(name: str, **wanted: Any) -> pytest.MarkDecorator:
    """Run a test of `case` on each case whose meta is as wanted."""
    chosen = [
        pytest.param(case, id=f"{number:03d}")
        for number, case in load(name).items()
        if wanted.items() <= case.meta.items()
    ]
    return pytest.mark.parametrize("case", chosen)
