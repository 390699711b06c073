"""Choose the subset of the recordings that lies in this folder.

    python -m tests.support.golden.make

reads the recordings in ../shared/golden and writes the cases in CHOSEN here.
"""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np

from tests.support.golden.recordings import SUBSET, WHOLE

CHOSEN: dict[str, Collection[int]] = {
    # Settings follow each other in cycles of 4, 7 and 8, which these steps do not divide.
    "arq_weight": range(0, 52, 3),
    "ifmr_clip_search": range(0, 56, 9),
    "ulq_activation": range(0, 168, 9),
    "learned_weight_scale": range(6),
    # Each operator with both values of every setting that was recorded for it.
    "modules": (2, 3, 7, 17, 19, 20, 23, 26),
}


def subset(path: Path, chosen: Collection[int]) -> dict[str, np.ndarray]:
    """The arrays of some cases of a recording, and what these are."""
    with np.load(path) as archive:
        metas = json.loads(archive["meta"].tobytes().decode())
        arrays = {
            key: archive[key]
            for key in archive.files
            if key != "meta" and int(key.partition(".")[0]) in chosen
        }
    text = json.dumps({number: metas[number] for number in chosen})
    return {"meta": np.frombuffer(text.encode(), np.uint8), **arrays}


def main() -> None:
    for name, chosen in CHOSEN.items():
        np.savez_compressed(SUBSET / f"{name}.npz", **subset(WHOLE / f"{name}.npz", chosen))


if __name__ == "__main__":
    main()
