"""Linear and convolutions: operators that are linear in the input and in the weight.

Index:
    padding     padding="same" and "valid" as numbers of elements
    channels    the layout of output channels in a weight
    bilinear    linear, convolution and transposed convolution, with their gradients
"""
