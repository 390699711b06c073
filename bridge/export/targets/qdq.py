"""The portable form: standard Q/DQ pairs, and weights and biases as the stored integers.

    x -> Q -> DQ -> Conv(DQ(int8 weight), DQ(int32 bias)) -> y         in the deploy model

The runtime that loads the file decides how it computes that, and rounds as it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

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
from bridge.export.targets.options import check_flag, check_integer
from bridge.export.targets.target import Passes, Target

_FORM = Form("QDQ", write_qdq, OF_RUNTIME)
_CHOICE = Choice(_FORM, "the one form of target 'qdq'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Qdq(Target):
    """Any runtime that reads standard Q/DQ models.

    Args:
        symmetric: refuse activations with a zero point other than 0: runtimes such as TensorRT
            take no others.
        opset: of the deploy model, 13 to 21; None keeps the file's.
    Raises:
        TypeError: an option is of a wrong kind.
        ValueError: opset is out of range.
    """

    name: ClassVar[str] = "qdq"
    product_form: ClassVar[Form] = _FORM
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
        """Pick the only form."""
        del layer, chain
        return _CHOICE

    def write_product(self, builder: Builder, product: QuantizedProduct) -> None:
        """Leave a product between its pairs."""
        del builder, product

    def finish(
        self, deploy: ir.Model, layers: Sequence[QuantizedLayer | QuantizedProduct]
    ) -> ir.Model:
        """Check the zero points of a symmetric model, and state the opset that is asked for."""
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
