"""The Ascend NPU and its dialect.

Index, each importing only what is above it:
    dialect    AscendQuant -> operator -> AscendDequant
    products   products of two activations
    pairs      Q/DQ pairs that no layer reads
    functions  the dialect as ONNX functions
    twin       a deploy model that runs anywhere
    target     the target
"""
