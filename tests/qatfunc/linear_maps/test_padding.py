from typing import Any

import pytest

from qatfunc.linear_maps.padding import resolve_padding, same_padding


def test_same_padding_puts_the_larger_half_after():
    assert same_padding([4, 3, 1], 1) == [(1, 2), (1, 1), (0, 0)]
    assert same_padding([2, 3], (3, 2)) == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("padding", "inner", "outer"),
    [
        (2, 2, []),
        ((1, 2), (1, 2), []),
        ("valid", 0, []),
        ("same", 0, [1, 1, 1, 2]),
    ],
)
def test_padding_is_split(padding: Any, inner: Any, outer: list[int]):
    assert resolve_padding(padding, [4, 3], 1) == (inner, outer)


def test_even_padding_goes_to_the_operator():
    assert resolve_padding("same", [3, 5], 2) == ([2, 4], [])


def test_another_string_is_refused():
    with pytest.raises(ValueError, match="padding must be ints"):
        resolve_padding("full", [3], 1)
