"""One class for each target; its fields are the target's options.

Index, each importing only what is above it:
    target   the base class: passes, and methods with defaults
    ort      ONNX Runtime on a CPU
    qdq      any runtime that reads Q/DQ models
    ascend   the Ascend NPU
    table    targets by name
"""
