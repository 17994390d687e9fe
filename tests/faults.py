"""Injects faults into tiny runs, and demands that each goes on to the same end: weights and metrics equal to the last bit.

    python tests/faults.py --kills 20                      (every kind of run and of fault; minutes)
    python tests/faults.py --kind flexmatch --fault kill   (of them one; both may be given several times)

A run is a forked child of this process, which has imported everything, so that a kill costs no start of Python.  Each line of the
table at the end: faults injected, runs that went on as they should, steps that were trained twice for one fault (at most), bytes of
metrics and unfinished files that were written twice, and bytes of the finished run's records that differ from an uninterrupted one's.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import mmap
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import LIVE, TINY, bn_free, only_run
from fault_disk import STEPS, Disk, no_space

from ssl_bench import catalog, launch, zoo
from ssl_bench.environment import environment
from ssl_bench.method import Task
from ssl_bench.record import read_jsonl
from ssl_bench.trainer import Trainer
from ssl_bench.weights import read_tensors

SAVE_EVERY = 2
BASE = [*TINY, "--iters-per-epoch", "6", "--checkpoint-freq", str(SAVE_EVERY), "--print-freq", "1"]
KINDS = {
    "erm": ("erm", 1), "flexmatch": ("flexmatch", 1), "self_tuning": ("self_tuning", 1), "noisy_student": ("noisy_student", 1),
    "semi_vit": ("semi_vit", 1), "two_ranks": ("fixmatch", 2),
}  # fmt: skip
PATIENCE = 120  # seconds for any child to end
GRACE = 20  # and for those whose peer was killed


class Failed(AssertionError):
    """A demand was not met."""


def command(kind: str) -> tuple[str, list[str]]:
    """(method, its flags without --log)"""
    method, world = KINDS[kind]
    extra = bn_free(method) if method == "semi_vit" or world > 1 else []
    return method, [*BASE, *extra, *LIVE[method]]


# In the child


class Cell:
    """Numbers that outlive a killed child: its first step, the last it finished, the one at which its fault came."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 32)
        self.clear()

    def clear(self) -> None:
        self._memory[:32] = struct.pack("4q", -1, -1, -1, 0)

    def get(self) -> tuple[int, int, int, int]:
        """(step it began at, steps done, steps done when the fault came, faults), over all stages; -1: none."""
        return struct.unpack("4q", self._memory[:32])

    def put(self, place: int, value: int) -> None:
        self._memory[8 * place : 8 * place + 8] = struct.pack("q", value)


@dataclass
class Fault:
    """What to do at which step of a write; name: kill, cut, term, rename, lost_answer, full, io."""

    name: str
    step: str
    at: int
    seed: int = 0
    lasts: bool = False
    seen: int = 0


def watch_steps(method: Any, argv: list[str], cell: Cell) -> None:
    """Write each finished step to `cell`."""
    args, _ = launch.resolve(method, argv)
    offsets, total = {}, 0
    for stage in method.stages(args):
        offsets[stage.name] = total
        total += stage.args.epochs * stage.args.iters_per_epoch
    train_stage, update, now = launch._train_stage, Trainer.update, [0]

    def entered(stage: Any, *rest: Any) -> Any:
        now[0] = offsets[stage.name]
        return train_stage(stage, *rest)

    def counted(self: Trainer, batch: Any) -> None:
        if cell.get()[0] < 0:
            cell.put(0, now[0] + self.step)
        update(self, batch)
        cell.put(1, now[0] + self.step)

    launch._train_stage, Trainer.update = entered, counted  # type: ignore[assignment,method-assign]


def import_all(kind: str) -> None:
    """What a run of this kind imports late: a fork then finds it.  No gradient is made here, after which autograd takes no fork."""
    name, argv = command(kind)
    method = catalog.load_method(name)
    zoo.load("Digits", None)
    for stage in method.stages(launch.resolve(method, argv)[0]):
        (stage.method or method)(stage.args, Task(10, 40, 1257, False)).optimizers()
    np.savez_compressed(io.BytesIO(), x=np.zeros(1))
    torch.save({}, io.BytesIO())
    environment()


