"""Step functions of accumulators: by hand, and against the operators of ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from bridge.export.requantization.step_functions import (
    EXACT_BOUND,
    FloatSteps,
    Grid,
    IntegerSteps,
    corners,
    prove,
    thresholds,
)
from tests.support.runtime import LEVELS, run_at

UINT8 = Grid(zero_point=0, qmin=0, qmax=255)
INT8 = Grid(zero_point=-3, qmin=-128, qmax=127)
PIXELS = np.stack(np.meshgrid(np.arange(0, 256, 3), np.arange(256)))  # 86 x 256 pairs


def grid_of(dtype, zero_point):
    """Return the grid of a type, its zero point given as if it were int8."""
    info = np.iinfo(dtype)
    return Grid(zero_point=zero_point + 128 + info.min, qmin=info.min, qmax=info.max)


def floats(*values):
    return np.array(values, np.float32)


def steps(*rescale, grid=UINT8, scale=1.0, **options):
    return FloatSteps(rescale=floats(*rescale), scale=scale, grid=grid, **options)


def integer(*multiplier, grid=UINT8, offset=None, low=None, high=None):
    offsets = np.zeros(len(multiplier), np.int64) if offset is None else np.array(offset)
    return IntegerSteps(
        multiplier=floats(*multiplier),
        offset=offsets,
        code_low=grid.qmin if low is None else low,
        code_high=grid.qmax if high is None else high,
        grid=grid,
    )


def run(level, inputs, nodes, constants, *, output):
    """Run nodes on inputs at an optimization level and return "y"."""
    graph = helper.make_graph(
        nodes,
        "main",
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in inputs.items()
        ],
        [
            helper.make_tensor_value_info(
                "y", helper.np_dtype_to_tensor_dtype(np.dtype(output)), None
            )
        ],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return run_at(model.SerializeToString(), inputs, level)


def multipliers(count):
    """Return signs, ties, zero, a subnormal, infinite products, and steps far from 0."""
    rng = np.random.default_rng(0)
    drawn = np.exp(rng.uniform(np.log(8e-6), np.log(1), count)).astype(np.float32)
    special = floats(0.5, 0.25, 1 / 6, -0.5, -0.013, 0, 1e-40, 3e38, -3e38, 1, 2**-17, 1.5, -0.25)
    drawn[: len(special)] = special
    return drawn


def biases(multiplier, grid):
    """Return biases that put the accumulators beside a step, or far beyond 2^24."""
    rng = np.random.default_rng(1)
    codes = rng.integers(grid.qmin - grid.zero_point, grid.qmax - grid.zero_point, len(multiplier))
    with np.errstate(divide="ignore", over="ignore"):
        bias = np.rint((codes + 0.5) / multiplier - 12800)
    bias[::16] = rng.integers(-(2**30), 2**30, len(bias[::16]))
    return np.clip(np.nan_to_num(bias), -(2**30), 2**30).astype(np.int32)


def operator(op, dtype, grid, multiplier, weight):
    """Return the node and its constants."""
    zeros, zero_point = np.zeros(len(multiplier), np.int8), np.array(grid.zero_point, dtype)
    constants = {
        "xs": np.float32(1),
        "xz": np.array(np.iinfo(dtype).min, dtype),
        "w": weight,
        "ws": multiplier,
        "wz": zeros,
        "ys": np.float32(1),
        "yz": zero_point,
    }
    names = ["x", *constants, "b"] if op == "QLinearConv" else ["x", *constants]
    return names, constants


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("zero_point", [0, 127, -128])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
class TestOnnxRuntime:
    """What the module says about the operators; weights are small, so no processor saturates."""

    def test_qlinear_conv_computes_integer_steps(self, dtype, zero_point, level):
        grid = grid_of(dtype, zero_point)
        multiplier = multipliers(64)
        bias = biases(multiplier, grid)
        weight = np.tile(np.array([1, 64], np.int8), (64, 1))[:, :, None, None]
        acc = (PIXELS[0] + 64 * PIXELS[1]).reshape(1, -1) + bias[:, None].astype(np.int64)
        names, constants = operator("QLinearConv", dtype, grid, multiplier, weight)
        x = (PIXELS + np.iinfo(dtype).min).astype(dtype)[None]
        node = helper.make_node("QLinearConv", names, ["y"])
        got = run(level, {"x": x}, [node], {**constants, "b": bias}, output=dtype)
        want = integer(*multiplier, grid=grid).codes(acc)
        np.testing.assert_array_equal(got[0].reshape(64, -1), want)
        # A product in float64 has other codes, so these accumulators tell the two apart.
        twice = np.rint(acc.astype(np.float64) * multiplier[:, None]) + grid.zero_point
        assert (np.clip(twice, grid.qmin, grid.qmax) != want).any()

    def test_depthwise_qlinear_conv_too(self, dtype, zero_point, level):
        grid = grid_of(dtype, zero_point)
        multiplier = multipliers(32)
        bias = biases(multiplier, grid)
        weight = np.zeros((32, 1, 3, 3), np.int8)
        weight[:, 0, 1] = 1, 64, 0
        pixels = np.repeat(PIXELS[1][None], 32, axis=0)
        left = np.pad(pixels, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]
        acc = (left + 64 * pixels).reshape(32, -1) + bias[:, None].astype(np.int64)
        names, constants = operator("QLinearConv", dtype, grid, multiplier, weight)
        x = (pixels + np.iinfo(dtype).min).astype(dtype)[None]
        node = helper.make_node("QLinearConv", names, ["y"], group=32, pads=[1, 1, 1, 1])
        got = run(level, {"x": x}, [node], {**constants, "b": bias}, output=dtype)
        want = integer(*multiplier, grid=grid).codes(acc)
        np.testing.assert_array_equal(got[0].reshape(32, -1), want)

    def test_qlinear_matmul_computes_integer_steps(self, dtype, zero_point, level):
        grid = grid_of(dtype, zero_point)
        multiplier = multipliers(64)
        rng = np.random.default_rng(2)
        weight = rng.integers(-64, 65, (600, 64)).astype(np.int8)
        weight[:, ::2] = 64
        x = rng.integers(0, 256, (800, 600)) // rng.integers(1, 50, (800, 1))
        names, constants = operator("QLinearMatMul", dtype, grid, multiplier, weight)
        feeds = {"x": (x + np.iinfo(dtype).min).astype(dtype)}
        node = helper.make_node("QLinearMatMul", names, ["y"])
        got = run(level, feeds, [node], constants, output=dtype)
        want = integer(*multiplier, grid=grid).codes((x @ weight.astype(np.int64)).T)
        np.testing.assert_array_equal(got.T, want)

    def test_fake_quantization_computes_steps(self, dtype, zero_point, level):
        grid = grid_of(dtype, zero_point)
        rng = np.random.default_rng(3)
        shift = rng.normal(size=13).astype(np.float32)
        made = FloatSteps(
            rescale=multipliers(13), shift=shift, low=-1.0, high=6.0, scale=0.03, grid=grid
        )
        acc = rng.integers(-EXACT_BOUND, EXACT_BOUND, (13, 3000)).astype(np.int32)
        acc[:, ::2] >>= rng.integers(0, 23, (13, 1500), dtype=np.int32)
        constants = {
            "m": made.rescale[:, None],
            "b": shift[:, None],
            "lo": np.float32(-1),
            "hi": np.float32(6),
            "s": np.float32(0.03),
            "z": np.array(grid.zero_point, dtype),
        }
        nodes = [
            helper.make_node("Cast", ["acc"], ["f"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", ["f", "m"], ["p"]),
            helper.make_node("Add", ["p", "b"], ["t"]),
            helper.make_node("Clip", ["t", "lo", "hi"], ["c"]),
            helper.make_node("QuantizeLinear", ["c", "s", "z"], ["y"]),
        ]
        got = run(level, {"acc": acc}, nodes, constants, output=dtype)
        np.testing.assert_array_equal(got, made.codes(acc))


@pytest.mark.parametrize("level", LEVELS)
def test_effective_multiplier_is_a_product_and_then_a_quotient_in_float32(level):
    rng = np.random.default_rng(4)
    others = 0
    for _ in range(8):
        x_scale, y_scale = np.exp(rng.uniform(-8, 2, 2)).astype(np.float32)
        ideal = np.exp(rng.uniform(np.log(2e-5), np.log(1e-3), 64))
        w_scale = (ideal * y_scale / x_scale).astype(np.float32)
        bias = np.rint((rng.integers(0, 255, 64) + 0.5) / ideal - 128).astype(np.int32)
        weight = np.ones((64, 1, 1, 1), np.int8)
        names, constants = operator("QLinearConv", np.uint8, UINT8, w_scale, weight)
        constants.update(xs=x_scale, ys=y_scale, b=bias)
        x = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
        node = helper.make_node("QLinearConv", names, ["y"])
        got = run(level, {"x": x}, [node], constants, output=np.uint8).reshape(64, 256)
        acc = np.arange(256) + bias[:, None]
        np.testing.assert_array_equal(got, integer(*(x_scale * w_scale / y_scale)).codes(acc))
        others += (got != integer(*(x_scale / y_scale * w_scale)).codes(acc)).sum()
    assert others > 0


@pytest.mark.parametrize("op", ["QLinearConv", "QLinearMatMul"])
def test_operators_refuse_two_types(op):
    weight = np.ones((1, 1, 1, 1) if op == "QLinearConv" else (1, 1), np.int8)
    names, constants = operator(op, np.uint8, UINT8, floats(1), weight)
    constants.update(yz=np.int8(0), b=np.zeros(1, np.int32))
    x = np.ones(weight.shape, np.uint8)
    used = {k: v for k, v in constants.items() if k in names}
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented):
        run("ENABLE_ALL", {"x": x}, [helper.make_node(op, names, ["y"])], used, output=np.int8)


def test_thresholds_by_hand():
    # 0.25 acc rounds half to even: 2 -> 0.5 -> 0, 3 -> 1, 5 -> 1, 6 -> 1.5 -> 2, 7, 9 -> 2, 10 -> 2
    table = thresholds(steps(0.25), 10)
    assert table.shape == (1, 255)
    assert table[0, :4].tolist() == [3, 6, 11, 11]


def test_thresholds_of_a_falling_function_count_backwards():
    np.testing.assert_array_equal(thresholds(steps(-0.25), 9), thresholds(steps(0.25), 9))


def test_thresholds_that_every_accumulator_reaches():
    grid = Grid(zero_point=0, qmin=-2, qmax=2)
    assert thresholds(steps(0.0, grid=grid), 5).tolist() == [[-5, -5, 6, 6]]
    assert thresholds(steps(1.0, grid=grid, low=-1, high=1), 5).tolist() == [[-5, 0, 1, 6]]


def test_corners_are_both_sides_of_each_step_and_the_ends():
    grid = Grid(zero_point=0, qmin=0, qmax=1)
    assert corners(steps(0.25, -0.25, grid=grid), np.array([9, 2])).tolist() == [
        [-9, 2, 3, 9],
        [2, -2, -2, -2],
    ]


def test_codes_by_hand():
    made = steps(0.5, -0.5, scale=2.0, grid=INT8, shift=floats(1, 0), low=-1, high=300)
    # acc -8, 2, 6, 1000: y -3, 2, 4, 501 and 4, -1, -3, -500; clamped, halved, rounded, minus 3
    assert made.codes(np.array([-8, 2, 6, 1000])).tolist() == [[-3, -2, -1, 127], [-1, -3, -3, -3]]
    assert made.code_range == (-3, 127)


def test_integer_codes_by_hand():
    made = integer(0.25, offset=[2], low=1, high=3)
    assert made.codes(np.array([-9, 0, 3, 5, 7, 9, 99])).tolist() == [[1, 1, 1, 2, 2, 3, 3]]


def test_prove_sees_a_step_that_is_two_accumulators_off():
    grid = Grid(zero_point=0, qmin=0, qmax=1)
    edge = 2**23 + 1
    late, early = floats(0.5 / edge), floats(0.5 / (edge - 2))
    made = steps(late[0], early[0], grid=grid)
    first = thresholds(made, EXACT_BOUND)[:, 0]
    assert first[0] > first[1]
    same = integer(late[0], early[0], grid=grid)
    swapped = integer(early[0], late[0], grid=grid)
    assert prove(made, same, EXACT_BOUND).tolist() == [True, True]
    assert prove(made, swapped, EXACT_BOUND).tolist() == [False, False]
    # Up to the accumulator before the first step of both, all codes are 0.
    assert prove(made, swapped, int(first[1]) - 1).tolist() == [True, True]


def test_prove_with_functions_that_run_opposite_ways():
    assert prove(steps(0.25, 0.25), integer(-0.25, 0.0), np.array([2, 2])).tolist() == [True, True]
    assert prove(steps(0.25, 0.25), integer(-0.25, 0.0), np.array([3, 3])).tolist() == [False] * 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rescale": floats(1, np.nan)}, ValueError, r"rescale must be finite, got \[nan\]"),
        ({"rescale": floats(np.inf)}, ValueError, "rescale must be finite"),
        ({"rescale": np.ones(2)}, TypeError, "rescale must be float32, got float64"),
        ({"rescale": floats(1)[0]}, ValueError, r"rescale must have shape \(channels,\)"),
        ({"shift": floats(1, -np.inf)}, ValueError, "shift must be finite"),
        ({"shift": floats(1)}, ValueError, r"shift must have rescale's shape \(2,\), got \(1,\)"),
        ({"shift": np.ones(2)}, TypeError, "shift must be float32"),
        ({"scale": 0.0}, ValueError, "scale must be positive and finite in float32, got 0.0"),
        ({"scale": np.nan}, ValueError, "scale must be positive"),
        ({"scale": np.inf}, ValueError, "scale must be positive"),
        ({"scale": 1e-60}, ValueError, "scale must be positive"),
        ({"low": 1.0, "high": 0.0}, ValueError, "low must not exceed high, got 1.0 and 0.0"),
        ({"low": np.nan}, ValueError, "low must not exceed high"),
        ({"high": np.nan}, ValueError, "low must not exceed high"),
    ],
)
def test_steps_refuse(change, error, message):
    with pytest.raises(error, match=message):
        FloatSteps(**{"rescale": floats(1, 2), "scale": 1.0, "grid": UINT8, **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"multiplier": floats(np.nan, 1)}, ValueError, "multiplier must be finite"),
        ({"multiplier": np.ones(2)}, TypeError, "multiplier must be float32"),
        ({"offset": np.zeros(2)}, TypeError, "offset must be signed integers, got float64"),
        ({"offset": np.zeros(1, int)}, ValueError, r"multiplier's shape \(2,\), got \(1,\)"),
        ({"code_low": 9, "code_high": 8}, ValueError, "code_low must not exceed code_high"),
    ],
)
def test_integer_steps_refuse(change, error, message):
    made = {
        "multiplier": floats(1, 1),
        "offset": np.zeros(2, int),
        "code_low": 0,
        "code_high": 255,
        "grid": UINT8,
    }
    with pytest.raises(error, match=message):
        IntegerSteps(**{**made, **change})


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 5, 5), "qmin, qmax must span 1 to 255 steps, got 5, 5"),
        ((0, -128, 128), "qmin, qmax must span"),
        ((128, -128, 127), r"zero_point must lie in \[-128, 127\], got 128"),
    ],
)
def test_grid_refuses(numbers, message):
    zero_point, qmin, qmax = numbers
    with pytest.raises(ValueError, match=message):
        Grid(zero_point=zero_point, qmin=qmin, qmax=qmax)


@pytest.mark.parametrize(
    ("bound", "error", "message"),
    [
        (-1, ValueError, r"bound must lie in \[0, 16777215\], got \[-1\]"),
        (1 << 24, ValueError, "bound must lie in"),
        (1.5, TypeError, "bound must be integers, got float64"),
        (np.ones(3, int), ValueError, r"bound must have shape \(\) or \(2,\), got \(3,\)"),
    ],
)
def test_bound_is_checked(bound, error, message):
    with pytest.raises(error, match=message):
        thresholds(steps(1, 2), bound)


def test_prove_refuses_other_channels():
    with pytest.raises(ValueError, match="integer must have 1 channels, got 2"):
        prove(steps(1), integer(1, 2), 5)


def test_thresholds_where_a_large_shift_rounds_them_away():
    # At 2^30 float32 counts in 64 and 128, so the steps lie far from where the formula has them.
    made = steps(1, -1, shift=floats(2**30, 2**30), scale=2.0**24)
    table = thresholds(made, EXACT_BOUND)
    assert table[:, 63].tolist() == [-(2**23) - 32] * 2
    assert table[:, 64].tolist() == [2**23 + 65] * 2
