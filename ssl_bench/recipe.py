"""Recipes: hyper-parameters per method and data set, in YAML, applied under the command line.

A recipe file maps a recipe's name to its sections: ``all`` for every data set, then one per data set::

    default:
      all:      {epochs: 60}
      CIFAR100: {lr: 0.01, threshold: 0.8}

Sections that several recipes share are written once, with YAML's anchors and merge keys (``<<: *published``).  What every
method shares (image size, normalisation, network per data set) stands once in ``base.yaml``, whose ``default`` applies
under every recipe but ``none``.  Order:
field default < base[all] < base[data] < method[all] < method[data] < command line.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from ssl_bench import flags
from ssl_bench.yaml_file import line_of, parse_yaml, read_yaml_text


@dataclass(frozen=True)
class Recipe:
    """What applies: its name, the values it sets, and the sections they came from (for the user to read)."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    sections: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """First 12 hex digits of the sha256 of the values."""
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()[:12]


def resolve(args_class: type, method: str, data: str, name: str) -> Recipe:
    """The recipe `name` of `method` on `data`.

    name: ``default`` (may be absent for a user's own method), ``none`` (no recipe at all), another name of
    ``recipes/<method>.yaml``, a path to a YAML file of the same form, or ``PATH:NAME``.
    Raises flags.FlagError naming file, key and remedy.
    """
    if name == "none":
        return Recipe("none")
    path, colon, inner = name.rpartition(":")
    if not colon or not path.endswith((".yaml", ".yml")):
        path, inner = (name, "default") if name.endswith((".yaml", ".yml")) else ("", name)
    text = read_yaml_text(path, f"recipe file {path}") if path else ""
    own = _parse(text, path) if path else _shipped(method)
    if inner not in own and (path or inner != "default"):
        raise flags.FlagError(flags.nearest(inner, [*own, "none"], f"recipe of {path or method}"))
    sets = [section for section in own.get(inner, {}) if section != "all"]
    if sets and not path and inner != "default" and data not in sets:
        raise flags.FlagError(f"recipe {inner} of {method} is for {', '.join(sets)}, not for {data}")
    values: dict[str, Any] = {}
    sections = []
    for source, body in (("base", _shipped("base").get("default", {})), (path or method, own.get(inner, {}))):
        for section in ("all", data):
            if section in body:
                where = f"recipe {source}[{section}]"
                place = functools.partial(line_of, text if source == path else "", inner, section)
                values |= _check(args_class, method, {} if body[section] is None else body[section], where, place)
                sections.append(f"{source}[{section}]")
    return Recipe(name, values, tuple(sections))


def _check(args_class: type, method: str, section: Any, where: str, place: Callable[[str], int | None]) -> dict[str, Any]:
    if not isinstance(section, dict):
        raise flags.FlagError(f"{where} must map keys to values, got {section!r}")
    wrong = next((name for name in section if name not in flags.specs(args_class)), None)
    line = place(wrong) if isinstance(wrong, str) else None
    where += f" line {line}" if line else ""
    fixed = {"root", "data", "recipe", "phase", "resume", "dry_run"} & set(section)
    if fixed:
        raise flags.FlagError(f"{where}: {', '.join(sorted(fixed))} can only be given on the command line")
    return flags.check_keys(args_class, section, where)


def _shipped(name: str) -> dict[str, Any]:
    entry = resources.files("ssl_bench.recipes").joinpath(f"{name}.yaml")
    return _parse(entry.read_text(encoding="utf-8"), entry.name) if entry.is_file() else {}


def _names(tree: dict[Any, dict[Any, Any]]) -> list[Any]:
    return [*tree, *(section for body in tree.values() for section in body)]


@functools.lru_cache(maxsize=64)  # a study resolves hundreds of command lines, and reading YAML is four fifths of that
def _parse(text: str, where: str) -> dict[str, Any]:
    tree = parse_yaml(text, where)
    if not isinstance(tree, dict) or not all(isinstance(body, dict) for body in tree.values()) or not all(isinstance(name, str) for name in _names(tree)):
        raise flags.FlagError(f"{where} must map recipe names (default: ...) to sections (all: ..., CIFAR100: ...)")
    return tree
