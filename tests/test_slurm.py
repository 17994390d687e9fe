"""A study on a real SLURM of one node: submitted once, requeued in the middle, continued from its checkpoint, bit for bit."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import slurm_node
from conftest import TINY

from ssl_bench import plan, record, run_state, slurm, study, study_file

SMALL = "methods: [erm, fixmatch]\nnum_samples_per_class: [4]\nseeds: [0]\nsettings: [{data: Digits}]\n"
LONG = [*TINY, "--epochs", "60"]
SLURM = "--launcher slurm --slurm-time 30 --slurm-extra mem=500 --slurm-setup".split()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if reason := slurm_node.why_not():
        pytest.skip(reason)
    try:
        with slurm_node.node(tmp_path_factory.mktemp("slurm")) as environment:
            yield environment
    except RuntimeError as error:
        pytest.skip(str(error))


def start(environment, folder, *argv):
    (folder / "small.yaml").write_text(SMALL)
    command = [sys.executable, "-c", "from ssl_bench.cli import main; main()", "study", "small.yaml", *LONG, *SLURM, "export OMP_NUM_THREADS=1", *argv]
    return subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition, process, seconds=200):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end and process.poll() is None, process.communicate() if process.poll() is not None else "never happened"
        time.sleep(0.1)
    return found


def test_without_a_cluster_one_line_says_so(tmp_path, capsys, monkeypatch):
    (tmp_path / "small.yaml").write_text(SMALL)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert study.main(["small.yaml", *TINY, "--launcher", "slurm"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "--launcher slurm" in err


def fake(folder, **programs: str):
    """A PATH of these shell scripts alone."""
    for name, lines in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
        (folder / name).chmod(0o755)
    return str(folder)


@pytest.mark.parametrize("sbatch", ["echo sbatch: error: invalid partition >&2; exit 1", "echo strange words", None])
def test_a_refused_submission_is_one_line_and_changes_no_run(tmp_path, capsys, monkeypatch, sbatch):
    (tmp_path / "small.yaml").write_text(SMALL)
    runs = plan.plan(study_file.read_study(str(tmp_path / "small.yaml")), "runs", LONG)
    run_state.note_failure(runs[0].folder, "no data", 1)
    programs = {"squeue": "exit 0", "srun": "exit 0"} | ({} if sbatch is None else {"sbatch": sbatch})
    monkeypatch.setenv("PATH", fake(tmp_path, **programs))
    assert study.main([str(tmp_path / "small.yaml"), *LONG, "--launcher", "slurm", "--retry-failed"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("ssl-bench study: error: --launcher slurm: ")
    assert "invalid partition" in err or "exit 1" not in str(sbatch)
    assert [run_state.state_name(run.folder) for run in runs] == ["failed", "not launched"]


class Executor:
    """Submits nothing; the jobs are 7_0, 7_1, ..."""

    def __init__(self) -> None:
        self.submitted: list[slurm.Job] = []
        self.name = ""

    def update_parameters(self, slurm_job_name):
        self.name = slurm_job_name

    def batch(self):
        return contextlib.nullcontext()

    def submit(self, job):
        self.submitted.append(job)
        return SimpleNamespace(job_id=f"7_{len(self.submitted) - 1}")


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Two runs, and what squeue will say: answers in turn, the last one for ever; an error is raised, a set is of jobs without a name."""
    (tmp_path / "small.yaml").write_text(SMALL)
    runs = plan.plan(study_file.read_study(str(tmp_path / "small.yaml")), str(tmp_path / "runs"), LONG)
    answers: list = [set()]

    def squeue():
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, RuntimeError):
            raise answer
        return answer if isinstance(answer, dict) else dict.fromkeys(answer, "")

    monkeypatch.setattr(slurm, "_jobs_of_mine", squeue)
    monkeypatch.setattr(slurm, "TICK", 0)
    monkeypatch.setattr(slurm, "GRACE", 0)
    return runs, answers


def test_a_cluster_that_does_not_answer_for_a_while_ends_no_study(two, tmp_path, capsys):
    (first, second), answers = two
    down = RuntimeError("squeue: timed out")
    answers[:] = [set(), down, down, {"7_0", "7_1"}, down, down]
    events = slurm.execute([first, second], Executor(), tmp_path)
    assert [(event.run, event.kind) for event in (next(events), next(events))] == [(first, "queued"), (second, "queued")]
    assert [next(events) for _ in range(4)] == [None] * 4
    (first.folder / "result.json").write_text('{"evaluations": []}')  # seen without squeue
    run_state.note_failure(second.folder, "no data", 1)
    answers[:] = [down, set()]
    ended = {event.run: event.code for event in events if event is not None}
    assert ended == {first: 0, second: 1}
    assert capsys.readouterr().err == "ssl-bench study: warning: squeue: timed out; the last answer counts until there is another\n"
    assert not [*tmp_path.rglob(".job.json"), *tmp_path.rglob(".queued")]


