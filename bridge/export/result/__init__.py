"""What a conversion did, and whether its models agree.

Index, each importing only what is above it:
    exactness        proven or measured, in words
    conversion       the outcome of a conversion
    summary          what became of each layer
    record           quantization factors as AMCT's text
    multiplications  multiply-accumulates of any operator
    explanation      the outcome of explain
    explain          why each layer is what it is
    verify           where training, fake-quant and deploy differ
"""
