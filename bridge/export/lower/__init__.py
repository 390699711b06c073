"""Layers as numbers -> nodes. Each file opens with the nodes that it writes.

Index, each importing only what is above it:
    epilogue        sums -> float output
    byte_weights    weights as uint8
    int8_weights    weights as int8
    int16           16-bit inputs as two halves
    float32         integer-valued floats: the fake-quant form
    depth_to_space  the phases of a transposed convolution in order
    conv3d          volumes as batches of slices
    int8            ConvInteger and MatMulInteger
    qlinear_conv    QLinearConv
    products        products of two activations
    qdq             standard Q/DQ pairs
"""
