"""What state a run's folder is in, and the lock that keeps two processes from training the same run.

    result.json  done            .lock, .owner.json  held by the process that trains it: running
    failed.json  failed          .queued             given to a cluster, and not begun by anybody since: queued
    args.json    incomplete      none of them        not launched

`.job.json` beside it is the launcher's: the job's id (before there is one, its name), by which it is found again while it waits,
trains, and waits again.

A lock is free the moment its process is dead: what says "running" is the lock, not a file that was left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ssl_bench.atomic import make_folder, write_json
from ssl_bench.whole_file import read_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # asked for before it is used

DONE, RUNNING, QUEUED, FAILED, INCOMPLETE, NOT_LAUNCHED = "done", "running", "queued", "failed", "incomplete", "not launched"
STATES = (DONE, RUNNING, QUEUED, FAILED, INCOMPLETE, NOT_LAUNCHED)
ELSEWHERE = 75  # exit code: another process trains this run; sysexits' "try again later"
PATIENCE = 2.0  # seconds for a trainer that is ending
PATIENCE_WATCHED = 60.0  # seconds for those who only look, each for less than a thousandth of one
POLL = 0.02  # seconds
TAIL = 8192  # bytes of metrics.jsonl that hold its last rows


class RunElsewhere(Exception):
    """Another process trains this run; the message says which, and what to do."""

    exit_code = ELSEWHERE


@dataclass(frozen=True)
class RunState:
    """name: one of STATES; step of total: optimiser steps of all stages (total 0: not known); accuracy: top-1 in percent at the last
    evaluation; message: why it failed, or who trains it."""

    name: str
    step: int = 0
    total: int = 0
    accuracy: float | None = None
    message: str = ""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of the run in `folder`, which is made.  RunElsewhere: somebody else holds it.

    Where the file system knows no locks, a warning says so and the run goes on without.
    """
    try:
        make_folder(folder)
    except OSError as error:
        raise OSError(f"the run's folder {folder} cannot be made ({error.strerror}): --log DIR says where it lies") from None
    owner = folder / ".owner.json"
    try:
        release = _acquire(folder / ".lock")
    except Timeout:
        raise RunElsewhere(f"{folder} is being trained by {_owner(folder)}: wait for it, or stop it there") from None
    except OSError as error:
        print(f"warning: {folder} cannot be locked ({error.strerror or error}): do not start the same run twice", file=sys.stderr)
        yield
        return
    try:
        write_json(owner, {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()})
        yield
    finally:
        with contextlib.suppress(OSError):  # of a file system that went away: what the run ended with counts
            owner.unlink(missing_ok=True)
        release()


def _acquire(path: Path) -> Callable[[], None]:
    """Take the lock and return what releases it.  Timeout: a trainer holds it; OSError: there are no locks here."""
    if fcntl is None:
        lock = FileLock(path)
        lock.acquire(timeout=PATIENCE, poll_interval=POLL)
        return lock.release
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    begun = time.monotonic()
    try:
        while not _flock(descriptor, fcntl.LOCK_EX):
            only_lookers = _flock(descriptor, fcntl.LOCK_SH)
            if only_lookers:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            if time.monotonic() - begun > (PATIENCE_WATCHED if only_lookers else PATIENCE):
                raise Timeout(str(path))
            time.sleep(random.uniform(0.5, 1) * POLL)  # two that begin at once must not see each other for ever
    except BaseException:
        os.close(descriptor)
        raise
    _held_here.add(descriptor)

    def release() -> None:
        if descriptor in _held_here:
            _held_here.remove(descriptor)
            os.close(descriptor)

    return release


_held_here: set[int] = set()  # descriptors of locks


def _let_go_of_all() -> None:
    while _held_here:
        os.close(_held_here.pop())


# A process that a run forks (a loading worker) outlives a kill by seconds, and would hold the lock for as long.  Once for
# all runs of this process: what is registered here cannot be taken back.
if fcntl is not None:
    os.register_at_fork(after_in_child=_let_go_of_all)


