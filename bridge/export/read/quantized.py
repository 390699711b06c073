"""All layers, products and float operators of a graph, read once."""

from dataclasses import replace
from typing import NamedTuple

import onnx_ir as ir

from bridge.export.graph.copies import Counterparts
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.layers import FloatOperator, Refusal, read_input_again, read_layers
from bridge.export.read.products import QuantizedProduct, read_product, read_products
from bridge.export.read.qdq import NotQuantizedError


class Quantized(NamedTuple):
    """The quantized operators of a model.

    Args:
        layers: operators with a quantized weight, in topological order.
        products: products of two quantized activations, in topological order.
        floats: operators of the same types that stay in float, with the reasons.
    """

    layers: list[QuantizedLayer]
    products: list[QuantizedProduct]
    floats: list[FloatOperator]

    def on(self, copy: Counterparts) -> "Quantized":
        """Return the same operators in a copy of the model.

        Args:
            copy: maps nodes and values of the model to those of the copy.
        """
        layers = [layer.on(copy) for layer in self.layers]
        return Quantized(layers, [product.on(copy) for product in self.products], self.floats)


def without_batch_norm(found: Quantized) -> Quantized:
    """Undo the folding of BatchNormalization.

    Args:
        found: the quantized operators of a model.
    Returns:
        the same, each layer ending before its BatchNormalization.
    """
    return found._replace(layers=[layer.unfolded for layer in found.layers])


def read_quantized(
    graph: ir.Graph, *, fold_batch_norm: bool = False, refusal: Refusal = lambda _: None
) -> Quantized:
    """Read the layers and products of a graph.

    Args:
        graph: the main graph of a QDQ model; its subgraphs are read too.
        fold_batch_norm: as in read_layers.
        refusal: as in read_layers.
    Returns:
        layers, products, and the operators that stay in float.
    Raises:
        ConversionError: the data of a constant does not fit its shape or data type.
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


def read_inputs_again(found: Quantized) -> Quantized:
    """Update layers and products after a pass has changed the Q/DQ pairs on their inputs.

    Args:
        found: as read before the pass, which has not changed weights and biases.
    Returns:
        the layers and products with the new scales and zero points; those that these make
        impossible are among the float operators.
    """
    layers, products, floats = [], [], list(found.floats)
    for layer in found.layers:
        try:
            layers.append(read_input_again(layer))
        except NotQuantizedError as reason:
            floats.append(FloatOperator(layer.name, layer.node.op_type, str(reason)))
    for product in found.products:
        try:
            products.append(read_product(product.node, product.name))
        except NotQuantizedError as reason:
            floats.append(FloatOperator(product.name, product.node.op_type, str(reason)))
    return Quantized(layers, products, floats)
