"""QDQ models written by hand.

Index, each importing only what is above it:
    text           models as ONNX text, and what their layers compute
    ones           layers whose weights are ones
    chains         two convolutions, and what may lie between them
    layer_forms    every form in which a model may hold one layer
    reading        what is in a file
    builders       the models that the exporters write for QAT layers
    hostile_sizes  sizes, depths and names that take careless readers hours
    mutations      damaged files
"""
