"""Studies: methods x settings x labels per class x seeds, trained by a few worker processes, ending in a table.

A study file is YAML: ``methods``, ``settings`` (each a set of flags, ``data`` among them), ``num_samples_per_class``,
``seeds``.  Not every method can train every network: a setting's ``only`` or ``without`` lists the methods it is for, or not for.
A run that is done is not repeated, so the same command continues a study that was stopped.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import multiprocessing
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from ssl_bench import distributed, flags, launch, record, table
from ssl_bench.catalog import load_method, method_names, pretraining_names
from ssl_bench.interrupt import Interrupted, handling

KINDS = {str: "a name", dict: "a map of flags", int: "a whole number"}
KEYS = ("methods", "settings", "num_samples_per_class", "seeds")
FOR = ("only", "without")  # of a setting: methods


@dataclass(frozen=True)
class Study:
    """methods: names, each perhaps with flags of its own ("erm --oracle"), or "all" that are compared (pre-training is not); settings: one dict of flags a column; num_samples_per_class, seeds: whole numbers; None: as the method has it (4, or
    all of a labelled/ folder)."""

    name: str
    methods: tuple[str, ...]
    settings: tuple[dict[str, Any], ...]
    num_samples_per_class: tuple[int | None, ...] = (None,)
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True)
class Run:
    """One command line, and the folder it trains in."""

    method: str
    argv: tuple[str, ...]
    folder: Path

    def __str__(self) -> str:
        return " ".join(("ssl-bench", self.method, *self.argv))


def read_study(source: str) -> Study:
    """A shipped study by name, or a YAML file.  FlagError: unknown name or key, unreadable file."""
    import yaml

    shipped = resources.files("ssl_bench.recipes.studies")
    path = Path(source) if source.endswith((".yaml", ".yml")) else shipped.joinpath(f"{source}.yaml")
    if not path.is_file():
        known = [file.name[:-5] for file in shipped.iterdir() if file.name.endswith(".yaml")]
        raise flags.FlagError(flags.nearest(source, known, "study"))
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise flags.FlagError(f"study {source} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise flags.FlagError(f"study {source} must map {', '.join(KEYS)} to lists")
    for key, value in tree.items():
        if key not in KEYS:
            raise flags.FlagError(f"study {source}: {flags.nearest(str(key), KEYS, 'key')}")
        if not isinstance(value, list) or not value:
            raise flags.FlagError(f"study {source}: {key} must be a list, got {value!r}")
        kind = {"methods": str, "settings": dict}.get(key, int)
        if not all(type(item) is kind for item in value):
            raise flags.FlagError(f"study {source}: every entry of {key} must be {KINDS[kind]}, got {value!r}")
    for setting in tree.get("settings", ()):
        for key in FOR:
            given = setting.get(key, [])
            wrong = [name for name in given if name not in method_names()] if isinstance(given, list) else [given]
            if wrong:
                raise flags.FlagError(f"study {source}: {key} must list methods; {flags.nearest(str(wrong[0]), method_names(), 'method')}")
    for key in ("methods", "settings"):
        if key not in tree:
            raise flags.FlagError(f"study {source} lacks {key}")
    return Study(path.name.rsplit(".", 1)[0], **{key: tuple(value) for key, value in tree.items()})


def plan(study: Study, log: str, extra: Sequence[str]) -> list[Run]:
    """Every run of the study, checked and resolved before the first one starts; seeds outermost, so that a column of
    single runs is complete early.  FlagError names the method or flag that is wrong."""
    runs = []
    for seed in study.seeds:
        for setting in study.settings:
            for n in study.num_samples_per_class:
                for name, *own in _expanded(study.methods):
                    if name in setting.get("without", ()) or name not in setting.get("only", [name]):
                        continue
                    labels = () if n is None else ("--num-samples-per-class", str(n))
                    argv = (*_as_flags(setting), *own, *labels, "--seed", str(seed), *extra, "--log", log)
                    method = load_method(name)
                    args, _ = launch.resolve(method, argv)
                    runs.append(Run(name, argv, record.run_path(name, args)))
    if not runs:
        raise flags.FlagError(f"study {study.name}: no setting is for {', '.join(study.methods)}")
    return list({run.folder: run for run in runs}.values())  # what is named twice is trained once


def _expanded(methods: Sequence[str]) -> Iterator[list[str]]:
    """The words of each entry, the method's name first.  FlagError: no such method."""
    for entry in methods:
        name, *own = shlex.split(entry) or [""]
        if name == "all":
            yield from ([each, *own] for each in sorted({*method_names()} - {*pretraining_names()}))
        elif name in method_names():
            yield [name, *own]
        else:
            raise flags.FlagError(flags.nearest(name, [*method_names(), "all"], "method"))


def _as_flags(setting: dict[str, Any]) -> list[str]:
    argv = [str(setting["root"])] if "root" in setting else []
    for key, value in setting.items():
        option = "--" + key.replace("_", "-")
        if key in ("root", *FOR):
            continue
        if isinstance(value, bool):
            argv.append(option if value else option.replace("--", "--no-", 1))
        else:
            argv += [option, *map(str, value if isinstance(value, list) else [value])]
    return argv


def train(run: Run, threads: int) -> tuple[int, float]:
    """In a worker: train one run with its output in <folder>/log.txt; (exit code, seconds)."""
    import torch

    torch.set_num_threads(threads)
    begun = time.perf_counter()
    run.folder.mkdir(parents=True, exist_ok=True)
    log = open(run.folder / "log.txt", "a", encoding="utf-8")
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            code = launch.run_command(load_method(run.method), run.argv)
        except Exception:  # a bug in one method must not cost the other runs of the study
            traceback.print_exc()
            code = 1
    return code, time.perf_counter() - begun


