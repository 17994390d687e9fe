"""An exponential moving average of a network, updated in one fused call."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ssl_bench.parallel import local


class EMATeacher(nn.Module):
    """A gradient-free copy of `student` that follows it: theta' <- decay theta' + (1 - decay) theta, buffers included.

    mode: ``train`` (batch statistics and dropout in its forward, as Mean Teacher's paper) or ``eval``.  The mode is fixed
    while training: ``method.train()`` does not change it, ``method.eval()`` always means eval.
    Source: Mean Teacher (arXiv:1703.01780) eq. 1; buffers (BatchNorm statistics) are averaged too, so that the teacher
    can be evaluated.
    """

    def __init__(self, student: nn.Module, mode: str) -> None:
        super().__init__()
        if mode not in ("train", "eval"):
            raise ValueError(f"mode must be train or eval, got {mode!r}")
        self.mode = mode
        self.model = copy.deepcopy(student).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> EMATeacher:
        return super().train(mode and self.mode == "train")

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            y = self.model(x)
        return y.clone()  # outside of inference mode: an ordinary tensor, which a loss may keep for its backward

    @torch.no_grad()
    def update(self, student: nn.Module, decay: float) -> None:
        """One step towards `student`; decay in [0, 1]: 0 copies it.  Integer buffers are copied."""
        theirs, ours = ([local(value) for value in (*net.parameters(), *net.buffers())] for net in (self.model, student))
        averaged = [pair for pair in zip(theirs, ours, strict=True) if pair[0].is_floating_point()]
        copied = [pair for pair in zip(theirs, ours, strict=True) if not pair[0].is_floating_point()]
        torch._foreach_lerp_([pair[0] for pair in averaged], [pair[1] for pair in averaged], 1 - decay)
        if copied:
            torch._foreach_copy_([pair[0] for pair in copied], [pair[1] for pair in copied])


def constant_decay(decay: float | None, steps: int) -> float:
    """`decay`, or without one that of which (1 - decay) steps = 20, and at least 0: the initial teacher then weighs e^-20 at the end.

    steps: of the whole run.  Source: Semi-ViT's published runs have 18 to 20.
    """
    return max(0.0, 1 - 20 / steps) if decay is None else decay


def capped_decay(updates: int, decay: float) -> float:
    """min(decay, 1 - 1/t) for the t-th update, t >= 1: the first update copies the student, then a true mean until the cap.

    Source: Mean Teacher's code and TLlib: reaches 0.999 at t = 1000.
    """
    return min(decay, 1 - 1 / updates)
