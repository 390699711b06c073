"""One class a target; its fields are its options.

Index, each importing only what is above it:
    options  checking options
    target   what a target is
    ort      ONNX Runtime on a CPU
    qdq      any runtime that reads Q/DQ models
    ascend   the Ascend NPU
    table    finding a target by its name
"""
