"""torch's private names: the only file that uses what torch does not document.

If a version of torch lacks one of them, a slower replacement gives the same results; each function
documents its own. Classes that have private names only are imported under public ones.
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
    """Return an attribute of torch by its dotted path, None if there is none."""
    try:
        return attrgetter(path)(torch)
    except AttributeError:
        return None


def _always() -> bool:
    return True


# Looked up once, because small layers call them often.
_is_tracing = _hook("_C._is_tracing") or _hook("jit.is_tracing")
_transforms_active = _hook("_C._are_functorch_transforms_active") or _always
_unwrap_if_dead = _hook("_C._functorch.unwrap_if_dead")
_mkldnn_enabled = _hook("_C._get_mkldnn_enabled")
_graph_task = _hook("_C._current_graph_task_id")


def is_jit_tracing() -> bool:
    """Return whether torch.jit.trace is tracing.

    The public torch.jit.is_tracing is slower; it is used if torch has no _is_tracing.

    Returns:
        True while tracing.
    """
    return _is_tracing()


def transforms_are_active() -> bool:
    """Return whether a transform of torch.func (grad, vjp, jvp, vmap) is active.

    Returns:
        True within one. Without torch's function always True: operators then use their
        implementation for transforms, and calibration does not check values.
    """
    return _transforms_active()


def forward_ad_is_active() -> bool:
    """Return whether forward-mode differentiation is active.

    Returns:
        True within a torch.autograd.forward_ad.dual_level. Without torch's counter of levels
        always True: operators then use their slower implementation for forward mode.
    """
    return getattr(forward_ad, "_current_level", 0) >= 0


def apply_untransformed(function: type[Function], static: Any, *tensors: Tensor) -> Any:
    """Call Function.apply without its support for transforms, which takes as long as a small op.

    It must not be called while transforms_are_active.

    Args:
        function: an autograd Function whose forward takes ctx.
        static: its first argument, no tensor.
        tensors: the other arguments.
    Returns:
        the result of function.apply, which is called if torch has no unwrap_if_dead.
    """
    if _unwrap_if_dead is None:
        return function.apply(static, *tensors)
    alive = [_unwrap_if_dead(tensor) for tensor in tensors]
    return super(Function, function).apply(static, *alive)  # type: ignore[misc]


def onednn_is_enabled() -> bool:
    """Return whether torch uses oneDNN for convolutions on a CPU.

    Returns:
        the setting of torch.backends.mkldnn.flags. Without torch's function always False: exact
        sums are then rounded once more, which does not change them.
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
    """Return whether a backward pass is running: a forward within it is a recomputation.

    torch.utils.checkpoint uses the same function.

    Returns:
        True within a backward pass. Without torch's function always False: with activation
        checkpointing, a layer then treats a recomputation as a new call.
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
        function: the compiler calls it once, while tracing, instead of tracing it. A torch that
            reads another mark traces it, or breaks the graph there.
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
