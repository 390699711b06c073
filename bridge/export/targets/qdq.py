"""The portable target: standard Q/DQ pairs, with weights and biases as stored integers.

    x -> Q -> DQ -> Conv(Q -> DQ of the float weight, float bias) -> y
        becomes
    x -> Q -> DQ -> Conv(DQ(int8 weight), DQ(int32 bias)) -> y

The runtime that loads the file decides how to compute this, and with which roundings (lower.qdq).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from bridge.arguments import check_flag, check_integer
from bridge.export.graph.builder import Builder
from bridge.export.graph.errors import ConversionError
from bridge.export.graph.graph_pass import GraphPass
from bridge.export.graph.opset import (
    IR_VERSION_OF_OPSET_21,
    OPSET_OF_16_BIT,
    OPSETS,
    lower_ir_version,
    with_opset,
)
from bridge.export.lower.qdq import check_symmetric, store_quantized_constants, write_qdq
from bridge.export.passes.zero_points import unshare_zero_points
from bridge.export.plan.forms import OF_RUNTIME, Choice, Form
from bridge.export.read.layer import QuantizedLayer
from bridge.export.read.products import QuantizedProduct
from bridge.export.requantization.chains import Chain
from bridge.export.targets.target import Passes, Target

_FORM = Form("QDQ", write_qdq, OF_RUNTIME)
_CHOICE = Choice(_FORM, "the one form of target 'qdq'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Qdq(Target):
    """Any runtime that reads standard Q/DQ models.

    Args:
        symmetric: refuse models with zero points other than 0, which runtimes such as TensorRT do
            not take.
        opset: opset version of the deploy model, 13 to 21; None keeps that of the file.
    Raises:
        TypeError: an option has a wrong type.
        ValueError: opset is out of range.
    """

    name: ClassVar[str] = "qdq"
    product_form: ClassVar[str] = _FORM.name
    product_arithmetic: ClassVar[str] = _FORM.arithmetic
    folds_batch_norm: ClassVar[bool] = False
    deploy_operands: ClassVar[Passes] = (GraphPass(store_quantized_constants),)
    deploy_last: ClassVar[Passes] = (GraphPass(unshare_zero_points),)

    symmetric: bool = False
    opset: int | None = None

    def __post_init__(self) -> None:
        check_flag("symmetric", self.symmetric)
        if self.opset is not None:
            check_integer("opset", self.opset, OPSETS)

    def choose(self, layer: QuantizedLayer, chain: Chain | None) -> Choice:
        """Return the only form."""
        del layer, chain
        return _CHOICE

    def write_product(self, builder: Builder, product: QuantizedProduct) -> None:
        """Write nothing: a product keeps its Q/DQ pairs."""
        del builder, product

    def finish(
        self, deploy: ir.Model, layers: Sequence[QuantizedLayer | QuantizedProduct]
    ) -> ir.Model:
        """Check the zero points if `symmetric` is set, and convert to `opset`."""
        if self.symmetric:
            check_symmetric(deploy.graph)
        if self.opset is None:
            return deploy
        wide = [layer.name for layer in layers if layer.wide]
        if wide and self.opset < OPSET_OF_16_BIT:
            raise ConversionError(
                f"layer {wide[0]!r}: 16-bit activations need opset {OPSET_OF_16_BIT}, got "
                f"{self.opset}"
            )
        written = with_opset(deploy, self.opset)
        written.ir_version = max(written.ir_version or 0, IR_VERSION_OF_OPSET_21)
        lower_ir_version(written)
        return written
