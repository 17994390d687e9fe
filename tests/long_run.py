"""Does a run that goes on for a million steps stay as it was?  Memory, time of a step, logs and checkpoints, over the suite's own loop.

    python tests/long_run.py [STEPS [EVERY]]     1,000,000 steps, an evaluation and a checkpoint every EVERY (1,000): about ten minutes

The trainer, the run folder, the evaluations and the checkpoints are real; the method is one operation on one weight, and the
training batches are a few that come again, so that a step costs what the loop costs.  `measure` takes any other method and
its own batches too: tests/test_long.py does so with those that keep a memory.  Exit code 1 if anything grew.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from ssl_bench import launch, trainer
from ssl_bench.feed import training_batches
from ssl_bench.method import Batch, Loop, Method

SAMPLES = 100
WARM_UP = 0.2  # of the steps: allocators, caches and the first evaluations
FLAGS = (
    "--image-size 8 --bottleneck-dim 0 --batch-size 2 --lr 0.01 --lr-scheduler cos --num-samples-per-class 1 --eval-batch-size 500 "
    "--device cpu --recipe none --scratch --no-channels-last"
).split()
MOST_FLOATS_BYTES = 1024  # of memory an evaluation may keep: a dict of six numbers
MOST_LINE_BYTES = 300  # of a line of metrics.jsonl or of the terminal, of this method


class Cheap(Method):
    """A linear classifier whose bias falls, whatever the images: one operation a step."""

    name = "cheap"
    labeled_views = ("test",)

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * self.args.image_size**2, self.task.num_classes))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(self.model.parameters(), lr=self.args.lr)]

    def train_step(self, batch: Batch, loop: Loop) -> dict[str, Tensor]:
        loss = self.model[1].bias.sum()
        loop.backward(loss, "loss")
        return {"loss": loss}


@dataclass(frozen=True)
class Sample:
    """Of one moment: steps done, seconds of CPU time since the process began, resident bytes, objects that the collector walks, and
    seconds of CPU time that the same small work took then: beside other processes all work takes longer."""

    step: int
    cpu_seconds: float
    resident: int
    objects: int
    yardstick: float


@dataclass(frozen=True)
class Measured:
    """samples: of even distances; steps, evaluations, seconds of the clock: of the run; log_bytes: of what it
    printed; bytes: of each of its files, by name."""

    samples: Sequence[Sample]
    steps: int
    evaluations: int
    seconds: float
    log_bytes: int
    bytes: dict[str, int]

    def late(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.step >= WARM_UP * self.steps]

    def growth(self, what: str) -> float:
        """By how much `what` would have grown over all steps, by the line through the samples after the warm-up."""
        late = self.late()
        return float(np.polyfit([s.step for s in late], [getattr(s, what) for s in late], 1)[0]) * self.steps

    def step_times(self) -> tuple[float, float]:
        """Microseconds of CPU time a step, evaluations included, in the first and in the last third after the warm-up: medians, each as
        if the machine had been as quiet as it was at its quietest."""
        late = self.late()
        quietest = min(sample.yardstick for sample in late)
        times = [
            (b.cpu_seconds - a.cpu_seconds) / (b.step - a.step) * 1e6 * 2 * quietest / (a.yardstick + b.yardstick)
            for a, b in itertools.pairwise(late)
        ]
        third = max(1, len(times) // 3)
        return float(np.median(times[:third])), float(np.median(times[-third:]))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def yardstick() -> float:
    """Seconds of CPU time for about 5 ms of work like a step's: many small operations."""
    began, x = time.process_time(), torch.zeros(16)
    for _ in range(2_000):
        x = (x + 1).clamp(max=3)
    return time.process_time() - began


def few_batches(*arguments: Any) -> Iterator[Batch]:
    """16 real batches, again and again."""
    yield from itertools.cycle([*itertools.islice(training_batches(*arguments), 16)])


