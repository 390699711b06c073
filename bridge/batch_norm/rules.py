"""Which classes of BatchNorm are one and nothing more, and what others do after it."""

from torch import nn

from bridge.selection.eligibility import as_torch

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

# Classes of other packages by their names, since these may be absent, with the children that they
# call in this order after they have normalized.
_FOLLOWED = {
    ("timm.layers.norm_act", "BatchNormAct2d"): ("drop", "act"),
    ("timm.layers.norm_act", "SyncBatchNormAct"): ("drop", "act"),
}


def refusal_of_class(norm: nn.Module) -> str:
    """Return why a BatchNorm's class may compute something else.

    Args:
        norm: a BatchNorm of any class.
    Returns:
        the reason, "" for a class that is known to normalize and then call its children.
    """
    if type(norm) in NORMS or _children(norm) is not None:
        return ""
    plain = isinstance(norm, NORMS) and not isinstance(norm, nn.modules.lazy.LazyModuleMixin)
    if plain and as_torch(norm, "forward", "_check_input_dim"):
        return ""
    return f"{type(norm).__name__} is a class of its own, which may do more than normalize"


def take_following(norm: nn.Module) -> nn.Module:
    """Return what runs where a BatchNorm was, and take it out of the BatchNorm.

    Args:
        norm: of a class that is not refused.
    Returns:
        its children in the order of their calls, Identity if it has none.
    """
    following = []
    for name in _children(norm) or ():
        child = getattr(norm, name)
        if not isinstance(child, nn.Identity):
            following.append(child)
            setattr(norm, name, nn.Identity())
    if len(following) == 1:
        return following[0]
    place = nn.Sequential(*following) if following else nn.Identity()
    place.training = norm.training
    return place


def _children(norm: nn.Module) -> tuple[str, ...] | None:
    kind = type(norm)
    return _FOLLOWED.get((kind.__module__, kind.__qualname__))
