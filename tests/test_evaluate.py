"""One accuracy, however it is computed: alone or in a batch, by one process or four, in the run or from its checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
import ranks
import torch
from conftest import LIVE, TINY, only_run
from test_contract import slow_but_for

from ssl_bench import catalog, distributed, feed, launch
from ssl_bench.evaluate import Answers, evaluate, evaluation_stream

SIZES = ((500, 256), (37, 8), (13, 13), (5, 2), (4, 256))  # images, --eval-batch-size


def check_by_hand(figures: dict, n: int) -> None:
    """Against every image's own logits, in NumPy."""
    y, target = ranks.logits_of(ranks.some_images(n).pixels), ranks.some_images(n).targets
    order = np.argsort(-y, axis=1)
    right = order[:, 0] == target
    assert figures["top1"] == 100 * right.sum() / n and figures["top5"] == 100 * (order[:, :5] == target[:, None]).any(axis=1).sum() / n
    assert figures["mean_class"] == pytest.approx(100 * np.mean([right[target == c].mean() for c in np.unique(target)]), rel=1e-12)
    losses = np.log(np.exp(y).sum(axis=1)) - y[np.arange(n), target]
    assert figures["loss"] == pytest.approx(losses.mean(), rel=1e-6)


def test_figures_are_those_of_each_image_alone():
    for n, batch_size in SIZES:
        check_by_hand(ranks.figures(n, batch_size), n)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_count_the_same_images_right(tmp_path, world):
    """Also where the last batch is uneven, and where a process has one image."""
    outputs = [json.loads(text) for text in ranks.run(world, [["evaluation", [SIZES]]], tmp_path)]
    assert all(output == outputs[0] for output in outputs)
    for (n, batch_size), theirs in zip(SIZES, outputs[0], strict=True):
        alone = ranks.figures(n, batch_size)
        for key in ("top1", "top5", "mean_class", "labels"):
            assert theirs[key] == alone[key], (n, key)
        assert theirs["loss"] == pytest.approx(alone["loss"], rel=1e-6)


def test_more_processes_than_images_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    with pytest.raises(ValueError, match="3 images to evaluate are fewer than the 4 processes: start fewer"):
        evaluation_stream(ranks.some_images(3), None, torch.device("cpu"))


@pytest.mark.parametrize("name", slow_but_for("mean_teacher", "semiformer"))
@torch.no_grad()
def test_an_image_alone_gets_the_logits_it_gets_in_a_batch(tiny, name):
    run = tiny(name)
    with torch.enable_grad():
        run.steps(1)
    run.method.eval()
    view = feed.test_view(run.args)
    images = run.pools.test.take(np.arange(24))
    seen: list[dict] = []

    def logits(x):
        y = run.method.predict(x)
        seen.append(y if isinstance(y, dict) else {"": y})
        return y

    for batch_size in (24, 7, 1):
        evaluate(logits, evaluation_stream(images, view, torch.device("cpu"), batch_size=batch_size), 10)
    whole = seen.pop(0)
    for size in (4, 24):  # batches of 6, then of 1
        parts, seen = seen[:size], seen[size:]
        for key, value in whole.items():
            torch.testing.assert_close(torch.cat([part[key] for part in parts]), value, rtol=1e-5, atol=1e-5)
    assert not seen


@pytest.mark.parametrize("name", slow_but_for("mean_teacher", "semiformer"))
def test_figures_of_the_record_are_those_of_the_reloaded_checkpoint(name, tmp_path, capsys):
    argv = [*TINY, *LIVE[name], "--iters-per-epoch", "2", "--log", str(tmp_path)]
    assert launch.run_command(catalog.load_method(name), argv) == 0
    evaluations = json.loads((only_run(tmp_path) / "result.json").read_text())["evaluations"]
    best = next(row for row in evaluations if row["top1"] == max(row["top1"] for row in evaluations))
    for which, recorded in (("latest", evaluations[-1]), ("best", best)):
        capsys.readouterr()
        assert launch.run_command(catalog.load_method(name), [*argv, "--phase", "test", "--resume", which]) == 0
        reloaded = json.loads(capsys.readouterr().out.splitlines()[-1])
        beside = {} if which == "latest" else {key for key in recorded if key.startswith("teacher_")}  # only the last one's are kept
        assert {key: recorded[key] for key in reloaded} == reloaded
        assert set(recorded) - {"epoch", "step"} - set(beside) == set(reloaded)


def test_answers_are_noted_where_the_images_stand():
    images, answers = ranks.some_images(37), Answers(37, torch.device("cpu"))
    evaluate(ranks.network(), ranks.stream(images, 8), 10, answers)
    arrays, y = answers.arrays(), ranks.logits_of(images.pixels)
    assert (arrays["target"] == images.targets).all() and (arrays["prediction"] == y.argmax(axis=1)).all()
    p = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(arrays["confidence"], p.max(axis=1), rtol=1e-5)
