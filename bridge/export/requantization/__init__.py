"""What is proven, and how: each file opens with the statement.

Index, each importing only what is above it:
    step_functions  a layer up to the next quantizer as a step function of its sums
    multipliers     an integer step function that equals the float one
    add_factors     sums of two activations with one result on every processor
    chains          the layers to which it applies
"""
