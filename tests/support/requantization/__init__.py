"""Step functions and sums of two operands to try.

Index:
    add_kernels  what kernels of QLinearAdd compute
    mul_kernels  what engines compute for products
    steps        step functions of accumulators
"""
