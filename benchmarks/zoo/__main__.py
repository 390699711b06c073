"""Run networks of other packages from prepare_qat to verify; write docs/models.md.

    python -m benchmarks.zoo [--limit SECONDS] [--again] [--workers N] [PACKAGE[/NAME] ...]

Each network runs in a process of its own with a time limit. Outcomes are stored in outputs/zoo, a
file for each network, and reused by the next run unless --again is given. The page is written from
all stored outcomes.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.zoo.networks import SOURCES
from benchmarks.zoo.page import write_page

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "outputs" / "zoo"


def main() -> None:
    """Run the networks that the command line names and that have no outcome; write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--limit", type=int, default=300, help="time limit per network, seconds")
    parser.add_argument("--again", action="store_true", help="run also networks with an outcome")
    parser.add_argument("--workers", type=int, default=1, help="networks at the same time")
    parser.add_argument("subjects", nargs="*", default=list(SOURCES), metavar="PACKAGE[/NAME]")
    given = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    names = [pair for subject in given.subjects for pair in _named(subject)]
    todo = [pair for pair in names if given.again or not _file(*pair).exists()]
    with ThreadPoolExecutor(given.workers) as pool:
        for line in pool.map(lambda pair: _run(*pair, limit=given.limit), todo):
            print(line, flush=True)
    outcomes = {
        package: {name: json.loads(_file(package, name).read_text()) for name in networks}
        for package, networks in (
            (p, [n for n in SOURCES[p] if _file(p, n).exists()]) for p in SOURCES
        )
    }
    print(write_page(ROOT / "docs" / "models.md", outcomes))


def _named(subject: str) -> list[tuple[str, str]]:
    package, _, name = subject.partition("/")
    if package not in SOURCES or (name and name not in SOURCES[package]):
        raise SystemExit(f"no such network: {subject}; packages: {', '.join(SOURCES)}")
    return [(package, one) for one in ([name] if name else SOURCES[package])]


def _file(package: str, name: str) -> Path:
    return KEPT / (re.sub(r"\W+", "_", f"{package} {name}") + ".json")


def _run(package: str, name: str, *, limit: int) -> str:
    command = [sys.executable, "-m", "benchmarks.zoo.one", package, name]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=limit, capture_output=True, text=True)
        lines = done.stdout.strip().splitlines()
        outcome: dict[str, Any] = (
            json.loads(lines[-1])
            if done.returncode == 0 and lines
            else {"error": f"exit status {done.returncode}: {done.stderr.strip()[-200:]}"}
        )
    except subprocess.TimeoutExpired:
        outcome = {"error": f"stopped after {limit} s"}
    outcome.setdefault("seconds", time.perf_counter() - started)
    _file(package, name).write_text(json.dumps(outcome, indent=1))
    result = outcome["error"] or {
        exporter: one["error"] or f"{one['fake_deploy']} of {one['outputs']} differ"
        for exporter, one in outcome["exports"].items()
    }
    return f"{package}/{name}: {outcome['seconds']:.0f} s: {result}"


if __name__ == "__main__":
    main()
