"""Studies: planned and checked as a whole, trained by workers, continued when stopped, ending in a table."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from conftest import TINY

from ssl_bench import catalog, devices, flags, launch, local, overview, plan, run_state, study, study_file, trackers

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
    assert "4 runs: 0 done, 0 running, 0 failed, 0 incomplete, 4 not launched; 2 at a time" in out and "[4/4]" in out
    table = (small / "runs" / "small.md").read_text()
    assert table in out and "Digits, 1" in table and "fixmatch" in table
    assert (small / "runs" / "small.tex").read_text().count("tabular") == 2
    assert len((small / "runs" / "small-runs.csv").read_text().splitlines()) == 5

    (victim,) = (small / "runs" / "erm" / "Digits" / "1x").iterdir()
    before = {path: path.stat().st_mtime_ns for path in small.rglob("result.json")}
    shutil.rmtree(victim)
    assert study.main(["small.yaml", *TINY]) == 0
    assert "4 runs: 3 done, 0 running, 0 failed, 0 incomplete, 1 not launched" in capsys.readouterr().out
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


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_only_repeated_when_asked_for(small, capsys, monkeypatch):
    (small / "bad.pth").write_text("no weights")
    command = ["small.yaml", "--num-samples-per-class", "4", "--methods", "erm", "erm --pretrained-backbone bad.pth", *TINY]
    assert study.main(command) == 1
    captured = capsys.readouterr()
    assert "FAILED erm" in captured.out and "bad.pth" in captured.out and "erm: error" not in captured.out
    assert "failed: ssl-bench erm --data Digits --pretrained-backbone bad.pth" in captured.err
    assert "erm" in (small / "runs" / "small.md").read_text()

    assert study.main([*command, "--status"]) == 0
    status = capsys.readouterr().out.splitlines()
    assert status[0] == "study small: 2 runs: 1 done, 0 running, 1 failed, 0 incomplete, 0 not launched" and len(status) == 3
    assert status[1].startswith("done") and "6/6" in status[1] and "%" in status[1]
    assert status[2].startswith("failed") and "bad.pth" in status[2]

    (failed,) = small.rglob("failed.json")
    before = failed.read_bytes()
    assert study.main(command) == 1
    captured = capsys.readouterr()
    assert "failed before (" in captured.err and "not repeated without --retry-failed: ssl-bench erm" in captured.err
    assert "erm" in captured.out and "FAILED" not in captured.out and failed.read_bytes() == before
    begun = []
    monkeypatch.setattr(study.local, "execute", lambda runs, *_: (begun.append(run) or plan.Event(run, "ended", 1) for run in runs))
    assert study.main([*command, "--retry-failed"]) == 1
    assert [run.folder for run in begun] == [failed.parent.relative_to(small)]


def test_a_bug_in_a_method_is_a_failed_run_with_its_traceback_in_the_log(small, monkeypatch):
    def broken(method, argv):
        raise TypeError("a bug")

    monkeypatch.setattr(local.launch, "run_command", broken)
    (run, *_) = plan.plan(study_file.read_study("small.yaml"), "runs", [])
    assert local.train(run) == 1
    assert "Traceback" in (run.folder / "log.txt").read_text()
    assert run_state.state(run.folder).message == "TypeError: a bug"


def test_a_run_that_fails_before_it_has_its_folder_is_named_once(small, capsys):
    (run, *_) = plan.plan(study_file.read_study("small.yaml"), "runs", ["--device", "cuda:99"])
    assert local.train(run) == 1
    line = overview.outcome(plan.Event(run, "ended", 1))
    assert line.startswith("FAILED erm: --device cuda:99 is not to be had here") and "error:" not in line


def test_dry_run_prints_commands_and_leaves_nothing(small, capsys):
    assert study.main(["small.yaml", "--dry-run", "--seeds", "3", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and lines[0] == "ssl-bench erm --data Digits --num-samples-per-class 1 --seed 3 --log runs"
    assert study.main(["small.yaml", "--status"]) == 0
    assert "4 not launched" in capsys.readouterr().out
    assert [path.name for path in small.iterdir()] == ["small.yaml"]


def test_flags_for_every_run_are_not_taken_for_the_study(small, capsys):
    assert study.main(["--epochs", "1", "--device", "cpu", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 24 and all("--epochs 1 --device cpu" in line for line in lines)


def test_what_is_named_twice_is_trained_once(small):
    twice = study_file.Study("x", ("erm", "erm"), ({"data": "Digits"}, {"data": "Digits"}), seeds=(0, 0))
    assert len(plan.plan(twice, "runs", [])) == 1


FAULTY = """
methods: [fixmatch, fixmach, positional_label, semiformer]
num_samples_per_class: [4, 500]
seeds: [0, 1]
settings:
  - {data: Digits, only: [fixmatch, semiformer], treshold: 1}
  - {data: Digits, only: [fixmatch, positional_label], threshold: 7}
  - {data: Digits, only: [positional_label], arch: test_resnet}
  - {data: Digits, only: [semiformer], arch: test_resnet}
  - {data: Digit, root: x}
  - {data: CIFAR10, only: [fixmatch]}
  - {data: MNIST, root: x, only: [fixmatch], arch: resnet5O}
  - {data: MNIST, root: x, only: [fixmatch], auto_augment: rnd-m1}
