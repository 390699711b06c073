"""ONNX Runtime on a CPU: uint8 codes, integer operators, and QLinearConv where it is proven equal.

    x_q -> QLinearConv | ConvInteger -> epilogue | MatMulInteger -> epilogue | float form

Each layer takes the form that costs.py expects to be the fastest, or that was timed so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import torch

from bridge.export.graph.builder import Builder
from bridge.export.graph.graph_pass import GraphPass
from bridge.export.lower.int8 import write_integer
from bridge.export.lower.int8_weights import may_be_int8
from bridge.export.lower.products import write_integer_product
from bridge.export.passes.concat import quantize_before_concat
from bridge.export.passes.max_pool import keep_max_pools_in_float
from bridge.export.passes.uint8_codes import to_uint8_codes
from bridge.export.passes.zero_points import unshare_zero_points
from bridge.export.plan import costs
from bridge.export.plan.forms import Choice, Form, choose_ort_form
from bridge.export.plan.tune import Tuning, tune_choices
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.products import QuantizedProduct
from bridge.export.requantization.chains import Chain, Unchained, find_chains
from bridge.export.targets.options import check_flag, check_integer
from bridge.export.targets.target import Passes, Target

MODES = ("exact", "fast")

MAX_ULPS = 64
"""How far a multiplier is adjusted by default: less than a hundred-thousandth of it."""

FARTHEST_ULPS = 4096
"""The upper bound of max_ulps: at most one part in 2,048 of a multiplier."""

_INT8_WEIGHTS = (*costs.CHAINED, "MatMulInteger")
"""The forms that can have int8 weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ort(Target):
    """ONNX Runtime on a CPU.

    Args:
        mode: "exact", or "fast": outputs of layers and sums of two activations that integer
            operators read are rounded to 8 bits too. Fake-quant and deploy then agree in every
            bit, but compute something else than the torch model.
        data: for mode "fast" the batches that give what is rounded there its range: arrays or
            tensors, tuples of them for several inputs, or dicts by the names of the inputs.
        max_ulps: how far the factor scale_x * scale_w of a channel may be adjusted, in both models
            alike, where that lets a faster integer operator compute the same bits; bridge.adopt
            adjusts the torch model's. 0 adjusts none; such layers take another form. At most 4,096.
        vnni: write weights as int8 beside uint8 activations: for processors with VNNI, which have
            faster kernels for them; older x86 ones saturate, so that results are wrong there.
            bridge.sums_int8_exactly() tells which this machine is. A layer with two weights of
            -128 in an output channel keeps uint8 ones, for ARM64's sake.
        tune: time the forms that each layer can take on this machine, and take the fastest; all
            have the same bits. bridge.Tuning says how, and gives the sizes of inputs that the
            model leaves open.
    Raises:
        TypeError: an option is of a wrong kind.
        ValueError: the mode is unknown, max_ulps is out of range, or data is missing or given
            without need.
    """

    name: ClassVar[str] = "ort"
    product_form: ClassVar[Form] = Form("MatMulInteger", write_integer)
    before: ClassVar[Passes] = (GraphPass(to_uint8_codes),)
    before_deploy: ClassVar[Passes] = (GraphPass(quantize_before_concat),)
    deploy_last: ClassVar[Passes] = (
        GraphPass(keep_max_pools_in_float),
        GraphPass(unshare_zero_points),
    )

    mode: str = "exact"
    data: Iterable[Any] | None = None
    max_ulps: int = MAX_ULPS
    vnni: bool = False
    tune: bool | Tuning = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be {' or '.join(map(repr, MODES))}, got {self.mode!r}")
        check_flag("vnni", self.vnni)
        if not isinstance(self.tune, bool | Tuning):
            raise TypeError(f"tune must be True, False or a bridge.Tuning, got {self.tune!r}")
        check_integer("max_ulps", self.max_ulps, range(FARTHEST_ULPS + 1))
        _check_data(self.mode, self.data)

    def rounding_data(self) -> Iterable[Any] | None:
        """Return the batches of mode "fast", None in mode "exact"."""
        return self.data

    def find_chains(self, layers: Sequence[QuantizedLayer]) -> Mapping[str, Chain | Unchained]:
        """Find what QLinearConv can compute, as requantization.chains.find_chains."""
        return find_chains(layers, max_ulps=self.max_ulps)

    def choose(self, layer: QuantizedLayer, chain: Chain | None) -> Choice:
        """Pick the form that is expected to be the fastest."""
        return choose_ort_form(layer, chain)

    def refine(
        self,
        choices: Mapping[str, Choice],
        *,
        model: ir.Model,
        layers: Sequence[QuantizedLayer],
        chains: Mapping[str, Chain],
        sized: ir.Model | None,
    ) -> Mapping[str, Choice]:
        """Take the forms that were timed to be the fastest, and say which weights stay uint8."""
        if self.tune is not False:
            tuning = self.tune if isinstance(self.tune, Tuning) else Tuning()
            choices = tune_choices(
                model, layers, chains, choices, tuning=tuning, vnni=self.vnni, sized=sized
            )
        if not self.vnni:
            return choices
        return {layer.name: _with_bytes(choices[layer.name], layer) for layer in layers}

    def builder(self, layer: QuantizedLayer | QuantizedProduct) -> Builder:
        """Return what writes the nodes of a layer, with int8 weights where `vnni` asks for them."""
        return Builder(layer, vnni=self.vnni)

    def write_product(self, builder: Builder, product: QuantizedProduct) -> None:
        """Write a product of two activations as MatMulInteger."""
        write_integer_product(builder, product)


def _with_bytes(choice: Choice, layer: QuantizedLayer) -> Choice:
    """Say in a choice why a layer has uint8 weights where int8 ones are wanted."""
    if choice.form.name not in _INT8_WEIGHTS or may_be_int8(layer):
        return choice
    why = "; uint8 weights, as a channel has two of -128, which ARM64 sums wrongly in int8"
    return replace(choice, reason=choice.reason + why)


def _check_data(mode: str, data: object) -> None:
    if mode == "exact":
        if data is not None:
            raise ValueError("data is for mode 'fast', got it with mode 'exact'")
        return
    if data is None:
        raise ValueError(
            "mode 'fast' needs data: batches of inputs, from which the values that it rounds get "
            "their ranges; convert_qat_model(..., mode='fast', data=[x])"
        )
    one: tuple[type[Any], ...] = (torch.Tensor, np.ndarray, Mapping, str, bytes)
    if isinstance(data, one) or not isinstance(data, Iterable):
        raise TypeError(
            f"data must be an iterable of batches, got one {type(data).__name__}; "
            "convert_qat_model(..., mode='fast', data=[x])"
        )
