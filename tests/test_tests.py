"""Tests of the tests: each can fail by what it says, and not only by an error on the way."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parent
CHECKS = ("pytest.raises", "pytest.fail", "pytest.warns", "np.testing.", "numpy.testing.", "torch.testing.")


def checks(function: ast.FunctionDef) -> bool:
    """Whether its own lines hold an assert, a raise, one of CHECKS, or a program whose exit code is looked at."""
    for node in ast.walk(function):
        if isinstance(node, (ast.Assert, ast.Raise)):
            return True
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(CHECKS):
            return True
        if isinstance(node, ast.keyword) and node.arg == "check" and ast.unparse(node.value) == "True":
            return True
    return False


def names(function: ast.FunctionDef, modules: set[str]) -> set[str]:
    """The functions of the tests that it names, as f or as module.f."""
    own = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    of_others = [node for node in ast.walk(function) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    return own | {node.attr for node in of_others if isinstance(node.value, ast.Name) and node.value.id in modules}


def without_a_check(sources: dict[str, str]) -> list[str]:
    """module.test of each test in which neither its own lines nor a function of the tests that it names, or that names, check anything."""
    functions = [
        (module, node) for module, text in sources.items() for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)
    ]  # fmt: skip
    found = [(module, node.name, names(node, {*sources})) for module, node in functions]
    checking, before = {node.name for _, node in functions if checks(node)}, -1
    while before != len(checking):
        before = len(checking)
        checking |= {name for _, name, named in found if named & checking}
    return [f"{module}.{name}" for module, name, _ in found if name.startswith("test") and name not in checking]


def test_a_test_without_a_check_is_found():
    sources = {
        "test_a": "def test_none():\n    f()\ndef test_own():\n    assert f()\ndef f():\n    return 1\n",
        "test_b": "def test_by_another():\n    test_a.same(1)\ndef test_deep():\n    g()\ndef g():\n    same(1)\n",
        "conftest": "def same(a):\n    assert a\n",
        "test_c": "def test_a_program():\n    run(x, check=True)\ndef test_foreign():\n    os.same(1)\ndef test_raises():\n    with pytest.raises(E):\n        f()\n",
    }
    assert without_a_check(sources) == ["test_a.test_none", "test_c.test_foreign"]


def test_every_test_checks_something():
    assert without_a_check({path.stem: path.read_text(encoding="utf-8") for path in sorted(TESTS.glob("*.py"))}) == []
