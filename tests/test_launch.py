"""From a command line to a run folder, and back from every way a run can be cut short or misled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LIVE, TINY, last_stage, only_run, resolved
from PIL import Image
from test_contract import slow_but_for

from ssl_bench import catalog, launch, record, trainer
from ssl_bench.method import Stage
from ssl_bench.pipeline import cost_of_stages
from ssl_bench.record import read_jsonl
from ssl_bench.runs import collect
from ssl_bench.weights import read_tensors

REPOSITORY = Path(__file__).parent.parent


def run(name: str, *argv: str) -> int:
    return launch.run_command(catalog.load_method(name), [*TINY, *map(str, argv)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    log = tmp_path_factory.mktemp("finished")
    assert run("mean_teacher", "--log", log) == 0
    return log


def test_a_run_leaves_its_records(finished):
    folder = only_run(finished)
    assert folder.relative_to(finished).parts[:3] == ("mean_teacher", "Digits", "4x")
    assert folder.name.startswith("0-")
    result = json.loads((folder / "result.json").read_text())
    assert [row["step"] for row in result["evaluations"]] == [3, 6]
    assert (result["num_labeled"], result["num_unlabeled"], result["num_test"]) == (40, 1257, 500)
    assert result["seed"] == 0 and result["pretrained"] == "none" and result["minutes"] > 0 and result["images_per_second"] > 0
    assert result["peak_memory_mib"] > 50 and result["packages"]["torch"] and result["device"].startswith("cpu")
    rows = read_jsonl(folder / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "test"] == [3, 6]
    assert {"cls_loss", "con_loss", "teacher_acc"} <= set(rows[0])
    with np.load(folder / "split.npz") as split:
        assert len(split["labeled"]) == 40 and len(split["unlabeled"]) == 1257
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "best.pth", "latest.pth", "state-00000003.pt", "state-00000006.pt",
    ]  # fmt: skip


def read_answers(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "predictions.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_a_run_leaves_the_answer_to_each_test_image(finished, digits):
    folder = only_run(finished)
    answers, result = read_answers(folder), json.loads((folder / "result.json").read_text())
    assert {name: (array.dtype.name, array.shape) for name, array in answers.items()} == {
        "target": ("int32", (500,)), "prediction": ("int32", (500,)), "confidence": ("float32", (500,)),
    }  # fmt: skip
    assert answers["target"].tolist() == digits.test.targets.tolist()
    assert 100 * (answers["target"] == answers["prediction"]).mean() == pytest.approx(result["evaluations"][-1]["top1"], abs=1e-9)
    assert (answers["confidence"] >= 0.1).all() and (answers["confidence"] <= 1).all()
    assert json.loads((folder / "classes.json").read_text()) == [*digits.classes]


def test_of_a_run_of_stages_the_last_ones_answers_lie_in_the_runs_folder(tmp_path):
    assert run("noisy_student", "--generations", "1", "--teacher-epochs", "1", "--log", tmp_path) == 0
    (folder,) = (path.parent for path in tmp_path.rglob("args.json") if not (path.parent.parent / "args.json").is_file())
    own, last = read_answers(folder), read_answers(folder / "student1") if (folder / "student1").is_dir() else None
    result = json.loads((folder / "result.json").read_text())
    assert 100 * (own["target"] == own["prediction"]).mean() == pytest.approx(result["evaluations"][-1]["top1"], abs=1e-9)
    assert last is None or all((own[name] == last[name]).all() for name in own)


def test_held_out_images_are_evaluated_beside_the_test_set_and_make_another_run(tmp_path, finished):
    assert run("mean_teacher", "--num-val-per-class", "5", "--log", tmp_path) == 0
    folder = only_run(tmp_path)
    result = json.loads((folder / "result.json").read_text())
    assert (result["num_labeled"], result["num_unlabeled"], result["num_val"]) == (40, 1207, 50)
    assert folder.name != only_run(finished).name and set(result["split_hash"]) == {"labeled", "unlabeled", "val"}
    for row in (*result["evaluations"], *(row for row in read_jsonl(folder / "metrics.jsonl") if row["kind"] == "test")):
        assert 0 <= row["val_top1"] <= row["val_top5"] <= 100 and row["val_top1"] % 2 == 0 and row["val_loss"] > 0
        assert row["val_mean_class"] == pytest.approx(row["val_top1"])  # as many of each class
    without = json.loads((only_run(finished) / "result.json").read_text())
    assert without["num_val"] == 0 and not any(name.startswith("val_") for name in without["evaluations"][0])


def test_recorded_arguments_give_the_same_hash(finished):
    recorded = json.loads((only_run(finished) / "args.json").read_text())
    args_class = catalog.load_method("mean_teacher").Args
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in recorded["args"].items()}
    assert record.args_hash("mean_teacher", args_class(**values)) == recorded["args_hash"]


def test_a_finished_run_is_a_no_op(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert run("mean_teacher", "--log", finished, "--print-freq", 1) == 0
    assert "is done already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("which", "index"), [("latest", -1), ("best", None)])
def test_test_phase_gives_the_logged_number_exactly(finished, capsys, which, index):
    logged = json.loads((only_run(finished) / "result.json").read_text())["evaluations"]
    expected = logged[index] if index is not None else max(logged, key=lambda row: row["top1"])
    assert run("mean_teacher", "--log", finished, "--phase", "test", "--resume", which) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {key: expected[key] for key in ("top1", "top5", "mean_class", "loss")}


def test_teacher_or_student_is_what_is_saved(finished, tmp_path):
    assert run("mean_teacher", "--log", tmp_path, "--evaluate", "student") == 0
    for log, prefix in ((finished, "teacher.model."), (tmp_path, "model.")):
        folder = only_run(log) / "checkpoints"
        state, saved = read_tensors(folder / "state-00000006.pt")["method"], read_tensors(folder / "latest.pth")
        assert all(torch.equal(saved[key], state[prefix + key]) for key in saved)
        assert {key.split(".")[0] for key in saved} == {"backbone", "bottleneck", "head"}


def test_seeds_change_split_order_and_losses(tmp_path):
    for seed in (0, 0, 1):
        assert run("erm", "--log", tmp_path / str(len(list(tmp_path.iterdir()))), "--seed", seed) == 0
    runs = [only_run(log) for log in sorted(tmp_path.iterdir())]
    metrics = [read_jsonl(folder / "metrics.jsonl") for folder in runs]
    hashes = [json.loads((folder / "result.json").read_text())["split_hash"] for folder in runs]
    assert metrics[0] == metrics[1] != metrics[2]
    assert hashes[0] == hashes[1] != hashes[2]


def test_oracle_trains_on_everything(tmp_path, capsys):
    assert run("erm", "--oracle", "--log", tmp_path) == 0
    assert "labeled_dataset_size: 1297" in capsys.readouterr().out
    result = json.loads((only_run(tmp_path) / "result.json").read_text())
    assert (result["num_labeled"], result["num_unlabeled"]) == (1297, 1257)


# Splits from files


def write_lists(folder: Path, digits) -> dict[str, str]:
    """Three digits of each class, and 200 positions, 30 of them among the former's."""
    labelled = [int(k) for c in range(10) for k in np.flatnonzero(digits.train.targets == c)[5:8]]
    files = {"labelled": labelled, "unlabelled": labelled + [k for k in range(230) if k not in labelled][:170]}
    folder.mkdir(exist_ok=True)
    for name, positions in files.items():
        (folder / f"{name}.csv").write_text("Index\n" + "\n".join(map(str, positions)))
    return {name: str(folder / f"{name}.csv") for name in files}


