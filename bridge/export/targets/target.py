"""The base class of targets: how the fake-quant and the deploy model are lowered.

    source -> passes `before` -> read layers -> choose a form for each
        -> fake-quant:                  write_fake of each -> `fake_operands` -> `fake_last`
        -> deploy: `before_deploy` -> form.write of each -> `deploy_operands` -> `deploy_last`
               -> finish

A target overrides the passes and methods in which it differs from the defaults.
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
from bridge.export.plan.forms import INT8, Choice
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.products import QuantizedProduct
from bridge.export.requantization.chains import Chain, Unchained

Passes = tuple[ir.passes.PassBase, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(ABC):
    """How models are lowered for a target; the fields are the options of a conversion.

    Class attributes:
        name: name of the target in `convert_qat_model(target=...)`.
        product_form: name of the form of a product of two activations in the deploy model.
        product_arithmetic: what multiplies in it.
        folds_batch_norm: whether layers of the deploy model can include a BatchNormalization.
        before: passes over the source model, before its layers are read.
        before_deploy: passes over the deploy model, before its layers are written.
        fake_operands, deploy_operands: passes after all layers are written, for the quantized
            operands of operators that stay in float.
        fake_last, deploy_last: passes over the finished models.
    """

    name: ClassVar[str]
    product_form: ClassVar[str]
    product_arithmetic: ClassVar[str] = INT8
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
        """Choose the form of a layer in the deploy model.

        Args:
            layer: the quantized layer.
            chain: the layer's, None if it has none (requantization.chains).
        Returns:
            the form, and why.
        """

    @abstractmethod
    def write_product(self, builder: Builder, product: QuantizedProduct) -> None:
        """Write a product of two activations in the deploy model.

        Args:
            builder: writes the nodes.
            product: the product.
        """

    def refusal(self, layer: QuantizedLayer) -> str | None:
        """Return why the target cannot represent a layer, which then stays in float.

        Args:
            layer: the quantized layer.
        Returns:
            the reason; None if it can.
        """
        del layer
        return None

    def check(self, layers: Sequence[QuantizedLayer]) -> None:
        """Raise unless the target can represent all layers of a model together.

        Args:
            layers: of one model.
        Raises:
            ConversionError: it cannot; names the layer.
        """
        del layers

    def rounding_data(self) -> Iterable[Any] | None:
        """Return the calibration batches of mode "fast", None in mode "exact"."""
        return None

    def find_chains(self, layers: Sequence[QuantizedLayer]) -> Mapping[str, Chain | Unchained]:
        """Find the convolutions that can become QLinearConv, and why others cannot.

        Args:
            layers: of one model.
        Returns:
            by layer name; empty if the target has no QLinearConv.
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
        """Revise the choices, made for each layer alone, with the whole model at hand.

        Args:
            choices: by layer name.
            model: contains the layers, not yet written; not changed.
            layers: the quantized layers.
            chains: by layer name, for the layers that have one.
            sized: a model of standard operators with the same value names, for shape inference;
                None if the model is one.
        Returns:
            the final choices, by layer name.
        Raises:
            ValueError: a size that is needed is not known.
        """
        del model, layers, chains, sized
        return choices

    def builder(self, layer: QuantizedLayer | QuantizedProduct) -> Builder:
        """Return the builder that writes the nodes of a layer or product in the deploy model.

        Args:
            layer: the layer or product.
        Returns:
            the builder.
        """
        return Builder(layer)

    def write_fake(self, builder: Builder, layer: QuantizedLayer) -> None:
        """Write a layer in the fake-quant model.

        Args:
            builder: writes the nodes.
            layer: the quantized layer, with the rescale factors of the deploy model.
        """
        write_fake(builder, layer)

    def write_fake_product(self, builder: Builder, product: QuantizedProduct) -> None:
        """Write a product of two activations in the fake-quant model.

        Args:
            builder: writes the nodes.
            product: the product.
        """
        write_fake_product(builder, product)

    def finish(
        self, deploy: ir.Model, layers: Sequence[QuantizedLayer | QuantizedProduct]
    ) -> ir.Model:
        """Apply options to the finished deploy model.

        Args:
            deploy: the deploy model.
            layers: its quantized layers and products.
        Returns:
            the model to write.
        Raises:
            ConversionError: the model cannot meet an option.
        """
        del layers
        return deploy
