"""The state of a layer: state_dicts with AMCT's names, inference mode, checkpointing, replicas.

Index, each importing only what is above it:
    inference   creating state as ordinary tensors within torch.inference_mode
    recomputed  forwards that activation checkpointing recomputes
    replicas    copies of a module that share its weights
    finite      refusing to export NaN and infinity
    checkpoint  state_dict: saving and loading
"""
