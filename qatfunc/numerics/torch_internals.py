"""The only file that touches names of torch that its documentation does not promise.

A hook that a version of torch does not have is replaced by something slower that gives the same
bits; each function says what that is. Classes that torch exports under private names alone are
imported as they are.
"""

import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.dropout import _DropoutNd as Dropout
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

__all__ = [
    "BatchNorm",
    "Dropout",
    "TorchDispatchMode",
    "apply_untransformed",
    "compiler_is_loaded",
    "forward_ad_is_active",
    "int8_matmul",
    "is_in_backward",
    "is_jit_tracing",
    "is_traceable_wrapper_subclass",
    "mark_constant_result",
    "onednn_is_enabled",
    "original_module",
    "transforms_are_active",
    "tree_leaves",
]


def _hook(path: str) -> Any:
    """Return what torch has under a dotted path, None where it has nothing there."""
    try:
        return attrgetter(path)(torch)
    except AttributeError:
        return None


# Looked up once: small layers ask at every call.
_is_tracing = _hook("_C._is_tracing") or _hook("jit.is_tracing")
_transforms_active = _hook("_C._are_functorch_transforms_active")
_unwrap_if_dead = _hook("_C._functorch.unwrap_if_dead")
_mkldnn_enabled = _hook("_C._get_mkldnn_enabled")
_graph_task = _hook("_C._current_graph_task_id")


def is_jit_tracing() -> bool:
    """Return whether torch.jit.trace records what is computed.

    torch.jit.is_tracing is what is public, and asks two more questions that cost a small layer
    time; it is used where torch has no _is_tracing.

    Returns:
        True while it records.
    """
    return bool(_is_tracing())


def transforms_are_active() -> bool:
    """Return whether a transform of torch.func (grad, vjp, jvp, vmap) is active.

    Returns:
        True within one. Without torch's hook True always: every operator then takes the way that
        transforms can follow, and calibration does not check values.
    """
    return _transforms_active is None or bool(_transforms_active())


def forward_ad_is_active() -> bool:
    """Return whether forward-mode differentiation is active.

    Returns:
        True within a torch.autograd.forward_ad.dual_level. Without torch's counter of levels True
        always: operators then define a forward derivative that nobody asks for.
    """
    return bool(getattr(forward_ad, "_current_level", 0) >= 0)


def apply_untransformed(function: type[Function], static: Any, *tensors: Tensor) -> Any:
    """Call Function.apply without the part that serves transforms, which is as slow as a small op.

    It must not be called while transforms_are_active.

    Args:
        function: an autograd Function whose forward takes ctx.
        static: its first argument, no tensor.
        tensors: the other arguments.
    Returns:
        what function.apply returns, which is called where torch has no unwrap_if_dead.
    """
    if _unwrap_if_dead is None:
        return function.apply(static, *tensors)
    alive = [_unwrap_if_dead(tensor) for tensor in tensors]
    return super(Function, function).apply(static, *alive)  # type: ignore[misc]


def onednn_is_enabled() -> bool:
    """Return whether torch uses oneDNN for convolutions on a CPU.

    Returns:
        torch.backends.mkldnn.flags' setting. Without torch's hook False: sums that are exact are
        then rounded once more, in vain.
    """
    return _mkldnn_enabled is not None and bool(_mkldnn_enabled())


def int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices of int8 to int32.

    Args:
        a: int8 (m, k).
        b: int8 (k, n).
    Returns:
        int32 (m, n).
    Raises:
        RuntimeError: torch has no kernel for it on this device, or no _int_mm at all.
    """
    kernel = getattr(torch, "_int_mm", None)
    if kernel is None:
        raise RuntimeError("this version of torch has no product of int8 matrices")
    product: Tensor = kernel(a, b)
    return product


def is_in_backward() -> bool:
    """Return whether autograd computes gradients: what a module computes now repeats a forward.

    torch.utils.checkpoint asks in the same way.

    Returns:
        True within a backward pass. Without torch's hook False: a layer within activation
        checkpointing then takes a repeated call for a new one.
    """
    return _graph_task is not None and bool(_graph_task() != -1)


def compiler_is_loaded() -> bool:
    """Return whether torch._dynamo is imported, which takes seconds.

    Returns:
        False where nothing can have been compiled yet.
    """
    return "torch._dynamo" in sys.modules


def mark_constant_result(function: Callable[..., Any]) -> None:
    """Set the mark of torch.compiler.assume_constant_result, which would import torch._dynamo.

    Args:
        function: the compiler will call it once, at tracing, instead of tracing it. A torch that
            reads another mark traces it and, where it cannot, breaks the graph there.
    """
    vars(function)["_dynamo_marked_constant"] = True


def original_module(module: Any) -> Any:
    """Return the module that torch.compile was called with.

    Args:
        module: any object.
    Returns:
        the module within an OptimizedModule; another object as it is.
    """
    kind = getattr(sys.modules.get("torch._dynamo"), "OptimizedModule", None)
    return module._orig_mod if kind is not None and isinstance(module, kind) else module
