"""curves.py: metrics.jsonl and predictions.npz as arrays, whatever state a folder is in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from fuzzing import time_limit
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_bench import curves
from ssl_bench.curves import Predictions

DIGITS = Path(__file__).parents[1] / "results" / "digits"


def write_rows(folder: Path, *rows: object, end: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
    return folder


def predicted(target: list[int], prediction: list[int], confidence: list[float]) -> Predictions:
    return Predictions(np.array(target), np.array(prediction), np.array(confidence, dtype=np.float64))


def save(folder: Path, target: object, prediction: object, confidence: object, **more: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    parts = dict(target=np.asarray(target, np.int32), prediction=np.asarray(prediction, np.int32))
    np.savez(folder / "predictions.npz", **parts, confidence=np.asarray(confidence, np.float32), **more)
    return folder


def test_a_curve_is_what_the_file_says(tmp_path):
    rows = [
        {"step": 5, "epoch": 0, "kind": "train", "kept": 0.25},
        {"step": 5, "epoch": 0, "kind": "test", "top1": 40.0, "top5": None},
        {"step": 10, "epoch": 1, "kind": "test", "top1": 60, "top5": None, "of_a_later_version": "x"},
        {"step": 10, "epoch": 1, "kind": "warning", "text": "dies"},
    ]
    found = curves.read_metrics(write_rows(tmp_path, *rows))
    assert found == rows
    steps, values = curves.curve(found, "top1")
    assert (steps.tolist(), values.tolist(), values.dtype) == ([5, 10], [40.0, 60.0], np.float64)
    assert curves.curve(found, "kept", "train")[1].tolist() == [0.25]
    assert curves.curve(found, "kept")[0].size == curves.curve(found, "top5")[0].size == 0
    assert curves.keys(found) == ["top1"] and curves.keys(found, "train") == ["kept"]
    assert curves.warnings(found) == [(10, "dies")]


def test_lines_that_are_none_are_left_out(tmp_path):
    good = {"step": 1, "kind": "test", "top1": 1.0}
    folder = write_rows(tmp_path, good, [], {"step": "2", "kind": "test"}, {"step": True, "kind": "test"}, {"kind": "test"}, end='{"step": 3, "ki')
    assert curves.read_metrics(folder) == [good]
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'\n\xff\xfe\n{"step": 4, "kind": "test", "top1": NaN}\n{"step": 1, "kind": "test", "top1": 2.0}\n' + b"[" * 100_000)
    steps, values = curves.curve(curves.read_metrics(folder), "top1")
    assert (steps.tolist(), values.tolist()) == ([1], [2.0])  # no point for NaN; the later of two


def test_a_run_of_stages_speaks_by_its_last_one(tmp_path):
    for name, step in (("warm", 1), ("alone", 2)):  # by name, the first comes last
        write_rows(tmp_path / name, {"step": step, "kind": "test", "top1": 1.0})
        (tmp_path / name / "args.json").write_text("{}")
    (tmp_path / "warm" / "result.json").write_text('{"finished": "2026-01-01T00:00:00Z"}')
    assert curves.metrics_file(tmp_path).parent.name == "alone"  # in progress
    (tmp_path / "alone" / "result.json").write_text('{"finished": "2026-01-02T00:00:00Z"}')
    assert curves.metrics_file(tmp_path).parent.name == "alone"
    (tmp_path / "result.json").write_text('{"minutes_of_stages": {"alone": 1, "warm": 1}}')
    assert curves.metrics_file(tmp_path).parent.name == "warm"
    (tmp_path / "result.json").write_text(json.dumps({"minutes_of_stages": {f"../{tmp_path.name}/warm": 1}}))
    assert curves.metrics_file(tmp_path).parent.name == "alone"
    for odd in (5, [1], None):
        (tmp_path / "result.json").write_text(json.dumps({"minutes_of_stages": odd}))
        assert curves.metrics_file(tmp_path).parent.name == "alone"
    write_rows(tmp_path, {"step": 9, "kind": "test", "top1": 1.0})  # as tools/collect_results.py leaves it
    assert curves.read_metrics(tmp_path)[0]["step"] == 9


def test_nothing_is_nothing(tmp_path):
    assert curves.metrics_file(tmp_path / "gone") is None
    assert curves.read_metrics(tmp_path) == []
    assert curves.read_predictions(tmp_path) is None
    assert curves.read_classes(tmp_path) == ()
    (tmp_path / "classes.json").write_text('{"a": 1}')
    assert curves.read_classes(tmp_path) == ()
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    assert curves.read_classes(tmp_path) == ("cat", "dog")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_a_pipe_is_not_waited_for(tmp_path):
    for name in ("classes.json", "result.json"):
        os.mkfifo(tmp_path / name)
    with time_limit(5):
        assert curves.read_classes(tmp_path) == () and curves.metrics_file(tmp_path) is None


def test_the_last_point_of_a_curve_is_the_result_of_the_run():
    folders = [file.parent for file in DIGITS.rglob("result.json")]
    assert len(folders) > 30
    for folder in folders:
        evaluations = json.loads((folder / "result.json").read_text())["evaluations"]
        steps, values = curves.curve(curves.read_metrics(folder), "top1")
        assert (steps[-1], values[-1], len(steps)) == (evaluations[-1]["step"], evaluations[-1]["top1"], len(evaluations))


def test_every_row_of_a_frame_finds_its_folder(tmp_path):
    from ssl_bench.runs import collect

    found = curves.run_folders([DIGITS])
    assert sorted(found) == sorted(collect([DIGITS])["folder"])
    assert all((folder / "args.json").is_file() and str(folder).endswith(name) for name, folder in found.items())
    for folder in (tmp_path / "run" / "stage", tmp_path / ".hidden" / "run", tmp_path / "run"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "args.json").write_text("{}")
    assert [*curves.run_folders([tmp_path, tmp_path / "gone"]).values()] == [tmp_path / "run"]


def test_predictions_are_read_as_they_were_written(tmp_path):
    found = curves.read_predictions(save(tmp_path, [0, 2, 1], [0, 1, 1], [0.5, 0.25, 1.000001], logits=np.zeros(3)))
    assert found.target.tolist() == [0, 2, 1] and found.prediction.tolist() == [0, 1, 1]
    assert found.confidence.tolist() == [0.5, 0.25, 1.0]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (([0, 1], [0], [0.5, 0.5]), "of one length"),
        (([[0]], [[0]], [[0.5]]), "of one length"),
        (([], [], []), "of one length"),
        (([0, -1], [0, 0], [0.5, 0.5]), "whole numbers"),
        (([0], [0], [1.5]), "0..1"),
        (([0], [0], [np.nan]), "0..1"),
    ],
)
def test_predictions_of_another_form_are_refused_in_a_line(tmp_path, parts, says):
    with pytest.raises(ValueError, match=says) as error:
        curves.read_predictions(save(tmp_path, *parts))
    assert "predictions.npz" in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_none_are_refused_in_a_line(tmp_path):
    whole = (save(tmp_path, [0] * 99, [0] * 99, [0.5] * 99) / "predictions.npz").read_bytes()
    (tmp_path / "one").mkdir()
    for content in (b"", b"no archive", whole[: len(whole) // 2], whole[:30] + b"\0" * 200 + whole[230:]):
        (tmp_path / "one" / "predictions.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"predictions\.npz"):
            curves.read_predictions(tmp_path / "one")
    np.savez(tmp_path / "one" / "predictions.npz", target=np.array([None, "x"], dtype=object))
    with pytest.raises(ValueError, match="cannot be read"):  # would run code if it were unpickled
        curves.read_predictions(tmp_path / "one")


def test_confusion_and_accuracy_per_class_by_hand():
    found = predicted([0, 0, 0, 1, 1, 3], [0, 0, 1, 1, 0, 0], [0.9] * 6)
    matrix = curves.confusion(found, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    accuracy, images = curves.per_class(found, 4)
    np.testing.assert_array_equal(accuracy, [2 / 3, 0.5, np.nan, 0.0])
    assert images.tolist() == matrix.sum(axis=1).tolist()
    assert curves.confused(found, 9) == [(0, 1, 1), (1, 0, 1), (3, 0, 1)] and curves.confused(found, 2) == [(0, 1, 1), (1, 0, 1)]
    assert curves.confused(predicted([0, 1, 1], [0, 0, 0], [0.5] * 3), 9) == [(1, 0, 2)]
    assert curves.confused(predicted([0, 1], [0, 1], [0.5] * 2), 9) == []
    for count in (curves.confusion, curves.per_class):
        with pytest.raises(ValueError, match="class 3 .* of 3"):
            count(found, 3)


def test_a_confusion_matrix_of_a_hundred_thousand_classes_is_refused_with_its_size():
    found = predicted([0, 99_999], [0, 1], [0.5] * 2)
    with pytest.raises(ValueError, match="100,000 classes would take 74.5 GiB"):
        curves.confusion(found, 100_000)
    accuracy, images = curves.per_class(found, 100_000)
    assert (accuracy[0], accuracy[99_999]) == (1, 0) and images.sum() == 2


def test_accuracy_by_class_is_that_of_training():
    torch = pytest.importorskip("torch")
    from ssl_bench.metrics import class_counts, mean_class_accuracy

    random = np.random.default_rng(0)
    target, prediction = random.integers(0, 7, (2, 500))
    theirs = class_counts(torch.from_numpy(prediction), torch.from_numpy(target), 7)
    accuracy, images = curves.per_class(Predictions(target, prediction, np.ones(500)), 7)
    assert images.tolist() == theirs[1].tolist()
    assert np.nanmean(accuracy) == pytest.approx(mean_class_accuracy(theirs), abs=1e-12)


def test_reliability_and_ece_by_hand():
    found = predicted([0] * 5, [0, 0, 1, 1, 0], [0.7, 0.75, 0.75, 0.5, 0.25])  # 0.75 = 3/4 and 0.5 = 2/4 close their bins
    table = curves.reliability(found, bins=4)
    assert table.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert table.count.tolist() == [1, 1, 3, 0]
    np.testing.assert_allclose(table.confidence, [0.25, 0.5, 2.2 / 3, np.nan])
    np.testing.assert_allclose(table.accuracy, [1, 0, 2 / 3, np.nan])
    assert curves.ece(table) == pytest.approx(0.2 * 0.75 + 0.2 * 0.5 + 0.6 * (2.2 / 3 - 2 / 3))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_ece_is_that_of_a_loop_over_the_equation(images, bins):
    total = 0.0
    for m in range(bins):
        low, high = np.linspace(0, 1, bins + 1)[m : m + 2]
        members = [(c, right) for c, right in images if low < c <= high or m == 0 and c == 0]
        if members:
            gap = abs(sum(right for _, right in members) - sum(c for c, _ in members)) / len(members)
            total += len(members) / len(images) * gap
    found = predicted([0] * len(images), [1 - right for _, right in images], [c for c, _ in images])
    assert curves.ece(curves.reliability(found, bins)) == pytest.approx(total, abs=1e-9)
    assert curves.reliability(found, bins).count.sum() == len(images)


def test_what_is_always_right_and_sure_is_calibrated():
    assert curves.ece(curves.reliability(predicted([1, 2], [1, 2], [1.0, 1.0]))) == 0
    assert curves.ece(curves.reliability(predicted([1, 2], [0, 0], [1.0, 1.0]))) == 1
