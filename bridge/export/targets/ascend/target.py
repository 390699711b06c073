"""Target "ascend": the Ascend NPU.

    x -> QuantizeLinear -> DequantizeLinear -> operator -> y
        becomes
    x -> AscendQuant -> operator on int8 -> AscendDequant -> y

The fake-quant model rounds as the device does, which multiplies by the reciprocal of the scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from bridge.export.graph.builder import Builder
from bridge.export.graph.graph_pass import GraphPass
from bridge.export.passes.constants import (
    expand_activation_dequantizers,
    fold_constant_dequantizers,
)
from bridge.export.plan.forms import Choice, Form
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.products import QuantizedProduct
from bridge.export.requantization.chains import Chain
from bridge.export.targets.ascend import dialect
from bridge.export.targets.ascend.pairs import rewrite_remaining_fake_pairs, rewrite_remaining_pairs
from bridge.export.targets.ascend.products import write_ascend_fake_product, write_ascend_product
from bridge.export.targets.target import Passes, Target

_FORM = Form("AscendQuant/AscendDequant", dialect.write_ascend)
_CHOICE = Choice(_FORM, "the one form of target 'ascend'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ascend(Target):
    """The Ascend NPU, in the dialect that its compiler ATC reads; there are no options."""

    name: ClassVar[str] = "ascend"
    product_form: ClassVar[str] = _FORM.name
    fake_operands: ClassVar[Passes] = (GraphPass(fold_constant_dequantizers),)
    deploy_operands: ClassVar[Passes] = fake_operands
    fake_last: ClassVar[Passes] = (
        GraphPass(rewrite_remaining_fake_pairs),
        GraphPass(expand_activation_dequantizers),
    )
    deploy_last: ClassVar[Passes] = (
        GraphPass(rewrite_remaining_pairs),
        GraphPass(expand_activation_dequantizers),
    )

    def choose(self, layer: QuantizedLayer, chain: Chain | None) -> Choice:
        """Return the only form."""
        del layer, chain
        return _CHOICE

    def refusal(self, layer: QuantizedLayer) -> str | None:
        """Return why the dialect cannot represent a layer (dialect.refusal)."""
        return dialect.refusal(layer)

    def check(self, layers: Sequence[QuantizedLayer]) -> None:
        """Raise unless the dialect can represent all layers (dialect.check_layers)."""
        dialect.check_layers(layers)

    def write_fake(self, builder: Builder, layer: QuantizedLayer) -> None:
        """Write a layer whose input is quantized by the reciprocal of its scale."""
        dialect.write_ascend_fake(builder, layer)

    def write_fake_product(self, builder: Builder, product: QuantizedProduct) -> None:
        """Write a product whose operands are quantized by the reciprocals of their scales."""
        write_ascend_fake_product(builder, product)

    def write_product(self, builder: Builder, product: QuantizedProduct) -> None:
        """Write a product of two activations in the dialect."""
        write_ascend_product(builder, product)
