"""From Python, in a script or a notebook: ``from ssl_bench import run, table``.  `run` trains; `table` is `summary.table`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_bench.method import Method


@dataclass(frozen=True)
class RunResult:
    """A finished run.  folder: where it lies, and what `ssl-bench predict` and the others take; result: its result.json."""

    folder: Path
    result: dict[str, Any] = field(repr=False)

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """One an epoch: epoch, step, top1, top5, mean_class (percent), loss (nats) ..."""
        return self.result["evaluations"]

    @property
    def top1(self) -> float:
        """Percent, at the last evaluation: the headline."""
        return self.evaluations[-1]["top1"]

    @property
    def best_top1(self) -> float:
        """Percent, the best evaluation: chosen on the test set."""
        return max(row["top1"] for row in self.evaluations)


def run(method: str | type[Method], flags: Mapping[str, Any] | None = None) -> RunResult:
    """Train, in this process, what ``ssl-bench METHOD --flags`` would, or find it done; it prints the same lines.

    method: a name, or a Method class of one's own; flags: by name with underscores, as in {"num_samples_per_class": 4, "data":
    "CIFAR10", "root": "data/cifar10"}; the recipe goes over the defaults, these over both.  The folder, and so whether the run is
    done, is the command's.  May run in any thread; Ctrl-C saves the state in the first only.

    Raises ValueError (an unknown name, with the nearest; a value out of range; what the command would report), OSError,
    `finite.NonFiniteLoss`, `placement.OutOfMemory`, `interrupt.Interrupted` (the state is saved: the same call continues).
    """
    from ssl_bench import catalog, distributed, launch, record
    from ssl_bench.devices import pick_device
    from ssl_bench.flags import FlagError, check_keys, nearest
    from ssl_bench.shares import check_shares

    if isinstance(method, str):
        if method not in catalog.method_names():
            raise FlagError(nearest(method, catalog.method_names(), "method"))
        method = catalog.load_method(method)
    given = check_keys(method.Args, flags or {}, method.name)
    if given.get("phase", "train") != "train" or given.get("dry_run"):
        raise FlagError("run() trains: leave phase and dry_run to the command")
    args, recipe = launch.resolve_values(method, given)
    check_shares(args, distributed.announced_size())
    device = pick_device(args.device)
    with distributed.process_group(device):
        launch.train(method, args, recipe, device)
    folder = record.run_path(method.name, args)
    return RunResult(folder, json.loads((folder / "result.json").read_text(encoding="utf-8")))
