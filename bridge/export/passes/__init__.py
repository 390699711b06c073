"""Passes, graph -> graph. Each file opens with its rewrite, before and after, and the reason.

Index, each importing only what is above it:
    uint8_codes     int8 activations -> uint8 activations
    concat          Concat -> QuantizeLinear  =>  QuantizeLinear -> Concat
    dequantization  DequantizeLinear -> Cast, Sub and Mul
    constant_pairs  Q -> DQ of a constant -> its value, as ONNX Runtime computes it
    constants       DequantizeLinear before float operators -> values, or Cast, Sub and Mul
    max_pool        keeps MaxPool in float
    output_padding  ConvTranspose with an output_padding that ONNX Runtime accepts
    zero_points     one zero point per int8 weight
    outputs         keeps graph outputs in float
"""
