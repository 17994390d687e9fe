"""Where a step of the suite spends its time: data and augmentation, forward and backward, optimizer, moving average."""

from __future__ import annotations

import time
from collections import defaultdict

import torch
from benchmarks.loops import Setup

from ssl_bench.feed import training_batches
from ssl_bench.method import Loop
from ssl_bench.placement import compile_networks
from ssl_bench.trainer import Trainer

PARTS = ("data and augmentation", "forward and backward", "optimizer", "after the step (EMA)")


class Clock:
    """Seconds by part; waits for a CUDA device at every edge, so that work counts where it was asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.begun = device, 0.0
        self.spent: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def shares_of_a_step(s: Setup, steps: int, warm_up: int = 2) -> list[dict[str, float]]:
    """Percent of each of PARTS, one dict a step."""
    method, clock = s.build(), Clock(s.device)
    trainer = Trainer(method, s.args, s.device)
    compile_networks(method, s.args)
    begun: dict[str, float] = {}
    for optimizer in trainer.optimizers:
        optimizer.register_step_pre_hook(lambda *_: begun.update(optimizer=clock.now()))
        optimizer.register_step_post_hook(lambda *_: _add(clock, "optimizer", begun["optimizer"]))
    after_step = method.after_step

    def timed_after_step(loop: Loop) -> None:
        start = clock.now()
        after_step(loop)
        _add(clock, PARTS[3], start)

    method.after_step = timed_after_step  # type: ignore[method-assign]  # to time it
    batches = training_batches(method, s.pools, s.args, s.device, 0)
    found = []
    for step in range(-warm_up, steps):
        clock.spent.clear()
        start = clock.now()
        batch = next(batches)
        middle = clock.now()
        trainer.update(batch)
        end = clock.now()
        rest = end - middle - clock.spent["optimizer"] - clock.spent[PARTS[3]]
        clock.spent |= {PARTS[0]: middle - start, PARTS[1]: rest}
        if step >= 0:
            found.append({part: 100 * clock.spent[part] / (end - start) for part in PARTS})
    return found


def _add(clock: Clock, part: str, start: float) -> None:
    clock.spent[part] += clock.now() - start
