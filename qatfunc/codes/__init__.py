"""Operators between quantizers: what they compute on integer codes, and proofs that engines agree.

A value is quantized once, where it is computed, and passed on as the float32 number n * scale with
n = code - zero_point; round(x / scale) gives n back exactly. The forward of each operator is a
function of these integers, its gradient that of the float operator at the dequantized values.

Index, each importing only what is above it:
    grids           a quantized value as numbers; the range and grid of a result as tensors
    rounding        rounding to a result's codes, with ULQ's gradients; ReLU as their limit
    functions       activation functions of one value
    ties            distances from ties, and float32 numbers near a given one
    add_factors     proof: factors for which sums of two values have one result
    multipliers     proof: multipliers for which products of two values have one result
    tables          proof: scales for which functions of one value have one result; their tables
    elementwise     add, mul
    unary           activation functions, prelu
    pools           average pools, mean over axes
    moves           requantize, concat
"""

from qatfunc.codes.add_factors import fit_factors, fit_sum
from qatfunc.codes.elementwise import Factors, add, mul, natural_factors, natural_multiplier
from qatfunc.codes.functions import FUNCTIONS, Activation
from qatfunc.codes.grids import Output, ValueGrid, output_of, use_adopted
from qatfunc.codes.moves import concat, requantize
from qatfunc.codes.multipliers import FittedMultiplier, fit_multiplier
from qatfunc.codes.pools import (
    Window,
    adaptive_average_pool,
    average_pool,
    divisor,
    mean,
    natural_rescale,
)
from qatfunc.codes.rounding import RELU, RELU6, UNLIMITED, Limits
from qatfunc.codes.tables import FittedTable, fit_table, prelu_table
from qatfunc.codes.unary import prelu, unary

__all__ = [
    "FUNCTIONS",
    "RELU",
    "RELU6",
    "UNLIMITED",
    "Activation",
    "Factors",
    "FittedMultiplier",
    "FittedTable",
    "Limits",
    "Output",
    "ValueGrid",
    "Window",
    "adaptive_average_pool",
    "add",
    "average_pool",
    "concat",
    "divisor",
    "fit_factors",
    "fit_multiplier",
    "fit_sum",
    "fit_table",
    "mean",
    "mul",
    "natural_factors",
    "natural_multiplier",
    "natural_rescale",
    "output_of",
    "prelu",
    "prelu_table",
    "requantize",
    "unary",
    "use_adopted",
]
