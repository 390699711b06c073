"""One small case of each operator on codes, as a function of a value and the result's range."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from qatfunc import ActivationSpec, Clip, codes, ulq_qparams
from qatfunc.codes import RELU6, Activation, Window, output_of

SPEC = ActivationSpec()
_RANGES = Clip(torch.tensor(3.0), torch.tensor(-2.5)), Clip(torch.tensor(1.5), torch.tensor(0.0))
_QPARAMS = tuple(ulq_qparams(clip, SPEC) for clip in _RANGES)


class CodeOperator(NamedTuple):
    """operator(x, clip) for quantized x (2, 3, 4, 4) and the result's range."""

    operator: Callable[[Tensor, Clip], Tensor]
    x: Tensor
    clip: Clip

    def __call__(self, x: Tensor, clip: Clip) -> Tensor:
        return self.operator(x, clip)


def _values(which: int) -> Tensor:
    random = torch.Generator().manual_seed(which)
    scale, zero_point = _QPARAMS[which]
    n = torch.randint(-128, 128, (2, 3, 4, 4), generator=random) - zero_point
    return n * scale


_OTHER = _values(1)


def _add(x: Tensor, clip: Clip) -> Tensor:
    return codes.add(x, _OTHER, _QPARAMS, output=output_of(clip, SPEC), spec=SPEC, limits=RELU6)


def _mul(x: Tensor, clip: Clip) -> Tensor:
    other = _OTHER[:, :, :1, :1]
    return codes.mul(x, other, _QPARAMS, output=output_of(clip, SPEC), spec=SPEC)


def _unary(name: str) -> Callable[[Tensor, Clip], Tensor]:
    function = Activation(name, {"leaky_relu": 0.1, "elu": 1.0}.get(name, 0.0))
    return lambda x, clip: codes.unary(
        x, function, _QPARAMS[0], output=output_of(clip, SPEC), spec=SPEC
    )


def _prelu(x: Tensor, clip: Clip) -> Tensor:
    weight = torch.tensor([0.25, 0.1, -0.5])
    return codes.prelu(x, weight, _QPARAMS[0], output=output_of(clip, SPEC), spec=SPEC)


def _pool(x: Tensor, clip: Clip) -> Tensor:
    window = Window((2, 2), (1, 2), (1, 0))
    return codes.average_pool(
        x, _QPARAMS[0], output=output_of(clip, SPEC), spec=SPEC, window=window
    )


def _mean(x: Tensor, clip: Clip) -> Tensor:
    return codes.mean(x, _QPARAMS[0], output=output_of(clip, SPEC), spec=SPEC, dim=(-1, -2))


def _concat(x: Tensor, clip: Clip) -> Tensor:
    return codes.concat([x, _OTHER], dim=-1, output=output_of(clip, SPEC), spec=SPEC)


OPERATORS = {
    "add": _add,
    "mul": _mul,
    **{name: _unary(name) for name in codes.FUNCTIONS},
    "prelu": _prelu,
    "average_pool": _pool,
    "mean": _mean,
    "concat": _concat,
}


def code_operator(name: str) -> CodeOperator:
    """Return the case of an operator; its range clips some results on both sides."""
    return CodeOperator(OPERATORS[name], _values(0), Clip(torch.tensor(1.1), torch.tensor(-0.3)))
