"""ssl-bench show views: what is shown is what training is fed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import LIVE, TINY
from PIL import Image

from ssl_bench import catalog, contact_sheet, launch, show
from ssl_bench.feed import training_batches
from ssl_bench.trainer import Trainer

CPU = torch.device("cpu")


def fed_of(name: str, *argv: str, step: int = 0, stage: str | None = None):
    method = catalog.load_method(name)
    args, _ = launch.resolve(method, [*TINY, *LIVE[name], *argv])
    return show.feed_of(show._stage(method, args, stage), method, args, step)


SHEETS = "fixmatch semi_vit mae"  # weak and strong; mixed; without labels


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in SHEETS.split())) for name in catalog.method_names()])
def test_every_method_has_a_sheet(name, tmp_path, capsys):
    assert show.main(["views", "--method", name, *TINY, *LIVE[name], "--images", "2", "--out", "new/views.png"]) == 0
    assert capsys.readouterr().out.strip() == "new/views.png"
    assert Image.open("new/views.png").width > 2 * contact_sheet.SIDE
    assert [file.name for file in tmp_path.iterdir()] == ["new"]  # no run folder


@pytest.mark.parametrize("step", [0, 3])
def test_the_pixels_are_those_of_the_batch_that_training_gets(tiny, step):
    run = tiny("fixmatch")
    batches = training_batches(run.method, run.pools, run.args, CPU, 0)
    batch = [next(batches) for _ in range(step + 1)][-1]
    labeled, unlabeled = show.sections(fed_of("fixmatch", step=step), 4)
    mean, std = (np.array(part).reshape(3, 1, 1) for part in (run.args.norm_mean, run.args.norm_std))
    for section, views, truth in ((labeled, batch.x_l, batch.y_l), (unlabeled, batch.x_u, batch.y_u_hidden)):
        assert section.heads == ("as it is", "weak", "strong") and len(section.rows) == 4
        for i, (first, *cells) in enumerate(section.rows):
            assert first.lines[0].strip("()") == run.pools.classes[truth[i]]
            for cell, view in zip(cells, views, strict=True):
                again = (cell.pixels.transpose(2, 0, 1) / 255 - mean) / std  # from what is shown back to what is fed
                np.testing.assert_allclose(again, view[i].numpy(), atol=1e-5)
    for i, row in enumerate(unlabeled.rows):
        np.testing.assert_array_equal(row[0].pixels, show.original(run.pools.unlabeled, int(batch.idx_u[i])))
    label = np.asarray(run.pools.labeled.targets)[fed_of("fixmatch", step=step).labeled]
    assert label.tolist() == batch.y_l.tolist()


@pytest.mark.parametrize("name", ["semi_vit", "positional_label"])
def test_what_is_mixed_is_what_the_step_trains_on(name, monkeypatch):
    fed = fed_of(name)
    method = catalog.load_method(name)
    args, _ = launch.resolve(method, [*TINY, *LIVE[name]])
    (*_, stage) = method.stages(args)
    fresh = show.feed_of(stage, method, args, 0)  # what the real trainer then hands to train_step
    seen = []
    monkeypatch.setattr(method, "train_step", lambda self, batch, loop: seen.append(batch) or {})
    monkeypatch.setattr(method, "position_step", lambda self, loop: {})
    trainer = Trainer(fresh.method, stage.args, CPU)
    monkeypatch.setattr(trainer.gradient_mean, "finish", lambda: None)
    trainer.update(next(training_batches(fresh.method, fresh.pools, stage.args, CPU, 0)))
    (mine,) = seen
    for x, y in zip((*mine.x_l, *mine.x_u, mine.q_l), (*fed.mixed.x_l, *fed.mixed.x_u, fed.mixed.q_l), strict=True):
        assert torch.equal(x, y)
    labeled, *rest = show.sections(fed, 3)
    assert labeled.heads == ("as it is", "strong", "mixed")
    for i, row in enumerate(labeled.rows):
        assert not np.array_equal(row[1].pixels, row[2].pixels)
        np.testing.assert_array_equal(row[2].pixels, show.pixels(mine.x_l[0][i], args))
        assert row[2].lines == show.soft_label(mine.q_l[i], fed.pools.classes)
    if name == "semi_vit":
        assert torch.equal(mine.q_u, fed.mixed.q_u) and rest[0].heads == ("as it is", "weak", "strong", "mixed")


def test_a_stage_by_name_and_one_that_is_not_there(capsys):
    fed = fed_of("semi_vit", stage="finetune")
    assert not fed.batch.x_u and len(show.sections(fed, 1)) == 1
    flags = [*TINY, *LIVE["semi_vit"]]
    assert show.main(["views", "--method", "semi_vit", *flags, "--stage", "pretrain"]) == 2
    assert "no stage 'pretrain' with these flags; it has: finetune, semi" in capsys.readouterr().err


def test_the_oracle_is_shown_all_images():
    assert len(fed_of("erm", "--oracle").pools.labeled) == 1297


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["view"], 2, "views"),
        (["views", "--method", "fixmatchh"], 2, "fixmatch"),
        (["views", "--thresholdd", "1"], 2, "threshold"),
        (["views", "--out", "a.gif"], 2, "a sheet ends in .png"),
        (["views", "--images", "0"], 2, "--images must be >= 1"),
        (["views", "--step", "-1"], 2, "--step must be >= 0"),
        (["views", "-d", "CIFAR100"], 1, ""),
        (["views", "--num-samples-per-class", "5000"], 1, "lower --num-samples-per-class"),
    ],
)
def test_what_cannot_be_shown_is_one_line(argv, code, says, capsys, tmp_path):
    assert show.main(argv) == code
    out, err = capsys.readouterr()
    assert err.startswith("ssl-bench show: error: ") and err.count("\n") == 1 and says in err and not out
    assert not [*tmp_path.iterdir()]


def test_soft_labels_are_named_by_size():
    classes = ("cat", "dog", "cow", "hen")
    assert show.soft_label(torch.tensor([0.33, 0.62, 0.025, 0.025]), classes) == ("dog 0.62", "cat 0.33")
    assert show.soft_label(torch.zeros(4), classes) == ("not used",)
    assert show.soft_label(torch.full((4,), 0.25), classes) == ("all classes alike",)


def test_help_is_that_of_the_sheet(capsys):
    assert show.main(["--help"]) == 0 and "--method NAME" in capsys.readouterr().out
