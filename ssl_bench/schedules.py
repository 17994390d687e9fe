"""Schedules as functions of the step or epoch, so there is nothing to checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence


def learning_rate(
    step: int, *, scheduler: str, total_steps: int, gamma: float = 0.0, decay: float = 0.0, warmup_steps: float = 0.0,
    milestones: Sequence[int] = (), floor: float = 0.0,
) -> float:  # fmt: skip
    """Multiplier of the base learning rate at `step` (from 0).

    ``exp``: (1 + gamma k)^-decay; ``cos``: max(0, cos(7 pi k / (16 K))); ``constant``: 1;
    ``step``: gamma^n after n of the `milestones`, in steps (the first two and the last: TLlib's).
    Before `warmup_steps` w the multiplier is also ramped linearly: (k + 1) / (w + 1).
    ``half_cos``: k / w before the end of the warm-up, then from 1 down to `floor` along half a cosine over the K - w steps left
    (MAE, arXiv:2111.06377, and Semi-ViT, arXiv:2208.05688: the first step is at 0).
    """
    if scheduler == "half_cos":
        if step < warmup_steps:
            return step / warmup_steps
        return floor + (1 - floor) * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2
    if scheduler == "exp":
        factor = (1 + gamma * step) ** -decay
    elif scheduler == "cos":
        factor = max(0.0, math.cos(7 * math.pi / 16 * step / total_steps))
    elif scheduler == "constant":
        factor = 1.0
    elif scheduler == "step":
        factor = gamma ** sum(step >= milestone for milestone in milestones)
    else:
        raise ValueError(f"unknown scheduler {scheduler!r}: exp, cos, step, constant or half_cos")
    return factor * min(1.0, (step + 1) / (warmup_steps + 1))


def sigmoid_ramp(epoch: float, length: float) -> float:
    """exp(-5 (1 - clip(epoch / length, 0, 1))^2), 1 when length is 0: from 0.0067 up to 1.

    Source: Temporal Ensembling (arXiv:1610.02242) section 2.2; Mean Teacher (arXiv:1703.01780) section 3.
    """
    if length == 0:
        return 1.0
    progress = min(max(epoch / length, 0.0), 1.0)
    return math.exp(-5 * (1 - progress) ** 2)
