"""Hostile files end within seconds, converted or in a ConversionError: see hostile_sizes."""

import subprocess
import sys

import pytest

from tests.support.graphs.hostile_sizes import CASES

# Against hanging alone: all of them take about 20 s together, where one that is not bounded takes
# hours.
LIMIT = 600.0


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of each, by name; those after one that hangs are missing."""
    command = [
        sys.executable,
        "-m",
        "tests.support.graphs.hostile_sizes",
        str(tmp_path_factory.mktemp("h")),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        printed, errors = done.stdout, done.stderr
    except subprocess.TimeoutExpired as expired:
        printed, errors = (expired.stdout or b"").decode(), "it ran too long"
    lines = (line.partition(": ") for line in printed.splitlines())
    return {name: outcome or errors for name, _, outcome in lines}


@pytest.mark.parametrize("case", CASES)
def test_it_ends(outcomes, case):
    assert outcomes.get(case, "not reached").startswith(("converted", "ConversionError"))


REFUSED = {
    "functions that double 30 times": "its functions have 5.37e+08 nodes when inlined",
    "functions 3,000 deep": "Function call chain depth exceeds limit",
    "a product of 2^36 scales": "the scale of DequantizeLinear 'wd' is not constant",
    "a group of 2^63 - 1": "does not fit ConvTranspose with group = 9223372036854775807",
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_error_says_why(outcomes, case):
    assert REFUSED[case] in outcomes[case]