def test_a_run_on_lists(tmp_path, digits, capsys):
    lists = write_lists(tmp_path / "here", digits)
    argv = ["--labeled-list", lists["labelled"], "--unlabeled-list", lists["unlabelled"], "--log", tmp_path / "log", "--threshold", 0]
    assert run("fixmatch", *argv) == 0
    folder = only_run(tmp_path / "log")
    assert folder.relative_to(tmp_path / "log").parts[:3] == ("fixmatch", "Digits", "labelled")
    result = json.loads((folder / "result.json").read_text())
    assert (result["num_labeled"], result["num_unlabeled"], result["labels_per_class"]) == (30, 200, 3)
    with np.load(folder / "split.npz") as split:
        assert digits.train.targets[split["labeled"]].tolist() == [c for c in range(10) for _ in range(3)]

    elsewhere = write_lists(tmp_path / "there", digits)  # the same bytes: the same run, which goes on from its last state
    (folder / "result.json").unlink()
    (folder / "checkpoints" / "state-00000006.pt").unlink()
    metrics = read_jsonl(folder / "metrics.jsonl")
    argv[1], argv[3] = elsewhere["labelled"], elsewhere["unlabelled"]
    capsys.readouterr()
    assert run("fixmatch", *argv) == 0
    assert "after step 3 of 6" in capsys.readouterr().out and read_jsonl(folder / "metrics.jsonl") == metrics
    assert run("fixmatch", *argv, "--phase", "test") == 0

    with open(elsewhere["unlabelled"], "a", encoding="utf-8") as file:
        file.write("\n1000")
    assert run("fixmatch", *argv) == 0
    assert len(list((tmp_path / "log").rglob("result.json"))) == 2


