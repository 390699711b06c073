"""Where torch, fake-quant and deploy differ, bit by bit.

Index, each importing only what is above it:
    compared      the files and the batch of a call
    differences   comparing arrays in every bit
    batch         one batch, for torch and for files
    operands      codes and accumulators of layers in files
    calls         hooks on the calls of modules
    torch_calls   comparing torch with fake-quant
    verification  the result and its table
    verify        the comparison of all three
"""
