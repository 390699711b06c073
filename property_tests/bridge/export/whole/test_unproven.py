"""Layers whose bound passes 2^24 are exact wherever the sums themselves stay below it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bridge import Conv2dQAT, Conv3dQAT, ConvTranspose2dQAT, LinearQAT
from bridge.modules.weighted import QATLayer
from property_tests.strategies.examples import share_of_examples
from property_tests.strategies.modules import randoms
from tests.support.bits import assert_same_bits
from tests.support.conversions import assert_fake_equals_deploy
from tests.support.graphs.builders import inter_model
from tests.support.modules.case import Case
from tests.support.modules.numbers import Random, from_rows, rows_of

_EXACT = 1 << 24
_CONFIG = {"retrain_data_config": {"clip_max": 255.0, "fixed_min": True}}  # scale_x = 1
# Kernels, channels and inputs with at least 700 products a sum: 700 * 96 * 255 > 2^24.
_LAYERS: dict[str, tuple[Callable[[int], QATLayer], tuple[int, ...]]] = {
    "conv2d": (lambda c: Conv2dQAT(c, 3, 4, padding=1, config=_CONFIG), (44, 4, 5)),
    "conv3d": (lambda c: Conv3dQAT(c, 2, 3, padding=1, config=_CONFIG), (26, 3, 3, 3)),
    "conv_transpose2d": (
        lambda c: ConvTranspose2dQAT(c, 3, 4, padding=3, config=_CONFIG),
        (44, 5, 4),
    ),
    "linear": (lambda c: LinearQAT(c, 5, config=_CONFIG), (700,)),
}


@pytest.mark.parametrize("operator", _LAYERS)
@share_of_examples(1 / 4)
@given(batch=st.integers(1, 3), aligned=st.booleans(), random=randoms())
def test_exact_while_sums_stay_below_the_bound(
    operator: str, batch: int, aligned: bool, random: Random
) -> None:
    """If sum |q_w| |q_x - zero_point| < 2^24 then y_torch = y_fake = y_deploy in every bit."""
    make, shape = _LAYERS[operator]
    layer = make(shape[0]).eval()
    reach = _large_weights(layer, random, aligned=aligned)
    largest = (_EXACT - 1) // reach
    x = (
        np.full((batch, *shape), largest)
        if aligned
        else random.integers(0, largest + 1, (batch, *shape))
    )
    case = Case(layer=layer, x=torch.from_numpy(x.astype(np.float32)), output_padding=(0, 0))
    y, (summary,) = assert_fake_equals_deploy(inter_model(case), case.x.numpy())
    assert not summary.proven
    assert_same_bits(case.run(), y, "torch")


@torch.no_grad()
def _large_weights(layer: Any, random: Random, *, aligned: bool) -> int:
    """Set weights that quantize to themselves; return the largest sum of magnitudes."""
    rows = random.integers(96, 128, rows_of(layer).shape).astype(np.float32)
    rows *= 1 if aligned else random.choice([-1, 1], rows.shape)
    rows[:, 0] = 127  # so that every scale is 1
    layer.weight.copy_(torch.from_numpy(from_rows(layer, rows)))
    layer.bias.copy_(torch.from_numpy(random.integers(-9, 9, len(rows)).astype(np.float32)))
    return int(np.abs(rows).reshape(len(rows), -1).sum(axis=1).max())
