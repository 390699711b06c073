"""The Ascend NPU and its ONNX dialect.

Index, each importing only what is above it:
    dialect    layers: AscendQuant -> operator -> AscendDequant
    products   products of two activations
    pairs      Q/DQ pairs that only float operators read
    functions  the dialect as ONNX functions
    twin       a copy of a deploy model that ONNX Runtime runs
    target     the target
"""
