"""Which BatchNorm classes only normalize, and which then call an activation of their own."""

from torch import nn

from bridge.selection.eligibility import as_torch

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

# Classes of other packages, by name since the packages may not be installed: the children that
# they call, in this order, after normalizing.
_FOLLOWED = {
    ("timm.layers.norm_act", "BatchNormAct2d"): ("drop", "act"),
    ("timm.layers.norm_act", "SyncBatchNormAct"): ("drop", "act"),
}


def refusal_of_class(norm: nn.Module) -> str:
    """Return the reason why a BatchNorm of this class cannot be folded.

    Args:
        norm: a BatchNorm of any class.
    Returns:
        the reason, "" for a class that only normalizes, or normalizes and then calls children.
    """
    if type(norm) in NORMS or _children(norm) is not None:
        return ""
    plain = isinstance(norm, NORMS) and not isinstance(norm, nn.modules.lazy.LazyModuleMixin)
    if plain and as_torch(norm, "forward", "_check_input_dim"):
        return ""
    return f"{type(norm).__name__} is a custom class, which may do more than normalize"


def take_following(norm: nn.Module) -> nn.Module:
    """Remove the children that a BatchNorm calls after normalizing, and return them.

    Args:
        norm: of a class that refusal_of_class accepts; its children become Identity.
    Returns:
        a module to replace the BatchNorm: its children in the order of their calls, or Identity.
    """
    following = []
    for name in _children(norm) or ():
        child = getattr(norm, name)
        if not isinstance(child, nn.Identity):
            following.append(child)
            setattr(norm, name, nn.Identity())
    if len(following) == 1:
        return following[0]
    replacement = nn.Sequential(*following) if following else nn.Identity()
    replacement.training = norm.training
    return replacement


def _children(norm: nn.Module) -> tuple[str, ...] | None:
    kind = type(norm)
    return _FOLLOWED.get((kind.__module__, kind.__qualname__))
