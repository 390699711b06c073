"""A file -> the one form that the readers expect.

Index, each importing only what is above it:
    computed_parameters  scales and integers that a file computes from constants
    data_movement        a Q/DQ pair after Reshape, Transpose, ... as well as before
    channel_padding      padding before a pair with one zero point a channel
    ceil_mode            pools with ceil_mode as pools with padding
    model                read_model: all of it
"""
