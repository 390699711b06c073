"""Import time of the packages, compared with torch's.

    python benchmarks/import_time.py [ROUNDS]

Each import runs in a process of its own, one at a time; every round runs all of them, so that other
load on the machine affects all alike. Seconds are medians of wall-clock time and of the process's
CPU time, which other load affects less.
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
wall, cpu = time.perf_counter(), time.process_time()
{}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
ROUNDS = 9


def main(rounds: int = ROUNDS) -> None:
    """Print the seconds of each import, absolute and compared with torch's."""
    for statement in STATEMENTS.values():
        seconds(statement)  # compiles the files and fills the page cache
    times = [{name: seconds(text) for name, text in STATEMENTS.items()} for _ in range(rounds)]
    heads = ("import", "wall", "above torch", "ratio", "CPU", "above torch", "ratio")
    print("{:20}{:>7}{:>13}{:>7}{:>7}{:>13}{:>7}".format(*heads))
    for name in STATEMENTS:
        columns = [column for clock in (0, 1) for column in compared(times, name, clock)]
        print("{:20}{:>7.2f}{:>13.2f}{:>7.2f}{:>7.2f}{:>13.2f}{:>7.2f}".format(name, *columns))


def seconds(statement: str) -> tuple[float, float]:
    """Return the wall-clock and CPU seconds that a statement takes in a new process."""
    command = [sys.executable, "-c", PROGRAM.format(statement)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    wall, cpu = map(float, done.stdout.split())
    return wall, cpu


def compared(
    times: Sequence[Mapping[str, tuple[float, float]]], name: str, clock: int
) -> tuple[float, float, float]:
    """Return medians over the rounds: seconds, seconds above torch's, and the ratio to torch's."""
    taken = [(each[name][clock], each["torch"][clock]) for each in times]
    return (
        median(own for own, _ in taken),
        median(own - torch for own, torch in taken),
        median(own / torch for own, torch in taken),
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
