"""A method's flags and defaults, read from its script without importing it, and the command line that gives a run's arguments again."""

from __future__ import annotations

import ast
import functools
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

ABSENT = object()
# What a run was asked to do with the arguments, or what says where they came from: no command needs it again.
NOT_REPEATED = ("recipe", "phase", "resume", "dry_run", "data", "seed", "root")


@dataclass(frozen=True)
class Default:
    """Of one flag: its value (sequences as lists, as in JSON), and the word that stands for None, if there is one."""

    value: Any
    none: str | None = None


@functools.cache
def flag_defaults(method: str) -> Mapping[str, Default]:
    """Flag -> default of a shipped method, base classes' flags first; empty for a method that is not shipped.

    Importing the script would load torch, which a page of numbers has no other use for.
    """
    if not method.isidentifier():
        return {}
    return _of_class(f"ssl_bench.methods.{method}", "Args")


def _of_class(module: str, name: str) -> dict[str, Default]:
    package, _, stem = module.rpartition(".")
    try:
        tree = ast.parse(resources.files(package).joinpath(f"{stem}.py").read_text(encoding="utf-8"))
    except (OSError, ModuleNotFoundError):
        return {}
    imported = {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }  # fmt: skip
    found: dict[str, Default] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for base in node.bases:
                if isinstance(base, ast.Name):
                    found |= _of_class(*imported.get(base.id, (module, base.id)))
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
                    found[line.target.id] = _default(line.value, found.get(line.target.id))
    return found


def _default(value: ast.expr, declared: Default | None) -> Default:
    if not isinstance(value, ast.Call):  # `epochs: int = 60` says another value of a flag that a base declares
        return Default(_plain(value), declared.none if declared else None)
    none = next((keyword.value for keyword in value.keywords if keyword.arg == "none"), None)
    return Default(_plain(value.args[0]), None if none is None else _plain(none))


def _plain(node: ast.expr) -> Any:
    value = ast.literal_eval(node)
    return list(value) if isinstance(value, tuple) else value


def command(method: str, args: Mapping[str, Any]) -> str:
    """The command line that gives `args` again, whatever the recipes say by then; only what is not the default stands in it.

    "" for a method that is not shipped: its script and its flags are not known here.
    """
    known = flag_defaults(method)
    if not known:
        return ""
    words = ["ssl-bench", method]
    if args.get("root") is not None:
        words.append(str(args["root"]))
    words += ["-d", str(args.get("data")), "--seed", str(args.get("seed")), "--recipe", "none"]
    for name, value in args.items():
        default = known.get(name)
        if default is not None and name not in NOT_REPEATED and value != default.value:
            words += _spelled(name, value, default)
    return shlex.join(words)


def _spelled(name: str, value: Any, default: Default) -> list[str]:
    option = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    if value is None:
        return [option, default.none] if default.none else []
    values = value if isinstance(value, list) else [value]
    return [option, *map(str, values)] if values else []