def total_steps(kind: str) -> int:
    method, argv = command(kind)
    stages = catalog.load_method(method).stages(launch.resolve(catalog.load_method(method), argv)[0])
    return sum(stage.args.epochs * stage.args.iters_per_epoch for stage in stages)


def install(fault: Fault | None, log: Path, cell: Cell, counts: Path | None) -> None:
    """The shims of this child; counts: where to leave how often each step came."""

    def come(step: str) -> None:
        if fault is None or step != fault.step:
            return
        fault.seen += 1
        if fault.seen != fault.at and not (fault.lasts and fault.seen > fault.at):
            return
        cell.put(2, cell.get()[1])
        cell.put(3, cell.get()[3] + 1)
        if fault.name == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.name == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        elif fault.name == "cut":
            disk.cut(fault.seed)
        elif fault.name == "full":
            raise no_space()
        elif fault.name == "rename":
            number = (errno.EIO, errno.ESTALE, errno.EBUSY)[fault.seed % 3]
            raise OSError(number, os.strerror(number))
        elif fault.name == "lost_answer":
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    disk = Disk(log, come)
    if fault is not None or counts is not None:
        disk.install()
    if counts is not None:
        exit_ = os._exit

        def leave(code: int) -> None:
            with disk.real_open(counts, "w", encoding="utf-8") as file:
                json.dump(disk.counts, file)
            exit_(code)

        os._exit = leave  # type: ignore[assignment]


def backwards() -> None:
    """From now on the clock of this child goes back by an hour each time it is read."""
    begun, reads = time.time(), [0]

    def earlier(*_: object) -> float:
        reads[0] += 1
        return begun - 3600 * reads[0]

    gmtime = time.gmtime
    time.time = earlier  # type: ignore[assignment]
    time.gmtime = lambda seconds=None: gmtime(earlier() if seconds is None else seconds)  # type: ignore[assignment]


# In the parent


@dataclass
class Child:
    pids: list[int]
    said: list[Path]

    def wait(self) -> list[tuple[int, str, str]]:
        """(exit code or negative signal, stdout, stderr) of each process.  As torchrun does, those that wait for a killed one are killed."""
        deadline, lost_one, ended = time.monotonic() + PATIENCE, False, dict[int, int]()
        while len(ended) < len(self.pids):
            for pid in self.pids:
                if pid not in ended and (found := os.waitpid(pid, os.WNOHANG))[0]:
                    ended[pid] = found[1]
                    if os.WIFSIGNALED(found[1]) and not lost_one:
                        lost_one, deadline = True, min(deadline, time.monotonic() + GRACE)
            if time.monotonic() > deadline:
                late = [pid for pid in self.pids if pid not in ended]
                for pid in late:
                    os.kill(pid, signal.SIGKILL)
                    ended[pid] = os.waitpid(pid, 0)[1]
                if late and not lost_one:
                    raise Failed(f"processes {late} did not end in {PATIENCE} s: {self.said[0].with_suffix('.err').read_text()[-500:]}")
            time.sleep(0.002)
        texts = [(said.with_suffix(".out").read_text(), said.with_suffix(".err").read_text()) for said in self.said]
        return [(os.waitstatus_to_exitcode(ended[pid]), *text) for pid, text in zip(self.pids, texts, strict=True)]


@dataclass
class Counts:
    injected: int = 0
    survived: int = 0
    steps: int = 0
    again: int = 0
    lost: int = 0
    failures: list[str] = field(default_factory=list)


