"""qatfunc's operators: references written anew, and layers to try.

Index, each importing only what is above it:
    composed            the operators without the fused one
    integer_reference   the operators in NumPy integers
    codes_reference     the operators between quantizers in NumPy
    float64_gradients   the gradients of ULQ and LSQ in float64
    float64_derivatives the derivatives of activation functions in float64
    operands            what an operator is called with
    layers              one small layer of each operator
    float64_layers      the derivatives of whole operators in float64
    transforms          a layer as a function of its operands
    code_operators      one small case of each operator between quantizers
    int8_stress         odd shapes in INT8, in a process of its own
"""
