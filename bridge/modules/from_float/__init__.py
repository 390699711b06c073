"""Building QAT layers from float layers, and giving those back.

Index, each importing only what is above it:
    padded     zeros around the input that a class adds
    subclass   QAT layers that keep what a subclass adds
    effective  the weight, bias and input that a layer's class computes
    replacing  building a layer on the float layer's parameters
"""
