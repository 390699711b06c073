"""Selecting the layers of a model to quantize, with the reason for each that stays in float.

Index, each importing only what is above it:
    batches        calling a model on a batch
    references     layers that a model holds outside of its registered children
    carried        hooks, attributes and buffers that were added to a layer instance
    eligibility    which layers a QAT operator can replace
    products       matrix products in a module's own code
    plan           plan_qat: whether each layer is quantized, by which configuration, and why
    integer_share  the share of multiply-accumulates that will be in integers
    superseded     replaced float layers that a model still holds
"""

from bridge.selection.plan import LayerPlan, QATPlan, plan_qat

__all__ = [
    "LayerPlan",
    "QATPlan",
    "plan_qat",
]