def test_lists_may_go_while_a_run_trains(tmp_path, digits, monkeypatch):
    labelled = write_lists(tmp_path / "here", digits)["labelled"]
    evaluate = trainer.evaluate_method

    def without_list(*args, answers):
        Path(labelled).unlink(missing_ok=True)
        return evaluate(*args, answers=answers)

    monkeypatch.setattr(trainer, "evaluate_method", without_list)
    assert run("erm", "--labeled-list", labelled, "--log", tmp_path / "log") == 0
    begun, result = (json.loads((only_run(tmp_path / "log") / f"{name}.json").read_text()) for name in ("args", "result"))
    assert not Path(labelled).exists() and begun["args_hash"] == result["args_hash"]


def test_a_table_joins_seeds_of_one_list_wherever_it_lay(tmp_path, digits):
    lists = [write_lists(tmp_path / name, digits) for name in ("here", "there")]
    for seed in (0, 1):
        argv = ["--labeled-list", lists[seed]["labelled"], "--unlabeled-all", "--seed", seed, "--log", tmp_path / "log"]
        assert run("erm", *argv) == 0
    (unfinished, _) = sorted((tmp_path / "log").rglob("result.json"))
    unfinished.unlink()
    assert run("erm", "--num-samples-per-class", 3, "--log", tmp_path / "log", "--unlabeled-all") == 0
    frame = collect([tmp_path / "log"])
    assert frame["labels_per_class"].tolist() == [3, 3, 3] and sorted(frame["state"]) == ["done", "done", "incomplete"]
    sha = hashlib.sha256(Path(lists[0]["labelled"]).read_bytes()).hexdigest()
    assert sorted(frame["variant"]) == [f"labeled_list=sha256_{sha[:12]}"] * 2 + ["labeled_list=unset"]


def test_the_oracle_counts_no_image_twice(tmp_path):
    assert run("erm", "--oracle", "--unlabeled-all", "--log", tmp_path) == 0
    result = json.loads((only_run(tmp_path) / "result.json").read_text())
    assert (result["num_labeled"], result["num_unlabeled"]) == (1297, 1297)


