"""QAT modules: one of each class, and their numbers.

Index, each importing only what is above it:
    layers          one small module of each class
    network         a convolution, a product and a linear layer
    nested          every class in containers of containers
    foreign_layers  layers of other packages, written anew
    numbers         numbers that are hard to round
    case            a calibrated layer and an input for it
    two_processes   what two processes do together
"""
