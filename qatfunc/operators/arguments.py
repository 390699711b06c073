"""Checks of the arguments of operators; messages show an example of a right argument."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qatfunc.params import Adopted, Clip, Params
from qatfunc.spec import LayerSpec, SearchSpec

_KINDS: dict[str, type] = {
    "weight": Tensor,
    "bias": Tensor,
    "clip": Clip,
    "weight_scale": Tensor,
    "adopted": Adopted,
    "input_clip": Clip,
    "other_clip": Clip,
}
_OF_LAYERS = ("weight", "bias", "clip", "weight_scale", "adopted")
_CLIPS = ("input_clip", "other_clip")
_EXAMPLES = {
    Tensor: "torch.as_tensor(...)",
    Clip: "Clip(torch.tensor(1.0), torch.tensor(-1.0))",
    Adopted: "Adopted(natural, adjusted)",
}


def check_tensor(where: str, name: str, value: Any) -> None:
    """Raise unless a value is a float32 tensor.

    Args:
        where: name of the function, for the message.
        name: name of the argument.
        value: the value.
    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{where}: {name} must be a float32 torch.Tensor, got {_shown(value)}")
    if value.dtype != torch.float32:
        raise TypeError(f"{where}: {name} must be float32, got {value.dtype}")


def check_spec(where: str, spec: Any, kind: type, *, name: str = "spec") -> None:
    """Raise unless a spec is an instance of its class.

    Args:
        where: name of the function, for the message.
        spec: the value.
        kind: the expected class.
        name: name of the argument.
    Raises:
        TypeError: it is not.
    """
    if not isinstance(spec, kind):
        example = f"{kind.__name__}(bits=8)"
        if kind is SearchSpec:
            example = "SearchSpec(batch_num=1)"
        elif kind is LayerSpec:
            example = "LayerSpec(weight=WeightSpec(bits=8), activation=ActivationSpec(bits=8))"
        raise TypeError(
            f"{where}: {name} must be {kind.__name__}, got {_shown(spec)}; such as {example}"
        )


def check_keys(where: str, what: str, keys: Collection[str], known: Collection[str]) -> None:
    """Raise if a mapping has an unknown key.

    Args:
        where: name of the function, for the message.
        what: name of the mapping.
        keys: its keys.
        known: the keys that it may have.
    Raises:
        ValueError: a key is unknown.
    """
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            names = ", ".join(sorted(known))
            raise ValueError(f"{where}: {what} has no {key!r}{hint} (known: {names})")


def check_params(where: str, params: Any) -> None:
    """Raise unless the parameters of an operator have the names and types of qatfunc.operators.

    Args:
        where: name of the function, for the message.
        params: by name.
    Raises:
        TypeError: params is no mapping, or a value has the wrong type.
        ValueError: a name is unknown, the weight is missing, or bias is no vector.
    """
    if not isinstance(params, Mapping):
        raise TypeError(f"{where}: params must be a dict of tensors, got {_shown(params)}")
    for name, value in params.items():
        if name not in _OF_LAYERS:
            check_keys(where, "params", [name], _OF_LAYERS)
        if value is not None:
            _check_kind(where, name, value)
    if params.get("weight") is None:
        raise ValueError(f"{where}: params has no 'weight', got {sorted(params)}")
    check_tensor(where, "weight", params["weight"])
    bias = params.get("bias")
    if bias is not None and bias.ndim != 1:
        shape = tuple(bias.shape)
        raise ValueError(f"{where}: bias must have one element an output, got shape {shape}")


def check_clips(params: Any) -> None:
    """Raise unless the parameters of matmul are the clips of both operands, or none.

    Args:
        params: by name.
    Raises:
        TypeError: params is no mapping, or a value is no Clip.
        ValueError: a name is unknown, or one clip is missing.
    """
    if not isinstance(params, Mapping):
        raise TypeError(f"matmul: params must be a dict of Clips, got {_shown(params)}")
    for name, value in params.items():
        if name not in _CLIPS:
            check_keys("matmul", "params", [name], _CLIPS)
        if value is not None:
            _check_kind("matmul", name, value)
    missing = [name for name in _CLIPS if params.get(name) is None]
    if len(missing) == 1:
        raise ValueError(f"matmul: params has no {missing[0]!r}; give both clips, or none")


def check_operands(
    x: Tensor,
    params: Params,
    spec: LayerSpec,
    *,
    weight_rank: int,
    x_ranks: Sequence[int] | range,
    name: str,
) -> None:
    """Raise unless the operands of an operator with a weight have the right types and ranks.

    Args:
        x: the input.
        params: by name.
        spec: the grids.
        weight_rank: rank of the weight.
        x_ranks: ranks that the input may have.
        name: of the operator.
    Raises:
        TypeError: x or weight is not float32, or params or spec has the wrong type.
        ValueError: a rank is wrong, or params has an unknown name or no weight.
    """
    check_tensor(name, "x", x)
    check_spec(name, spec, LayerSpec)
    check_params(name, params)
    weight = params["weight"]
    if weight.ndim != weight_rank:
        raise ValueError(
            f"{name}: weight must have rank {weight_rank}, got shape {tuple(weight.shape)}"
        )
    if x.ndim not in x_ranks:
        wanted = "2 or more" if len(x_ranks) > 1 else str(x_ranks[0])
        raise ValueError(f"{name}: x must have rank {wanted}, got shape {tuple(x.shape)}")


def _check_kind(where: str, name: str, value: Any) -> None:
    kind = _KINDS[name]
    ends = value if kind in (Clip, Adopted) and isinstance(value, kind) else ()
    for end in ends:
        if not isinstance(end, Tensor):
            raise TypeError(
                f"{where}: {name} must hold tensors, got {_shown(end)}; such as {_EXAMPLES[kind]}"
            )
    if not isinstance(value, kind):
        raise TypeError(
            f"{where}: {name} must be {kind.__name__}, got {_shown(value)}; "
            f"such as {_EXAMPLES[kind]}"
        )


def _shown(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, Tensor):
        return f"a Tensor of shape {tuple(value.shape)}"
    return f"{value!r}" if isinstance(value, int | float | str) or value is None else kind
