"""The result of a conversion, its explanation, and the verification that its models agree.

Index, each importing only what is above it:
    exactness        whether accumulators are exact: proven or measured
    conversion       the result of a conversion
    summary          the summary of each layer
    record           quantization factors as AMCT's record file
    multiplications  multiply-accumulates of any operator
    explanation      the result of explain
    explain          why each layer has its form
    verify           where torch, fake-quant and deploy differ
"""