def execute(runs: Sequence[Run], jobs: int, threads: int) -> list[Run]:
    """Train `runs`, `jobs` at a time, and return those that failed.  Interrupted after the running ones have saved."""
    failed = []
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(jobs, context, initializer=_ignore_interrupts)
    bar = tqdm(total=len(runs), unit="run", dynamic_ncols=True, disable=not sys.stderr.isatty())
    begun = time.perf_counter()
    try:
        with _interruptible():
            for done, (run, code, seconds) in enumerate(_as_completed(pool, runs, jobs, threads), 1):
                if code:
                    failed.append(run)
                left = (time.perf_counter() - begun) / done * (len(runs) - done)
                line = f"[{done}/{len(runs)}] {_outcome(run, code)}  {seconds:.0f} s, about {left / 60:.1f} min left"
                tqdm.write(line) if not bar.disable else print(line, flush=True)
                bar.update()
    except concurrent.futures.process.BrokenProcessPool:
        raise OSError("a worker process was killed (out of memory?); the same command continues, perhaps with --jobs 1") from None
    except Interrupted:
        for worker in multiprocessing.active_children():
            worker.terminate()  # the trainer saves and leaves
        raise
    finally:
        bar.close()
        pool.shutdown(wait=True, cancel_futures=True)
    return failed


def _as_completed(
    pool: concurrent.futures.ProcessPoolExecutor, runs: Sequence[Run], jobs: int, threads: int
) -> Iterator[tuple[Run, int, float]]:
    """Never more submitted than workers: a stopped study must find nothing queued that a worker would still begin."""
    waiting, running = list(reversed(runs)), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            run = waiting.pop()
            running[pool.submit(train, run, threads)] = run
        finished, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in finished:
            yield running.pop(future), *future.result()


def _outcome(run: Run, code: int) -> str:
    last = (run.folder / "log.txt").read_text(encoding="utf-8").splitlines()
    if code:
        return f"FAILED {run.method}: {last[-1] if last else ''} (see {run.folder / 'log.txt'})"
    headline = next((line for line in reversed(last) if "last_acc1" in line), "")
    return f"{run.method:<13} {run.folder.parent.parent.name} {run.folder.parent.name} {run.folder.name}: {headline.split(' (')[0]}"


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; while training, the trainer listens


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise Interrupted."""

    def interrupt(signum: int, _: FrameType | None) -> None:
        raise Interrupted(signum)

    with handling(interrupt):
        yield


def main(argv: Sequence[str]) -> int:
    """``ssl-bench study``: plan, train what is not done, print and write the table.  0: every run is done."""
    parser = argparse.ArgumentParser(
        "ssl-bench study", usage="ssl-bench study [STUDY] [options] [flags for every run: --device cuda, --epochs 5, ...]",
        description="Train a study and make its table. STUDY: a shipped study or a YAML file [default digits].", allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--methods", nargs="+", help='only these methods; "all" for every one, "erm --oracle" for one with flags')
    parser.add_argument("--num-samples-per-class", nargs="+", type=int, help="labelled images per class, one or more")
    parser.add_argument("--seeds", nargs="+", type=int, help="seeds [default: the study's, 0 1 2]")
    parser.add_argument("--jobs", type=int, help="runs at a time [default: one a core up to 8, one with a GPU]")
    parser.add_argument("--log", default="runs", help="folder of the run folders and the table [default runs]")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    # Taken by hand: argparse would take the value of a run's flag for the study.
    source, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("digits", argv)
    options, extra = parser.parse_known_args(rest)
    try:
        if options.jobs is not None and options.jobs < 1:
            raise flags.FlagError(f"--jobs must be >= 1, got {options.jobs}")
        if distributed.announced_size() > 1:
            raise flags.FlagError("a study starts its own processes: run it without torchrun (--jobs N for more at a time)")
        study = read_study(source)
        for key in ("methods", "num_samples_per_class", "seeds"):
            if getattr(options, key):
                study = replace(study, **{key: tuple(getattr(options, key))})
        runs = plan(study, options.log, extra)
        if options.dry_run:
            print("\n".join(map(str, runs)))
            return 0
        return _run(study, runs, options.log, options.jobs)
    except Interrupted as stop:
        print(f"ssl-bench study: {stop}", file=sys.stderr)
        return stop.exit_code
    except (flags.FlagError, OSError) as error:
        print(f"ssl-bench study: error: {error}", file=sys.stderr)
        return 2


def _run(study: Study, runs: Sequence[Run], log: str, jobs: int | None) -> int:
    import torch

    cores = os.cpu_count() or 1
    jobs = jobs or (1 if torch.cuda.is_available() else min(cores, 8))
    todo = [run for run in runs if not record.RunFolder(run.folder).done]
    print(f"study {study.name}: {len(runs)} runs, {len(runs) - len(todo)} done already, {jobs} at a time", flush=True)
    failed = execute(todo, jobs, max(1, cores // jobs)) if todo else []
    print()
    frame = table.collect([run.folder for run in runs if run.folder.is_dir()])
    if not len(frame):
        raise OSError(f"no run could be started; see {runs[0].folder / 'log.txt'}")
    table.write_runs_csv(frame, f"{log}/{study.name}-runs.csv")
    print(f"{table.write_tables(frame, Path(log) / study.name)}\nwritten: {log}/{study.name}.md, .csv, .tex and -runs.csv")
    for run in failed:
        print(f"failed: {run}", file=sys.stderr)
    return 1 if failed else 0
