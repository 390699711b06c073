"""Which layers of a model are quantized, by whose configuration, and why another stays in float.

Index, each importing only what is above it:
    batches        calling a model on data
    references     layers that a model holds beside its registered children
    carried        hooks, attributes and buffers that a layer has beside its class's
    eligibility    which layers a QAT operator can replace
    products       matrix products in a module's own code
    plan           what prepare_qat does to each layer
    integer_share  how much of the work will be in integers
    superseded     float layers that were replaced and can still be reached
"""
