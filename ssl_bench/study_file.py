"""What a study's file and its command line say: methods, settings, labels per class, seeds - read, and checked for their form.

A study file is YAML: ``methods``, ``settings`` (each a set of flags, ``data`` among them), ``num_samples_per_class``, ``seeds``, and
``data_root``, the folder that the settings' ``root`` lie in.  Not every method can train every network: a setting's ``only`` or
``without`` lists the methods it is for, or not for.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ssl_bench import flags
from ssl_bench.catalog import load_method, method_names, pretraining_names
from ssl_bench.yaml_file import parse_yaml, read_yaml_text

KINDS = {str: "a name", dict: "a map of flags", int: "a whole number"}
KEYS = ("methods", "settings", "num_samples_per_class", "seeds", "data_root")
SUFFIXES = (".yaml", ".yml")
FOR = ("only", "without")  # of a setting: methods
GIVEN = {  # flags that a study gives every run, or that make no run of a study
    "seed": "seeds: or --seeds says which", "log": "--log of the study is for all", "phase": "a study trains",
    "dry_run": "--dry-run of the study prints its commands",
}  # fmt: skip


class Faults(flags.FlagError):
    """What is wrong with a study: `lines`, one a fault."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


@dataclass(frozen=True)
class Study:
    """methods: names, each perhaps with flags of its own ("erm --oracle"), or "all" that are compared (pre-training is not); settings: one dict of flags a column; num_samples_per_class, seeds: whole numbers; None: as the method has it (4, or
    all of a labelled/ folder); data_root: the folder that relative roots of settings lie in, "" for where one is."""

    name: str
    methods: tuple[str, ...]
    settings: tuple[dict[str, Any], ...]
    num_samples_per_class: tuple[int | None, ...] = (None,)
    seeds: tuple[int, ...] = (0, 1, 2)
    data_root: str = ""


def read_study(source: str) -> Study:
    """A shipped study by name, or a YAML file.  FlagError: unknown name or key, unreadable file."""
    path: Any = Path(source) if source.endswith(SUFFIXES) else resources.files("ssl_bench.recipes.studies").joinpath(f"{source}.yaml")
    if not source.endswith(SUFFIXES) and not path.is_file():
        raise flags.FlagError(flags.nearest(source, _shipped(), "study"))
    tree = parse_yaml(read_yaml_text(path, f"study {source}"), f"study {source}")
    if not isinstance(tree, dict):
        raise flags.FlagError(f"study {source} must map {', '.join(KEYS)} to lists")
    faults = [*_faults_of_form(tree), *(f"lacks {key}" for key in ("methods", "settings") if key not in tree)]
    if not faults and "num_samples_per_class" in tree and any("num_samples_per_class" in setting for setting in tree["settings"]):
        faults = ["num_samples_per_class stands in the study and in a setting: keep one"]
    if faults:
        raise Faults([f"study {source}: {fault}" for fault in faults])
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in tree.items()}
    return Study(path.name.rsplit(".", 1)[0], **values)


def _shipped() -> list[str]:
    return [file.name[:-5] for file in resources.files("ssl_bench.recipes.studies").iterdir() if file.name.endswith(".yaml")]


def _faults_of_form(tree: dict[str, Any]) -> Iterator[str]:
    for key, value in tree.items():
        kind = {"methods": str, "settings": dict}.get(key, int)
        if key not in KEYS:
            yield flags.nearest(str(key), KEYS, "key")
        elif key == "data_root":
            if not isinstance(value, str):
                yield f"data_root must be a folder, got {value!r}"
        elif not isinstance(value, list) or not value:
            yield f"{key} must be a list, got {value!r}"
        elif not all(type(item) is kind for item in value):
            yield f"every entry of {key} must be {KINDS[kind]}, got {value!r}"
        elif key == "settings":
            for each in (setting.get(key, []) for setting in value for key in FOR):
                if not isinstance(each, list):
                    yield f"only and without must list methods, got {each!r}"
                else:
                    yield from (flags.nearest(str(name), method_names(), "method") for name in each if name not in method_names())


def unfit(method: str, setting: dict[str, Any]) -> list[str]:
    """What is wrong with the form of a setting's values, for that method; unknown flags are found by whoever parses them."""
    table = flags.specs(load_method(method).Args)
    faults = []
    for key, value in setting.items():
        name = str(key).replace("-", "_")
        several = name in table and table[name].sequence
        if name in GIVEN:
            faults.append(f"{key} is the study's, not a setting's: {GIVEN[name]}")
        elif not isinstance(key, str):
            faults.append(f"{key!r} in a setting is no flag's name")
        elif value is None:
            faults.append(f"{key} is empty in a setting: leave it out, or say what it is")
        elif isinstance(value, dict) or name in table and isinstance(value, list) and not several:
            faults.append(f"{key} takes one value in a setting, got {value!r}: a setting each makes a column each")
    return faults


def misplaced(method: str, words: Sequence[str]) -> Iterator[str]:
    """What a method's own flags, or those for every run, may not say; wrong flags are found by whoever parses the whole line."""
    try:
        given = flags.parse(load_method(method).Args, words, method, "")
    except flags.FlagError:
        return
    for name in GIVEN.keys() & given.keys():
        yield f"--{name.replace('_', '-')} cannot be given to the runs of a study: {GIVEN[name]}"
    root = given.get("root") or ""
    if root.endswith(SUFFIXES) or root in _shipped() and not Path(root).exists():
        yield f"{root}: the study comes first: ssl-bench study {root} ..."


def expanded(methods: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """The words of each entry, the method's name first; and a line for each that names no method."""
    found, unknown = [], []
    for entry in methods:
        try:
            name, *own = shlex.split(entry) or [""]
        except ValueError as error:
            unknown.append(f"method {entry!r} cannot be read: {error}")
            continue
        if name.endswith(SUFFIXES):
            unknown.append(f"{name}: the study comes first: ssl-bench study {name} ...")
        elif name == "all":
            found += [[each, *own] for each in sorted({*method_names()} - {*pretraining_names()})]
        elif name in method_names():
            found.append([name, *own])
        else:
            unknown.append(flags.nearest(name, [*method_names(), "all"], "method"))
    return found, unknown


def as_flags(setting: dict[str, Any], data_root: str = "") -> list[str]:
    argv = [os.path.join(data_root, os.path.expanduser(str(setting["root"])))] if "root" in setting else []
    for key, value in setting.items():
        option = "--" + key.replace("_", "-")
        if key in ("root", *FOR):
            continue
        if isinstance(value, bool):
            argv.append(option if value else option.replace("--", "--no-", 1))
        else:
            argv += [option, *map(str, value if isinstance(value, list) else [value])]
    return argv
