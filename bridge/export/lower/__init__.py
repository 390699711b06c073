"""Lowering: quantized layers -> ONNX nodes. Each file opens with the nodes before and after.

Index, each importing only what is above it:
    epilogue        accumulators -> float output
    uint8_weights   weights as uint8
    int8_weights    which weights may stay int8
    int16           16-bit inputs as two halves
    float32         integer-valued floats: the fake-quant form
    depth_to_space  the output of a sub-pixel convolution
    conv3d          a 3-D convolution as a 2-D one of depth slices
    int8            ConvInteger and MatMulInteger
    qlinear_conv    QLinearConv
    products        products of two activations
    qdq             standard Q/DQ pairs
"""
