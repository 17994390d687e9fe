"""A run's state is what its folder says, and what holds its lock; no two processes train the same run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import filelock
import pytest
from conftest import TINY, only_run

from ssl_bench import catalog, launch, record, run_state
from ssl_bench.interrupt import Interrupted
from ssl_bench.record import RunFolder

ERM = [sys.executable, "-m", "ssl_bench.methods.erm", *TINY, "--print-freq", "1"]


def wait_for(condition, process: subprocess.Popen, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never happened"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def run(*argv: str) -> int:
    return launch.run_command(catalog.load_method("erm"), [*TINY, *argv])


def test_states_of_a_folder(tmp_path):
    assert run_state.state_name(tmp_path / "nowhere") == "not launched"
    assert run_state.state_name(tmp_path) == "not launched"
    (tmp_path / "args.json").write_text("{")
    assert run_state.state(tmp_path) == run_state.RunState("incomplete")
    run_state.note_queued(tmp_path)
    assert run_state.state_name(tmp_path) == "queued"
    run_state.note_failure(tmp_path, "no data", 1)
    assert run_state.state(tmp_path) == run_state.RunState("failed", message="no data")
    with run_state.held(tmp_path):
        state = run_state.state(tmp_path)
        assert state.name == "running" and str(os.getpid()) in state.message
    assert run_state.state_name(tmp_path) == "failed"
    run_state.forget_failure(tmp_path)
    (tmp_path / "result.json").write_text('{"evaluations": []}')
    assert run_state.state_name(tmp_path) == "done"


def test_progress_is_the_newest_whole_row(tmp_path):
    (tmp_path / "args.json").write_text(json.dumps({"args": {"epochs": 4, "iters_per_epoch": 100}}))
    rows = [{"step": 100, "kind": "test", "top1": 41.5}, {"step": 150, "kind": "train", "loss": 1}]
    (tmp_path / "metrics.jsonl").write_text("x" * 9000 + "\n" + "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 20')
    assert run_state.state(tmp_path) == run_state.RunState("incomplete", 150, 400, 41.5)


def test_progress_of_stages_is_their_sum(tmp_path):
    for number, (stage, step) in enumerate((("teacher", 100), ("generation1", 30))):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "args.json").write_text(json.dumps({"args": {"epochs": 1, "iters_per_epoch": 100}}))
        os.utime(tmp_path / stage / "args.json", (number, number))
        (tmp_path / stage / "metrics.jsonl").write_text(json.dumps({"step": step, "kind": "test", "top1": number}) + "\n")
    (tmp_path / "teacher" / "result.json").write_text("{}")
    assert run_state.state(tmp_path) == run_state.RunState("not launched", 130, 200, 1)


def test_the_newest_accuracy_is_the_last_stages_whatever_the_clock_says(tmp_path):
    """A clock that was set back, or a copy that keeps no times, made an earlier stage the last."""
    folder, names = tmp_path, ["pretraining", "finetuning", "after"]
    (folder / "args.json").write_text(json.dumps({"stages": names}))
    for number, name in enumerate(names):
        (folder / name).mkdir()
        (folder / name / "args.json").write_text("{}")
        os.utime(folder / name / "args.json", (9 - number, 9 - number))
        (folder / name / "metrics.jsonl").write_text(json.dumps({"step": 1, "kind": "test", "top1": number}) + "\n")
    assert run_state.state(folder).accuracy == 2
    (folder / names[0] / "args.json").unlink()
    for stages in ([names[1]], None, "x", [[], {}]):  # the rest come after, by their times
        (folder / "args.json").write_text(json.dumps({"stages": stages}))
        assert run_state.state(folder).accuracy == (2 if stages == [names[1]] else 1)


def test_a_second_command_says_who_trains_the_run_and_leaves_with_a_code_of_its_own(tmp_path, capsys):
    args, _ = launch.resolve(catalog.load_method("erm"), TINY)
    folder = record.run_path("erm", args)
    with run_state.held(folder):
        assert run() == run_state.ELSEWHERE
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"is being trained by process {os.getpid()} on " in err and "wait for it, or stop it" in err
    assert run_state.state_name(folder) == "not launched" and run() == 0


def test_who_looks_never_makes_a_starting_run_fail(tmp_path):
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            run_state.state_name(tmp_path)

    (tmp_path / ".lock").touch()
    lookers = [threading.Thread(target=look) for _ in range(3)]
    for thread in lookers:
        thread.start()
    try:
        for k in range(200):
            with run_state.held(tmp_path):
                held = k + 1
    finally:
        over.set()
        for thread in lookers:
            thread.join()
    assert held == 200


def test_who_looks_takes_nobody_else_who_looks_for_a_trainer(tmp_path):
    with run_state.held(tmp_path):
        pass
    run_state.note_failure(tmp_path, "no data", 1)
    seen: list[set[str]] = []
    lookers = [threading.Thread(target=lambda: seen.append({run_state.state_name(tmp_path) for _ in range(2000)})) for _ in range(4)]
    for thread in lookers:
        thread.start()
    for thread in lookers:
        thread.join()
    assert seen == [{"failed"}] * 4


def test_who_looks_all_the_time_is_not_taken_for_a_trainer(tmp_path, monkeypatch):
    monkeypatch.setattr(run_state, "PATIENCE", 0.05)
    (tmp_path / ".lock").touch()
    with open(tmp_path / ".lock") as looker:
        run_state.fcntl.flock(looker, run_state.fcntl.LOCK_SH)
        threading.Timer(0.5, looker.close).start()
        with run_state.held(tmp_path):
            assert run_state.state_name(tmp_path) == "running"


def test_who_looks_takes_no_lock_before_a_run_says_who_trains_it(tmp_path, monkeypatch):
    (tmp_path / ".lock").touch()
    monkeypatch.setattr(run_state, "_flock", None)
    assert run_state.state_name(tmp_path) == "not launched"


def test_runs_of_one_process_leave_nothing_behind_that_each_fork_goes_through(tmp_path, monkeypatch):
    left = []
    monkeypatch.setattr(os, "register_at_fork", lambda **hooks: left.append(hooks))
    for _ in range(3):
        with run_state.held(tmp_path):
            assert run_state.state_name(tmp_path) == "running" and len(run_state._held_here) == 1
    assert left == [] and not run_state._held_here and run_state.state_name(tmp_path) == "not launched"


def test_a_process_that_a_trainer_forked_does_not_hold_the_lock_after_its_end(tmp_path):
    """As loading workers did for five seconds after a kill: whoever restarts a run at once met "is being trained"."""
    code = "import os, pathlib, time\nfrom ssl_bench import run_state\nwith run_state.held(pathlib.Path('.')):\n"
    code += "    if not os.fork():\n        time.sleep(30)\n        os._exit(0)\n    print('forked', flush=True)\n    time.sleep(30)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout.readline() == "forked\n"
        process.kill()
        process.wait()
        with run_state.held(tmp_path):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


@pytest.mark.parametrize("locks", [True, False])
def test_a_trainer_is_seen_with_and_without_shared_locks(tmp_path, monkeypatch, locks):
    monkeypatch.setattr(run_state, "fcntl", run_state.fcntl if locks else None)
    with run_state.held(tmp_path):
        assert run_state.state_name(tmp_path) == "running"
    assert run_state.state_name(tmp_path) == "not launched"


def test_a_failure_is_kept_until_the_run_begins_again(tmp_path):
    assert run("--num-samples-per-class", "500") == 1
    (failed,) = tmp_path.rglob("failed.json")
    body = json.loads(failed.read_text())
    assert "500 per class were asked for" in body["message"] and body["exit_code"] == 1 and body["time"].endswith("Z")
    assert run_state.state_name(failed.parent) == "failed"
    with record.RunFolder(failed.parent).claimed():
        assert not failed.exists()


def test_a_bug_is_kept_with_its_kind_and_a_stop_is_not(tmp_path):
    folder = record.RunFolder(tmp_path / "run")
    with pytest.raises(KeyError), folder.claimed():
        raise KeyError("name")
    assert run_state.state(folder.path).message == "KeyError: 'name'"
    for stop in (launch.Interrupted(signal.SIGTERM), launch.LostProcess("gone"), KeyboardInterrupt()):
        with pytest.raises(type(stop)), folder.claimed():
            raise stop
        assert run_state.state_name(folder.path) == "not launched"


def test_without_locks_a_run_goes_on_with_a_warning(tmp_path, monkeypatch, capsys):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(run_state.fcntl, "flock", refuse)
    with run_state.held(tmp_path):
        pass
    assert "cannot be locked (No locks available)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_trainer_leaves_its_lock_free_and_its_run_resumes(tmp_path):
    command = [*ERM, "--epochs", "40"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(tmp_path.rglob("state-*.pt")), process)
    folder = only_run(tmp_path)
    assert run_state.state_name(folder) == "running"
    process.kill()
    process.communicate()
    assert run_state.state_name(folder) == "incomplete"
    with filelock.FileLock(folder / ".lock", timeout=0):
        pass
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0 and "continuing" in again.stdout
    assert run_state.state(folder).name == "done" and not (folder / ".owner.json").exists()


def test_a_result_that_cannot_be_read_is_none_and_the_command_writes_it_anew(tmp_path, capsys):
    argv = [*TINY, "--log", str(tmp_path)]
    assert launch.run_command(catalog.load_method("erm"), argv) == 0
    folder = only_run(tmp_path)
    whole = json.loads((folder / "result.json").read_text())
    for text in ("{bro", "[]", "{}", ""):
        (folder / "result.json").write_text(text)
        assert run_state.state_name(folder) == "incomplete"
    assert launch.run_command(catalog.load_method("erm"), argv) == 0
    assert json.loads((folder / "result.json").read_text())["evaluations"] == whole["evaluations"]
    assert run_state.state_name(folder) == "done" and "continuing" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_one_line_that_names_the_flag(tmp_path, capsys):
    (tmp_path / "afile").touch()
    assert launch.run_command(catalog.load_method("erm"), [*TINY, "--log", str(tmp_path / "afile")]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "cannot be made" in err and "--log DIR" in err


def test_a_run_whose_output_nobody_reads_any_more_is_stopped_and_not_failed(tmp_path):
    with pytest.raises(Interrupted, match="nobody reads its output any more; the same command continues") as stop, RunFolder(tmp_path).claimed():
        raise BrokenPipeError(32, "Broken pipe")
    assert stop.value.exit_code == 141 and not (tmp_path / "failed.json").exists()
