"""What the formulas use of torch and of floating-point arithmetic.

Index:
    torch_internals     torch's private names, which no other file touches
    concrete            where values of tensors may be read as Python numbers
    autocast            switching autocast off where integers are summed
    arithmetic          float32 arithmetic on tensors and on Python floats, for one formula of both
"""
