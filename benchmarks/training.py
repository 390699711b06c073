"""Cost of quantization in a training step: time and saved bytes, relative to float32 training.

    python benchmarks/training.py [--rounds 15] [--threads 1 2] [--only linear conv search ...]
    python benchmarks/training.py [--rounds 15] [--threads 1] --markdown RUNS

A step is forward, backward and SGD. In every round each method takes one step, so that other load
on the machine affects all alike. Time is CPU time; a ratio is a method's step over float32's in the
same round. --markdown runs the workloads RUNS times and prints the table of the docs: the least and
the largest median of a run. The bytes kept for backward are those of distinct storages, without the
parameters'. A first step is that of a model that is not calibrated.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.clip_search import search
from benchmarks.contestants import CONTESTANTS, OURS, WORKLOADS, Trainer, Workload, spread
from benchmarks.small_layers import SMALL, STEPS, above_torch

WARM_UP = 2
FIRST_STEPS = 3


def add_steps(table: Table, workload: Workload, rounds: int) -> None:
    """Add each method's time and bytes on a workload, and the time of our first step."""
    times, kept = compete(workload, rounds)
    what = f"{workload.title}, step over float's"
    for index, contestant in enumerate(CONTESTANTS):
        ratios = [row[index] / row[0] for row in times]
        add(table, what if not index else "", contestant.title, ratios, kept[index] / kept[0])
    steady = statistics.median(row[OURS] for row in times)
    first = [Trainer(CONTESTANTS[OURS], workload, fresh=True).step() for _ in range(FIRST_STEPS)]
    add(table, "  first step over a later one", "ours", [seconds / steady for seconds in first])


def print_page(rounds: int, runs: int) -> None:
    """Print the table of the docs: for each workload, the medians of several runs."""
    titles = [contestant.title for contestant in CONTESTANTS[OURS:]]
    print(f"| {runs} runs of {rounds} rounds | {' | '.join(titles)} |")
    print("|---" * (len(titles) + 1) + "|")
    kept: list[list[float]] = [[] for _ in titles]
    for workload in WORKLOADS.values():
        medians: list[list[float]] = [[] for _ in titles]
        for _ in range(runs):
            times, bytes_kept = compete(workload, rounds)
            for index, _ in enumerate(titles, OURS):
                median = statistics.median(row[index] / row[0] for row in times)
                medians[index - OURS].append(median)
                kept[index - OURS].append(bytes_kept[index] / bytes_kept[0])
        print(f"| {workload.title}, a step | {' | '.join(map(between, medians))} |", flush=True)
    print(f"| bytes kept for the backward | {' | '.join(map(between, kept))} |")


def between(values: list[float]) -> str:
    """Return the least and the largest of ratios as text, once if they are equal."""
    ends = [f"{end:.2f}" for end in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def compete(workload: Workload, rounds: int) -> tuple[list[list[float]], list[int]]:
    """Train by all methods alternately; return the seconds of each round, and the bytes kept."""
    trainers = [Trainer(contestant, workload) for contestant in CONTESTANTS]
    kept = [trainer.bytes_kept() for trainer in trainers]
    for _ in range(WARM_UP):
        for trainer in trainers:
            trainer.step()
    return [[trainer.step() for trainer in trainers] for _ in range(rounds)], kept


def add_search(table: Table) -> None:
    """Add the clip search."""
    found = search()
    ratios = [a / b for a, b in zip(found.one_pass_each, found.ours, strict=True)]
    winner = "the same winner" if found.same_winner else "ANOTHER WINNER"
    certain = "certified" if found.certified else "not certified"
    add(table, "Clip search, 10 million values", "one pass each, over ours", ratios)
    table.add_row("", f"{winner}, {certain}, state {found.state_bytes / 1e6:.2f} MB")


def add_small(table: Table, rounds: int) -> None:
    """Add the overhead of small layers over torch's."""
    for title, (layer, shape) in SMALL.items():
        for step in STEPS:
            above = above_torch(layer, shape, step, rounds)
            add(table, f"{title}, us above torch's", f"ours, {step}", above, digits=0)


def add(
    table: Table,
    what: str,
    who: str,
    values: list[float],
    kept: float | None = None,
    *,
    digits: int = 2,
) -> None:
    """Add a row to the table, and print it immediately to standard error."""
    least, median, most = (f"{value:.{digits}f}" for value in spread(values))
    row = (what, who, least, median, most, "" if kept is None else f"{kept:.2f}")
    table.add_row(*row)
    print(*row, sep=" | ", file=sys.stderr, flush=True)


def main() -> None:
    """Print the table."""
    parts = [*WORKLOADS, "search", "small"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--markdown", type=int, metavar="RUNS")
    arguments = parser.parse_args()
    if arguments.markdown:
        torch.set_num_threads(arguments.threads[0])
        print_page(arguments.rounds, arguments.markdown)
        return
    title = f"CPU time, {arguments.rounds} rounds"
    table = Table("what", "who", "least", "median", "most", "bytes kept", title=title)
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        table.add_row(f"[b]{threads} thread(s)")
        for name in filter(arguments.only.__contains__, WORKLOADS):
            add_steps(table, WORKLOADS[name], arguments.rounds)
            table.add_section()
    torch.set_num_threads(1)
    if "search" in arguments.only:
        add_search(table)
        table.add_section()
    if "small" in arguments.only:
        add_small(table, arguments.rounds)
    console = Console(width=120)
    console.print(table)
    if len(CONTESTANTS) == OURS + 2:
        console.print("Brevitas is not installed and was left out.")


if __name__ == "__main__":
    main()
