"""Studies: planned and checked as a whole, trained by workers, continued when stopped, ending in a table."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import TINY

from ssl_bench import catalog, flags, launch, study

SMALL = """
methods: [erm, fixmatch]
num_samples_per_class: [1, 4]
seeds: [0]
settings:
  - {data: Digits}
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


def test_a_study_trains_continues_and_ends_in_a_table(small, capsys):
    assert study.main(["small.yaml", "--jobs", "2", *TINY]) == 0
    out = capsys.readouterr().out
    assert "4 runs, 0 done already" in out and "[4/4]" in out
    table = (small / "runs" / "small.md").read_text()
    assert table in out and "Digits, 1" in table and "fixmatch" in table
    assert (small / "runs" / "small.tex").read_text().count("tabular") == 2
    assert len((small / "runs" / "small-runs.csv").read_text().splitlines()) == 5

    (victim,) = (small / "runs" / "erm" / "Digits" / "1x").iterdir()
    before = {path: path.stat().st_mtime_ns for path in small.rglob("result.json")}
    shutil.rmtree(victim)
    assert study.main(["small.yaml", *TINY]) == 0
    assert "4 runs, 3 done already" in capsys.readouterr().out
    assert (small / "runs" / "small.md").read_text() == table
    assert {path: stamp for path, stamp in before.items() if path.parent != victim}.items() <= {
        path: path.stat().st_mtime_ns for path in small.rglob("result.json")
    }.items()


