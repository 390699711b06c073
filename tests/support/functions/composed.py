"""The quantized operators with the fused one left out, to compare it with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from qatfunc.operators import dispatch


@contextmanager
def without_fusing() -> Iterator[None]:
    with mock.patch.object(dispatch, "_can_fuse", return_value=False) as asked:
        yield
    assert asked.called


def composed(function: Callable[..., Any], *args: Any) -> Any:
    with without_fusing():
        return function(*args)
