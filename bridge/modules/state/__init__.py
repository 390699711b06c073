"""The state of a layer: what checkpoints hold, under AMCT's names.

Index, each importing only what is above it:
    inference   state that outlives torch.inference_mode
    recomputed  forwards that backward() computes again
    replicas    copies of a module that share its weights
    finite      numbers that no file can hold
    checkpoint  saving and loading, and what is used of a checkpoint
"""
