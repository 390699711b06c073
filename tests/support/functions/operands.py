"""What an operator is called with."""

from typing import Any, NamedTuple

from torch import Tensor

from qatfunc import ActivationSpec, Clip, LayerSpec


class QuantizedLayer(NamedTuple):
    x: Tensor
    params: dict[str, Any]
    spec: LayerSpec
    options: dict[str, Any]


class Product(NamedTuple):
    a: Tensor
    b: Tensor
    params: dict[str, Clip]
    spec: ActivationSpec
