"""Folding BatchNorm into the layer before it.

Index, each importing only what is above it:
    rules  which classes of BatchNorm can be folded
    pairs  which layer's output each BatchNorm reads
    plan   what happens to each BatchNorm, and why
    fold   folding them
"""
