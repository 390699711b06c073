"""The table of operators that compute codes from codes, where their result gets codes.

    DequantizeLinear -> Add | LeakyRelu -> QuantizeLinear      in fake-quant
    QLinearAdd | QLinearLeakyRelu                              in deploy

An operator of one operand needs a kernel that evaluates the float nodes for each of the 256 codes,
as ONNX Runtime's QLinearLeakyRelu does when it loads the model: only then are the bits equal.
"""

MICROSOFT = "com.microsoft"
"""Domain of the integer operators."""

CODE_OPERATORS = {"Add": "QLinearAdd", "LeakyRelu": "QLinearLeakyRelu"}
"""The integer operator of each float operator."""