class Bench:
    """Runs of one kind below `work`."""

    def __init__(self, kind: str, work: Path) -> None:
        self.kind, self.work = kind, work
        self.method, self.argv = command(kind)
        self.world = KINDS[kind][1]
        self.cell, self.children = Cell(), 0
        self.total = total_steps(kind)
        begun = time.monotonic()
        whole = work / "whole"
        for code, _, err in self.start(whole, counts=work / "counts.json").wait():
            if code:
                raise Failed(f"{kind} itself does not train: {err}")
        self.seconds = time.monotonic() - begun
        self.reference = only_run(whole)
        self.steps_of_writes = json.loads((work / "counts.json").read_text())

    def start(self, log: Path, fault: Fault | None = None, counts: Path | None = None, clock: bool = False) -> Child:
        """A child that trains below `log`, one a rank; shims in the first, which writes."""
        self.cell.clear()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        pids, said = [], []
        log.mkdir(parents=True, exist_ok=True)
        for rank in range(self.world):
            self.children += 1
            said.append(self.work / f"child{self.children}")
            sys.stdout.flush()
            pid = os.fork()
            if not pid:
                self._child(log, fault if not rank else None, counts if not rank else None, clock, rank, port, said[-1])
            pids.append(pid)
        return Child(pids, said)

    def _child(self, log: Path, fault: Fault | None, counts: Path | None, clock: bool, rank: int, port: int, said: Path) -> None:
        code = 99
        try:
            for number, suffix in ((1, ".out"), (2, ".err")):
                os.dup2(os.open(said.with_suffix(suffix), os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
            os.environ.pop("SSL_BENCH_TRACEBACK", None)
            if self.world > 1:
                os.environ |= dict(
                    WORLD_SIZE=str(self.world), RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
                )  # fmt: skip
            method = catalog.load_method(self.method)
            if not rank:
                watch_steps(method, self.argv, self.cell)
            install(fault, log, self.cell, counts)
            if clock:
                backwards()
            code = launch.run_command(method, [*self.argv, "--log", str(log)])
        except Exception:  # noqa: BLE001 - a fork must not go on as its parent; 99 is a failure
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def random_fault(self, name: str, generator: random.Random, done: float, lasts: bool = False) -> Fault:
        """At a step of a write that is drawn by kind first, in what is left of the run."""
        places = {
            "rename": ["replace"], "lost_answer": ["replaced"], "full": ["write", "half", "fsync", "mkdir", "open"],
        }.get(name, [step for step in STEPS if step in self.steps_of_writes])  # fmt: skip
        step = generator.choice([place for place in places if self.steps_of_writes.get(place)])
        at = generator.randint(1, max(1, int(self.steps_of_writes[step] * (1 - done))))
        return Fault(name, step, at, generator.randint(0, 3), lasts)

    def compare(self, log: Path) -> int:
        """Bytes of the records that differ from the uninterrupted run's; Failed: its weights or figures do."""
        run, lost = only_run(log), 0
        for theirs in sorted(self.reference.rglob("*")):
            ours = run / theirs.relative_to(self.reference)
            if theirs.suffix == ".pth" or theirs.name == max(file.name for file in theirs.parent.glob("*")) and theirs.suffix == ".pt":
                a, b = read_tensors(ours), read_tensors(theirs)
                if theirs.suffix == ".pt":
                    a, b = ({key: state[key] for key in ("method", "optimizers", "step", "means", "evaluations")} for state in (a, b))
                if not same(a, b):
                    raise Failed(f"{ours} differs from the uninterrupted run's")
            elif theirs.name == "metrics.jsonl":
                if read_jsonl(ours) != read_jsonl(theirs):
                    raise Failed(f"{ours} differs: {len(read_jsonl(ours))} rows, {len(read_jsonl(theirs))} of the uninterrupted run")
                lost += abs(ours.stat().st_size - theirs.stat().st_size)
            elif theirs.suffix == ".npz":
                with np.load(ours) as x, np.load(theirs) as y:
                    if not all(np.array_equal(x[name], y[name]) for name in y.files):
                        raise Failed(f"{ours} differs")
            elif theirs.name == "result.json":
                rows = [json.loads(file.read_text())["evaluations"] for file in (ours, theirs)]
                if rows[0] != rows[1]:
                    raise Failed(f"{ours} has other evaluations")
        # .owner.json may stay of a run that was killed after its result: nobody starts it again, and its lock is free.
        if found := [*log.rglob("*.tmp"), *log.rglob("failed.json")]:
            raise Failed(f"left behind: {found}")
        return lost


def same(a: Any, b: Any) -> bool:
    """Whether two trees are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) or bool(a.isnan().any()) and torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or a != a and b != b


def check_whole(log: Path) -> None:
    """Nothing with a name that is read is half-written."""
    for file in log.rglob("*"):
        if file.suffix in (".pt", ".pth"):
            read_tensors(file)
        elif file.suffix == ".json" and file.name != ".owner.json":
            json.loads(file.read_text())
        elif file.suffix == ".npz":
            np.load(file).close()


def written(log: Path) -> int:
    """Bytes of metrics and of unfinished files."""
    return sum(file.stat().st_size for name in ("metrics.jsonl", ".*.tmp") for file in log.rglob(name))


Inject = Callable[[Bench, Path, random.Random, float], tuple[list[tuple[int, str, str]], bool]]


def killed(bench: Bench, log: Path, generator: random.Random, done: float) -> tuple[list[tuple[int, str, str]], bool]:
    """SIGKILL, half of them at a random moment and half at a step of a write; of several processes one, or all."""
    if bench.world == 1 and generator.random() < 0.5:
        ended = bench.start(log, bench.random_fault("kill", generator, done)).wait()
        return ended, ended[0][0] == -9
    child = bench.start(log)
    time.sleep(generator.uniform(0.02, bench.seconds * (1 - done) + 0.02))
    for pid in generator.sample(child.pids, generator.randint(1, bench.world)):
        os.kill(pid, signal.SIGKILL)
    ended = child.wait()
    return ended, any(code == -9 for code, *_ in ended)


def terminated(bench: Bench, log: Path, generator: random.Random, done: float) -> tuple[list[tuple[int, str, str]], bool]:
    """SIGTERM, likewise."""
    if bench.world == 1 and generator.random() < 0.5:
        ended = bench.start(log, bench.random_fault("term", generator, done)).wait()
        _, steps, came, faults = bench.cell.get()
        if faults and 0 <= came < steps - 1 or ended[0][0] == 0 and 0 <= came < bench.total - 1:
            raise Failed(f"SIGTERM came after step {came}, and step {steps} was trained")
        return ended, bool(faults) and ended[0][0] != 0
    child = bench.start(log)
    time.sleep(generator.uniform(0.02, bench.seconds * (1 - done) + 0.02))
    os.kill(generator.choice(child.pids), signal.SIGTERM)
    ended = child.wait()
    if any(code == 143 for code, *_ in ended) and any(code not in (143, 1) for code, *_ in ended):
        raise Failed(f"one process was stopped, others ended with {[code for code, *_ in ended]}")
    return ended, any(ended_ for ended_, *_ in ended)


def at_a_step(name: str, expected: tuple[int, ...], lasts: bool = False) -> Inject:
    """A fault at a step of a write, after which a run ends as `expected` (0: it takes it in its stride)."""

    def inject(bench: Bench, log: Path, generator: random.Random, done: float) -> tuple[list[tuple[int, str, str]], bool]:
        fault = bench.random_fault(name, generator, done, lasts)
        if name == "cut" and generator.random() < 0.4:
            fault.seed = 0
        ended = bench.start(log, fault).wait()
        cut = Path(f"{log}.cut")
        if cut.is_dir():
            shutil.rmtree(log)
            cut.rename(log)
        faults = bench.cell.get()[3]
        if faults and ended[0][0] not in expected:
            raise Failed(f"{fault} ended with {ended[0][0]}: {ended[0][2][-300:]}")
        return ended, bool(faults)

    return inject


def clock_back(bench: Bench, log: Path, generator: random.Random, done: float) -> tuple[list[tuple[int, str, str]], bool]:
    """A kill under a clock that goes back."""
    child = bench.start(log, clock=True)
    time.sleep(generator.uniform(0.02, bench.seconds * (1 - done) + 0.02))
    for pid in child.pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    ended = child.wait()
    return ended, any(code == -9 for code, *_ in ended)


def two_at_once(bench: Bench, log: Path, generator: random.Random, done: float) -> tuple[list[tuple[int, str, str]], bool]:
    """Two processes on one folder: one trains until it is killed, the other leaves with 75 or goes on in its place."""
    first, second = bench.start(log), bench.start(log)
    time.sleep(generator.uniform(0.02, bench.seconds * (1 - done) + 0.02))
    with contextlib.suppress(ProcessLookupError):
        os.kill(first.pids[0], signal.SIGKILL)
    ended = first.wait() + second.wait()
    if ended[1][0] not in (0, 75):
        raise Failed(f"the second process ended with {ended[1][0]}: {ended[1][2][-300:]}")
    bench.cell.clear()  # two wrote to it
    return [one for one in ended if one[0] != 75] or ended, True  # which of them had to leave is chance


FAULTS: dict[str, Inject] = {
    "kill": killed, "term": terminated, "power cut": at_a_step("cut", (-9,)), "disk full": at_a_step("full", (1,), True),
    "rename fails once": at_a_step("rename", (0,)), "rename fails": at_a_step("rename", (1,), True),
    "rename answer lost": at_a_step("lost_answer", (0,)), "clock back": clock_back, "two processes": two_at_once,
}  # fmt: skip
WRITES = tuple(name for name in FAULTS if name not in ("kill", "term", "clock back"))  # where several ranks add nothing, or cannot


def inject(bench: Bench, name: str, times: int, seed: int) -> Counts:
    """Inject one kind of fault `times` times, into one run after the other, each of which is trained to its end and compared."""
    counts, generator, number = Counts(), random.Random(f"{bench.kind} {name} {seed}"), 0
    attempts = 0
    while counts.injected < times and attempts < 6 * times:
        log, high, finished, pending = bench.work / f"{name} {number}", 0, False, 0
        number += 1
        try:
            while not finished:
                attempts += 1
                more = counts.injected < times and attempts < 6 * times
                before = written(log) if log.is_dir() else 0
                if more:
                    ended, hit = FAULTS[name](bench, log, generator, high / bench.total)
                else:
                    ended, hit = bench.start(log).wait(), False
                counts.injected += hit
                began, steps, _, _ = bench.cell.get()
                if pending and began >= 0:
                    counts.steps = max(counts.steps, high - began)
                    if high - began > SAVE_EVERY:
                        raise Failed(f"{high - began} steps were trained again")
                    if began and not any("continuing" in out or ": done already" in out for _, out, _ in ended):
                        raise Failed("a run goes on without a word")
                high = max(high, steps)
                for code, _, err in ended:
                    if "Traceback" in err or code == 99 or code > 0 and err.count("error: ") + err.count("stopped by") + err.count("being trained") != 1:
                        raise Failed(f"exit code {code}: {err[-1500:]}")
                check_whole(log)
                if hit:
                    pending += 1
                    counts.again += max(0, before - written(log)) if log.is_dir() else 0
                finished = ended[0][0] == 0 or bool(list(log.glob("*/*/*/*/result.json")))
                if not more and not finished:
                    raise Failed(f"it does not go on: {ended[0]}")
            counts.lost += bench.compare(log)
            counts.survived += pending
            shutil.rmtree(log)
        except (Failed, OSError, ValueError) as error:
            counts.failures.append(f"{bench.kind}, {name}, run {number} of seed {seed}: {type(error).__name__}: {error}")
            if len(counts.failures) > 3:
                break
    return counts


# A disk of its own


@contextlib.contextmanager
def small_disk(mebibytes: float, where: Path) -> Iterator[Callable[[str], None] | None]:
    """A tmpfs at `where`, and what remounts it with other options; None where none can be mounted."""
    where.mkdir(parents=True)
    size = f"size={int(mebibytes * 1024)}k"
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(where)], capture_output=True, timeout=20, check=False)
    except OSError:
        yield None
        return
    if done.returncode:
        yield None
        return
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(where)], check=True, capture_output=True, timeout=20) and None
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True, timeout=20)


def really_full(bench: Bench, times: int, seed: int) -> Counts:
    """Disks that end somewhere in the run; with more room the same command goes on."""
    counts, generator = Counts(), random.Random(f"full {bench.kind} {seed}")
    size = sum(file.stat().st_size for file in bench.reference.rglob("*") if file.is_file()) / 2**20
    for number in range(times):
        with small_disk(generator.uniform(0.01, size * 0.98), bench.work / f"tmpfs {number}") as remount:
            if remount is None:
                return counts
            log = bench.work / f"tmpfs {number}" / "log"
            try:
                code, _, err = bench.start(log).wait()[0]
                counts.injected += code != 0
                if code not in (0, 1) or "Traceback" in err or code and err.count("error: ") != 1:
                    raise Failed(f"exit code {code}: {err}")
                if code and "No space" not in err:
                    raise Failed(f"the error does not say that the disk is full: {err}")
                check_whole(log)
                high = bench.cell.get()[1]
                remount("ro")
                again, _, err = bench.start(log).wait()[0]
                if code and (again != 1 or "Traceback" in err or "ead-only" not in err or err.count("error: ") != 1):
                    raise Failed(f"read-only: exit code {again}: {err}")
                remount("rw,size=100m")
                code, _, err = bench.start(log).wait()[0]
                if code:
                    raise Failed(f"with room it does not go on: {err}")
                began = bench.cell.get()[0]
                counts.steps = max(counts.steps, high - began if began >= 0 else 0)
                if counts.steps > SAVE_EVERY:
                    raise Failed(f"{counts.steps} steps were trained again")
                counts.lost += bench.compare(log)
                remount("ro")
                if bench.start(log).wait()[0][0]:
                    raise Failed("a finished run in a read-only folder is not done")
                counts.survived += 1
            except (Failed, OSError, ValueError) as error:
                counts.failures.append(f"{bench.kind}, tmpfs {number} of seed {seed}: {type(error).__name__}: {error}")
    return counts


def main(argv: list[str]) -> int:
    """0: every demand was met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", action="append", choices=KINDS, help="kind of run [default: all]")
    parser.add_argument("--fault", action="append", choices=[*FAULTS, "small disk"], help="kind of fault [default: all]")
    parser.add_argument("--kills", type=int, default=20, help="kills a kind of run [default 20]; of the other faults half as many")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows, failures = [], []
    for kind in options.kind or KINDS:
        import_all(kind)
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as work:
            bench = Bench(kind, Path(work).resolve())
            for name in options.fault or [*FAULTS, "small disk"]:
                if bench.world > 1 and (name in WRITES or name == "small disk"):
                    continue
                begun, times = time.monotonic(), options.kills if name == "kill" else max(1, options.kills // 2)
                counts = really_full(bench, max(1, times // 3), options.seed) if name == "small disk" else inject(bench, name, times, options.seed)
                rows.append((kind, name, counts, time.monotonic() - begun))
                failures += counts.failures
                print(f"{kind:14}{name:20}{counts.injected:5} injected {counts.survived:5} survived  {rows[-1][3]:6.1f} s", flush=True)
                print("".join(f"  FAILED {failure}\n" for failure in counts.failures), end="", flush=True)
    print(f"\nseed {options.seed}, torch {torch.__version__}, save every {SAVE_EVERY} steps\n")
    print("| kind | fault | injected | survived | steps twice (max) | bytes twice | bytes lost | seconds |\n|---|---|---|---|---|---|---|---|")
    for kind, name, counts, seconds in rows:
        injected = counts.injected or "0 (cannot mount)" if name == "small disk" else counts.injected
        print(f"| {kind} | {name} | {injected} | {counts.survived} | {counts.steps} | {counts.again} | {counts.lost} | {seconds:.1f} |")
    print(f"\n{sum(row[2].injected for row in rows)} faults injected, {sum(row[2].survived for row in rows)} survived, {len(failures)} demands not met")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
