"""Import time of the packages, compared with torch's.

    python benchmarks/import_time.py [ROUNDS]

Each import runs in a process of its own, one at a time; every round runs all of them, so that other
load on the machine affects all alike. Seconds are medians of wall-clock time.
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
    """Print the seconds of each import, absolute and compared with torch's."""
    for statement in STATEMENTS.values():
        seconds(statement)  # compiles the files and fills the page cache
    times: Mapping[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(rounds):
        for name, statement in STATEMENTS.items():
            times[name].append(seconds(statement))
    print_table(times)


def seconds(statement: str) -> float:
    """Return the seconds that a statement takes in a new process."""
    command = [sys.executable, "-c", PROGRAM.format(statement)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_table(times: Mapping[str, Sequence[float]]) -> None:
    """Print a row for each import; differences and ratios are medians over the rounds."""
    print(f"{'import':20}{'seconds':>9}{'above torch':>13}{'ratio':>7}")
    for name, taken in times.items():
        pairs = list(zip(taken, times["torch"], strict=True))
        above = median(own - torch for own, torch in pairs)
        ratio = median(own / torch for own, torch in pairs)
        print(f"{name:20}{median(taken):>9.2f}{above:>13.2f}{ratio:>7.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
