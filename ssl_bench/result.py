"""What result.json says of a run besides its evaluations, and the lines that end it."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

from ssl_bench import distributed
from ssl_bench.args import Args
from ssl_bench.devices import describe_device
from ssl_bench.method import Method
from ssl_bench.pools import Pools, labels_per_class
from ssl_bench.recipe import Recipe


def describe(
    method: type[Method], args: Args, recipe: Recipe, pools: Pools, device: torch.device, broken: int, begun: dict[str, Any]
) -> dict[str, Any]:
    """What result.json says besides the evaluations: everything a table or a sceptic asks for.

    begun: `RunFolder.begun`, since the lists the arguments name may have gone by now.
    """
    return dict(
        schema=1, method=method.name, data=args.data, num_classes=len(pools.classes),
        labels_per_class=labels_per_class(args, pools),
        num_labeled=len(pools.labeled), num_unlabeled=len(pools.unlabeled), num_test=len(pools.test), num_val=len(pools.val_ids),
        num_broken=broken,
        seed=args.seed, arch=args.arch, pretrained=args.initial_weights, recipe=recipe.name, recipe_hash=recipe.hash,
        args=dataclasses.asdict(args), args_hash=begun["args_hash"], identity=begun["identity"], lists=begun.get("lists", {}),
        split_hash=pools.split_hash, commit=begun["commit"], packages=begun["packages"],
        cached=pools.labeled.cached is not None, device=describe_device(device), processes=distributed.world_size(), finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )  # fmt: skip


def headline(result: dict[str, Any]) -> str:
    """Three lines: the accuracy at the end, the best, and the best mean of classes."""
    tops = [row["top1"] for row in result["evaluations"]]
    means = [row["mean_class"] for row in result["evaluations"]]
    return (
        f"last_acc1 = {tops[-1]:.1f} (top-1 at the last evaluation, the headline)\n"
        f"best_acc1 = {max(tops):.1f} (chosen on the test set)\nbest_avg = {max(means):.1f} (mean per class, likewise)"
    )
