"""What tells that self-training dies: how many pseudo-labels pass, how right they are, how they spread, who falls behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssl_bench import distributed

FEWEST_KEPT = 0.01  # of the pseudo-labels: below it next to nothing is learned from them
LEAST_ENTROPY = 0.5  # of the pseudo-labels' histogram, of 1: e^(0.5 log C) = sqrt(C) classes in use
FALL = 10.0  # points of the teacher below its best
GAP = 25.0  # points between teacher and student
TWO = {"student_top1", "teacher_top1"}


@torch.no_grad()
def pseudo_label_health(
    confident: Tensor, mask: Tensor, pseudo: Tensor, y_u_hidden: Tensor, num_classes: int
) -> dict[str, Tensor]:  # fmt: skip
    """For display only, of the batch of all processes; all (n,) on each process, and each figure in [0, 1].

    kept: share that is `confident`; kept_pairs: share in `mask`, after mixing; pseudo_acc: how often the confident ones are right
    (nan without any, or without labels, y_u_hidden = -1); label_entropy: entropy of the histogram of `pseudo`, 1 where all classes
    (or as many as there are images) are predicted alike, 0 where it is always one.  Collective.
    """
    rows = torch.stack([confident.long(), mask.long(), pseudo, y_u_hidden], dim=1)
    confident, mask, pseudo, hidden = distributed.gather_rows(rows).unbind(dim=1)
    known = confident * (hidden >= 0)
    counts = torch.zeros(num_classes, device=pseudo.device).scatter_add_(0, pseudo, torch.ones_like(pseudo, dtype=torch.float32))
    entropy = torch.special.entr(counts / len(pseudo)).sum() / math.log(max(2, min(num_classes, len(pseudo))))
    return {
        "kept": confident.float().mean(), "kept_pairs": mask.float().mean(),
        "pseudo_acc": (known * (pseudo == hidden)).sum() / known.sum(), "label_entropy": entropy,
    }  # fmt: skip


def collapse_warnings(means: dict[str, float], evaluations: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each sign that self-training has died or is about to.

    means: of `pseudo_label_health` and whatever else; evaluations: rows with top1 (the headline) and teacher_top1 or student_top1
    (the other network), percent, the newest last.  What is not there is not looked at.
    """
    lines = []
    kept, entropy = means.get("kept_pairs", 1.0), means.get("label_entropy", 1.0)
    if kept < FEWEST_KEPT:
        lines.append(f"the pseudo-labels are hardly used, {100 * kept:.2g} % of them: lower --threshold, or train the stage before for longer")
    elif entropy < LEAST_ENTROPY:  # of labels that are used
        lines.append(f"the pseudo-labels fall on few classes (entropy {entropy:.2f} of 1): raise --threshold, or lower --lr")
    pairs = [(row.get("student_top1", row["top1"]), row.get("teacher_top1", row["top1"])) for row in evaluations if TWO & row.keys()]
    teachers = [teacher for _, teacher in pairs]
    if teachers and max(teachers) - teachers[-1] > FALL:
        lines.append(f"the teacher fell from {max(teachers):.1f} to {teachers[-1]:.1f}: it learns from its own errors; lower --lr, "
                     "raise --threshold or --ema-decay")  # fmt: skip
    student, teacher = pairs[-1] if pairs else (0.0, 0.0)
    gap = student - teacher
    if abs(gap) > GAP:
        who = ("student is above its teacher, which follows too slowly", "--ema-decay auto") if gap > 0 else (
            "student is below its teacher, which it cannot follow", "a lower --lr")  # fmt: skip
        lines.append(f"the {who[0]} ({student:.1f} and {teacher:.1f}): try {who[1]}")
    return lines
