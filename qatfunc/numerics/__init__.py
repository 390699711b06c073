"""What the formulas need of torch and of floating point.

Index:
    torch_internals     torch's private names, which no other file touches
    concrete            where values of tensors may be read as Python numbers
    autocast            keeping autocast away from sums of integers
    arithmetic          float32 arithmetic on tensors and on Python floats, for one formula of both
"""
