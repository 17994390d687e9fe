"""``ssl-bench evaluate``: the figures of the run, class by class, on its own test set and on others of the same classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, only_run
from PIL import Image

from ssl_bench import catalog, curves, launch
from ssl_bench.evaluate_run import Evaluation, main


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    log = tmp_path_factory.mktemp("evaluate")
    assert launch.run_command(catalog.load_method("erm"), [*TINY, "--log", str(log), "--iters-per-epoch", "30"]) == 0
    return only_run(log)


@pytest.fixture
def folder(digits, tmp_path) -> Path:
    """200 test images in class folders."""
    top = tmp_path / "mine"
    for i, (pixels, target) in enumerate(zip(digits.test.pixels[:200], digits.test.targets[:200], strict=True)):
        (top / f"{target}").mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixels[0].numpy()).save(top / f"{target}" / f"{i:03d}.png")
    return top


def test_on_its_own_test_set_it_gives_the_runs_last_figures(run, capsys):
    assert main([str(run), "--device", "cpu", "--out", "new/figures.json", "--predictions", "new/predictions.npz"]) == 0
    body, last = json.loads(Path("new/figures.json").read_text()), json.loads((run / "result.json").read_text())["evaluations"][-1]
    for name in ("top1", "top5", "mean_class", "loss"):
        assert body[name] == pytest.approx(last[name], rel=1e-6)
    assert [row["top1"] for row in body["classes"]] == sorted(row["top1"] for row in body["classes"])
    assert np.mean([row["top1"] for row in body["classes"]]) == pytest.approx(last["mean_class"])
    with np.load("new/predictions.npz") as ours, np.load(run / "predictions.npz") as saved:
        assert all(np.array_equal(ours[name], saved[name]) and ours[name].dtype == saved[name].dtype for name in ("target", "prediction"))
        np.testing.assert_allclose(ours["confidence"], saved["confidence"], rtol=1e-6)
    assert body["ece"] == pytest.approx(100 * curves.ece(curves.reliability(curves.read_predictions(run))), rel=1e-4)
    out = capsys.readouterr().out
    assert f"top-1 {last['top1']:.2f} %" in out and body["classes"][0]["name"] in out.splitlines()[5]


def test_a_folder_of_the_same_classes(run, folder, digits, capsys):
    """Also where its order is another, and where the folders lie in test/."""
    (folder / "test").mkdir()
    names = [path for path in folder.iterdir() if path.name != "test"]
    for path in names:
        path.rename(folder / "test" / path.name)
    for root in (folder, folder / "test"):
        assert main([str(run), str(root), "-d", "ImageFolder", "--device", "cpu", "--out", "out.json", "-j", "0"]) == 0
        with np.load(run / "predictions.npz") as saved:
            right = saved["prediction"][:200] == saved["target"][:200]
        body = json.loads(Path("out.json").read_text())
        assert body["images"] == 200 and body["top1"] == pytest.approx(100 * right.mean())


def test_classes_are_matched_by_name(run, tmp_path):
    from ssl_bench.evaluate_run import evaluated, test_images
    from ssl_bench.trained import open_trained

    trained = open_trained(run)
    own = evaluated(trained, test_images(trained, None, None)[0])
    (run / "classes.json").write_text(json.dumps([*"9876543210"]))
    try:
        turned = open_trained(run)
        found = evaluated(turned, test_images(turned, "Digits", None)[0])
    finally:
        (run / "classes.json").write_text(json.dumps([*"0123456789"]))
    assert np.array_equal(found.target, 9 - own.target) and np.array_equal(found.prediction, own.prediction)


def test_other_classes_and_what_is_not_there_are_one_line(run, folder, capsys):
    (folder / "3").rename(folder / "three")
    for argv, message in (
        ([str(folder), "-d", "ImageFolder"], "has other classes than the network: 1 only in the network, such as '3', 1 only in"),
        (["gone", "-d", "ImageFolder"], "no folder gone"),
        (["-d", "CIFAR10"], "CIFAR10 needs a root folder"),
        (["-d", "Digit"], "did you mean Digits"),
    ):
        assert main([str(run), *argv, "--device", "cpu"]) == 1
        err = capsys.readouterr().err
        assert err.startswith("ssl-bench evaluate: error: ") and message in err and err.count("\n") == 1


def test_classes_are_counted_by_hand_and_100_000_of_them_take_no_matrix():
    names = [f"c{i}" for i in range(100_000)]
    target, prediction = np.array([[0, 0, 0, 0, 7, 99_999, 99_999], [1, 2, 2, 0, 7, 5, 3]], np.int32)
    found = Evaluation({}, target, prediction, np.full(7, 0.5, np.float32))
    assert found.by_class(names) == [
        dict(name="c99999", images=2, top1=0.0, most_taken_for="c3", times=1),  # of as many the first
        dict(name="c0", images=4, top1=25.0, most_taken_for="c2", times=2),
        dict(name="c7", images=1, top1=100.0, most_taken_for=None, times=0),
    ]