def test_a_run_is_queued_until_it_begins_and_its_job_is_known_until_it_ends(two, tmp_path):
    runs, answers = two
    executor = Executor()
    answers[:] = [set(), {"7_0", "7_1"}]
    events = slurm.execute(runs, executor, tmp_path)
    next(events)
    assert [run_state.state_name(run.folder) for run in runs] == ["queued", "queued"]
    with record.RunFolder(runs[0].folder).claimed():
        assert run_state.state_name(runs[0].folder) == "running"
    assert run_state.state_name(runs[0].folder) == "not launched"  # begun and stopped, by whomever
    events.close()
    again = slurm.execute(runs, executor, tmp_path)  # its job waits again: it is attached to
    assert [next(again).kind for _ in runs] == ["queued", "queued"] and len(executor.submitted) == 2
    again.close()
    slurm.forget_ended(runs)
    assert run_state.state_name(runs[1].folder) == "queued"
    answers[:] = [{"7_0"}]  # scancel 7_1, detached
    slurm.forget_ended(runs)
    assert run_state.state_name(runs[1].folder) == "not launched"


def test_a_study_that_is_killed_while_it_submits_submits_nothing_twice(two, tmp_path, monkeypatch):
    runs, answers = two
    executor = Executor()

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_state, "forget_failure", die)  # the first thing after sbatch
        next(slurm.execute(runs, executor, tmp_path))
    assert [json.loads((run.folder / ".job.json").read_text()) for run in runs] == [{"name": executor.name, "index": i} for i in (0, 1)]
    answers[:] = [{"6_0": "other", "7_0": executor.name, "7_1": executor.name}, RuntimeError("asked once for all runs, not for each")]
    events = slurm.execute(runs, executor, tmp_path)
    assert [next(events).kind for _ in runs] == ["queued", "queued"] and len(executor.submitted) == 2
    assert [json.loads((run.folder / ".job.json").read_text()) for run in runs] == [{"job": "7_0"}, {"job": "7_1"}]
    events.close()
    for run in runs:  # sbatch was never reached
        (run.folder / ".job.json").write_text(json.dumps({"name": "ssl-bench-01234567", "index": 0}))
    answers[:] = [set()]
    next(slurm.execute(runs, executor, tmp_path))
    assert len(executor.submitted) == 4


def test_jobs_are_told_by_id_and_name(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", fake(tmp_path, squeue="printf '7_0 ssl-bench-01234567\\n8 a name of mine\\n\\n'"))
    assert slurm._jobs_of_mine() == {"7_0": "ssl-bench-01234567", "8": "a name of mine"}


def test_a_run_that_another_process_trains_and_gives_up_is_not_said_to_be_killed(two, tmp_path):
    (first, _), _ = two
    with run_state.held(first.folder):
        events = slurm.execute([first], Executor(), tmp_path)
        assert next(events).kind == "running"
    assert [event.code for event in events if event is not None] == [run_state.ELSEWHERE]


@pytest.mark.slow
def test_a_requeued_study_is_an_uninterrupted_one(cluster, tmp_path):
    import torch

    process = start(cluster, tmp_path)
    erm = tmp_path / "runs" / "erm"
    fixmatch = tmp_path / "runs" / "fixmatch"
    until(lambda: list(erm.rglob("state-*.pt")) and list(fixmatch.rglob("state-*.pt")), process)
    jobs = {name: json.loads(next((tmp_path / "runs" / name).rglob(".job.json")).read_text())["job"] for name in ("erm", "fixmatch")}
    subprocess.run(["scontrol", "requeue", jobs["erm"]], env=cluster, check=True)
    subprocess.run(["scancel", "--signal=USR2", jobs["fixmatch"]], env=cluster, check=True)  # what comes before the time is out
    process.send_signal(signal.SIGINT)  # detach: the jobs go on, and are found again
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "the jobs go on" in err
    process = start(cluster, tmp_path)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, out + err
    assert "2 done" not in out and "| erm" in out and "| fixmatch" in out
    for name in ("erm", "fixmatch"):
        log = next((tmp_path / "runs" / name).rglob("log.txt")).read_text()
        assert log.count("continuing") == 1 and log.count("labeled_dataset_size: 40") == 2, log
        assert not list((tmp_path / "runs" / name).rglob(".job.json"))
    assert sorted(path.name for path in (tmp_path / "runs" / ".slurm").glob("*_submitted.pkl")) == sorted(f"{job}_submitted.pkl" for job in jobs.values())
    assert study.main([str(tmp_path / "small.yaml"), *LONG, "--log", str(tmp_path / "whole"), "--jobs", "2"]) == 0
    for weights in (tmp_path / "runs").rglob("latest.pth"):
        other = torch.load(tmp_path / "whole" / weights.relative_to(tmp_path / "runs"), weights_only=True)
        assert all(torch.equal(value, other[key]) for key, value in torch.load(weights, weights_only=True).items())


@pytest.mark.slow
def test_a_job_of_two_tasks_is_one_run(cluster, tmp_path):
    process = start(cluster, tmp_path, "--methods", "erm", "--slurm-tasks", "2", "--epochs", "2")
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, out + err
    (result,) = tmp_path.rglob("result.json")
    assert json.loads(result.read_text())["processes"] == 2 and run_state.state_name(result.parent) == "done"
