"""Running models on this machine.

Index, each importing only what is above it:
    ascend_operators  the Ascend dialect for onnx.reference
    runtime           running a file
    int8_probe        whether uint8 x int8 is summed exactly here
"""
