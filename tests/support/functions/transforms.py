"""What the laws of torch.func's transforms share: one layer as a function of its operands."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from qatfunc import operators
from tests.support.functions.operands import QuantizedLayer

Operands = tuple[Tensor, dict[str, Any]]
"""x and params."""


class Case(NamedTuple):
    """A layer that the fused operator serves, and what transforms multiply with."""

    function: Callable[[Operands], Tensor]
    at: Operands
    layer: QuantizedLayer
    y: Tensor
    upstream: Tensor
    tangents: Any


def case_of(name: str, layer: QuantizedLayer, seed: int) -> Case:
    # What is wider is not fused.
    spec = replace(layer.spec, activation=replace(layer.spec.activation, bits=8))
    layer = layer._replace(spec=spec)
    operator = getattr(operators, name)

    def function(operands: Operands) -> Tensor:
        return operator(*operands, spec, **layer.options)

    at = layer.x, layer.params
    y = function(at)
    return Case(function, at, layer, y, directions(y, seed), directions(at, seed + 1))


def directions(tree: Any, seed: int) -> Any:
    random = torch.Generator().manual_seed(seed)
    return tree_map(lambda t: torch.randn(t.shape, generator=random), tree)


def by_name(operands: Operands) -> dict[str, Tensor]:
    """Tensors under the names that the formulas have."""
    x, params = operands
    found = {key: value for key, value in params.items() if key != "clip"}
    return {"x": x, **found, **params["clip"]._asdict()}
