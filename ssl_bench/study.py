"""Studies: methods x settings x labels per class x seeds, trained here or on a cluster, ending in a table.

A run that is done is not repeated, so the same command continues a study that was stopped; what failed is repeated only with
--retry-failed.  Any number of such commands may work on the same folder: a run is trained by one of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from ssl_bench import distributed, flags, local, overview, run_state, slurm
from ssl_bench.interrupt import Interrupted, handling
from ssl_bench.messages import one_line, refuse
from ssl_bench.plan import Event, Run, missing_here, plan
from ssl_bench.runs import collect, warning_of
from ssl_bench.study_file import Faults, Study, read_study
from ssl_bench.tables import write_runs_csv, write_tables
from ssl_bench.word_parser import WordParser

Execute = Callable[[Sequence[Run]], Generator[Event | None, None, None]]


def main(argv: Sequence[str]) -> int:
    """``ssl-bench study``: plan, train what is not done, print and write the table.

    0: every run is done; 1: some failed or were killed; 2: the command or the study is wrong; 75: some are trained by another process;
    130/143: stopped, the same command continues.
    """
    parser = _parser()
    # Taken by hand: argparse would take the value of a run's flag for the study.
    source, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("digits", argv)
    options, extra = parser.parse_known_args(rest)
    try:
        study, runs = _planned(source, options, extra)
        slurm.forget_ended(runs)
        if options.status:
            print(f"study {study.name}: {overview.counts(runs)}\n{overview.listing(runs)}")
            return 0
        if options.dry_run:
            print("\n".join(map(str, runs)))
            print("".join(f"ssl-bench study: note: {one_line(line)}\n" for line in missing_here(runs, options.launcher == "local")), end="", file=sys.stderr)
            return 0
        return _run(study, runs, options)
    except Interrupted as stop:
        print(f"ssl-bench study: {stop}", file=sys.stderr)
        return stop.exit_code
    except Faults as faults:
        for line in faults.lines:
            refuse("ssl-bench study", line, 2)
        return 2
    except (flags.FlagError, OSError) as error:
        return refuse("ssl-bench study", error, 2)


def _parser() -> argparse.ArgumentParser:
    parser = WordParser(
        "ssl-bench study", usage="ssl-bench study [STUDY] [options] [flags for every run: --device cuda, --epochs 5, ...]",
        description="Train a study and make its table. STUDY: a shipped study or a YAML file [default digits].", allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--methods", nargs="+", help='only these methods; "all" for every one, "erm --oracle" for one with flags')
    parser.add_argument("--num-samples-per-class", nargs="+", type=int, help="labelled images per class, one or more")
    parser.add_argument("--seeds", nargs="+", type=int, help="seeds [default: the study's, else 0 1 2]")
    parser.add_argument("--data-root", metavar="DIR", help="folder that the settings' roots lie in [default: the study's data_root]")
    parser.add_argument("--log", default="runs", help="folder of the run folders and the table [default runs]")
    parser.add_argument("--jobs", type=int, help="runs at a time [default: one a core up to 8, one with a GPU; slurm: no limit]")
    parser.add_argument("--retry-failed", action="store_true", help="also the runs that failed, from their checkpoints")
    parser.add_argument("--status", action="store_true", help="list the runs and their states, and stop")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    parser.add_argument("--launcher", choices=("local", "slurm"), default="local", help="train here, or submit to SLURM (extra [slurm])")
    slurm.add_options(parser)
    return parser


def _planned(source: str, options: argparse.Namespace, extra: Sequence[str]) -> tuple[Study, list[Run]]:
    if options.jobs is not None and options.jobs < 1:
        raise flags.FlagError(f"--jobs must be >= 1, got {options.jobs}")
    if distributed.announced_size() > 1:
        raise flags.FlagError("a study starts its own processes: run it without torchrun (--jobs N for more at a time)")
    study = read_study(source)
    given: dict[str, Any] = {key: tuple(getattr(options, key)) for key in ("methods", "num_samples_per_class", "seeds") if getattr(options, key)}
    study = replace(study, **given)
    if options.data_root is not None:
        study = replace(study, data_root=options.data_root)
    return study, plan(study, options.log, extra)


def _make_writable(log: Path) -> None:
    try:
        log.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=log):
            pass
    except OSError as error:
        raise OSError(f"--log {log} cannot be written ({error.strerror})") from None


def _run(study: Study, runs: Sequence[Run], options: argparse.Namespace) -> int:
    todo, passed_over = [], []
    for run in runs:
        state = run_state.state_name(run.folder)
        if state == run_state.FAILED and not options.retry_failed:
            passed_over.append(run)
        elif state != run_state.DONE:
            todo.append(run)
    missing = missing_here((run for run in todo if run_state.state_name(run.folder) != run_state.RUNNING), options.launcher == "local")
    if missing:
        raise Faults(missing)
    _make_writable(Path(options.log))
    execute, how = _launcher(options)
    print(f"study {study.name}: {overview.counts(runs)}; {how}", flush=True)
    with _interruptible():
        ended = _execute(todo, execute)
    print()
    folders = [run.folder for run in runs if run.folder.is_dir()]
    frame = collect(folders, warn=warning_of("study"))
    if len(frame):
        write_runs_csv(frame, f"{options.log}/{study.name}-runs.csv")
        print(f"{write_tables(frame, Path(options.log) / study.name)}\nwritten: {options.log}/{study.name}.md, .csv, .tex and -runs.csv")
    return _summary(ended, passed_over)


def _launcher(options: argparse.Namespace) -> tuple[Execute, str]:
    if options.launcher == "slurm":
        return slurm.launcher(options)
    import torch

    cores = os.cpu_count() or 1
    jobs = options.jobs or (1 if torch.cuda.is_available() else min(cores, 8))
    return (lambda runs: local.execute(runs, jobs, max(1, cores // jobs))), f"{jobs} at a time"


def _execute(todo: Sequence[Run], execute: Execute) -> dict[Run, int]:
    """Run -> exit code, of all in `todo`.  What another process trained, and gave up, is taken on."""
    ended: dict[Run, int] = {}
    while todo:
        view = overview.live(todo)
        try:
            with contextlib.closing(execute(todo)) as events:
                for event in events:
                    view.show(event)
                    if event is not None and event.kind == "ended":
                        ended[event.run] = event.code
        finally:
            view.close()
        given_up = (run_state.INCOMPLETE, run_state.NOT_LAUNCHED)
        todo = [run for run in todo if ended[run] == run_state.ELSEWHERE and run_state.state_name(run.folder) in given_up]
    return ended


def _summary(ended: dict[Run, int], passed_over: Sequence[Run]) -> int:
    """What is to be said of the runs that are not done, on stderr; the exit code."""
    groups: dict[str, list[Run]] = {}
    for run, code in ended.items():
        if run_state.state_name(run.folder) == run_state.DONE:
            continue
        stopped = code < 0 or code > 128
        groups.setdefault("elsewhere" if code == run_state.ELSEWHERE else "stopped" if stopped else "failed", []).append(run)
    for run in groups.get("failed", ()):
        print(f"failed: {run}", file=sys.stderr)
    for run in groups.get("stopped", ()):
        print(f"not finished (the same command continues it): {run}", file=sys.stderr)
    for run in groups.get("elsewhere", ()):
        print(f"trained by another process (the same command makes the whole table once that is done): {run}", file=sys.stderr)
    for run in passed_over:
        why = run_state.state(run.folder).message
        print(f"failed before ({why}), not repeated without --retry-failed: {run}", file=sys.stderr)
    return 1 if passed_over or groups.keys() - {"elsewhere"} else run_state.ELSEWHERE if groups else 0


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise Interrupted."""

    def interrupt(signum: int, _: FrameType | None) -> None:
        raise Interrupted(signum)

    with handling(interrupt):
        yield
