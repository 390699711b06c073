"""Building QAT layers from float layers, and back.

Index, each importing only what is above it:
    padded     zero padding that a class adds to the input
    subclass   QAT layers that keep the members of a subclass of torch's layers
    effective  the weight, bias and input that a layer's class computes
    replacing  from_float, to_float, and layers that share a weight
"""