def test_a_list_names_the_labelled_images_of_a_labelled_folder_too(folder_of_images, tmp_path):
    (tmp_path / "two.txt").write_text("cats/1.png\ndogs/0.png\n")
    assert own(folder_of_images, tmp_path / "log", "--labeled-list", str(tmp_path / "two.txt")) == 0
    result = json.loads((only_run(tmp_path / "log") / "result.json").read_text())
    assert (result["num_labeled"], result["num_unlabeled"], result["labels_per_class"]) == (2, 8, 1)


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--labeled-list", "gone.csv"], 2, ["--labeled-list", "gone.csv"]),
        (["--labeled-list", "5.txt", "--unlabeled-list", "gone.csv"], 2, ["--unlabeled-list", "gone.csv"]),
        (["--unlabeled-list", "5.txt"], 2, ["--unlabeled-list needs --labeled-list"]),
        (["--labeled-list", "5.txt", "--all-labeled"], 2, ["--all-labeled and --labeled-list"]),
        (["--labeled-list", "5.txt", "--num-samples-per-class", "4"], 2, ["--num-samples-per-class and --labeled-list"]),
        (["--labeled-list", "5.txt", "--unlabeled-list", "5.txt", "--unlabeled-all"], 2, ["--unlabeled-all and --unlabeled-list"]),
        (["--labeled-list", "5.txt"], 1, ["5.txt names no image of class"]),
        (["--labeled-list", "name.txt"], 1, ["name.txt line 1", "list positions"]),
    ],
)
def test_a_wrong_list_is_one_clear_line_and_leaves_nothing(tmp_path, capsys, argv, code, words):
    (tmp_path / "5.txt").write_text("5\n")
    (tmp_path / "name.txt").write_text("a.png\n")
    assert launch.run_command(catalog.load_method("fixmatch"), argv) == code
    one_line(capsys, "fixmatch: error:", *words)
    assert not list(tmp_path.rglob("args.json"))


def test_runs_without_lists_keep_their_names():
    """Of 0.1.0, as it computed it."""
    assert record.args_hash("erm", resolved("erm", "--recipe", "none")) == "21782f0b3217"
    assert not {"labeled_list", "unlabeled_list", "unlabeled_all"} & {*record.identity(resolved("fixmatch"))}


# Cut short


def start(*argv: str, cwd: Path) -> subprocess.Popen:
    code = "import torch; torch.set_num_threads(1)\nfrom ssl_bench.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *argv], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def test_sigterm_saves_and_exits_143_and_the_same_command_continues(tmp_path):
    argv = ["fixmatch", *TINY, "--iters-per-epoch", "15", "--threshold", "0"]
    process = start(*argv, "--log", "cut", "--print-freq", "1", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.rglob("metrics.jsonl")), process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "the same command continues" in err and "Traceback" not in err
    cut = only_run(tmp_path / "cut")
    assert not (cut / "result.json").exists() and list((cut / "checkpoints").glob("state-*.pt"))

    method = catalog.load_method("fixmatch")
    for log in ("cut", "whole"):
        assert launch.run_command(method, [*argv[1:], "--log", str(tmp_path / log)]) == 0
    whole = only_run(tmp_path / "whole")
    latest = [read_tensors(folder / "checkpoints" / "latest.pth") for folder in (cut, whole)]
    assert all(torch.equal(latest[0][key], latest[1][key]) for key in latest[0])


@pytest.mark.slow
def test_sigkill_of_a_process_of_its_own(tmp_path):
    """Twenty and more kills of each kind of run, of forked processes that start at once: tests/faults.py."""
    argv = ["mean_teacher", *TINY, "--iters-per-epoch", "20", "--epochs", "5", "--checkpoint-freq", "2", "--log"]
    random = np.random.default_rng(0)

    def newest() -> str:
        return max((path.name for path in tmp_path.glob("cut/**/state-*.pt")), default="")

    for _ in range(3):
        before = newest()
        process = start(*argv, "cut", cwd=tmp_path)
        wait_for(lambda before=before: newest() > before, process)
        time.sleep(float(random.uniform(0, 0.2)))
        process.kill()
        process.communicate()
        assert not list(tmp_path.glob("cut/**/result.json")), "the run is too short for this test"
    assert run_with(argv, tmp_path / "cut") == run_with(argv, tmp_path / "whole") == 0
    a, b = (only_run(tmp_path / log) for log in ("cut", "whole"))
    assert read_jsonl(a / "metrics.jsonl") == read_jsonl(b / "metrics.jsonl")
    for name in ("latest.pth", "best.pth"):
        ours, theirs = (read_tensors(folder / "checkpoints" / name) for folder in (a, b))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def run_with(argv: list[str], log: Path) -> int:
    return launch.run_command(catalog.load_method(argv[0]), [*argv[1:], str(log)])


@pytest.fixture
def interrupted(tmp_path, finished) -> Path:
    """A copy of the finished run as it was before its last epoch, one state older than the newest kept too."""
    shutil.copytree(finished, tmp_path / "log")
    (only_run(tmp_path / "log") / "result.json").unlink()
    return tmp_path / "log"


