"""Mode "fast": what integer operators read is rounded to 8 bits where it is computed.

Index, each importing only what is above it:
    operators     the table of operators that compute codes from codes
    groups        tensors that share one scale and zero point
    not_a_number  the layer that met a NaN
    observe       ranges of inner values on data
    requantize    rounding them
    elementwise   QLinearAdd and QLinearLeakyRelu
    models        all of it
"""