def test_all_methods_and_a_method_with_flags_of_its_own(capsys):
    assert study.main(["--methods", "all", "erm --oracle", "--seeds", "0", "--dry-run"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    compared = set(catalog.method_names()) - set(catalog.pretraining_names())
    assert {line[1] for line in lines} == compared
    for line in lines:
        if line[1] == "noisy_student":  # a teacher alone would be erm under another name
            method = catalog.load_method("noisy_student")
            assert len(method.stages(launch.resolve(method, line[2:])[0])) == 3
    oracle = [line for line in lines if "--oracle" in line]
    assert [line[1] for line in oracle] == ["erm"] * 2
    once = {"positional_label", "semiformer"}  # of one network only, see the study's settings
    assert len(lines) == 2 * (len(compared - once) + 1) + len(once)


@pytest.mark.parametrize("entry,message", [("fixmach", "did you mean fixmatch"), ("", "unknown method ''"), ("erm --orakel", "unknown flag '--orakel'")])
def test_a_wrong_entry_is_one_line(entry, message, capsys):
    assert study.main(["--methods", entry, "--dry-run"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and message in error[0]


def test_a_run_that_fails_is_named_and_the_others_go_on(small, capsys):
    assert study.main(["small.yaml", "--num-samples-per-class", "4", "500", "--methods", "erm", *TINY]) == 1
    captured = capsys.readouterr()
    assert "FAILED erm" in captured.out and "500 per class were asked for" in captured.out
    assert "failed: ssl-bench erm --data Digits --num-samples-per-class 500" in captured.err
    assert "erm" in (small / "runs" / "small.md").read_text()


def test_a_bug_in_a_method_is_a_failed_run_with_its_traceback_in_the_log(small, monkeypatch):
    def broken(method, argv):
        raise TypeError("a bug")

    monkeypatch.setattr(study.launch, "run_command", broken)
    (run, *_) = study.plan(study.read_study("small.yaml"), "runs", [])
    assert study.train(run, threads=1)[0] == 1
    assert "Traceback" in (run.folder / "log.txt").read_text() and study._outcome(run, 1).startswith("FAILED erm: TypeError: a bug")


def test_dry_run_prints_commands_and_leaves_nothing(small, capsys):
    assert study.main(["small.yaml", "--dry-run", "--seeds", "3", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and lines[0] == "ssl-bench erm --data Digits --num-samples-per-class 1 --seed 3 --log runs"
    assert [path.name for path in small.iterdir()] == ["small.yaml"]


def test_flags_for_every_run_are_not_taken_for_the_study(small, capsys):
    assert study.main(["--epochs", "1", "--device", "cpu", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 24 and all("--epochs 1 --device cpu" in line for line in lines)


def test_what_is_named_twice_is_trained_once(small):
    twice = study.Study("x", ("erm", "erm"), ({"data": "Digits"}, {"data": "Digits"}), seeds=(0, 0))
    assert len(study.plan(twice, "runs", [])) == 1


def test_without_a_number_of_labels_a_labelled_folder_is_used_whole(small):
    (small / "mine" / "labelled").mkdir(parents=True)
    (run,) = study.plan(study.Study("x", ("erm",), ({"data": "ImageFolder", "root": "mine"},), seeds=(0,)), "runs", [])
    assert "--num-samples-per-class" not in run.argv and run.folder.parent.name == "all"


def test_planned_commands_resolve_to_the_same_run(small):
    runs = study.plan(study.read_study("digits"), "runs", [])
    assert len({run.folder for run in runs}) == len(runs) == 4 * 2 * 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("methods: [erm]\nsetings: []", "settings"),
        ("methods: [erm]", "lacks settings"),
        ("methods: erm\nsettings: [{data: Digits}]", "must be a list"),
        ("[1, 2]", "must map"),
        ("methods: [erm]\nsettings: [Digits]", "a map of flags"),
        ("methods: [erm]\nsettings: [{data: Digits}]\nseeds: [one]", "a whole number"),
        ("methods: [", "cannot be read"),
    ],
)
def test_a_bad_study_is_one_line(small, capsys, text, words):
    (small / "small.yaml").write_text(text)
    assert study.main(["small.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and words in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [(["digts"], "digits"), (["small.yaml", "--methods", "fixmtch"], "fixmatch"), (["small.yaml", "--treshold", "1"], "--treshold"),
     (["small.yaml", "--jobs", "0"], "--jobs")],
)
def test_names_are_checked_before_anything_is_trained(small, capsys, argv, words):
    assert study.main(argv) == 2
    assert words in capsys.readouterr().err
    assert not (small / "runs").exists()


def test_settings_become_flags():
    assert study._as_flags({"data": "X", "scratch": True, "pool": False, "lr": 0.1, "norm_mean": [0.5, 0.5, 0.5], "root": "d"}) == [
        "d", "--data", "X", "--scratch", "--no-pool", "--lr", "0.1", "--norm-mean", "0.5", "0.5", "0.5",
    ]  # fmt: skip


def test_unknown_study_lists_what_there_is():
    with pytest.raises(flags.FlagError, match="known: digits"):
        study.read_study("nothing-like-it")


@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stopped_study_saves_its_runs_and_starts_no_further_one(small, signum):
    command = [sys.executable, "-c", "from ssl_bench.cli import main; main()", "study", "small.yaml", "--jobs", "1", *TINY]
    command += ["--epochs", "2000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = time.monotonic() + 120
    while not list(small.rglob("state-*.pt")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert err.strip() == f"ssl-bench study: stopped by {signum.name}; the same command continues"
    (log,) = small.rglob("log.txt")  # one run was begun, and no other after the signal
    assert "the same command continues" in log.read_text()
    (metrics,) = small.rglob("metrics.jsonl")
    assert json.loads(metrics.read_text().splitlines()[0])["step"] == 2


def test_a_setting_may_be_for_some_methods_only(small, capsys):
    settings = "settings: [{data: Digits, without: [fixmatch]}, {data: Digits, lr: 0.1, only: [fixmatch, uda]}]"
    (small / "small.yaml").write_text(f"methods: [erm, fixmatch]\nseeds: [0]\n{settings}")
    assert study.main(["small.yaml", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["erm", "fixmatch"] and "--lr 0.1" in lines[1] and "--only" not in lines[1]
    assert study.main(["small.yaml", "--methods", "uda", "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    (small / "small.yaml").write_text("methods: [erm]\nsettings: [{data: Digits, only: [fixmatch]}]")
    assert study.main(["small.yaml", "--dry-run"]) == 2
    assert "no setting is for erm" in capsys.readouterr().err
    (small / "small.yaml").write_text("methods: [erm]\nsettings: [{data: Digits, only: [fixmach]}]")
    assert study.main(["small.yaml", "--dry-run"]) == 2
    assert "did you mean fixmatch" in capsys.readouterr().err
    for wrong in ("fixmatch", "", "3"):
        (small / "small.yaml").write_text(f"methods: [erm]\nsettings: [{{data: Digits, only: {wrong}}}]")
        assert study.main(["small.yaml", "--dry-run"]) == 2
        assert "only must list methods" in capsys.readouterr().err
