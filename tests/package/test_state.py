"""CONTRIBUTING's rule 3: the functions of bridge that write to a module's tensors."""

import ast
from collections.abc import Iterator

from tests.support.source import trees

WRITERS = {
    # In a forward: the ranges at the last batch of calibration, the count of batches, the last
    # valid range; the first trained scales and the last valid ones.
    "_finish",
    "_count_batch",
    "_commit",
    "_start_scales",
    "commit_scales",
    # At train(False), state_dict() and load_state_dict(): what is computed from the parameters.
    "_refresh",
    # At load_state_dict(): trained scales that a checkpoint has not, or has wrong.
    "_load_previous",
    "_start_loaded_scales",
    # Tensors of a copy.
    "shallow_copy",
    # What was trained elsewhere, by a call of bridge.to_module or average_whole_gradients.
    "to_module",
    "average_whole_gradients",
}
TABLES = {"_buffers", "_parameters"}
FLAGS = {"requires_grad_"}
"""Functions in place, by torch's mark, that change no value."""


def writes(tree: ast.AST, function: str = "") -> Iterator[str]:
    """Yield the function around each write to a tensor or to a module's table of tensors."""
    if isinstance(tree, ast.FunctionDef):
        function = tree.name
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Attribute):
        name = tree.func.attr
        if name.endswith("_") and not name.startswith("_") and name not in FLAGS:
            yield function
    if isinstance(tree, ast.Assign | ast.AugAssign):
        targets = tree.targets if isinstance(tree, ast.Assign) else [tree.target]
        if any(_is_tensor_of_module(target) for target in targets):
            yield function
    for child in ast.iter_child_nodes(tree):
        yield from writes(child, function)


def _is_tensor_of_module(target: ast.expr) -> bool:
    if isinstance(target, ast.Subscript):
        return isinstance(target.value, ast.Attribute) and target.value.attr in TABLES
    return isinstance(target, ast.Attribute) and target.attr == "data"


def test_the_scan_finds_every_kind_of_write():
    text = """
def a(self): self.x.copy_(1)
def b(self): self._buffers["x"] = 1
def c(p): p.data = 1
def d(p): p.data += 1
def e(self): self.x = self._buffers["x"].is_(1)
def f(self): return self.x.clone(), self._parameters["x"]
"""
    assert sorted(writes(ast.parse(text))) == ["a", "b", "c", "d", "e"]


def test_state_is_written_in_these_functions_alone():
    found = {
        name
        for path, tree in trees("bridge")
        if not path.startswith("bridge/export/")
        for name in writes(tree)
    }
    assert found == WRITERS