def measure(method: type[Method], argv: Sequence[str], steps: int, every: int, log: Path, *, own_batches: bool = True) -> Measured:
    """Train `method` for `steps`, with an evaluation and a checkpoint every `every`; what it prints goes to a file of `log`."""
    samples: list[Sample] = []
    looked: list[float] = []
    update, apart = trainer.Trainer.update, max(1, steps // SAMPLES)

    def sampled(self: trainer.Trainer, batch: Batch) -> None:
        update(self, batch)
        if self.step % apart == 0:
            gc.collect()
            if not samples:
                gc.freeze()  # what is there by now is not counted, nor walked again
            looked.append(yardstick())
            samples.append(Sample(self.step, time.process_time() - sum(looked), resident_bytes(), len(gc.get_objects()), looked[-1]))
            if len(samples) % 10 == 0:
                print(samples[-1], file=sys.stderr, flush=True)

    flags = [*argv, "--epochs", str(steps // every), "--iters-per-epoch", str(every), "--log", str(log / "runs")]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(trainer.Trainer, "update", sampled))
        if not own_batches:
            stack.enter_context(mock.patch.object(trainer, "training_batches", few_batches))
        printed = stack.enter_context(open(log / "printed.txt", "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.callback(gc.unfreeze)
        began = time.perf_counter()
        code = launch.run_command(method, flags)
        seconds = time.perf_counter() - began
    if code:
        raise SystemExit(f"the run ended with exit code {code}")
    (result,) = (log / "runs").rglob("result.json")
    files = {str(path.relative_to(result.parent)): path.stat().st_size for path in result.parent.rglob("*") if path.is_file()}
    return Measured(samples, steps, steps // every, seconds, (log / "printed.txt").stat().st_size, files)


def grown(measured: Measured, *, most_rows: int, most_mib: float = 2.0, most_slower: float = 1.25) -> list[str]:
    """What a long run must not do and this one did, a line each.

    most_rows: lines of training figures it may write; most_mib: MiB it may grow by over all steps, above what its evaluations
    take; most_slower: time of a step at the end over that at the beginning.
    """
    lines = []
    resident = measured.growth("resident") - MOST_FLOATS_BYTES * measured.evaluations
    if resident > most_mib * 2**20:
        lines.append(f"the process grew by {resident / 2**20:.1f} MiB")
    objects = measured.growth("objects") - 3 * measured.evaluations
    if objects > 500:
        lines.append(f"the collector holds {objects:.0f} objects more")
    first, last = measured.step_times()
    if last > most_slower * first:
        lines.append(f"a step took {first:.0f} us and then {last:.0f} us")
    states = [name for name in measured.bytes if "state-" in name]
    others = [name for name in measured.bytes if name.startswith("checkpoints") and name not in states]
    if len(states) > 2 or len(others) > 2 or any(".tmp" in name for name in measured.bytes):
        lines.append(f"checkpoints pile up: {', '.join(sorted(states + others))}")
    rows = most_rows + 3 * measured.evaluations
    for name, size in (("metrics.jsonl", measured.bytes["metrics.jsonl"]), ("what is printed", measured.log_bytes)):
        if size > MOST_LINE_BYTES * rows:
            lines.append(f"{name} has {size:,} bytes, for {rows:,} lines")
    return lines


def described(measured: Measured) -> str:
    """The figures, a line each."""
    late, (first, last) = measured.late(), measured.step_times()
    return "\n".join((
        f"steps {measured.steps:,}, evaluations and checkpoints {measured.evaluations:,}: {measured.seconds:.0f} s",
        f"resident {late[0].resident / 2**20:.1f} -> {late[-1].resident / 2**20:.1f} MiB, by the line {measured.growth('resident') / 2**20:+.2f} MiB over all",
        f"objects {late[0].objects:,} -> {late[-1].objects:,}, by the line {measured.growth('objects'):+.0f}",
        f"CPU time a step {first:.0f} -> {last:.0f} us (x {last / first:.2f}), evaluations included",
        f"printed {measured.log_bytes:,} bytes; " + ", ".join(f"{name} {size:,}" for name, size in sorted(measured.bytes.items())),
    ))  # fmt: skip


def main(argv: Sequence[str]) -> int:
    steps, every = (int(argv[0]) if argv else 1_000_000), (int(argv[1]) if len(argv) > 1 else 1_000)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Cheap, FLAGS, steps, every, Path(folder), own_batches=False)
    print(described(measured))
    wrong = grown(measured, most_rows=steps // 100)
    print("\n".join(wrong) or "nothing grew")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
