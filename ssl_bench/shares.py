"""How a batch is shared by processes and micro-batches."""

from __future__ import annotations

import dataclasses

from ssl_bench.args import Args
from ssl_bench.flags import FlagError


def check_shares(args: Args, processes: int) -> None:
    """FlagError unless every process gets the same number of labelled images in every micro-batch, and enough for BatchNorm."""
    parts = processes * args.accumulate
    split = f"--accumulate {args.accumulate}" if processes == 1 else f"{processes} processes with --accumulate {args.accumulate}"
    if args.batch_size % parts:
        below, above = args.batch_size // parts * parts, -(-args.batch_size // parts) * parts
        near = f"{below} or {above}" if below else f"{above}"
        raise FlagError(f"{split} must divide --batch-size {args.batch_size}: use {near}")
    if args.bottleneck_dim and args.batch_size == parts:
        raise FlagError(
            f"BatchNorm in the bottleneck needs 2 images or more at a time, {split} gives it 1: raise --batch-size, or use --bottleneck-dim 0"
        )


def accumulated(args: Args, processes: int) -> Args:
    """With --batch-per-device, the least --accumulate that keeps to it and divides the batch; else `args` as they are."""
    own = args.batch_size // processes
    if not args.batch_per_device or args.batch_size % processes:
        return args
    parts = range(args.accumulate, own + 1)
    return dataclasses.replace(args, accumulate=next((n for n in parts if own % n == 0 and own // n <= args.batch_per_device), own))


def described(args: Args, processes: int) -> str:
    """A line for people, where a batch is in parts at all."""
    if processes == 1 and args.accumulate == 1:
        return ""
    share = args.batch_size // processes
    line = f"{share} labelled and {share * args.mu} unlabelled images each, {args.batch_size} and {args.batch_size * args.mu} in all"
    parts = f"; {args.accumulate} parts a step, of {share // args.accumulate} and {share // args.accumulate * args.mu}"
    return f"{processes} process{'es' * (processes > 1)}: {line}{parts if args.accumulate > 1 else ''}\n"
