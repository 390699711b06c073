"""Reading and writing graphs with onnx_ir.

Index, each importing only what is above it:
    errors      ConversionError
    protos      subgraphs of a model proto
    constants   arrays read off initializers and Constant nodes
    operators   domain, optional inputs and attributes of a node
    names       module paths from what exporters leave in a file
    shapes      sizes of values
    opset       another version of the standard operators
    copies      a copy of a model, and where everything is in it
    graph_pass  functions over graphs as passes
    builder     writing the nodes of a layer
"""
