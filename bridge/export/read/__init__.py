"""QDQ graph -> layers as numbers. Every operator is read once.

Index, each importing only what is above it:
    accumulator     limits of int32, int64 and float32 sums
    qdq             QuantizeLinear and DequantizeLinear
    clamps          Relu and Clip
    batch_norm      BatchNormalization as a factor and a shift
    layer           what a layer computes: the record
    zero_points     the zero point around which a byte holds a weight
    channel_scales  inputs with one scale a channel
    bias            biases, rounded to the accumulator's scale
    layers          finding and reading layers
    products        products of two activations
    quantized       all of it, for a conversion
"""
