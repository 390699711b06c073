"""Folding BatchNorm into the layer before it.

Index, each importing only what is above it:
    rules  which BatchNorm classes can be folded, and the activation that some contain
    pairs  which layer each BatchNorm follows, by a trace or a run
    plan   plan_batch_norm: whether each BatchNorm is folded, and why not
    fold   fold_batch_norm and bake_batch_norm
"""
