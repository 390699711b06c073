"""Step functions and sums of two operands to try.

Index:
    add_kernels  what kernels of QLinearAdd compute
    mul_kernels  what engines compute for products
    code_graphs  one operator between quantizers, as ONNX models
    steps        step functions of accumulators
"""
