"""Folding BatchNorm into the layer before it.

Index, each importing only what is above it:
    rules  which BatchNorm classes can be folded, and the activation that some contain
    pairs  which layer each BatchNorm follows, by a trace or a run
    plan   plan_batch_norm: whether each BatchNorm is folded, and why not
    fold   fold_batch_norm and bake_batch_norm
"""

from bridge.batch_norm.fold import bake_batch_norm, fold_batch_norm
from bridge.batch_norm.plan import BatchNormPlan, NormPlan, plan_batch_norm

__all__ = [
    "BatchNormPlan",
    "NormPlan",
    "bake_batch_norm",
    "fold_batch_norm",
    "plan_batch_norm",
]
