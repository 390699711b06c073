"""Layers whose weights are ones, of any shape."""

import numpy as np

from tests.support.graphs.text import ZX, X, model


def layer(weight, op="Conv", *, groups=1, zx=ZX, behind=""):
    """A layer with a weight of ones of this shape, on one picture whose sides are 7."""
    channels = weight[0] if op == "ConvTranspose" else weight[1] * groups
    sizes = [1, channels, *(7 for _ in weight[2:])]
    body = X + "wd = DequantizeLinear (w, sw, zw)"
    # Padding that depends on the size keeps a transposed convolution from being another.
    padding = ', auto_pad = "SAME_UPPER"' if op == "ConvTranspose" else ""
    attributes = f"<group = {groups}{padding}>"
    body += f"[it] {'c' if behind else 'y'} = {op} {attributes} (xd, wd)" + behind
    return model(
        body,
        inputs=f"float{sizes} x",
        outputs=f"float[{', '.join('NCDHV'[: len(weight)])}] y",
        opset=21,
        w=np.ones(weight, np.int8),
        sw=np.float32(0.01),
        zw=np.int8(0),
        zx=zx,
        sc=np.float32(0.05),
        zc=np.int8(-3),
    )
