"""bridge.export.graph.graph_pass: functions over graphs in onnx_ir's pass manager."""

import onnx_ir as ir
import pytest

from bridge.export.graph.errors import ConversionError
from bridge.export.graph.graph_pass import GraphPass, run_passes
from tests.support.graphs.text import MATMUL, model


def test_passes_run_in_order_on_the_main_graph():
    source, seen = ir.from_proto(model(MATMUL)), []
    first, second = (GraphPass(lambda graph, n=n: seen.append((n, graph))) for n in (1, 2))
    run_passes(source, [first, second, first])
    assert seen == [(n, source.graph) for n in (1, 2, 1)]


def test_no_passes_change_nothing():
    source = ir.from_proto(model(MATMUL))
    before = [str(node) for node in source.graph]
    run_passes(source, ())
    assert [str(node) for node in source.graph] == before


def test_an_error_of_a_conversion_is_not_hidden():
    def refuse(_: ir.Graph) -> None:
        raise ConversionError("node 'a': not that")

    with pytest.raises(ConversionError, match=r"^node 'a': not that$"):
        run_passes(ir.from_proto(model(MATMUL)), [GraphPass(refuse)])


def test_another_error_is_the_pass_managers_own():
    def fail(_: ir.Graph) -> None:
        raise KeyError("lost")

    with pytest.raises(ir.passes.PassError):
        run_passes(ir.from_proto(model(MATMUL)), [GraphPass(fail)])
