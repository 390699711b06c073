"""Mode "fast": outputs and sums that training left in float are quantized to 8 bits too.

Index, each importing only what is above it:
    operators    the operators that run on codes
    groups       tensors that must share one scale and zero point (unified scales)
    nan_check    which layer has NaN in its input
    observe      ranges of inner tensors on data
    requantize   quantizing them
    elementwise  QLinearAdd and QLinearLeakyRelu
    models       the fake-quant and the deploy model of mode "fast"
"""
