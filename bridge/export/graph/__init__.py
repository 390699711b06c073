"""Reading and writing graphs with onnx_ir.

Index, each importing only what is above it:
    errors      ConversionError
    protos      a model's graph and subgraphs, as protobufs
    constants   arrays of initializers and Constant nodes
    operators   domain, optional inputs and attributes of a node
    names       module paths, from what exporters leave in a file
    shapes      shape inference, and multiply-accumulates
    opset       conversion to another opset
    copies      copies of models, and maps from nodes and values to their copies
    graph_pass  functions on graphs as passes
    builder     writes the nodes of a layer
"""
