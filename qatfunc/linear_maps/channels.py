"""The layout of output channels in a weight.

Conv and Linear have them on axis 0. The weight of a transposed convolution is (in, out/groups,
...), so output channel c is the pair (group, index on axis 1) with c = group * (out/groups) +
index: with groups, its scales vary along both leading axes. Only this file depends on the layout;
the full-rank scales that it returns broadcast to the weight.
"""

import torch
from torch import Tensor


def output_channels(weight: Tensor, *, transposed: bool, groups: int) -> int:
    """Return the number of output channels.

    Args:
        weight: (out, in/groups, *k) or, transposed, (in, out/groups, *k).
        transposed: whether the operator is a transposed convolution.
        groups: groups of the operator.
    """
    return weight.shape[1] * groups if transposed else weight.shape[0]


def channel_extremes(weight: Tensor, *, transposed: bool, groups: int) -> tuple[Tensor, Tensor]:
    """Return the largest and smallest weight of each output channel.

    Args:
        weight: (out, in/groups, *k) or, transposed, (in, out/groups, *k).
        transposed: whether the operator is a transposed convolution.
        groups: groups of the operator.
    Returns:
        two tensors that broadcast to weight, constant within an output channel.
    """
    view = weight.unflatten(0, (groups, -1)) if transposed else weight
    # (groups, in/groups, out/groups, *k) keeps axes 0 and 2; (out, in/groups, *k) keeps axis 0.
    kept = (0, 2) if transposed else (0,)
    dims = [d for d in range(view.ndim) if d not in kept]
    high, low = view.amax(dims, keepdim=True), view.amin(dims, keepdim=True)
    if not transposed:
        return high, low
    shape = list(high.shape)
    shape[1] = view.shape[1]
    return high.expand(shape).flatten(0, 1), low.expand(shape).flatten(0, 1)


def per_output(scale: Tensor, *, transposed: bool, groups: int) -> Tensor:
    """Return one value per output channel of a full-rank weight scale.

    Args:
        scale: broadcasts to the weight; size 1 on every axis for one scale per tensor.
        transposed: whether the operator is a transposed convolution.
        groups: groups of the operator.
    Returns:
        (out,) or, for one scale per tensor, (1,).
    """
    if scale.numel() == 1 or not transposed:
        return scale.flatten()
    return scale.unflatten(0, (groups, -1))[:, 0].flatten()


def to_full_rank(values: Tensor, weight: Tensor, *, transposed: bool, groups: int) -> Tensor:
    """Expand one value per output channel to a weight's rank: the inverse of per_output.

    Args:
        values: (out,) or (1,).
        weight: the weight to which the result broadcasts.
        transposed: whether the operator is a transposed convolution.
        groups: groups of the operator.
    Returns:
        a tensor that broadcasts to weight.
    """
    ones = (1,) * (weight.ndim - 2)
    if values.numel() == 1 or not transposed:
        return values.reshape(-1, 1, *ones)
    in_per_group = weight.shape[0] // groups
    rows = torch.repeat_interleave(values.reshape(groups, -1), in_per_group, dim=0)
    return rows.reshape(*rows.shape, *ones)


def sum_to_channels(terms: Tensor, *, transposed: bool, groups: int) -> Tensor:
    """Sum a tensor of a weight's shape over each output channel: the adjoint of to_full_rank.

    Args:
        terms: (out, in/groups, *k) or, transposed, (in, out/groups, *k).
        transposed: whether the operator is a transposed convolution.
        groups: groups of the operator.
    Returns:
        (out,).
    """
    if not transposed:
        return terms.flatten(1).sum(1)
    return terms.reshape(*terms.shape[:2], -1).sum(2).unflatten(0, (groups, -1)).sum(1).flatten()
