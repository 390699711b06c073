"""torch_internals: the only file with private names of torch, and what replaces them."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from qatfunc.numerics import torch_internals
from tests.support.source import ROOT

ALLOWED = Path("qatfunc/numerics/torch_internals.py")
HIDDEN = ("torch._dynamo", "_dynamo_marked_constant", "_orig_mod")
"""Names that are read off strings and instances."""
SOURCES = sorted(path for top in ("qatfunc", "bridge") for path in (ROOT / top).rglob("*.py"))


def private(dotted: str) -> bool:
    if dotted.startswith(("torch.ops.aten.", "ops.aten.")):  # operators, which files can name too
        return False
    return any(part.startswith("_") and not part.endswith("__") for part in dotted.split("."))


def dotted(node: ast.expr) -> str:
    """Write out a chain of attributes of a name; nothing for another expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (root := dotted(node.value)):
        return f"{root}.{node.attr}"
    return ""


def private_names(source: str) -> Iterator[str]:
    """Every private name that a program reaches through a name imported from torch."""
    imported: dict[str, str] = {}
    nodes = list(ast.walk(ast.parse(source)))
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                imported[bound] = alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom):
            imported |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    from_torch = {n: at for n, at in imported.items() if at.partition(".")[0] == "torch"}
    yield from filter(private, from_torch.values())
    for node in nodes:
        if isinstance(node, ast.Constant) and str(node.value) in HIDDEN:
            yield str(node.value)
        if isinstance(node, ast.Attribute):
            root, _, rest = dotted(node).partition(".")
            if root in from_torch and private(rest):
                yield f"{from_torch[root]}.{rest}"


@pytest.mark.parametrize(
    "program",
    [
        "import torch\ntorch._C._is_tracing()",
        "import torch as t\nt.jit._script.f()",
        "import torch._dynamo",
        "import torch._dynamo as dynamo",
        "from torch._dynamo import OptimizedModule",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "from torch.autograd import forward_ad\nforward_ad._current_level",
        "def f():\n    from torch.utils import _pytree",
        "import sys\nsys.modules['torch._dynamo']",
    ],
)
def test_private_names_are_found(program: str):
    if program == "import torch._dynamo":
        program += "\ntorch._dynamo.reset()"
    assert list(private_names(program))


def test_public_names_are_not():
    program = "import torch\nfrom torch import nn\nself._C\nnn.Module.__init__\ntorch.compiler.f"
    assert not list(private_names(program))


def test_no_other_file_touches_private_names_of_torch():
    found = {
        str(path.relative_to(ROOT)): names
        for path in SOURCES
        if path != ROOT / ALLOWED and (names := sorted(set(private_names(path.read_text()))))
    }
    assert found == {}
    assert list(private_names((ROOT / ALLOWED).read_text()))


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as a torch without any of the hooks would load it."""
    for owner, name in (
        (torch._C, "_is_tracing"),
        (torch._C, "_are_functorch_transforms_active"),
        (torch._C._functorch, "unwrap_if_dead"),
        (torch._C, "_get_mkldnn_enabled"),
        (torch._C, "_current_graph_task_id"),
    ):
        monkeypatch.delattr(owner, name)
    spec = importlib.util.spec_from_file_location("without_hooks", ROOT / ALLOWED)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.undo()
    return module


def test_missing_hooks_take_the_general_way(without: ModuleType, monkeypatch: pytest.MonkeyPatch):
    assert not without.is_jit_tracing()
    assert without.transforms_are_active()
    assert not without.onednn_is_enabled()
    assert not without.is_in_backward()
    monkeypatch.delattr(torch, "_int_mm")
    with pytest.raises(RuntimeError, match="no product of int8 matrices"):
        without.int8_matmul(torch.zeros(2, 2), torch.zeros(2, 2))
    monkeypatch.delattr(forward_ad, "_current_level")
    assert without.forward_ad_is_active()


class Twice(Function):
    @staticmethod
    def forward(ctx, factor: float, x: Tensor) -> Tensor:
        ctx.factor = factor
        return factor * x

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[None, Tensor]:
        return None, ctx.factor * g


@pytest.mark.parametrize("missing", [False, True])
def test_apply_untransformed_is_apply(without: ModuleType, missing: bool):
    module = without if missing else torch_internals
    x = torch.tensor([1.0, 3.0], requires_grad=True)
    y = module.apply_untransformed(Twice, 2.0, x)
    assert y.tolist() == [2.0, 6.0]
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [2.0, 2.0]


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_tracing_is_seen_with_and_without_the_hook(without: ModuleType):
    seen = []

    def traced(x: Tensor) -> Tensor:
        seen.append((torch_internals.is_jit_tracing(), without.is_jit_tracing()))
        return x + 1

    torch.jit.trace(traced, torch.zeros(1), check_trace=False)
    assert seen == [(True, True)]
    assert not torch_internals.is_jit_tracing()


def test_transforms_forward_differentiation_and_backward_are_seen():
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append(torch_internals.transforms_are_active())
        return x.sum()

    torch.func.grad(look)(torch.zeros(2))
    look(torch.zeros(2))
    assert seen == [True, False]
    assert not torch_internals.forward_ad_is_active()
    with forward_ad.dual_level():
        assert torch_internals.forward_ad_is_active()
    x = torch.zeros(1, requires_grad=True)
    x.register_hook(lambda _: seen.append(torch_internals.is_in_backward()))
    x.sum().backward()
    assert seen.pop()
    assert not torch_internals.is_in_backward()


def test_onednn_is_seen_to_be_switched_off():
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)  # the public context manager warns of GPUs
    try:
        assert not torch_internals.onednn_is_enabled()
    finally:
        torch._C._set_mkldnn_enabled(enabled)
    assert torch_internals.onednn_is_enabled() == enabled


def test_the_original_of_a_compiled_module():
    module = torch.nn.Linear(2, 2)
    assert torch_internals.original_module(torch.compile(module)) is module
    assert torch_internals.original_module(module) is module
    assert torch_internals.original_module(None) is None
