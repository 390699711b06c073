"""Everything quantized in a graph, read once: layers, products, and what stays in float."""

from dataclasses import replace
from typing import NamedTuple

import onnx_ir as ir

from bridge.export.graph.copies import Counterparts
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.layers import FloatOperator, Refusal, read_input_again, read_layers
from bridge.export.read.products import QuantizedProduct, read_product, read_products
from bridge.export.read.qdq import NotQuantizedError


class Quantized(NamedTuple):
    """What a conversion reads from a model.

    Args:
        layers: operators with weights, in topological order.
        products: products of two activations.
        floats: operators that could be either, and why they stay float.
    """

    layers: list[QuantizedLayer]
    products: list[QuantizedProduct]
    floats: list[FloatOperator]

    def on(self, copy: Counterparts) -> "Quantized":
        """Return what was read as it stands in a copy of its model.

        Args:
            copy: where the nodes and values of the model are.
        """
        layers = [layer.on(copy) for layer in self.layers]
        return Quantized(layers, [product.on(copy) for product in self.products], self.floats)


def without_batch_norm(found: Quantized) -> Quantized:
    """Return what was read, with no BatchNormalization folded into a layer.

    Args:
        found: as read.
    Returns:
        the same layers, up to the input of their BatchNormalization.
    """
    return found._replace(layers=[layer.unfolded for layer in found.layers])


def read_quantized(
    graph: ir.Graph, *, fold_batch_norm: bool = False, refusal: Refusal = lambda _: None
) -> Quantized:
    """Find everything quantized in a graph.

    Args:
        graph: the main graph of a QDQ model; those inside it are read too.
        fold_batch_norm: as read_layers'.
        refusal: as read_layers'.
    Returns:
        what was found.
    Raises:
        ConversionError: the data of a constant does not fit its shape or type.
    """
    layers, floats = read_layers(graph, fold_batch_norm=fold_batch_norm, refusal=refusal)
    products, reasons = read_products(graph, [layer.node for layer in layers])
    names = {product.name for product in products}
    left = [
        replace(operator, reason=reasons.get(operator.name, operator.reason))
        for operator in floats
        if operator.name not in names
    ]
    return Quantized(layers, products, left)


def read_inputs_again(found: Quantized, *, fold_batch_norm: bool) -> Quantized:
    """Read the scales of all inputs anew, after a pass has changed them.

    Args:
        found: as read before; weights and biases are as they were.
        fold_batch_norm: as read_layers'.
    Returns:
        the layers and products with the new scales; what these make unfit is left in float.
    """
    layers, products, floats = [], [], list(found.floats)
    for layer in found.layers:
        try:
            layers.append(read_input_again(layer, fold_batch_norm=fold_batch_norm))
        except NotQuantizedError as reason:
            floats.append(FloatOperator(layer.name, layer.node.op_type, str(reason)))
    for product in found.products:
        try:
            products.append(read_product(product.node, product.name))
        except NotQuantizedError as reason:
            floats.append(FloatOperator(product.name, product.node.op_type, str(reason)))
    return Quantized(layers, products, floats)
