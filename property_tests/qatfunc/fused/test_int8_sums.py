"""Laws of forwards in INT8: they have the bits of those in floats."""

import subprocess
import sys
import time

from hypothesis import given, settings

from property_tests.strategies.operators import NAMED_LAYERS, NamedLayer
from qatfunc import int8_forward, operators
from tests.support.bits import same_bits


@given(NAMED_LAYERS)
def test_layers_have_the_bits_of_floats(named: NamedLayer):
    """Forced or switched off, the output is the same."""
    name, (x, params, spec, options) = named
    operator = getattr(operators, name)
    with int8_forward("always"):
        got = operator(x, params, spec, **options)
    with int8_forward("never"):
        assert same_bits(got, operator(x, params, spec, **options))


def test_odd_shapes_have_the_bits_of_floats():
    """The same of shapes drawn at random, in a process that a kernel may crash."""
    deep = settings().max_examples > 1000
    count, seed = (4000, time.time_ns() % 2**32) if deep else (150, 0)
    command = [
        sys.executable,
        "-m",
        "tests.support.functions.int8_stress",
        str(count),
        str(seed),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    wrong = [lines[i - 1] for i, line in enumerate(lines) if line == "DIFFERENT"]
    assert not wrong, f"seed {seed}: bits differ for {wrong}"
    assert done.returncode == 0, f"seed {seed}: crashed after {lines[-1:]}: {done.stderr[-2000:]}"
    assert lines[-1].endswith("in INT8")
