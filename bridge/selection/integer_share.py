"""The share of a model's multiply-accumulates that prepare_qat brings into integers."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from bridge.modules.ranges import RangedModule
from bridge.selection.batches import call, check_batch, observing
from bridge.selection.plan import QUANTIZE, SKIP, UNSUPPORTED, LayerPlan

_LOOKED_UP = (nn.Embedding, nn.EmbeddingBag)


def integer_share(model: nn.Module, plans: Sequence[LayerPlan], example: Any = None) -> str | None:
    """Return a warning if less than half of the work will be computed in integers.

    Args:
        model: the float model.
        plans: plans of its layers; layers that a rule skips are left out of the share.
        example: a batch to count multiply-accumulates in a run; without it weights are counted.
    Returns:
        the message, None if the share is at least half.
    """
    if not plans:
        if any(isinstance(module, RangedModule) for module in model.modules()):
            return None  # the model was built with QAT layers
        return f"prepare_qat: {type(model).__name__} has no layer that could be quantized"
    if example is None:
        unit = "weights (give example= to count multiply-accumulates)"
        integer, total = _weights(model, plans)
    else:
        unit = "multiply-accumulates"
        integer, total = _multiplications(model, plans, example)
    if 2 * integer >= total:
        return None
    return (
        f"prepare_qat: only {integer / total:.0%} of the {unit} will be in integers; "
        "bridge.plan_qat(model) gives the reasons why others stay in float"
    )


def _weights(model: nn.Module, plans: Sequence[LayerPlan]) -> tuple[int, int]:
    """Return the numbers of weight elements: of quantized layers, and of all not skipped."""
    work = {QUANTIZE: 0, UNSUPPORTED: 0}
    seen: set[int] = set()
    modules = dict(model.named_modules(remove_duplicate=False))
    for plan in plans:
        module = modules.get(plan.path)
        unknown = module is None or id(module) in seen or isinstance(module, _LOOKED_UP)
        if plan.action == SKIP or unknown:
            continue
        seen.add(id(module))
        work[plan.action] += _elements(module)
    return work[QUANTIZE], sum(work.values())


def _elements(module: Any) -> int:
    """Return the number of elements of a layer's weights, or of what parametrizes them."""
    own = list(module._parameters.values())
    if isinstance(module, torch.jit.ScriptModule):
        own = list(module.parameters())
    elif parametrize.is_parametrized(module):
        own += module.parametrizations.parameters()
    return sum(p.numel() for p in own if p is not None and not is_lazy(p) and p.ndim > 1)


def _multiplications(model: nn.Module, plans: Sequence[LayerPlan], example: Any) -> tuple[int, int]:
    """Return the multiply-accumulates of quantized layers, and of all not skipped."""
    check_batch(model, example, "prepare_qat: example")
    with observing(model), FlopCounterMode(display=False, custom_mapping=_uncounted()) as counter:
        call(model, example)
    root = type(model).__name__
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    work = {QUANTIZE: 0, SKIP: 0, UNSUPPORTED: 0}
    for plan in plans:
        work[plan.action] += counts.get(f"{root}.{plan.path}" if plan.path else root, 0)
    return work[QUANTIZE], counter.get_total_flops() - work[SKIP]


def _uncounted() -> dict[Any, Any]:
    """Return FLOP formulas of operators that FlopCounterMode lacks."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    known: dict[Any, Any] = {attention: _attention_flops}
    if hasattr(torch.ops.aten, "_grouped_mm"):  # absent in the oldest supported torch
        known[torch.ops.aten._grouped_mm] = _grouped_flops
    return known


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _grouped_flops(a: Any, _: Any, *__: Any, out_shape: Any, **___: Any) -> int:
    return 2 * prod(out_shape) * int(a[-1])