def test_a_truncated_checkpoint_falls_back_with_a_warning(interrupted, finished, capsys):
    newest = only_run(interrupted) / "checkpoints" / "state-00000006.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert run("mean_teacher", "--log", interrupted) == 0
    captured = capsys.readouterr()
    assert "state-00000006.pt" in captured.err and "falling back" in captured.err and "after step 3 of 6" in captured.out
    ours, theirs = (read_tensors(only_run(log) / "checkpoints" / "latest.pth") for log in (interrupted, finished))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_no_readable_checkpoint_stops_rather_than_starting_over(interrupted, capsys):
    for path in (only_run(interrupted) / "checkpoints").glob("state-*.pt"):
        path.write_bytes(b"junk")
    assert run("mean_teacher", "--log", interrupted) == 1
    assert one_line(capsys, "no checkpoint in", "remove that folder")


def test_a_foreign_checkpoint_is_refused(interrupted, tmp_path, capsys):
    assert run("mean_teacher", "--log", tmp_path / "other", "--seed", 1) == 0
    shutil.copy(only_run(tmp_path / "other") / "checkpoints" / "state-00000006.pt", only_run(interrupted) / "checkpoints")
    capsys.readouterr()
    assert run("mean_teacher", "--log", interrupted) == 1
    assert one_line(capsys, "other arguments")


def test_a_full_disk_keeps_the_previous_checkpoint(interrupted, monkeypatch, capsys):
    folder = only_run(interrupted)
    (folder / "checkpoints" / "state-00000006.pt").unlink()
    before = (folder / "checkpoints" / "state-00000003.pt").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run("mean_teacher", "--log", interrupted) == 1
    assert one_line(capsys, "No space left on device", "is kept")
    monkeypatch.undo()
    assert (folder / "checkpoints" / "state-00000003.pt").read_bytes() == before
    assert not list(folder.rglob("*.tmp"))
    assert run("mean_teacher", "--log", interrupted) == 0


@pytest.mark.parametrize("name", slow_but_for("pseudo_label", "mean_teacher"))
def test_a_run_that_diverges_names_step_term_and_method_and_loses_nothing(tmp_path, capsys, name):
    argv = ["--log", tmp_path, "--lr", "1e20", *LIVE[name], "--lr", "1e20", "--epochs", 4, "--checkpoint-freq", 1]
    assert run(name, *argv) == 1
    message = one_line(capsys, "nan or infin", "--lr", "checkpoints from before it are kept")
    folder = last_stage(only_run(tmp_path))
    found = re.search(r"(loss term '(.+)'|(\S+)) of (\w+) became nan or infinite (?:at|before) step (\d+)", message)
    assert found and found[4] in (name, "mae"), message  # a stage is named by its method
    states = sorted((folder / "checkpoints").glob("state-*.pt"))
    assert all(value.isfinite().all() for path in states for value in read_tensors(path)["method"].values())
    assert not (folder / "result.json").exists()
    rows = read_jsonl(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    assert all(row["step"] <= int(found[5]) for row in rows)
    if int(found[5]) > 1:
        assert states and int(states[-1].stem[-8:]) >= int(found[5]) - 1  # the step before


def one_line(capsys, *words: str) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]


