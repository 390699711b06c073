"""What a target is: how the fake-quant and the deploy model are written for it.

    source -> before -> read -> write each layer -> operands -> ... -> last -> deploy

The base class has what most targets share; a target overrides what it does otherwise.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from bridge.export.graph.builder import Builder
from bridge.export.graph.graph_pass import GraphPass
from bridge.export.lower.float32 import write_fake
from bridge.export.lower.products import write_fake_product
from bridge.export.passes.constants import (
    expand_activation_dequantizers,
    expand_constant_dequantizers,
)
from bridge.export.plan.forms import Choice, Form
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.products import QuantizedProduct
from bridge.export.requantization.chains import Chain, Unchained

Passes = tuple[ir.passes.PassBase, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(ABC):
    """How models are written for a target; its fields are the options of a conversion.

    Class attributes:
        name: what the target is called in `convert_qat_model(target=...)`.
        product_form: what a product of two activations becomes in the deploy model.
        folds_batch_norm: whether the deploy model can hold a folded BatchNormalization.
        before: passes over the model that is read.
        before_deploy: passes over the deploy model, before its layers are written.
        fake_operands, deploy_operands: passes after the layers are written, for the quantized
            operands of operators that stay in float.
        fake_last, deploy_last: passes over the finished models.
    """

    name: ClassVar[str]
    product_form: ClassVar[Form]
    folds_batch_norm: ClassVar[bool] = True
    before: ClassVar[Passes] = ()
    before_deploy: ClassVar[Passes] = ()
    fake_operands: ClassVar[Passes] = (
        GraphPass(expand_constant_dequantizers),
        GraphPass(expand_activation_dequantizers),
    )
    deploy_operands: ClassVar[Passes] = fake_operands
    fake_last: ClassVar[Passes] = ()
    deploy_last: ClassVar[Passes] = ()

    @abstractmethod
    def choose(self, layer: QuantizedLayer, chain: Chain | None) -> Choice:
        """Pick the form of a layer of the deploy model.

        Args:
            layer: as read.
            chain: what QLinearConv can compute from it, if anything.
        Returns:
            the form, and why.
        """

    @abstractmethod
    def write_product(self, builder: Builder, product: QuantizedProduct) -> None:
        """Write a product of two activations of the deploy model.

        Args:
            builder: writes the nodes.
            product: as read.
        """

    def refusal(self, layer: QuantizedLayer) -> str | None:
        """Say why the target cannot hold a layer, which then stays in float.

        Args:
            layer: as read.
        Returns:
            the reason; None where it can.
        """
        del layer
        return None

    def check(self, layers: Sequence[QuantizedLayer]) -> None:
        """Raise unless the target can hold all layers together.

        Args:
            layers: of one model.
        Raises:
            ConversionError: it cannot; names the layer.
        """
        del layers

    def rounding_data(self) -> Iterable[Any] | None:
        """Return the batches of mode "fast", None in mode "exact"."""
        return None

    def find_chains(self, layers: Sequence[QuantizedLayer]) -> Mapping[str, Chain | Unchained]:
        """Find what QLinearConv can compute, and say why not the other convolutions.

        Args:
            layers: of one model.
        Returns:
            by the layer's name; nothing where the target has no such operator.
        """
        del layers
        return {}

    def refine(
        self,
        choices: Mapping[str, Choice],
        *,
        model: ir.Model,
        layers: Sequence[QuantizedLayer],
        chains: Mapping[str, Chain],
        sized: ir.Model | None,
    ) -> Mapping[str, Choice]:
        """Refine what was chosen for each layer alone by what the whole model shows.

        Args:
            choices: by the layer's name.
            model: whose layers they are, not yet written; it is left as it is.
            layers: as read.
            chains: of the layers that have one.
            sized: a model of standard operators with the same names, to infer sizes from; None if
                the model is one.
        Returns:
            the choices to take.
        Raises:
            ValueError: a size that is needed is not known.
        """
        del model, layers, chains, sized
        return choices

    def builder(self, layer: QuantizedLayer | QuantizedProduct) -> Builder:
        """Return what writes the nodes of a layer or product of the deploy model.

        Args:
            layer: as read.
        """
        return Builder(layer)

    def write_fake(self, builder: Builder, layer: QuantizedLayer) -> None:
        """Write a layer of the fake-quant model.

        Args:
            builder: writes the nodes.
            layer: as read, with the multipliers that the deploy model has.
        """
        write_fake(builder, layer)

    def write_fake_product(self, builder: Builder, product: QuantizedProduct) -> None:
        """Write a product of two activations of the fake-quant model.

        Args:
            builder: writes the nodes.
            product: as read.
        """
        write_fake_product(builder, product)

    def finish(
        self, deploy: ir.Model, layers: Sequence[QuantizedLayer | QuantizedProduct]
    ) -> ir.Model:
        """Do what options ask of the finished deploy model.

        Args:
            deploy: the model.
            layers: what was quantized in it.
        Returns:
            the model to write.
        Raises:
            ConversionError: the model cannot be what an option asks for.
        """
        del layers
        return deploy
