"""The table of operators that run on uint8 codes if their output is quantized.

    DequantizeLinear -> Add | LeakyRelu -> QuantizeLinear      in fake-quant
    QLinearAdd | QLinearLeakyRelu                              in deploy

An operator of one operand needs a kernel that evaluates the float nodes for each of the 256 codes,
as ONNX Runtime's QLinearLeakyRelu does at load time: only then are the bits equal.
"""

MICROSOFT = "com.microsoft"
"""Domain of the integer operators."""

CODE_OPERATORS = {"Add": "QLinearAdd", "LeakyRelu": "QLinearLeakyRelu"}
"""The integer operator of each float operator."""
