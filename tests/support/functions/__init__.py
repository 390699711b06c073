"""qatfunc's operators: references written anew, and layers to try.

Index, each importing only what is above it:
    composed            the operators without the fused one
    integer_reference   the operators in NumPy integers
    float64_gradients   the gradients of ULQ and LSQ in float64
    operands            what an operator is called with
    layers              one small layer of each operator
    float64_layers      the derivatives of whole operators in float64
    transforms          a layer as a function of its operands
    int8_stress         odd shapes in INT8, in a process of its own
"""