"""


def test_all_faults_are_named_at_once_before_anything_starts(small, capsys):
    (small / "faulty.yaml").write_text(FAULTY)
    assert study.main(["faulty.yaml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("ssl-bench study: error: ") for line in lines)
    for words in (
        ("unknown method 'fixmach'; did you mean fixmatch",), ("unknown flag '--treshold'", "(fixmatch, semiformer on Digits)"),
        ("--threshold 7.0 is out of range", "(fixmatch on Digits)"), ("unknown flag '--threshold'", "(positional_label on Digits)"),
        ("--num-samples-per-class 500: Digits has no more than 124", "(positional_label, semiformer on Digits)"),
        ("--arch test_resnet", "(positional_label on Digits)"), ("test_resnet is no two-stream network", "(semiformer on Digits)"),
        ("unknown data set 'Digit'; did you mean Digits", "(fixmatch, positional_label, semiformer on Digit)"),
        ("CIFAR10 needs a root folder", "(fixmatch on CIFAR10)"), ("resnet5O", "did you mean", "(fixmatch on MNIST)"), ("rnd-m1", "(fixmatch on MNIST)"),
    ):  # fmt: skip
        found = [line for line in lines if all(word in line for word in words)]
        assert len(found) == 1, (words, lines)
    assert not (small / "runs").exists()


def test_what_this_machine_lacks_is_said_before_anything_starts(small, capsys):
    settings = "[{data: ImageNet, root: imagenet}, {data: MNIST, root: mnist, pretrained_backbone: gone.pth}]"
    (small / "small.yaml").write_text(f"methods: [erm]\nseeds: [0, 1]\ndata_root: data\nsettings: {settings}")
    assert study.main(["small.yaml", "--data-root", "elsewhere"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "no folder elsewhere/imagenet, and ImageNet cannot be fetched" in first and first.endswith("(erm on ImageNet)")
    assert "gone.pth" in second and second.endswith("(erm on MNIST)")
    assert not (small / "runs").exists()
    assert study.main(["small.yaml", "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("ssl-bench erm data/imagenet --data ImageNet") and "note: no folder data/imagenet" in captured.err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("num_samples_per_class: [4, 10]", "num_samples_per_class takes one value in a setting, got [4, 10]"),
        ("lr: {a: 1}", "lr takes one value in a setting"), ("root: null", "root is empty in a setting"), ("root: [a, b]", "root takes one value"),
        ("seed: 3", "seed is the study's, not a setting's: seeds:"), ("log: x", "log is the study's"), ("phase: test", "phase is the study's"),
        ("dry_run: true", "dry_run is the study's"), ("dry-run: true", "dry-run is the study's"), ("3: x", "3 in a setting is no flag's name"),
    ],
)  # fmt: skip
def test_a_setting_of_a_wrong_form_is_refused(small, capsys, setting, words):
    (small / "small.yaml").write_text(f"methods: [erm]\nsettings: [{{data: Digits, {setting}}}]")
    assert study.main(["small.yaml", "--dry-run"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and words in err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["small.yaml", "--seed", "3"], "--seed cannot be given to the runs of a study: seeds: or --seeds"),
        (["small.yaml", "--phase", "test"], "--phase cannot be given"), (["small.yaml", "--methods", "erm --log x"], "--log cannot be given"),
        (["small.yaml", "--methods", "erm --dry-run"], "--dry-run cannot be given"), (["small.yaml", "--methods", "erm 'x"], "\"erm 'x\" cannot be read"),
        (["--device", "cpu", "small.yaml"], "small.yaml: the study comes first: ssl-bench study small.yaml"),
        (["--device", "cpu", "digits_labels"], "the study comes first: ssl-bench study digits_labels"),
        (["--methods", "erm", "small.yaml"], "the study comes first"),
    ],
)  # fmt: skip
def test_what_a_study_gives_itself_or_takes_first_is_refused_elsewhere(small, capsys, argv, words):
    assert study.main([*argv, "--dry-run"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and words in err


def test_a_value_named_like_a_study_is_a_value(small, capsys):
    assert study.main(["small.yaml", "mine", "--data", "CIFAR10", "--methods", "erm", "--recipe", "tllib", "--dry-run"]) == 0
    assert "--recipe tllib" in capsys.readouterr().out


def test_a_missing_device_or_tracker_is_said_before_anything_starts(small, capsys, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: 1)
    for device in ("cuda2", "cuda:1"):
        assert study.main(["small.yaml", "--device", device, "--wandb"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2 and all(line.endswith("(every run)") for line in lines)
        assert any(f"--device {device} is not to be had here" in line for line in lines) and any("ssl-bench[wandb]" in line for line in lines)
    assert not (small / "runs").exists()
    runs = plan.plan(study_file.read_study("small.yaml"), "runs", ["--device", "cuda:1"])
    assert plan.missing_here(runs, devices=False) == [] and len(plan.missing_here(runs)) == 1


@pytest.mark.parametrize(("flag", "fits"), [("124", True), ("125", False), ("4 --num-val-per-class 120", True), ("4 --num-val-per-class 121", False)])
def test_labels_and_validation_images_fit_the_smallest_class(flag, fits):
    wanted = study_file.Study("x", (f"erm --num-samples-per-class {flag}",), ({"data": "Digits", "arch": "test_resnet"},), seeds=(0,))
    if fits:
        assert len(plan.plan(wanted, "runs", [])) == 1
    else:
        with pytest.raises(flags.FlagError, match="no more than 124 images in its smallest class"):
            plan.plan(wanted, "runs", [])


def studying(small, *argv: str) -> subprocess.Popen:
    command = [sys.executable, "-c", "from ssl_bench.cli import main; main()", "study", "small.yaml", "--jobs", "2", *TINY, *argv]
    return subprocess.Popen(command, cwd=small, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.slow
def test_two_studies_at_once_train_each_run_exactly_once(small):
    first, second = studying(small, "--epochs", "20"), studying(small, "--epochs", "20")
    outs = [process.communicate(timeout=200) for process in (first, second)]
    assert {first.returncode, second.returncode} <= {0, run_state.ELSEWHERE} and 0 in (first.returncode, second.returncode), outs
    results = list(small.rglob("result.json"))
    assert len(results) == 4
    for result in results:  # each began once, and nobody else added a row
        rows = [json.loads(line) for line in (result.parent / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if row["kind"] == "test"] == list(range(3, 61, 3))
        assert (result.parent / "log.txt").read_text().count("labeled_dataset_size") == 2  # labelled and unlabelled, once each
    assert all("error" not in err for _, err in outs), outs


@pytest.mark.slow
def test_a_killed_worker_costs_one_run(small):
    process = studying(small, "--epochs", "40")
    end = time.monotonic() + 120
    while not (states := list(small.rglob("state-*.pt"))):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    folder = states[0].parent.parent
    os.kill(json.loads((folder / ".owner.json").read_text())["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 1 and "KILLED by signal 9" in out and "not finished (the same command continues it): ssl-bench" in err
    assert run_state.state_name(folder) == "incomplete" and len(list(small.rglob("result.json"))) == 3
    process = studying(small, "--epochs", "40")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0 and "3 done, 0 running, 0 failed, 1 incomplete" in out, err
    assert "continuing" in (folder / "log.txt").read_text()


def test_without_a_number_of_labels_a_labelled_folder_is_used_whole(small):
    (small / "mine" / "labelled").mkdir(parents=True)
    (run,) = plan.plan(study_file.Study("x", ("erm",), ({"data": "ImageFolder", "root": "mine"},), seeds=(0,)), "runs", [])
    assert "--num-samples-per-class" not in run.argv and run.folder.parent.name == "all"


def test_planned_commands_resolve_to_the_same_run(small):
    runs = plan.plan(study_file.read_study("digits"), "runs", [])
    assert len({run.folder for run in runs}) == len(runs) == 4 * 2 * 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("methods: [erm]\nsettings: [{data: Digits}]\nsetings: []", "settings"),
        ("methods: [erm]", "lacks settings"),
        ("methods: erm\nsettings: [{data: Digits}]", "must be a list"),
        ("[1, 2]", "must map"),
        ("methods: [erm]\nsettings: [Digits]", "a map of flags"),
        ("methods: [erm]\nsettings: [{data: Digits}]\nseeds: [one]", "a whole number"),
        ("methods: [", "is not valid YAML"),
        ("methods: [erm]\nsettings: [{data: Digits}]\ndata_root: [x]", "data_root must be a folder"),
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
    assert study_file.as_flags({"data": "X", "scratch": True, "pool": False, "lr": 0.1, "norm_mean": [0.5, 0.5, 0.5], "root": "d"}) == [
        "d", "--data", "X", "--scratch", "--no-pool", "--lr", "0.1", "--norm-mean", "0.5", "0.5", "0.5",
    ]  # fmt: skip


def test_unknown_study_lists_what_there_is():
    with pytest.raises(flags.FlagError, match="known: .*digits, digits_labels"):
        study_file.read_study("nothing-like-it")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
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


def test_a_log_that_cannot_be_written_is_refused_before_anything_starts(small, capsys):
    (small / "afile").touch()
    assert study.main(["small.yaml", "--log", "afile", *TINY]) == 2
    out, err = capsys.readouterr()
    assert "--log afile cannot be written" in err and err.count("\n") == 1 and "[1/" not in out


def test_labels_per_class_are_said_once(small, capsys):
    (small / "small.yaml").write_text("methods: [erm]\nnum_samples_per_class: [4]\nsettings: [{data: Digits, num_samples_per_class: 2}]")
    assert study.main(["small.yaml", "--dry-run"]) == 2
    assert "stands in the study and in a setting: keep one" in capsys.readouterr().err
    (small / "small.yaml").write_text("methods: [erm]\nsettings: [{data: Digits, num_samples_per_class: 2}]")
    assert study.main(["small.yaml", "--dry-run"]) == 0 and "--num-samples-per-class 2" in capsys.readouterr().out


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
        assert "only and without must list methods" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "count"),
    [("digits_labels", 60), ("cifar_labels", 180), ("tllib", 121), ("tllib_moco", 121), ("semi_vit", 23), ("semiformer", 6)],
)
def test_a_ready_study_plans_the_published_number_of_runs(name, count, monkeypatch):
    monkeypatch.setattr(plan, "_refusal", lambda *_: "")  # networks of this size are built in the slow test
    runs = plan.plan(replace(study_file.read_study(name), data_root="/data"), "runs", [])
    assert len(runs) == count and all(run.argv[0].startswith("/data/") or run.data == "Digits" for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tllib", "tllib_moco", "semi_vit", "semiformer"])
def test_every_network_of_a_ready_study_can_be_trained_by_its_methods(name):
    assert plan.plan(study_file.read_study(name), "runs", [])
