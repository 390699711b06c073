"""Graph -> graph. Each file opens with what it rewrites to what.

Index, each importing only what is above it:
    uint8_codes     int8 codes -> uint8 codes
    concat          Concat -> Q  to  Q -> Concat
    dequantization  what a DequantizeLinear computes, in plain arithmetic
    constant_pairs  Q -> DQ on a constant
    constants       DQ(constant) before float operators
    max_pool        MaxPool in float
    output_padding  ConvTranspose that ONNX Runtime takes
    zero_points     zero points of tied weights
    outputs         outputs that ONNX Runtime would round
"""
