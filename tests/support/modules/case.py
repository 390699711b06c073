"""A calibrated layer and an input for it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bridge.modules.weighted import QATLayer

Array = np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A calibrated layer in eval mode and an input for it.

    Args:
        layer: the module.
        x: its input.
        output_padding: of a transposed convolution, what output_size asks for included.
        output_size: second argument of a transposed convolution, or None.
        other_form: the file has the other one of two forms, where exporters differ.
    """

    layer: QATLayer
    x: Tensor
    output_padding: tuple[int, ...] = ()
    output_size: list[int] | None = None
    other_form: bool = False

    @torch.no_grad()
    def run(self) -> Array:
        """Return what training computes, in eval mode."""
        more = () if self.output_size is None else (self.output_size,)
        return self.layer(self.x, *more).numpy()
