"""Requantization in integers, proven equal to float. Each file opens with what it proves, and why.

Index, each importing only what is above it:
    step_functions  equality of float and integer requantization, decided at thresholds
    multipliers     fitting the multiplier of an equal integer requantization
    chains          the convolutions that can become QLinearConv
"""