def _flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def note_failure(folder: Path, message: str, exit_code: int) -> None:
    """Write failed.json: the run is not repeated by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "failed.json", {"message": message, "exit_code": exit_code, "time": _now()})


def forget_failure(folder: Path) -> None:
    """The run begins again."""
    (folder / "failed.json").unlink(missing_ok=True)


def note_ended(folder: Path, exit_code: int) -> None:
    """After the process of the run in `folder` has ended: failed.json with its log.txt's last line, if it failed before it could write one."""
    if exit_code in (1, 2) and not (folder / "failed.json").is_file() and not is_done(folder):
        note_failure(folder, re.sub(r"^\S+( \[process \d+\])?: error: ", "", _last_line(folder / "log.txt")), exit_code)


def note_queued(folder: Path) -> None:
    """The run is given to a cluster, or given back to it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".queued").touch()


def forget_queued(folder: Path) -> None:
    """The run has begun, or will not."""
    (folder / ".queued").unlink(missing_ok=True)


def is_done(folder: Path) -> bool:
    """Whether the run has a result; a result.json that cannot be read is none, and the run's command writes it anew."""
    return isinstance(read_object(folder / "result.json").get("evaluations"), list)


def state_name(folder: Path) -> str:
    """One of STATES, of the run whose folder this is.  Safe while the run goes on or begins."""
    if is_done(folder):
        return DONE
    if _is_locked(folder):
        return DONE if is_done(folder) else RUNNING
    if (folder / "failed.json").is_file():
        return FAILED
    if (folder / ".queued").is_file():
        return QUEUED
    return INCOMPLETE if (folder / "args.json").is_file() else NOT_LAUNCHED


def state(folder: Path) -> RunState:
    """The state with its figures; of broken files nothing is read."""
    name = state_name(folder)
    stages = _stage_folders(folder)
    progress = [_progress(stage) for stage in stages]
    steps, totals = sum(step for step, _, _ in progress), sum(total for _, total, _ in progress)
    accuracy = next((accuracy for *_, accuracy in reversed(progress) if accuracy is not None), None)
    message = ""
    if name == FAILED:
        message = str(read_object(folder / "failed.json").get("message", ""))
    elif name == RUNNING:
        message = _owner(folder)
    return RunState(name, steps, totals, accuracy, message)


def steps_done(folder: Path) -> int:
    """Steps of all stages, as far as metrics.jsonl says."""
    return sum(_progress(stage)[0] for stage in _stage_folders(folder))


def _stage_folders(folder: Path) -> list[Path]:
    """The folders that steps are recorded in: the run's own, or its stages' in their order.

    Runs from before args.json named them: in order of their begin, by a clock that may have been set back."""
    found = sorted((path.parent for path in folder.glob("*/args.json")), key=lambda stage: (stage / "args.json").stat().st_mtime_ns)
    named = read_object(folder / "args.json").get("stages") if found else []
    order = named if isinstance(named, list) else []
    return sorted(found, key=lambda stage: order.index(stage.name) if stage.name in order else len(order)) or [folder]


def _progress(folder: Path) -> tuple[int, int, float | None]:
    args = read_object(folder / "args.json").get("args")
    epochs, iters = (args.get(name) for name in ("epochs", "iters_per_epoch")) if isinstance(args, dict) else (0, 0)
    total = epochs * iters if isinstance(epochs, int) and isinstance(iters, int) else 0
    rows = _last_rows(folder / "metrics.jsonl")
    step = next((row["step"] for row in reversed(rows) if isinstance(row.get("step"), int)), 0)
    tops = (row["top1"] for row in reversed(rows) if row.get("kind") == "test" and type(row.get("top1")) in (int, float) and 0 <= row["top1"] <= 100)
    return (total or step) if (folder / "result.json").is_file() else step, total, next(tops, None)


def _last_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:  # the first may lack its beginning, the last its end
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; {} where there is none, or something else."""
    try:
        found = json.loads(read_file(file), parse_constant=str)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_locked(folder: Path) -> bool:
    path = folder / ".lock"
    if not path.is_file() or not (folder / ".owner.json").is_file():  # who looks stays out of the way of who begins
        return False
    if fcntl is None:
        return _cannot_be_taken(path)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # somebody else's folder
        return False
    try:  # shared: any number may look at once, and none is taken for a trainer by another
        return not _flock(descriptor, fcntl.LOCK_SH)
    except OSError:  # no such locks here
        return _cannot_be_taken(path)
    finally:
        os.close(descriptor)


def _cannot_be_taken(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def _owner(folder: Path) -> str:
    owner = read_object(folder / ".owner.json")
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('since')}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
