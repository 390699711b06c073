"""What is computed on the integers: maps that are linear in the input and in the weight.

Index:
    padding     what "same" and "valid" mean
    channels    where the output channels of a weight are
    bilinear    linear, convolution and transposed convolution, with their gradients
"""
