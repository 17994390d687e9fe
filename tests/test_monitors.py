"""What warns of self-training that dies."""

from __future__ import annotations

import math

import pytest
import torch

from ssl_bench.monitors import collapse_warnings, pseudo_label_health


def health(confident, pseudo, hidden, classes=4):
    confident, pseudo, hidden = (torch.tensor(part) for part in (confident, pseudo, hidden))
    return {name: value.item() for name, value in pseudo_label_health(confident, confident, pseudo, hidden, classes).items()}


def test_precision_is_of_the_confident_ones_with_a_label():
    got = health([1, 1, 1, 0], [0, 1, 2, 3], [0, 2, -1, 3])
    assert got["kept"] == 0.75 and got["pseudo_acc"] == 0.5
    assert math.isnan(health([0, 0], [0, 1], [0, 1])["pseudo_acc"])


def test_entropy_is_one_for_all_classes_and_zero_for_one():
    assert health([1] * 4, [0, 1, 2, 3], [0] * 4)["label_entropy"] == pytest.approx(1)
    assert health([1] * 4, [2] * 4, [0] * 4)["label_entropy"] == 0
    assert health([1] * 4, [0, 0, 1, 1], [0] * 4)["label_entropy"] == pytest.approx(0.5)
    assert health([1] * 2, [5, 700], [0] * 2, classes=1000)["label_entropy"] == pytest.approx(1)  # two images have two classes at most


def row(student: float, teacher: float) -> dict[str, float]:
    return {"top1": student, "teacher_top1": teacher}


FINE = {"kept_pairs": 0.8, "label_entropy": 0.95}


def test_a_healthy_run_is_silent_and_so_is_a_method_without_monitors():
    assert collapse_warnings(FINE, [row(50, 52), row(60, 61)]) == []
    assert collapse_warnings({"cls_loss": 1.0, "kept": 0.0}, [{"top1": 10.0}]) == []


@pytest.mark.parametrize(
    "means,evaluations,said",
    [
        (FINE | {"kept_pairs": 0.002}, [row(50, 50)], "hardly used, 0.2 % of them: lower --threshold"),
        (FINE | {"label_entropy": 0.2}, [row(50, 50)], "few classes .entropy 0.20 of 1."),
        (FINE, [row(50, 62.5), row(48, 41)], "teacher fell from 62.5 to 41.0.*--lr"),
        (FINE, [row(70, 30)], "student is above its teacher.*70.0 and 30.0.*--ema-decay auto"),
        (FINE, [row(30, 70)], "student is below its teacher.*30.0 and 70.0"),
        (FINE, [{"top1": 70, "student_top1": 30}], "student is below its teacher.*30.0 and 70.0"),
    ],
)
def test_each_way_to_die_has_its_line(means, evaluations, said):
    lines = collapse_warnings(means, evaluations)
    assert len(lines) == 1
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(lines[0])
