"""Two convolutions, and what may lie between them: chains that QLinearConv computes, or not."""

import numpy as np

from tests.support.graphs.text import SX, ZX, codes, model

KERNEL = np.random.default_rng(0).integers(-90, 90, (4, 3, 2, 2)).astype(np.int8)
LAST = np.random.default_rng(1).integers(-90, 90, (2, 4, 1, 1)).astype(np.int8)
SW = np.array([0.011, 0.0031, 0.0072, 0.00199], np.float32)
SC, ZC = np.float32(0.0421), np.int8(-11)
BIAS = np.array([1.3, -0.74, 0.0, 2.5], np.float32)
ARRAYS = {
    "w": KERNEL,
    "sw": SW,
    "zw": np.zeros(4, np.int8),
    "b": BIAS,
    "v": LAST,
    "sv": np.array([0.01, 0.02], np.float32),
    "zv": np.zeros(2, np.int8),
    "sc": SC,
    "zc": ZC,
    "lo": np.float32(-0.3),
    "hi": np.float32(2.0),
    "shape": np.array([0, 0, 0, -1], np.int64),
}
FIRST = """
    [quantize_x] xq = QuantizeLinear (x, sx, zx) [dequantize_x] xd = DequantizeLinear (xq, sx, zx)
    wd = DequantizeLinear <axis: int = 0> (w, sw, zw) [first] f = Conv (xd, wd, b)
"""
SECOND = """
    [quantize_c] cq = QuantizeLinear (c, sc, zc) [dequantize_c] cd = DequantizeLinear (cq, sc, zc)
    vd = DequantizeLinear <axis: int = 0> (v, sv, zv) [second] y = Conv (cd, vd)
"""


def chained(between, *, second=SECOND, outputs="float[N, 2, H2, L2] y", **options):
    given = {"inputs": "float[N, 3, H, L] x", "outputs": outputs, **ARRAYS, **options}
    return model(FIRST + between + second, **given)


def forms(done):
    return {layer.name: layer.form for layer in done.layers}


def picture():
    return np.random.default_rng(2).normal(0.0, 4.0, (2, 3, 6, 7)).astype(np.float32)


def sums(x):
    """The exact sums of the first layer, bias included."""
    windows = np.lib.stride_tricks.sliding_window_view(codes(x, SX, ZX), (2, 2), axis=(2, 3))
    bias = np.rint(BIAS / (SX * SW)).astype(np.int64)
    return np.einsum("nchwkl,ockl->nohw", windows, KERNEL.astype(np.int64)) + bias.reshape(-1, 1, 1)


def pooled(y):
    return np.lib.stride_tricks.sliding_window_view(y, (2, 2), axis=(2, 3)).max((4, 5))


BETWEEN = {
    "nothing": ("c = Identity (f)", lambda y: y, []),
    "relu": ("c = Relu (f)", lambda y: np.maximum(y, np.float32(0)), ["Clip"]),
    "clip": ("c = Clip (f, lo, hi)", lambda y: np.clip(y, ARRAYS["lo"], ARRAYS["hi"]), ["Clip"]),
    "clip from below": ("c = Clip (f, lo)", lambda y: np.maximum(y, ARRAYS["lo"]), ["Clip"]),
    "pool": (
        "r = Relu (f) c = MaxPool <kernel_shape = [2, 2]> (r)",
        lambda y: pooled(np.maximum(y, np.float32(0))),
        ["Clip", "MaxPool"],
    ),
    "pool and relu": (
        "r = MaxPool <kernel_shape = [2, 2]> (f) c = Relu (r)",
        lambda y: pooled(np.maximum(y, np.float32(0))),
        ["Clip", "MaxPool"],
    ),
    "pool that sees only padding, and clip": (
        "r = MaxPool <kernel_shape = [2, 1], pads = [1, 0, 1, 0], dilations = [6, 1]> (f)"
        " c = Clip (r, lo)",
        lambda y: np.full_like(y[:, :, :1], ARRAYS["lo"]),
        ["MaxPool", "Clip"],
    ),
    "clip, and pool that sees only padding": (
        "r = Clip (f, lo) c = MaxPool <kernel_shape = [2, 1], pads = [1, 0, 1, 0],"
        " dilations = [6, 1]> (r)",
        lambda y: np.full_like(y[:, :, :1], -1e30),
        ["Clip", "MaxPool"],
    ),
    "reshape": ("c = Reshape (f, shape)", lambda y: y, ["Reshape"]),
    "transpose": (
        "c = Transpose <perm = [0, 1, 3, 2]> (f)",
        lambda y: y.transpose(0, 1, 3, 2),
        ["Transpose"],
    ),
}


def long_sums():
    """Arrays for which some channels have no multiplier until their rescale is adjusted."""
    rng = np.random.default_rng(3)
    return {
        "inputs": "float[N, 64, H, L] x",
        "w": rng.integers(-100, 100, (64, 64, 2, 2)).astype(np.int8),
        "sw": rng.uniform(0.001, 0.002, 64).astype(np.float32),
        "zw": np.zeros(64, np.int8),
        "b": np.zeros(64, np.float32),
        "v": rng.integers(-90, 90, (2, 64, 1, 1)).astype(np.int8),
        "sc": np.float32(2.1),
    }
