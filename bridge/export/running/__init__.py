"""Running models on this machine.

Index, each importing only what is above it:
    ascend_operators  operators of the Ascend dialect for onnx.reference
    runtime           runs a file in ONNX Runtime or onnx.reference
    int8_probe        tests whether this machine sums uint8 x int8 exactly
"""
