"""Where training, fake-quant and deploy differ.

Index, each importing only what is above it:
    compared      the files and the batch of a call
    differences   comparing arrays in every bit
    batch         one batch, for torch and for files
    operands      inputs and outputs of layers in files
    calls         watching the calls of modules
    torch_calls   comparing torch with fake-quant
    verification  the outcome
    verify        verify: all of it
"""
