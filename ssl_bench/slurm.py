"""The runs of a study as jobs of a SLURM cluster, through submitit: one array, requeued from the checkpoint when its time is out.

The study stays attached and may leave: jobs go on, and the same command finds them again by the job id beside each run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from ssl_bench import run_state
from ssl_bench.atomic import write_json
from ssl_bench.flags import FlagError
from ssl_bench.interrupt import Interrupted
from ssl_bench.messages import reason_of
from ssl_bench.plan import Event, Run

TICK = 2.0  # seconds between questions to the cluster
LONGEST_ARRAY = 1000  # SLURM's MaxArraySize is 1001 unless somebody changed it
GRACE = 10.0  # seconds that a job may be gone before its files are seen here
WAIT = 600.0  # seconds a stopped task waits to be ended by the cluster


@dataclass
class Job:
    """What a job does, once in each of its tasks: the run's own command as a child process, one task a device."""

    method: str
    argv: tuple[str, ...]
    folder: str
    child: subprocess.Popen | None = field(default=None, compare=False)

    def __call__(self) -> int:
        import submitit

        environment = submitit.helpers.TorchDistributedEnvironment()
        if environment.world_size > 1:
            environment.export(set_cuda_visible_devices=False, overwrite=True)
        os.makedirs(self.folder, exist_ok=True)
        name = "log.txt" if environment.rank == 0 else os.devnull
        with open(Path(self.folder, name), "a", encoding="utf-8") as log:
            command = [sys.executable, "-m", f"ssl_bench.methods.{self.method}", *self.argv]
            # SLURM may give its warning to every process of the job: the child is stopped by `checkpoint` alone.
            old = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            self.child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            signal.signal(signal.SIGUSR2, old)
            while self.child.poll() is None:
                time.sleep(0.2)
        code = self.child.returncode
        if environment.rank == 0:
            run_state.note_ended(Path(self.folder), code)
        if code in (130, 143):  # stopped with the job, of which the first task decides: a result would end it instead
            time.sleep(WAIT)
        return code

    def checkpoint(self) -> Any:
        """On the warning before the time is out: the child saves and leaves, and the job is queued again."""
        import submitit

        if self.child is not None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                self.child.send_signal(signal.SIGTERM)
                os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOWAIT)  # Popen.wait may be in its lock, below this handler
        run_state.note_queued(Path(self.folder))
        return submitit.helpers.DelayedSubmission(Job(self.method, self.argv, self.folder))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The flags of ``--launcher slurm``."""
    group = parser.add_argument_group("slurm")
    group.add_argument("--slurm-partition", metavar="NAME", help="partition [default: the cluster's]")
    group.add_argument("--slurm-time", type=int, default=60, metavar="MINUTES", help="time of a job, then it is queued again [default 60]")
    group.add_argument("--slurm-gpus", type=int, default=0, metavar="N", help="GPUs a node [default 0]")
    group.add_argument("--slurm-nodes", type=int, default=1, metavar="N", help="nodes a run [default 1]")
    group.add_argument("--slurm-tasks", type=int, metavar="N", help="processes a node [default: one a GPU, else 1]")
    group.add_argument("--slurm-cpus", type=int, default=1, metavar="N", help="cores a process [default 1]")
    group.add_argument("--slurm-memory", type=float, metavar="GB", help="memory a node [default: the cluster's]")
    group.add_argument("--slurm-setup", nargs="+", default=[], metavar="LINE", help="shell lines before a job: 'module load cuda', ...")
    group.add_argument("--slurm-extra", nargs="+", default=[], metavar="KEY=VALUE", help="further lines of sbatch: account=vision, ...")


def launcher(options: argparse.Namespace) -> tuple[Callable[[Sequence[Run]], Generator[Event | None, None, None]], str]:
    """(what submits runs and says what becomes of them, a line about it).  FlagError: submitit or SLURM is not there, a wrong flag."""
    try:
        import submitit
    except ImportError:
        raise FlagError('--launcher slurm needs submitit: pip install "ssl-bench[slurm]"') from None
    wrong = [pair for pair in options.slurm_extra if "=" not in pair]
    if wrong:
        raise FlagError(f"--slurm-extra takes KEY=VALUE, got {wrong[0]!r}")
    extra = dict(pair.split("=", 1) for pair in options.slurm_extra)
    for name in ("time", "nodes", "cpus"):
        if getattr(options, f"slurm_{name}") < 1:
            raise FlagError(f"--slurm-{name} must be >= 1")
    tasks = options.slurm_tasks or max(1, options.slurm_gpus)
    given = dict(
        slurm_job_name="ssl-bench", timeout_min=options.slurm_time, nodes=options.slurm_nodes, tasks_per_node=tasks,
        cpus_per_task=options.slurm_cpus, slurm_setup=options.slurm_setup, slurm_additional_parameters={"requeue": True, **extra},
        slurm_partition=options.slurm_partition, mem_gb=options.slurm_memory, gpus_per_node=options.slurm_gpus or None,
        slurm_array_parallelism=options.jobs or 256,
    )  # fmt: skip
    try:
        executor = submitit.AutoExecutor(Path(options.log, ".slurm"), cluster="slurm", slurm_max_num_timeout=10_000)
        executor.update_parameters(**{name: value for name, value in given.items() if value is not None})
        _jobs_of_mine()
    except (RuntimeError, ValueError) as error:
        raise _refused(error) from None
    return (lambda runs: execute(runs, executor, Path(options.log))), f"{options.jobs or 'all'} at a time on slurm"


def execute(runs: Sequence[Run], executor: Any, log: Path) -> Generator[Event | None, None, None]:
    """Submit what no job was made for, and say what becomes of each run.  Closed early, it leaves the jobs to go on.

    FlagError: they cannot be submitted; those that were go on.  A cluster that does not answer later is asked again.
    """
    log.mkdir(parents=True, exist_ok=True)
    with FileLock(log / ".slurm.lock"):  # of two studies one submits
        jobs = _submit(runs, executor)
    gone: dict[Run, float] = {}
    kinds: dict[Run, str] = {}
    begun = time.monotonic()
    left = {run: jobs.get(run, "") for run in runs}
    alive, warned = dict.fromkeys(jobs.values(), ""), False
    try:
        while left:
            try:
                alive = _jobs_of_mine()
            except RuntimeError as error:
                if not warned:
                    print(f"ssl-bench study: warning: {error}; the last answer counts until there is another", file=sys.stderr)
                warned = True
            for run, job in [*left.items()]:
                state = run_state.state_name(run.folder)
                kind = "running" if state == run_state.RUNNING else "queued" if job in alive else ""
                if kind and state != run_state.DONE:
                    gone.pop(run, None)
                    if kinds.get(run) != kind:
                        kinds[run] = kind
                        yield Event(run, kind)
                elif time.monotonic() - gone.setdefault(run, time.monotonic()) > GRACE or state in (run_state.DONE, run_state.FAILED):
                    del left[run]
                    (run.folder / ".job.json").unlink(missing_ok=True)
                    run_state.forget_queued(run.folder)
                    yield Event(run, "ended", _code(run, job), time.monotonic() - begun)
            yield None
            if left:
                time.sleep(TICK)
    except Interrupted:
        ids = " ".join(sorted({job.partition("_")[0] for job in left.values() if job}))
        print(f"ssl-bench study: the jobs go on; the same command attaches to them again, and  scancel {ids}  ends them", file=sys.stderr)
        raise


def forget_ended(runs: Iterable[Run]) -> None:
    """Of queued runs whose job of this user is no longer there, forget that they were queued; nothing where no cluster answers."""
    queued = [(run, job) for run in runs if run_state.state_name(run.folder) == run_state.QUEUED and (job := _job(run))]
    try:
        alive = _jobs_of_mine() if queued else {}
    except RuntimeError:
        return
    for run, job in queued:
        with contextlib.suppress(OSError):  # another study ended it meanwhile
            if job not in alive and (run.folder / ".job.json").stat().st_uid == os.getuid():
                run_state.forget_queued(run.folder)


def _submit(runs: Sequence[Run], executor: Any) -> dict[Run, str]:
    """Run -> job id, of those that have one or now get one.  FlagError."""
    try:
        alive = _jobs_of_mine()
    except RuntimeError as error:
        raise _refused(error) from None
    jobs, fresh = {}, []
    for run in runs:
        known = _job(run) or _submitted_unnoticed(run, alive)
        if known in alive:
            jobs[run] = known
        elif run_state.state_name(run.folder) not in (run_state.DONE, run_state.RUNNING):
            fresh.append(run)
    for start in range(0, len(fresh), LONGEST_ARRAY):
        part = fresh[start : start + LONGEST_ARRAY]
        name = f"ssl-bench-{secrets.token_hex(4)}"
        executor.update_parameters(slurm_job_name=name)
        for index, run in enumerate(part):  # before the job can begin, which takes the mark away
            run_state.note_queued(run.folder)
            write_json(run.folder / ".job.json", {"name": name, "index": index})  # by which a study that is killed now finds it again
        try:
            with contextlib.redirect_stderr(io.StringIO()) as said, executor.batch():  # submitit repeats what the error says
                submitted = [executor.submit(Job(run.method, run.argv, str(run.folder))) for run in part]
        except (RuntimeError, OSError) as error:
            for run in part:
                (run.folder / ".job.json").unlink(missing_ok=True)
                run_state.forget_queued(run.folder)
            raise _refused(error) from None
        print(said.getvalue(), end="", file=sys.stderr)
        for run in part:
            run_state.forget_failure(run.folder)
        for run, job in zip(part, submitted, strict=True):
            write_json(run.folder / ".job.json", {"job": job.job_id})
            jobs[run] = job.job_id
    return jobs


def _refused(error: Exception) -> FlagError:
    return FlagError(f"--launcher slurm: {reason_of(error)}")


def _job(run: Run) -> str:
    try:
        return str(json.loads((run.folder / ".job.json").read_bytes())["job"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _submitted_unnoticed(run: Run, alive: Mapping[str, str]) -> str:
    """The job among those `alive` of a study that died between submitting it and noting its id; "" for none."""
    intent = run_state.read_object(run.folder / ".job.json")
    name, index = str(intent.get("name", "")), intent.get("index")
    if not re.fullmatch(r"ssl-bench-[0-9a-f]{8}", name):
        return ""
    found = (job for job, theirs in alive.items() if theirs == name)
    job = next((job for job in found if job.partition("_")[2] in ("", str(index))), "")  # one run alone is no array
    if job:
        write_json(run.folder / ".job.json", {"job": job})
    return job


def _code(run: Run, job: str) -> int:
    state = run_state.state_name(run.folder)
    if state in (run_state.DONE, run_state.FAILED):
        return int(state == run_state.FAILED)
    return run_state.ELSEWHERE if state == run_state.RUNNING or not job else -signal.SIGKILL


def _jobs_of_mine() -> dict[str, str]:
    """Id -> name of this user's jobs that wait or run.  squeue, which needs no accounting, as sacct does.  RuntimeError: it fails."""
    command = ["squeue", "--noheader", "--array", "--format=%i %j", "--user", str(os.getuid())]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"squeue cannot be asked: {error}") from None
    if done.returncode:
        raise RuntimeError(f"squeue: {' '.join(done.stderr.split()) or done.returncode}")
    rows = (line.strip().partition(" ") for line in done.stdout.splitlines() if line.strip())
    return {job: name for job, _, name in rows}
