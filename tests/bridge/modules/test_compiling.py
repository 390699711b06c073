"""bridge.modules.compiling: what torch's decorators do, without importing the compiler."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from bridge.modules.compiling import constant_result, in_graph, uncompiled

REASON = "counts its calls"


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Graphs:
    """A backend that keeps what it is given."""

    def __init__(self) -> None:
        self.found: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, _: Any) -> Any:
        self.found.append(graph)
        return graph.forward


def test_constant_result_sets_what_torch_sets():
    def theirs() -> int:
        return 1

    def ours() -> int:
        return 1

    assert constant_result(ours) is ours
    assert vars(ours) == vars(torch.compiler.assume_constant_result(theirs)) != {}


def seen(x: Tensor) -> Tensor:
    return x + torch.compiler.is_compiling()


@uncompiled(reason=REASON)
def eager(x: Tensor) -> Tensor:
    return seen(x)


def test_what_is_uncompiled_is_run_with_all_that_it_calls():
    graphs = Graphs()
    compiled = torch.compile(lambda x: 2 * eager(x + 1), backend=graphs)
    assert compiled(torch.zeros(1)).item() == 2  # 4 if seen were compiled
    operations = [node.name for graph in graphs.found for node in graph.graph.nodes]
    assert [name for name in operations if name in ("add", "mul")] == ["add", "mul"]
    assert len(graphs.found) == 2


def test_a_whole_graph_without_what_is_uncompiled_is_refused_with_the_reason():
    compiled = torch.compile(lambda x: eager(x + 1), backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=REASON):
        compiled(torch.zeros(1))


def test_what_is_uncompiled_is_called_as_it_is_outside_the_compiler():
    assert eager(torch.zeros(1)).item() == 0
    assert eager.__name__ == "eager"


@in_graph
def node(x: Tensor) -> Tensor:
    return x.sin().cos()


def test_what_is_in_the_graph_is_one_node():
    graphs = Graphs()
    compiled = torch.compile(lambda x: node(x + 1) * 2, backend=graphs, fullgraph=True)
    x = torch.zeros(1)
    assert torch.equal(compiled(x), node(x + 1) * 2)
    (graph,) = graphs.found
    called = [n.target for n in graph.graph.nodes if n.op.startswith("call")]
    assert [getattr(target, "__name__", target) for target in called] == ["add", "node", "mul"]
