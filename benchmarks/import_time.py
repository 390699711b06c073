"""How long the packages take to import, beside torch alone.

    python benchmarks/import_time.py [ROUNDS]

Each import has a process of its own, one after the other and round by round, so that what else the
machine does meets all of them. Seconds are medians of the wall clock.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
STATEMENTS = {
    "torch": "import torch",
    "qatfunc": "import qatfunc",
    "bridge": "import bridge",
    "bridge, converter": "from bridge import convert_qat_model",
}
PROGRAM = """
import time
started = time.perf_counter()
{}
print(time.perf_counter() - started)
"""
ROUNDS = 9


def main(rounds: int = ROUNDS) -> None:
    """Print seconds, and what each import takes beyond torch's."""
    for statement in STATEMENTS.values():
        seconds(statement)  # files are compiled and in memory
    times: Mapping[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(rounds):
        for name, statement in STATEMENTS.items():
            times[name].append(seconds(statement))
    print_table(times)


def seconds(statement: str) -> float:
    """Time a statement in a fresh process."""
    command = [sys.executable, "-c", PROGRAM.format(statement)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_table(times: Mapping[str, Sequence[float]]) -> None:
    """Print a row an import; differences and ratios are medians of those of each round."""
    print(f"{'import':20}{'seconds':>9}{'above torch':>13}{'ratio':>7}")
    for name, taken in times.items():
        pairs = list(zip(taken, times["torch"], strict=True))
        above = median(own - torch for own, torch in pairs)
        ratio = median(own / torch for own, torch in pairs)
        print(f"{name:20}{median(taken):>9.2f}{above:>13.2f}{ratio:>7.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
