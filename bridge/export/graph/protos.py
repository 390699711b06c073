"""All graphs of a model proto."""

from collections.abc import Iterator

import onnx


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Iterate over a graph's subgraphs, the innermost first, and the graph.

    Args:
        graph: of a model.
    Returns:
        the graphs of branches and loops before those that hold them.
    """
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from graphs_of(inner)
    yield graph
