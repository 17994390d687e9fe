"""``ssl-bench predict``: the same predictions as the evaluation of training, for any files and folders."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, only_run
from PIL import Image

from ssl_bench import catalog, launch
from ssl_bench.predict import main, predictions
from ssl_bench.trained import open_trained


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    log = tmp_path_factory.mktemp("predict")
    assert launch.run_command(catalog.load_method("erm"), [*TINY, "--log", str(log), "--iters-per-epoch", "30"]) == 0
    return only_run(log)


@pytest.fixture(scope="module")
def files(digits, tmp_path_factory) -> list[str]:
    """The test set as PNG, in its order."""
    top = tmp_path_factory.mktemp("digits")
    for i, (pixels, target) in enumerate(zip(digits.test.pixels, digits.test.targets, strict=True)):
        (top / f"{target}").mkdir(exist_ok=True)
        Image.fromarray(pixels[0].numpy()).save(top / f"{target}" / f"{i:03d}.png")
    return sorted(map(str, top.rglob("*.png")), key=lambda path: Path(path).name)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_test_set_as_files_gets_the_predictions_of_training(run, files, digits, workers):
    found = [*predictions(open_trained(run), files, 5, 128, workers)]
    assert [row.file for row in found] == files
    top = np.array([row.top for row in found])
    with np.load(run / "predictions.npz") as saved:
        assert np.array_equal(top[:, 0], saved["prediction"])
        np.testing.assert_allclose([row.probabilities[0] for row in found], saved["confidence"], atol=1e-5)
    last = json.loads((run / "result.json").read_text())["evaluations"][-1]
    assert 100 * np.mean(top[:, 0] == digits.test.targets) == pytest.approx(last["top1"])
    assert 100 * np.mean((top == digits.test.targets[:, None]).any(axis=1)) == pytest.approx(last["top5"])


def test_csv_of_a_folder_at_any_depth(run, files, capsys):
    assert main([str(run), str(Path(files[0]).parent.parent), "--out", "new/out.csv", "--top-k", "3", "--device", "cpu", "-j", "0"]) == 0
    assert "500 images -> new/out.csv" in capsys.readouterr().out
    with open("new/out.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert list(rows[0]) == ["file", *(f"{what}_{i}" for i in (1, 2, 3) for what in ("class", "index", "probability"))]
    assert {row["file"] for row in rows} == {*files} and all(row["class_1"] == row["index_1"] for row in rows)
    assert all(float(row["probability_1"]) >= float(row["probability_2"]) for row in rows)


def test_more_classes_than_there_are_and_a_table_to_read(run, files, capsys):
    assert main([str(run), *files[:2], "--top-k", "99", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith(files[0]) and lines[0].count(" %") == 10
    assert sum(float(part.split()[-1]) for part in lines[0].split(" %")[:-1]) == pytest.approx(100, abs=1)


def test_broken_images_are_named_and_passed_over(run, files, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(files[0]).read_bytes()[:40])
    argv = [str(run), files[0], str(broken), files[1], "--out", "out.csv", "--device", "cpu"]
    assert main(argv) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2 and err[0].startswith(f"ssl-bench predict: cannot read image {broken}: ") and "1 of 3 images" in err[1]
    assert len(Path("out.csv").read_text().splitlines()) == 3
    assert main([*argv, "--skip-broken"]) == 0 and str(broken) in capsys.readouterr().err
    assert main([str(run), str(broken), "--device", "cpu"]) == 1  # none can be read


def test_names_are_safe_in_a_spreadsheet_and_on_a_terminal(run, files, capsys):
    for name in ("=1+1.png", "a\x1b[31m,\n.png"):
        Path(name).write_bytes(Path(files[0]).read_bytes())
    assert main([str(run), "=1+1.png", "a\x1b[31m,\n.png", "--out", "out.csv", "--device", "cpu"]) == 0
    with open("out.csv", newline="") as file:
        assert [row[0] for row in csv.reader(file)][1:] == ["'=1+1.png", "a\x1b[31m,\n.png"]
    capsys.readouterr()
    assert main([str(run), "a\x1b[31m,\n.png", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and out.count("\n") == 1


def test_what_cannot_be_done_is_one_line(run, files, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for argv, message in (([str(run), "gone.png"], "no file or folder gone.png"), ([str(run), "empty"], "holds no images"),
                          (["gone", files[0]], "no file or folder gone"), ([str(run), files[0], "--device", "tpu"], "--device tpu")):  # fmt: skip
        assert main(argv) == 1
        err = capsys.readouterr().err
        assert err.startswith("ssl-bench predict: error: ") and message in err and err.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        main([str(run), files[0], "--top-k", "0"])
    assert stop.value.code == 2


def test_the_logits_do_not_depend_on_the_batch(run, files):
    trained = open_trained(run)
    one, many = ([row.probabilities for row in predictions(trained, files[:7], 10, size)] for size in (1, 7))
    torch.testing.assert_close(torch.tensor(one), torch.tensor(many))
