"""Where else a run's numbers go, besides its metrics.jsonl: TensorBoard's event files, Weights & Biases.

A tracker has three members - name, log, close - and may fail in any way: the training goes on without it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

PACKAGES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases"}  # flag, package and extra have one name


class Tracker(Protocol):
    """name: its flag."""

    name: str

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers after `step` updates; names of evaluations begin with test/."""

    def close(self, summary: Mapping[str, float]) -> None:
        """The last call; summary: last_top1 and best_top1, percent, or nothing of a run that was stopped."""


def require(**wanted: bool) -> None:
    """ValueError, which names the extra, if a tracker is wanted (tensorboard=True) whose package is missing."""
    for name, asked in wanted.items():
        if asked and importlib.util.find_spec(name) is None:
            raise ValueError(f'--{name} needs {PACKAGES[name]}: pip install "ssl-bench[{name}]"')


def chosen(args: Any, folder: Path, start: int, method: str, identifier: str) -> list[Tracker]:
    """The trackers that the flags ask for, but for those that cannot be opened.

    args: the run's; folder: the run's; start: steps done before; identifier: the run's hash.
    """
    found = []
    if args.tensorboard:
        found.append(opened("tensorboard", lambda: TensorBoard(folder / "tensorboard", start)))
    if args.wandb:
        config = {"method": method, **dataclasses.asdict(args)}
        found.append(opened("wandb", lambda: WandB(folder, args.wandb_project, identifier, config)))
    return [tracker for tracker in found if tracker is not None]


def opened(name: str, make: Callable[[], Tracker]) -> Tracker | None:
    """What `make` returns; None, after a warning, if it fails (no key, no space, no network)."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - whatever a foreign library raises
        print(f"warning: {_gone(name, error)}", file=sys.stderr, flush=True)
        return None


def gone(tracker: Tracker, error: Exception) -> str:
    """One line on a tracker that failed."""
    return _gone(tracker.name, error)


def _gone(name: str, error: Exception) -> str:
    return f"{PACKAGES.get(name, name)} gets no more of this run: {' '.join(str(error).split())[:200] or type(error).__name__}; metrics.jsonl has all of it"


class TensorBoard:
    """Event files in `folder`; start: the step after which a continued run goes on, whose later events are dropped."""

    name = "tensorboard"

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer, self.step = SummaryWriter(str(folder), purge_step=start + 1), start

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.step = step
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self, summary: Mapping[str, float]) -> None:
        self.log(summary, self.step)
        self.writer.close()


class WandB:
    """A run of Weights & Biases, its files in `folder`; identifier: the same for a run that continues, which then goes on there.

    The name is the folder's last four parts.  WANDB_MODE=offline writes files only (`wandb sync` sends them).
    """

    name = "wandb"

    def __init__(self, folder: Path, project: str, identifier: str, config: Mapping[str, Any]) -> None:
        import wandb

        offline = os.environ.get("WANDB_MODE", "").lower() in ("offline", "dryrun")
        self.run = wandb.init(
            project=project, dir=str(folder.absolute()), name="/".join(folder.absolute().parts[-4:]), id=identifier, config=dict(config),
            resume=None if offline else "allow", settings=wandb.Settings(console="off"),
        )  # fmt: skip
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")  # its own counter only grows, and a continued run goes back to a checkpoint

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log({**values, "step": step})

    def close(self, summary: Mapping[str, float]) -> None:
        self.run.summary.update(dict(summary))
        self.run.finish(exit_code=0 if summary else 1)
