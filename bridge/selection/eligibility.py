"""Which layers a QAT operator can replace, with the reason for each that it cannot."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from bridge.layer_classes.registry import is_registered, layer_rule
from bridge.modules import LAYER_CLASSES
from bridge.modules.weighted import QATLayer
from bridge.selection.carried import conflicts
from qatfunc.numerics.torch_internals import is_traceable_wrapper_subclass

# Classes with weights for which this library has no quantized operator.
_WITHOUT_OPERATOR = (
    nn.ConvTranspose3d,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
)

_QUANTIZED_BY_TORCH = ("torch.ao.nn.quantized", "torch.ao.nn.qat", "torch.ao.nn.intrinsic.q")

# Reparametrizations by hooks: suffix of the parameter that they compute the weight from.
_COMPUTED = (
    ("_g", "weight_norm computes it in a hook: call torch.nn.utils.remove_weight_norm first"),
    ("_mask", "pruning computes it in a hook: call torch.nn.utils.prune.remove first"),
    ("_u", "spectral_norm computes it in a hook: call torch.nn.utils.remove_spectral_norm first"),
)


def candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Iterate over the layers that a plan lists.

    Args:
        model: any module.
    Returns:
        (path, layer) pairs: layers that an operator can replace, and layers with weights for
        which there is no operator; a shared layer with each of its paths.
    """
    closed = ""
    for path, module in model.named_modules(remove_duplicate=False):
        if closed and path.startswith(closed):
            continue
        if isinstance(module, torch.jit.ScriptModule) or _quantized_by_torch(module):
            closed = f"{path}." if path else ""
        if _is_candidate(module):
            yield path, module


def refusal(model: nn.Module, path: str, module: nn.Module) -> str:
    """Return the reason why a layer cannot be replaced.

    Args:
        model: the model that contains the layer.
        path: of the layer in the model.
        module: the layer.
    Returns:
        the reason, "" for a layer that an operator can replace.
    """
    if not has_operator(module):
        return _without_operator(module)
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "its shapes are not known yet: call the model once on an example first"
    if parametrize.is_parametrized(module):
        return "its weight is parametrized"
    reason = patched(module) or computed(module)
    if reason:
        return reason
    rule = layer_rule(module)
    if isinstance(rule, str):
        return rule
    parent = model.get_submodule(path.rpartition(".")[0]) if path else None
    if isinstance(parent, nn.TransformerEncoderLayer):
        return "TransformerEncoderLayer reads this weight without calling the layer in eval mode"
    if isinstance(parent, nn.MultiheadAttention):
        return "MultiheadAttention reads this weight without calling the layer"
    if type(module) is not rule.base:
        return _tensor(module.weight) or LAYER_CLASSES[rule.base].obstacle(module, rule)
    return _tensor(module.weight) or _sizes(module) or _names(module)


def patched(module: nn.Module) -> str:
    """Return which method of a layer is monkey-patched, on the instance or on torch's class.

    Args:
        module: any module.
    Returns:
        the reason not to replace the layer, "" if there is none.
    """
    for name in vars(module):
        if inspect.isroutine(inspect.getattr_static(type(module), name, None)):
            return f"{name} is patched on this instance: it may compute something else"
    kind = next((kind for kind in LAYER_CLASSES if isinstance(module, kind)), None)
    for name in ("forward", "_conv_forward", "_output_padding") if kind else ():
        method = inspect.getattr_static(kind, name, None)
        if method is not None and not _is_torchs(method):
            return f"{name} of its class is not torch's own: it may compute something else"
    if type(module).__call__ is not nn.Module.__call__:
        return f"{type(module).__name__} overrides __call__: it may compute something else"
    return ""


def as_torch(module: nn.Module, *methods: str) -> bool:
    """Return whether a subclass of a torch module computes what torch's class does.

    Args:
        module: of a class of torch or of a subclass.
        methods: names of the methods that determine the computation.
    Returns:
        False if the class overrides one of the methods, or defines weight or bias.
    """
    found = (inspect.getattr_static(type(module), name, None) for name in methods)
    own = any(hasattr(type(module), name) for name in ("weight", "bias"))
    return not own and all(method is None or _is_torchs(method) for method in found)


