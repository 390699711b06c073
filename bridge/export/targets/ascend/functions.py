"""The operators of the Ascend dialect as ONNX functions of standard operators.

    AscendQuant     Mul -> Round -> Add(offset) -> Clip -> Cast(int8)
    Conv            Unsigned -> ConvInteger -> Add(bias)
    ConvTranspose   Cast -> Sub(offset) -> ConvTranspose -> Cast(int32) -> Add(bias)
    Gemm, MatMul    Unsigned -> MatMulInteger (-> Add(bias))
    AscendDequant   Cast(float32) -> Mul(scale)

The attribute `offset` of an operator is the zero point of its input, which is also the padding.
`Unsigned` shifts int8 to uint8, for which ONNX Runtime has exact kernels on every processor. A
transposed convolution has no integer operator, so it sums integer-valued floats. AscendDequant
decodes its float32 scale from the mantissa m and the exponent e in the bits of a uint64: m * 2^e.
"""

import onnx.parser
import onnx_ir as ir

DOMAIN = "qatfunc.ascend"
"""The domain of the functions."""

# An attribute that the node does not have is missing inside the function too.
_GEOMETRY = {
    "auto_pad": "string",
    "dilations": "ints",
    "group": "int",
    "kernel_shape": "ints",
    "pads": "ints",
    "strides": "ints",
}
_TRANSPOSED = {**_GEOMETRY, "output_padding": "ints", "output_shape": "ints"}


def _names(attributes: dict[str, str]) -> str:
    return ", ".join(attributes)


def _forwarded(attributes: dict[str, str]) -> str:
    return ", ".join(f"{name}: {kind} = @{name}" for name, kind in attributes.items())


# 2^e of every exponent field, in double, in which all of them are normal numbers.
_POWERS = ", ".join(repr(2.0 ** (max(field, 1) - 150)) for field in range(256))

_BODIES = {
    "AscendQuant": """
<scale, offset, dst_type> (x) => (q) {
    factor = Constant <value_float: float = @scale> ()
    zero = Constant <value_float: float = @offset> ()
    low = Constant <value_float = -128.0> ()
    high = Constant <value_float = 127.0> ()
    steps = Mul (x, factor)
    rounded = Round (steps)
    codes = Add (rounded, zero)
    clipped = Clip (codes, low, high)
    q = Cast <to = 3> (clipped)
}""",
    "AscendDequant": f"""
<dtype> (sums, parameters) => (y) {{
    powers = Constant <value = double[256] {{{_POWERS}}}> ()
    word = Constant <value = int64 {{{1 << 32}}}> ()
    hidden = Constant <value = int64 {{{1 << 23}}}> ()
    one = Constant <value = int64 {{1}}> ()
    integers = Cast <to = 7> (parameters)
    bits = Mod (integers, word)
    fraction = Mod (bits, hidden)
    exponent = Div (bits, hidden)
    normal = Min (exponent, one)
    leading = Mul (normal, hidden)
    whole = Add (leading, fraction)
    mantissa = Cast <to = 11> (whole)
    power = Gather (powers, exponent)
    exact = Mul (mantissa, power)
    scale = Cast <to = 1> (exact)
    shaped = {DOMAIN}.PerChannel (scale, sums)
    float = Cast <to = 1> (sums)
    y = Mul (float, shaped)
}}""",
    "AscendAntiQuant": """
<scale, offset> (q) => (y) {
    factor = Constant <value_float: float = @scale> ()
    shift = Constant <value_float: float = @offset> ()
    codes = Cast <to = 1> (q)
    counted = Add (codes, shift)
    y = Mul (counted, factor)
}""",
    "Conv": f"""
<{_names(_GEOMETRY)}, offset> (x, w, bias) => (y) {{
    half = Constant <value_float = 0.0> ()
    zero = Constant <value_float: float = @offset> ()
    ux, zx = {DOMAIN}.Unsigned (x, zero)
    uw, zw = {DOMAIN}.Unsigned (w, half)
    sums = ConvInteger <{_forwarded(_GEOMETRY)}> (ux, uw, zx, zw)
    shaped = {DOMAIN}.PerChannel (bias, sums)
    y = Add (sums, shaped)
}}""",
    "ConvTranspose": f"""
<{_names(_TRANSPOSED)}, offset> (x, w, bias) => (y) {{
    zero = Constant <value_float: float = @offset> ()
    codes = Cast <to = 1> (x)
    counted = Sub (codes, zero)
    kernel = Cast <to = 1> (w)
    float = ConvTranspose <{_forwarded(_TRANSPOSED)}> (counted, kernel)
    sums = Cast <to = 6> (float)
    shaped = {DOMAIN}.PerChannel (bias, sums)
    y = Add (sums, shaped)
}}""",
    "Gemm": f"""
<offset> (x, w, bias) => (y) {{
    sums = {DOMAIN}.MatMul <offset: float = @offset, other_offset = 0.0> (x, w)
    y = Add (sums, bias)
}}""",
    "MatMul": f"""
<offset, other_offset> (a, b) => (y) {{
    zero = Constant <value_float: float = @offset> ()
    other = Constant <value_float: float = @other_offset> ()
    ua, za = {DOMAIN}.Unsigned (a, zero)
    ub, zb = {DOMAIN}.Unsigned (b, other)
    y = MatMulInteger (ua, ub, za, zb)
}}""",
    "Unsigned": """
(q, offset) => (u, zero) {
    shift = Constant <value = int32 {128}> ()
    wide = Cast <to = 6> (q)
    sum = Add (wide, shift)
    u = Cast <to = 2> (sum)
    integer = Cast <to = 6> (offset)
    counted = Add (integer, shift)
    zero = Cast <to = 2> (counted)
}""",
    "PerChannel": """
(values, x) => (shaped) {
    all = Constant <value_ints = [-1]> ()
    zero = Constant <value_ints = [0]> ()
    start = Constant <value_ints = [2]> ()
    shape = Shape (x)
    rank = Shape (shape)
    ones = ConstantOfShape <value = int64[1] {1}> (rank)
    first = Slice (all, zero, rank)
    spatial = Slice (ones, start, rank)
    wanted = Concat <axis = 0> (first, spatial)
    shaped = Reshape (values, wanted)
}""",
}


def ascend_functions(opset: int) -> list[ir.Function]:
    """Return the functions for a model of a given opset.

    Args:
        opset: version of the standard operators, 13 or later.
    Returns:
        the functions; some call others of the list.
    """
    domains = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}, "{DOMAIN}" : 1]>'
    return [
        ir.serde.deserialize_function(onnx.parser.parse_function(f"{domains} {name} {body}"))
        for name, body in _BODIES.items()
    ]
