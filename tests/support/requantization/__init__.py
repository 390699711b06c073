"""Step functions and sums of two operands to try.

Index:
    add_kernels  what kernels of QLinearAdd compute
    steps        step functions of accumulators
"""
