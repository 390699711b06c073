"""Passes over a model: functions on its main graph, run in order by onnx_ir's pass manager."""

from collections.abc import Callable, Sequence

import onnx_ir as ir

from bridge.export.graph.errors import ConversionError


class GraphPass(ir.passes.InPlacePass):
    """A function that rewrites the main graph of a model, as a pass.

    Args:
        rewrite: changes a graph in place, and its subgraphs where it applies to them.
    """

    def __init__(self, rewrite: Callable[[ir.Graph], None]) -> None:
        super().__init__()
        self.rewrite = rewrite

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the main graph of a model.

        Args:
            model: it is changed.
        Returns:
            the model, always reported as modified.
        """
        self.rewrite(model.graph)
        return ir.passes.PassResult(model, modified=True)


def run_passes(model: ir.Model, passes: Sequence[ir.passes.PassBase]) -> None:
    """Run passes over a model, one after another.

    Args:
        model: it is changed.
        passes: in-place passes, in order.
    Raises:
        ConversionError: as a pass raised it, without the PassError that the pass manager wraps
            around it.
    """
    if not passes:
        return
    try:
        ir.passes.PassManager(passes)(model)
    except ir.passes.PassError as error:
        raised: BaseException | None = error
        while raised is not None and not isinstance(raised, ConversionError):
            raised = raised.__cause__
        raise (raised or error) from None
