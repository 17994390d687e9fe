"""Which methods there are: the file name in methods/ is the registry."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import traceback
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

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
    return _method_in(importlib.import_module(f"ssl_bench.methods.{name}"), name)


def load_script(path: str) -> type[Method]:
    """The Method that a script of one's own defines; this runs the script.  ValueError: there is none, or no such file."""
    file = Path(path).expanduser()
    if file.suffix != ".py" or not file.is_file():
        raise ValueError(f"no method's script {path}: name a .py file")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"no method's script {path}: name a .py file")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(file.stem)
    sys.modules[file.stem] = module  # where a dataclass looks its types up
    try:
        spec.loader.exec_module(module)
        return _method_in(module)
    except Exception as error:  # whatever somebody's script may raise
        line = error.lineno if isinstance(error, SyntaxError) else next(
            (frame.lineno for frame in reversed(traceback.extract_tb(error.__traceback__)) if frame.filename == str(file)), None)  # fmt: skip
        where = f"{path}, line {line}: {type(error).__name__}: " if line else ""
        raise ValueError(f"{where}{' '.join(str(error).split())}") from error
    finally:
        if before is not None:
            sys.modules[file.stem] = before


def _method_in(module: ModuleType, name: str | None = None) -> type[Method]:
    found: list[Any] = [
        value for value in vars(module).values()
        if isinstance(value, type) and hasattr(value, "train_step") and value.__module__ == module.__name__
    ]  # fmt: skip
    if len(found) != 1 or name not in (None, found[0].name):
        raise TypeError(f"{module.__file__} must define exactly one Method" + (f", named {name!r}" if name else ""))
    return found[0]