def computed(module: nn.Module) -> str:
    """Return what computes a layer's weight or bias where it is not a parameter.

    Args:
        module: of a class with a weight and a bias.
    Returns:
        the reason not to replace the layer, "" if both are parameters.
    """
    for name in ("weight", "bias"):
        if name in module._parameters or not hasattr(module, name):
            continue
        own = {*module._parameters, *module._buffers}
        hook = next((how for end, how in _COMPUTED if f"{name}{end}" in own), "")
        return f"its {name} is not a parameter" + (f": {hook}" if hook else "")
    return ""


def has_operator(module: nn.Module) -> bool:
    """Return whether a module's class has an operator.

    Args:
        module: any module.
    Returns:
        True for convolutions, linear layers, their subclasses and registered classes.
    """
    return isinstance(module, tuple(LAYER_CLASSES)) or is_registered(type(module))


def _is_candidate(module: nn.Module) -> bool:
    known = (*_WITHOUT_OPERATOR, QATLayer, torch.jit.ScriptModule)
    return has_operator(module) or isinstance(module, known) or _quantized_by_torch(module)


def _without_operator(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return "a ScriptModule's layers cannot be replaced: prepare the model before it is scripted"
    if _quantized_by_torch(module):
        return "quantized by torch.ao already: prepare the float model"
    return f"no operator for {type(module).__name__}"


def _quantized_by_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_QUANTIZED_BY_TORCH)


def _is_torchs(method: Any) -> bool:
    home = getattr(method, "__globals__", {}).get("__name__", "")
    return str(home).startswith("torch.nn.")


def _tensor(weight: Any) -> str:
    if weight.dtype is not torch.float32:
        return f"its weight is {weight.dtype}, not torch.float32"
    if is_traceable_wrapper_subclass(weight) and not _is_distributed(weight):
        return f"its weight is a {type(weight).__name__}, a subclass of torch.Tensor"
    return ""


def _sizes(module: Any) -> str:
    got, wanted = tuple(module.weight.shape), _shape(module)
    if got == wanted:
        return ""
    return f"its weight has shape {got}, its hyperparameters imply {wanted}"


def _shape(module: Any) -> tuple[int, ...]:
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    channels = (module.out_channels, module.in_channels // module.groups)
    if module.transposed:
        channels = (module.in_channels, module.out_channels // module.groups)
    kernel = module.kernel_size  # an int if it was assigned after construction
    return *channels, *(
        kernel if isinstance(kernel, tuple) else (kernel,) * (module.weight.ndim - 2)
    )


def _names(module: nn.Module) -> str:
    taken = conflicts(module, LAYER_CLASSES[type(module)])
    if not taken:
        return ""
    return f"it has attributes that a quantized layer defines itself: {', '.join(sorted(taken))}"


def _is_distributed(weight: Any) -> bool:
    return type(weight).__module__.startswith("torch.distributed.")


def qat_class_of(layer: nn.Module) -> type[QATLayer]:
    """Return the QAT class that replaces a layer.

    Args:
        layer: a layer for which `refusal` returns "".
    Returns:
        a class of bridge.modules.
    Raises:
        TypeError: no class replaces it.
    """
    rule = layer_rule(layer)
    if isinstance(rule, str):
        raise TypeError(rule)
    return LAYER_CLASSES[rule.base]


def subclass_note(layer: nn.Module) -> str:
    """Return a note for a plan about a layer of another class than torch's own.

    Args:
        layer: a layer for which `refusal` returns "".
    Returns:
        the note, "" for torch's own classes.
    """
    rule = layer_rule(layer)
    if isinstance(rule, str) or type(layer) is rule.base:
        return ""
    if rule.registered:
        return f", a {rule.base.__name__} by registration"
    return f", a subclass of {rule.base.__name__} with the same computation"
