"""A study -> its runs, all of them checked before the first one starts; every fault is named at once."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ssl_bench import flags, launch, record, trackers, zoo
from ssl_bench.args import Args
from ssl_bench.catalog import load_method
from ssl_bench.devices import require_device
from ssl_bench.feed import training_views
from ssl_bench.method import Method, Stage, Task
from ssl_bench.study_file import Faults, Study, as_flags, expanded, misplaced, unfit

BY_HAND = ("StanfordCars", "Resisc45", "ImageNet", "ImageNet100", "MiniImageNet", "ImageFolder")  # cannot be fetched, see docs/datasets.md
SHOWN = 6  # names of methods or data sets in one line


@dataclass(frozen=True)
class Run:
    """One command line, the folder it trains in, and what it is made of.

    steps: optimiser steps of all its stages; root: a folder that must be there, weights: a file likewise; None: none; device, trackers:
    what it is to train on, and to write to.
    """

    method: str
    argv: tuple[str, ...]
    folder: Path
    data: str = ""
    steps: int = 0
    root: str | None = None
    weights: str | None = None
    device: str = "auto"
    trackers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return shlex.join(("ssl-bench", self.method, *self.argv))

    @property
    def label(self) -> str:
        """Method, data set, labels per class and run, for lists."""
        return f"{self.method:<13} {self.folder.parent.parent.name} {self.folder.parent.name} {self.folder.name}"


@dataclass(frozen=True)
class Event:
    """What becomes of a run: `kind` is queued, running, or ended with an exit code (negative: killed) after so many seconds."""

    run: Run
    kind: str
    code: int = 0
    seconds: float = 0.0


@dataclass
class _Findings:
    """Fault -> the (method, data set) it was found for; `cells`: all that were looked at."""

    found: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    cells: set[tuple[str, str]] = field(default_factory=set)

    def add(self, message: str, cell: tuple[str, str]) -> None:
        at = self.found.setdefault(" ".join(message.split()), [])
        at += [] if cell in at else [cell]

    def lines(self) -> list[str]:
        return [f"{message} ({_concerned(at, self.cells)})" for message, at in self.found.items()]


def _concerned(at: Sequence[tuple[str, str]], cells: set[tuple[str, str]]) -> str:
    if len(cells) > 1 and {*at} == cells:
        return "every run"
    parts = [list(dict.fromkeys(names)) for names in zip(*at, strict=True)]
    return " on ".join(", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "") for names in parts)


def plan(study: Study, log: str, extra: Sequence[str]) -> list[Run]:
    """Every run of the study, checked and resolved before the first one starts; seeds outermost, so that a column of
    single runs is complete early.  No data is read, no run folder made.

    Faults: what no run of it would get over, by whatever machine - names, flags, ranges, networks, policies, too many labels.
    """
    entries, unknown = expanded(study.methods)
    unknown += dict.fromkeys(fault for name, *own in entries for fault in (*misplaced(name, own), *misplaced(name, extra)))
    findings, runs = _Findings(), list[Run]()
    networks: dict[Any, str] = {}
    for seed in study.seeds:
        for setting in study.settings:
            for n in study.num_samples_per_class:
                for name, *own in entries:
                    if name in setting.get("without", ()) or name not in setting.get("only", [name]):
                        continue
                    cell = " ".join((name, *own)), str(setting.get("data", "Digits"))
                    findings.cells.add(cell)
                    wrong = unfit(name, setting)
                    for fault in wrong:
                        findings.add(fault, cell)
                    if wrong:
                        continue
                    labels = () if n is None else ("--num-samples-per-class", str(n))
                    argv = (*as_flags(setting, study.data_root), *own, *labels, "--seed", str(seed), *extra, "--log", log)
                    try:
                        runs.append(_run(name, argv, networks, partial(findings.add, cell=cell)))
                    except (ValueError, OSError) as error:
                        findings.add(str(error), cell)
    faults = [*unknown, *findings.lines()]
    if not faults and not runs:
        faults = [f"study {study.name}: no setting is for {', '.join(study.methods)}"]
    if faults:
        raise Faults(faults)
    return list({run.folder: run for run in runs}.values())  # what is named twice is trained once


def missing_here(runs: Iterable[Run], devices: bool = True) -> list[str]:
    """What this machine lacks for `runs`, a line each: folders of data that cannot be fetched, files of weights, packages of trackers,
    and, unless they train elsewhere, devices."""
    findings = _Findings()
    for run in runs:
        cell = run.method, run.data
        findings.cells.add(cell)
        if run.root is not None and not Path(run.root).expanduser().exists():
            findings.add(f"no folder {run.root}, and {run.data} cannot be fetched: place it there, or say where it lies with --data-root DIR", cell)
        checks: list[Callable[[], object]] = [partial(trackers.require, **dict.fromkeys(run.trackers, True))]
        if run.weights is not None:
            checks.append(partial(record.weights_file, run.weights))
        if devices:
            checks.append(partial(require_device, run.device))
        for check in checks:
            try:
                check()
            except (ValueError, OSError) as error:
                findings.add(str(error), cell)
    return findings.lines()


def _run(name: str, argv: Sequence[str], networks: dict[Any, str], fault: Callable[[str], None]) -> Run:
    """The run of a command line; what is wrong with it is told to `fault`, or raised where nothing further can be said.

    networks: what is known already, see `_network_fault`.
    """
    method = load_method(name)
    args, _ = launch.resolve(method, argv)
    stages = method.stages(args)
    for check in (lambda: _check_data(args), lambda: training_views((*method.labeled_views, *method.unlabeled_views), args)):
        try:
            check()
        except ValueError as error:
            fault(str(error))
    for message in dict.fromkeys(_network_fault(stage.method or method, stage, networks) for stage in stages):
        if message:
            fault(message)
    needs_root = args.root is not None and (args.data in BY_HAND or ":" in args.data or not args.download)
    return Run(
        name, tuple(argv), record.run_path(name, args), args.data, sum(stage.args.epochs * stage.args.iters_per_epoch for stage in stages),
        args.root if needs_root else None, stages[0].previous or stages[0].args.pretrained_backbone, args.device,
        tuple(name for name in trackers.PACKAGES if getattr(args, name)),
    )  # fmt: skip


def _check_data(args: Args) -> None:
    zoo.check_name(args.data)
    if args.root is None and args.data != zoo.EMBEDDED and ":" not in args.data:
        raise ValueError(f"{args.data} needs a root folder: add root: to its setting, or name it behind the study")
    published = zoo.PUBLISHED.get(args.data)
    if published is None or published.train is None:
        return
    least = published.train_per_class[0] if published.train_per_class else published.train // published.classes
    counted = not args.all_labeled and args.labeled_list is None
    if counted and args.num_samples_per_class > least:
        raise ValueError(f"--num-samples-per-class {args.num_samples_per_class}: {args.data} has no more than {least} images in its smallest class")
    labeled = args.num_samples_per_class if counted else int(args.all_labeled)  # of a class that is labelled whole one must be left
    if args.num_val_per_class and labeled + args.num_val_per_class > least:
        beside = f", and {labeled} of them are labelled" if counted else ""
        raise ValueError(f"--num-val-per-class {args.num_val_per_class}: {args.data} has no more than {least} images in its smallest class{beside}")


def _network_fault(method: type[Method], stage: Stage, known: dict[Any, str]) -> str:
    """Why `method` cannot train the network, "" if it can: built without memory (torch's meta device), once a network."""
    names = [name for name, spec in flags.specs(type(stage.args)).items() if spec.metadata["group"] in ("model", "positions")]
    names += ["image_size", "concat", "grad_checkpointing"]
    key = (method.name, *(getattr(stage.args, name) for name in names))
    if key not in known:
        known[key] = _refusal(method, replace(stage.args, scratch=True, pretrained_backbone=None))
    return known[key]


def _refusal(method: type[Method], args: Args) -> str:
    task = Task(num_classes=10, num_labeled=40, num_unlabeled=40, pretrained=False)
    try:
        method.check_arch(args.arch)
        try:
            with torch.device("meta"):
                method(args, task)
        except NotImplementedError:  # it looks at numbers, which that device has none of
            method(args, task)
    except ValueError as error:
        return str(error)
    return ""
