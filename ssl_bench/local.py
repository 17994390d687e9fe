"""The runs of a study on this machine: a few worker processes that train one run after the other.

Not a ProcessPoolExecutor: one killed worker (the kernel does so when memory runs out) breaks it whole, and here costs one run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.resource_tracker import ensure_running

from ssl_bench import launch, run_state
from ssl_bench.catalog import load_method
from ssl_bench.plan import Event, Run

TICK = 0.5  # seconds between looks at the runs


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    run: Run | None = None
    begun: float = 0.0


def execute(runs: Sequence[Run], jobs: int, threads: int) -> Generator[Event | None, None, None]:
    """Train `runs`, `jobs` at a time; what becomes of each, and None every half a second.  Closed early, it has the running ones save.

    A run that is done, or trained by somebody else, when its turn comes is not begun: it ends with 0, or `run_state.ELSEWHERE`.
    """
    waiting, workers = list(reversed(runs)), list[_Worker]()
    try:
        while True:
            busy = [worker for worker in workers if worker.run is not None]
            while waiting and len(busy) < jobs:
                run = waiting.pop()
                ready = _code_without_training(run)
                if ready is not None:
                    yield Event(run, "ended", ready)
                    continue
                worker = next((worker for worker in workers if worker.run is None), None)
                if worker is None:
                    worker = _start(threads)
                    workers.append(worker)
                worker.run, worker.begun = run, time.perf_counter()
                worker.pipe.send(run)
                busy.append(worker)
                yield Event(run, "running")
            if not busy:
                return
            ended = wait([worker.pipe for worker in busy], TICK)
            for worker in (worker for worker in busy if worker.pipe in ended):
                trained, seconds = worker.run, time.perf_counter() - worker.begun
                code = _answer(worker)
                if worker.run is not None:  # it died; the next run gets a new one
                    workers.remove(worker)
                worker.run = None
                if trained is not None:
                    yield Event(trained, "ended", code, seconds)
            yield None
    finally:
        for worker in workers:
            worker.pipe.close()  # an idle one leaves
            if worker.run is not None:
                worker.process.terminate()  # the trainer saves and leaves
        for worker in workers:
            worker.process.join()


def _code_without_training(run: Run) -> int | None:
    state = run_state.state_name(run.folder)
    return {run_state.DONE: 0, run_state.RUNNING: run_state.ELSEWHERE}.get(state)


def _start(threads: int) -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(theirs, threads))
    if sys.platform != "win32":
        ensure_running()  # Python's own helper, whose start would unblock what is blocked here
    _hold_ctrl_c(True)  # in a terminal it reaches a worker too, before it can ignore it
    try:
        process.start()
    finally:
        _hold_ctrl_c(False)
    theirs.close()
    return _Worker(process, ours)


def _hold_ctrl_c(hold: bool) -> None:
    if hasattr(signal, "pthread_sigmask"):  # Windows has none, and hands no mask on to a new process
        signal.pthread_sigmask(signal.SIG_BLOCK if hold else signal.SIG_UNBLOCK, [signal.SIGINT])


def _answer(worker: _Worker) -> int:
    """The exit code of the worker's run, whose `run` is then None; of one that was killed the negative signal."""
    try:
        code = worker.pipe.recv()
    except (EOFError, OSError):
        worker.pipe.close()
        worker.process.join()
        return worker.process.exitcode or 1
    worker.run = None
    return code


def _work(pipe: Connection, threads: int) -> None:
    """In a worker: train what comes until nothing comes any more."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; while training, the trainer listens
    _hold_ctrl_c(False)
    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError, OSError):  # the study is over, or dead
        while True:
            pipe.send(train(pipe.recv()))


def train(run: Run) -> int:
    """Train one run with its output in <folder>/log.txt; its exit code.  A failure is kept in its failed.json."""
    run.folder.mkdir(parents=True, exist_ok=True)
    log = open(run.folder / "log.txt", "a", encoding="utf-8")
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            code = launch.run_command(load_method(run.method), run.argv)
        except Exception:  # noqa: BLE001 - a bug in one method must not cost the other runs of the study
            traceback.print_exc()
            code = 1
    run_state.note_ended(run.folder, code)
    return code
