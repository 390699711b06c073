"""padding="same" and "valid" as numbers of elements."""

from collections.abc import Sequence

Ints = int | Sequence[int]


def same_padding(kernel_size: Sequence[int], dilation: Ints) -> list[tuple[int, int]]:
    """Padding before and after each spatial axis for padding="same", torch's convention.

    Args:
        kernel_size: one size per axis.
        dilation: one for all axes or one per axis.
    Returns:
        (before, after) for each axis; after is the larger one where they differ.

    >>> same_padding([4, 3], 1)
    [(1, 2), (1, 1)]
    """
    dilations = [dilation] * len(kernel_size) if isinstance(dilation, int) else list(dilation)
    totals = [d * (k - 1) for k, d in zip(kernel_size, dilations, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


def resolve_padding(
    padding: Ints | str, kernel_size: Sequence[int], dilation: Ints
) -> tuple[Ints, list[int]]:
    """Split padding into a convolution's own and what must be padded before it.

    Args:
        padding: ints, "same" or "valid".
        kernel_size: one size per axis.
        dilation: one for all axes or one per axis.
    Returns:
        padding for the operator, and a list for torch.nn.functional.pad (empty if none).
    Raises:
        TypeError: padding is a float.
        ValueError: padding is another string.
    """
    if not isinstance(padding, str):
        if isinstance(padding, float):
            raise TypeError(f"padding must be ints, got {padding!r}")
        return padding, []
    if padding == "valid":
        return 0, []
    if padding != "same":
        raise ValueError(f'padding must be ints, "same" or "valid", got {padding!r}')
    pairs = same_padding(kernel_size, dilation)
    if all(before == after for before, after in pairs):
        return [before for before, _ in pairs], []
    return 0, [amount for pair in reversed(pairs) for amount in pair]
