"""The graphs of a model's protobuf."""

from collections.abc import Iterator

import onnx


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Iterate over a graph and its subgraphs, the innermost first.

    Args:
        graph: the main graph of a model.
    Returns:
        each body of an If, Loop or Scan before the graph that contains it.
    """
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from graphs_of(inner)
    yield graph
