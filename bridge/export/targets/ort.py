"""ONNX Runtime on a CPU: uint8 codes, integer operators, and QLinearConv where it is proven equal.

    QuantizeLinear -> DequantizeLinear -> Conv -> y
        becomes one of
    QuantizeLinear(uint8) -> QLinearConv -> DequantizeLinear -> y
    QuantizeLinear(uint8) -> ConvInteger -> epilogue -> y
    QuantizeLinear(uint8) -> DequantizeLinear(scale 1) -> Conv(integer-valued) -> epilogue -> y

and Gemm or MatMul becomes MatMulInteger -> epilogue. Each layer takes the form that is fastest by
plan.costs, or by timing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import torch

from bridge.arguments import check_flag, check_integer
from bridge.export.graph.builder import Builder
from bridge.export.graph.graph_pass import GraphPass
from bridge.export.lower.int8_weights import may_be_int8
from bridge.export.lower.products import write_integer_product
from bridge.export.passes.concat import quantize_before_concat
from bridge.export.passes.max_pool import keep_max_pools_in_float
from bridge.export.passes.uint8_codes import to_uint8_codes
from bridge.export.passes.zero_points import unshare_zero_points
from bridge.export.plan import costs
from bridge.export.plan.forms import Choice, choose_ort_form
from bridge.export.plan.tune import Tuning, tune_choices
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.products import QuantizedProduct
from bridge.export.requantization.chains import Chain, Unchained, find_chains
from bridge.export.targets.target import Passes, Target

MODES = ("exact", "fast")

MAX_ULPS = 64
"""Default of max_ulps: an adjustment of less than 1 / 100,000 of a multiplier."""

FARTHEST_ULPS = 4096
"""Largest max_ulps: an adjustment of at most 1 / 2,048 of a multiplier."""

_INT8_WEIGHTS = (*costs.CHAINED, "MatMulInteger")
"""Forms that can have int8 weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ort(Target):
    """ONNX Runtime on a CPU.

    Args:
        mode: "exact", or "fast": outputs of layers, and sums of two activations, that integer
            operators read are quantized to 8 bits too. Fake-quant and deploy still agree in every
            bit, but differ from the torch model.
        data: batches that calibrate the ranges of mode "fast": arrays or tensors, tuples of them
            for several inputs, or dicts by the names of the inputs. None in mode "exact".
        max_ulps: largest adjustment, in ulps, of a channel's rescale factor scale_x * scale_w in
            both models, which lets a faster integer operator compute the same bits. bridge.adopt
            makes the same adjustment in the torch model. With 0, layers that need one take another
            form. At most 4,096.
        vnni: write weights as int8 beside uint8 activations, for the faster kernels of processors
            with VNNI. Older x86 processors saturate and give wrong results;
            bridge.export.sums_int8_exactly() tests this machine. A layer with two weights of -128
            in an output channel keeps uint8 weights, because int8 ones may overflow on ARM64.
        tune: time the possible forms of each layer on this machine and take the fastest; all have
            the same bits. A bridge.export.Tuning sets how, and the shapes of inputs with dynamic
            axes.
    Raises:
        TypeError: an option has a wrong type.
        ValueError: the mode is unknown, max_ulps is out of range, or data is missing in mode
            "fast" or given in mode "exact".
    """

    name: ClassVar[str] = "ort"
    product_form: ClassVar[str] = "MatMulInteger"
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
            raise TypeError(
                f"tune must be True, False or a bridge.export.Tuning, got {self.tune!r}"
            )
        check_integer("max_ulps", self.max_ulps, range(FARTHEST_ULPS + 1))
        _check_data(self.mode, self.data)

    def rounding_data(self) -> Iterable[Any] | None:
        """Return the batches of mode "fast", None in mode "exact"."""
        return self.data

    def find_chains(self, layers: Sequence[QuantizedLayer]) -> Mapping[str, Chain | Unchained]:
        """Find the convolutions that can become QLinearConv (requantization.chains)."""
        return find_chains(layers, max_ulps=self.max_ulps)

    def choose(self, layer: QuantizedLayer, chain: Chain | None) -> Choice:
        """Choose the form with the lowest estimated cost."""
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
        """Choose by timing if `tune` is set, and note where weights stay uint8 despite `vnni`."""
        if self.tune is not False:
            tuning = self.tune if isinstance(self.tune, Tuning) else Tuning()
            choices = tune_choices(
                model, layers, chains, choices, tuning=tuning, vnni=self.vnni, sized=sized
            )
        if not self.vnni:
            return choices
        return {layer.name: _with_bytes(choices[layer.name], layer) for layer in layers}

    def builder(self, layer: QuantizedLayer | QuantizedProduct) -> Builder:
        """Return the builder of a layer, which writes int8 weights if `vnni` is set."""
        return Builder(layer, vnni=self.vnni)

    def write_product(self, builder: Builder, product: QuantizedProduct) -> None:
        """Write a product of two activations as MatMulInteger."""
        write_integer_product(builder, product)


def _with_bytes(choice: Choice, layer: QuantizedLayer) -> Choice:
    """Add to a choice's reason why the layer keeps uint8 weights despite `vnni`."""
    if choice.form.name not in _INT8_WEIGHTS or may_be_int8(layer):
        return choice
    why = "; uint8 weights: a channel has two of -128, whose int8 products may overflow on ARM64"
    return replace(choice, reason=choice.reason + why)


def _check_data(mode: str, data: object) -> None:
    if mode == "exact":
        if data is not None:
            raise ValueError("data is for mode 'fast', got it with mode 'exact'")
        return
    if data is None:
        raise ValueError(
            "mode 'fast' needs data: batches of inputs, which calibrate the ranges of the values "
            "that it quantizes; convert_qat_model(..., mode='fast', data=[x])"
        )
    one: tuple[type[Any], ...] = (torch.Tensor, np.ndarray, Mapping, str, bytes)
    if isinstance(data, one) or not isinstance(data, Iterable):
        raise TypeError(
            f"data must be an iterable of batches, got one {type(data).__name__}; "
            "convert_qat_model(..., mode='fast', data=[x])"
        )
