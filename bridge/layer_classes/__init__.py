"""What layers of other classes than torch's own compute.

Index, each importing only what is above it:
    rule      how a class computes one of torch's layers
    known     the classes of other packages that are known
    registry  the rule of a layer: known, registered, or none
"""