# Misled


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--treshold", "0.9"], 2, ["--treshold", "--threshold"]),
        (["--threshold", "7"], 2, ["--threshold", "<= 1"]),
        (["--threshold", "-0.1"], 2, ["--threshold", ">= 0"]),
        (["--num-samples-per-class", "0"], 2, ["--num-samples-per-class", ">= 1"]),
        (["--recipe", "tlib"], 2, ["recipe", "tlib"]),
        (["somewhere"], 2, ["somewhere", "-d"]),
        (["somewhere", "-d", "CIFR10"], 1, ["CIFR10", "CIFAR10"]),
        (["somewhere", "-d", "ImageFolder"], 1, ["somewhere"]),
        (["--arch", "resnet5O"], 1, ["resnet5O", "resnet50"]),
        (["--device", "cuda:99"], 1, ["cuda:99"]),
        (["--num-samples-per-class", "500"], 1, ["Digits", "class", "--num-samples-per-class"]),
        (["--phase", "test"], 1, ["no checkpoint"]),
        (["--phase", "test", "--resume", "gone.pth"], 1, ["gone.pth"]),
        (["--auto-augment", "rand-m99x"], 1, ["rand-m99x"]),
        (["--model-kwargs", "nonsense=3"], 1, ["test_resnet", "nonsense"]),
        (["--model-kwargs", "patch_size"], 1, ["key=value", "patch_size"]),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, argv, code, words):
    monkeypatch.chdir(tmp_path)
    assert launch.run_command(catalog.load_method("fixmatch"), argv) == code
    one_line(capsys, "fixmatch: error:", *words)
    assert not list(tmp_path.rglob("result.json"))
    assert not list(tmp_path.rglob("args.json")), "a run that never started is no run"


@pytest.fixture
def folder_of_images(tmp_path) -> Path:
    random = np.random.default_rng(0)
    for part, count in (("labelled", 2), ("test", 2)):
        for label, name in enumerate(("cats", "dogs")):
            (tmp_path / "mine" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = (random.random((12 + i, 16, 3)) * 100 + 100 * label).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "mine" / part / name / f"{i}.png")
    (tmp_path / "mine" / "unlabelled").mkdir()
    for i in range(6):
        Image.fromarray((random.random((14, 12 + i, 3)) * 255).astype(np.uint8)).save(tmp_path / "mine" / "unlabelled" / f"{i}.png")
    return tmp_path / "mine"


def own(folder: Path, log: Path, *argv: str) -> int:
    flags = ["--scratch", "--train-resizing", "default", "--val-resizing", "default", "--workers", "0", *argv]
    return run("fixmatch", folder, "-d", "ImageFolder", "--log", log, "--batch-size", 4, "--threshold", 0, *flags)


def test_a_users_own_folder_with_two_classes_and_no_labels_for_the_rest(folder_of_images, tmp_path, capsys):
    assert own(folder_of_images, tmp_path / "log") == 0
    assert "labeled_dataset_size: 4\nunlabeled_dataset_size: 6" in capsys.readouterr().out
    result = json.loads((only_run(tmp_path / "log") / "result.json").read_text())
    assert result["labels_per_class"] == "all" and result["num_classes"] == 2
    assert result["evaluations"][-1]["top5"] == 100  # five best of two classes


