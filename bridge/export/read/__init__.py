"""QDQ graph -> records of quantized layers and products. Every operator is read once.

Index, each importing only what is above it:
    accumulator     limits of int32, int64 and float32 sums
    qdq             QuantizeLinear and DequantizeLinear: scales, zero points, stored integers
    clamps          limits of Relu and Clip
    batch_norm      BatchNormalization as a factor and a shift per channel
    layer           QuantizedLayer, the record of a layer
    zero_points     uint8 zero points of weights
    channel_scales  inputs with a scale per channel
    bias            biases, rounded to the accumulator's scale
    layers          finds and reads quantized layers
    products        products of two activations
    quantized       layers, products and float operators of a graph
"""
