"""A file -> the one form of QDQ graph that read/ expects. Each file opens with its rewrite.

Index, each importing only what is above it:
    computed_parameters  folds scales, zero points and biases that are computed from constants
    data_movement        quantizes layer inputs after Reshape, Transpose, MaxPool, ...
    channel_padding      pads before quantizers with a zero point per channel
    ceil_mode            pools with ceil_mode -> pools with padding
    model                read_model: loads a file and applies all of these but ceil_mode
"""
