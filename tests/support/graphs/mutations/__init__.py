"""Damaged ONNX files.

Index, each importing only what is above it:
    sources  models to damage
    picks    what a mutation draws
    nodes    damaged nodes
    tensors  damaged tensors
    models   damaged signatures, versions and functions
    damage   one of the mutations, or damaged bytes
"""
