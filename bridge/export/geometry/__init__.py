"""Restating convolutions as others, in numpy.

Index, each importing only what is above it:
    windows         pool windows that hold only padding
    output_padding  output_padding that ONNX Runtime refuses
    conv_transpose  a transposed convolution as an ordinary one
    conv3d          a convolution in three dimensions as one in two
"""