def test_results_do_not_depend_on_the_number_of_workers(folder_of_images, tmp_path):
    rows = []
    for workers in (0, 2):
        assert own(folder_of_images, tmp_path / str(workers), "--workers", str(workers)) == 0
        rows.append(read_jsonl(only_run(tmp_path / str(workers)) / "metrics.jsonl"))
    assert rows[0] == rows[1]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_corrupt_image_is_named_and_can_be_skipped(folder_of_images, tmp_path, capsys, workers):
    (folder_of_images / "unlabelled" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    assert own(folder_of_images, tmp_path / "log", "--workers", workers) == 1
    one_line(capsys, "3.png", "--skip-broken")
    assert not multiprocessing.active_children()  # left to the garbage collector they heard of nothing, and were waited for
    assert own(folder_of_images, tmp_path / "skip", "--skip-broken") == 0
    assert "1 broken images left out" in capsys.readouterr().out
    assert json.loads((only_run(tmp_path / "skip") / "result.json").read_text())["num_broken"] == 1


def test_another_folder_of_images_is_another_run(folder_of_images, tmp_path, capsys):
    shutil.copytree(folder_of_images, tmp_path / "other")
    assert own(folder_of_images, tmp_path / "log") == own(tmp_path / "other", tmp_path / "log") == 0
    assert "done already" not in capsys.readouterr().out
    assert len(list((tmp_path / "log").rglob("result.json"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_spares_the_loading_processes(folder_of_images, tmp_path, signum):
    flags = ["--scratch", "--workers", "2", "--batch-size", "4", "--iters-per-epoch", "5000", "--print-freq", "1", "--log", "log"]
    command = [sys.executable, "-c", "from ssl_bench.cli import main; main()", "erm", str(folder_of_images), "-d", "ImageFolder", *TINY]
    process = subprocess.Popen(
        [*command, *flags], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: list(tmp_path.rglob("metrics.jsonl")), process)
    os.killpg(process.pid, signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum and err.count("\n") == 1, err
    assert list(tmp_path.rglob("state-*.pt"))


def test_a_signal_between_the_look_and_the_leave_is_not_lost(tmp_path, monkeypatch, capsys):
    from ssl_bench.progress import Progress

    original = Progress.losses

    def late(self, epoch, i, *rest):
        original(self, epoch, i, *rest)
        if i == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Progress, "losses", late)
    assert run("erm", "--log", tmp_path, "--iters-per-epoch", 10) == 143
    assert [path.name for path in tmp_path.rglob("state-*.pt")] == ["state-00000003.pt"]


@pytest.mark.parametrize("where", ["load", "build", "describe"])
def test_sigterm_outside_the_loop_is_the_same_line_and_code(tmp_path, monkeypatch, capsys, where):
    """While data were read or a network built it ended the process without a word, by signal 15."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(launch, where, lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    signal.signal(signal.SIGTERM, lambda *_: None)  # of a suite that fails here, this process must not go
    try:
        assert run("erm", "--log", tmp_path, "--iters-per-epoch", 1, "--epochs", 1) == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == "erm: stopped by SIGTERM; the same command continues\n"
    assert not [*tmp_path.rglob("failed.json"), *tmp_path.rglob("result.json")]


def test_unfinished_files_of_a_killed_process_are_removed(interrupted):
    left = only_run(interrupted) / "checkpoints" / ".state-00000006.pt.1.tmp"
    left.write_bytes(b"half")
    assert run("mean_teacher", "--log", interrupted) == 0
    assert not left.exists()


def test_metrics_are_json_even_where_nothing_is_known(tmp_path):
    assert run("pseudo_label", "--log", tmp_path, "--threshold", 1) == 0
    text = (only_run(tmp_path) / "metrics.jsonl").read_text()
    assert "NaN" not in text and '"pseudo_acc": null' in text


def test_stages_run_in_order_each_from_the_one_before_and_only_once(tmp_path, capsys):
    erm = catalog.load_method("erm")

    class TwoStages(erm):
        name = "two_stages"

        @classmethod
        def stages(cls, args):
            return [Stage("first", args), Stage("second", dataclasses.replace(args, lr=1e-9, wd=0.0))]

    argv = [*TINY, "--optimizer", "adamw", "--log", str(tmp_path)]
    assert launch.run_command(TwoStages, argv) == 0
    (result,) = tmp_path.glob("two_stages/Digits/4x/*/result.json")
    first, second = (read_tensors(result.parent / stage / "checkpoints" / "latest.pth") for stage in ("first", "second"))
    torch.testing.assert_close(first["head.weight"], second["head.weight"], rtol=0, atol=1e-6)
    assert (result.parent / "args.json").is_file()

    result.unlink()
    (result.parent / "second" / "result.json").unlink()
    capsys.readouterr()
    assert launch.run_command(TwoStages, argv) == 0
    assert capsys.readouterr().out.count("labeled_dataset_size: 40\n") == 1  # the first stage was done


def test_default_log_folders_are_tllibs():
    assert {name: resolved(name).log for name in ("erm", "fixmatch")} == {"erm": "baseline", "fixmatch": "fixmatch"}


def test_a_run_of_stages_costs_what_they_cost_together():
    stages = {
        "a": {"minutes": 1.0, "images_per_second": 100.0, "joules": 10.0, "peak_memory_mib": 900.0},
        "b": {"minutes": 3.0, "images_per_second": 300.0, "joules": 5.5, "peak_memory_mib": 700.0},
    }
    whole = cost_of_stages(stages)
    assert whole == {"minutes": 4.0, "minutes_of_stages": {"a": 1.0, "b": 3.0}, "joules": 15.5, "images_per_second": 250.0, "peak_memory_mib": 900.0}
    del stages["a"]["joules"]
    assert cost_of_stages(stages)["joules"] is None, "a part that nobody measured"
