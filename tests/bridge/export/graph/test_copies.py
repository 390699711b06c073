"""bridge.export.graph.copies: what was read from a model is found again in its copies."""

import onnx_ir as ir
import pytest

from bridge.export.graph.copies import copy_model, extract
from tests.support.graphs.text import MATMUL, model

BRANCHES = """
    yes = Constant <value = bool {1}> ()
    y = If (yes) <
        then_branch = t () => (float[N, 2] a) { a = Mul (b, b) },
        else_branch = e () => (float[N, 2] c) { c = Neg (b) }
    >
"""


def inside_branches() -> ir.Model:
    return ir.from_proto(model(MATMUL.replace("y = MatMul", "b = MatMul") + BRANCHES))


def test_a_copy_has_a_counterpart_of_every_node_and_output():
    source = inside_branches()
    copy, found = copy_model(source)
    nodes = list(ir.traversal.RecursiveGraphIterator(source.graph))
    assert {node.op_type for node in nodes} >= {"Mul", "Neg"}
    twins = [found.nodes[node] for node in nodes]
    assert twins == list(ir.traversal.RecursiveGraphIterator(copy.graph))
    assert not set(twins) & set(nodes)
    for node, twin in zip(nodes, twins, strict=True):
        assert [found.values[value] for value in node.outputs] == list(twin.outputs)


def test_a_copy_can_be_changed_alone():
    source = inside_branches()
    before = [str(node) for node in ir.traversal.RecursiveGraphIterator(source.graph)]
    copy, found = copy_model(source)
    for twin in found.nodes.values():
        twin.name = f"{twin.name}/changed"
    assert [str(n) for n in ir.traversal.RecursiveGraphIterator(source.graph)] == before
    assert all(
        (node.name or "").endswith("/changed")
        for node in ir.traversal.RecursiveGraphIterator(copy.graph)
    )


def test_an_extract_has_what_lies_between_its_ends():
    source = ir.from_proto(model(MATMUL))
    nodes = {node.op_type: node for node in source.graph if node.op_type != "DequantizeLinear"}
    codes = nodes["QuantizeLinear"].outputs[0]
    product = nodes["MatMul"]
    part, found = extract(source.graph, [codes], [product.outputs[0]])
    assert [value.name for value in part.inputs] == [codes.name]
    assert nodes["QuantizeLinear"] not in found.nodes
    assert codes not in found.values
    assert found.nodes[product] is part[-1]
    assert found.nodes[product].graph is part
    assert found.values[product.outputs[0]] is part.outputs[0]
    with pytest.raises(KeyError):
        found.nodes[nodes["QuantizeLinear"]]
