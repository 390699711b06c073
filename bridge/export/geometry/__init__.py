"""Equivalent forms of convolutions and pools, in numpy.

Index, each importing only what is above it:
    windows         pool windows that contain only padding
    output_padding  transposed convolutions whose output_padding ONNX Runtime rejects
    conv_transpose  a transposed convolution as an ordinary one
    conv3d          a 3-D convolution as a 2-D one
"""
