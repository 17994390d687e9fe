"""Which methods there are: the file name in methods/ is the registry."""

from __future__ import annotations

import ast
import importlib
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # so that listing the methods needs no torch
    from ssl_bench.method import Method


def method_summaries() -> dict[str, str]:
    """Name -> first line of its script's docstring, read without importing the script; sorted by name."""
    found = {}
    for file in resources.files("ssl_bench.methods").iterdir():
        if file.name.endswith(".py") and not file.name.startswith("_"):
            docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            found[file.name[:-3]] = docstring.partition("\n")[0]
    return dict(sorted(found.items()))


def method_names() -> list[str]:
    """The shipped methods, sorted."""
    return list(method_summaries())


def pretraining_names() -> list[str]:
    """Those that make initial weights for the others (`Method.pretrains`), read without importing them; sorted."""
    folder = resources.files("ssl_bench.methods")
    return [name for name in method_names() if _says_it_pretrains(folder.joinpath(f"{name}.py").read_text(encoding="utf-8"))]


def _says_it_pretrains(script: str) -> bool:
    statements = [line for node in ast.parse(script).body if isinstance(node, ast.ClassDef) for line in node.body]
    return any(ast.unparse(line) == "pretrains = True" for line in statements if isinstance(line, ast.Assign))


def load_method(name: str) -> type[Method]:
    """The Method that the script ``methods/<name>.py`` defines."""
    module = importlib.import_module(f"ssl_bench.methods.{name}")
    found = [
        value for value in vars(module).values()
        if isinstance(value, type) and hasattr(value, "train_step") and value.__module__ == module.__name__
    ]  # fmt: skip
    if len(found) != 1 or found[0].name != name:
        raise TypeError(f"{module.__file__} must define exactly one Method, named {name!r}")
    return found[0]
