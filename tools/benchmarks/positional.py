"""Relative labels of positions: the head that puts no pairs together against one that does; and what --positional costs a step.

On a CPU each figure of memory is of a process of its own:
`python -m benchmarks.positional KIND DEVICE PRECISION SIDE DIM BATCH THREADS` prints the MiB of one forward and backward above what was there before.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks import harness
from benchmarks.harness import Options, Row, seconds
from benchmarks.loops import setup, suite_loop
from torch import Tensor

from ssl_bench.devices import pick_device
from ssl_bench.nets.positional import PositionHead, draw_pairs
from ssl_bench.placement import DTYPES, forget_peak_memory, peak_memory

PAIRS = 2401  # as many as 7 x 7 tokens have, of the 38,416 of 14 x 14
KINDS = ("fast", "naive", "sampled")
VIT_S = "--arch vit_small_patch16_224 --image-size 224 --bottleneck-dim 0 --trade-off-cls-strong 0".split()
TINY = (
    "--arch test_vit --model-kwargs patch_size=2 --image-size 8 --train-resizing cifar --bottleneck-dim 0 "
    "--trade-off-cls-strong 0 --batch-size 2"
).split()


def run(options: Options) -> dict[str, Any]:
    """2 threads, or --threads.  The goals are the issue's: a tenth of the memory at 196 tokens, and the same loss."""
    device = pick_device(options.device)
    gpu, rows = device.type == "cuda", []
    precisions = ("fp32", "bf16") if gpu else ("fp32",)
    # An image of 196 tokens takes the naive form half a GiB, and a second on a CPU.
    full, timed = (2, 2) if options.tiny else (64, 64) if gpu else (8, 2)
    with harness.threads(1 if options.tiny else options.threads or 2):
        for side, dim in ((3, 8),) if options.tiny else ((7, 384), (7, 768), (14, 384), (14, 768)):
            for precision in precisions:
                of = f"{side * side} tokens, {dim} wide, {precision}"
                goal = "<= 0.1" if side == 14 else ""
                batches = {full: goal} if options.tiny or side != 14 else {full: goal, 1: ""}
                for batch, goal in batches.items():
                    case, kinds = f"memory, {of}, batch {batch}", ("fast", "naive")
                    rows += _memory(case, kinds, device, precision, side, dim, batch, goal, options)
                rows += _time(f"time, {of}, batch {timed}", kinds, device, precision, side, dim, timed, options)
                if side == 14 or options.tiny:
                    case, kinds = f"{PAIRS} of {side**4} pairs", ("sampled", "fast")
                    rows += _memory(f"{case}, memory, {of}, batch {full}", kinds, device, precision, side, dim, full, "", options)
                    rows += _time(f"{case}, time, {of}, batch {timed}", kinds, device, precision, side, dim, timed, options)
            if options.wants(case := f"same loss and gradients, {side * side} tokens, {dim} wide, fp32"):
                of = "largest difference of loss or gradient, of that one's largest"
                rows.append(harness.figure(case, differences(device, side, dim, 2), unit="", goal="<= 1e-5", of=of))
        rows += _shares_of_a_step(options, device)
    return harness.report("positional", rows, options, device)


def _shares_of_a_step(options: Options, device: torch.device) -> list[Row]:
    gpu, rows = device.type == "cuda", []
    batch, precision = (64, "bf16") if gpu else (8, "fp32")
    flags = TINY if options.tiny else [*VIT_S, "--batch-size", str(batch)]
    for kind in ("apl", "rpl", f"rpl --pairs-per-image {PAIRS}"):
        case = f"--positional {kind}, erm step, {'tiny' if options.tiny else f'ViT-S/16, 224 px, batch {batch}'}, {precision}"
        if options.wants(case):
            a, b = (
                seconds(suite_loop(setup("erm", [*flags, "--precision", precision, *more], device)), 3 if gpu else 1, device)
                for more in (["--positional", *kind.split()], [])
            )
            rounds = options.rounds_or(9 if gpu else 3)
            rows.append(harness.compare(case, (f"--positional {kind}", a), ("without", b), rounds=rounds, ratio="a/b"))
    return rows


def _memory(
    case: str, kinds: Sequence[str], device: torch.device, precision: str, side: int, dim: int, batch: int, goal: str,
    options: Options,
) -> list[Row]:  # fmt: skip
    if not options.wants(case):
        return []

    def peak(kind: str) -> harness.Measure:
        if device.type == "cuda":
            return lambda: peak_mib(kind, device, precision, side, dim, batch)
        argv = [sys.executable, "-m", "benchmarks.positional", kind, str(device), precision]
        argv += [str(number) for number in (side, dim, batch, torch.get_num_threads())]
        where = Path(__file__).parent.parent
        return lambda: float(subprocess.run(argv, capture_output=True, encoding="utf-8", check=True, cwd=where).stdout)

    a, b = ((kind, peak(kind)) for kind in kinds)
    return [harness.compare(case, a, b, rounds=options.rounds_or(1), warm_up=0, ratio="a/b", unit="MiB", goal=goal)]


def _time(
    case: str, kinds: Sequence[str], device: torch.device, precision: str, side: int, dim: int, batch: int, options: Options
) -> list[Row]:  # fmt: skip
    if not options.wants(case):
        return []
    a, b = ((kind, seconds(forward_and_backward(kind, device, precision, side, dim, batch), 1, device)) for kind in kinds)
    return [harness.compare(case, a, b, rounds=options.rounds_or(5), ratio="a/b", work=(batch, "images"))]


def peak_mib(kind: str, device: torch.device, precision: str, side: int, dim: int, batch: int) -> float:
    """MiB of one forward and backward above what was there before: allocated on CUDA, else resident in this process."""
    forward_and_backward(kind, device, precision, 2, 8, 1)()  # what a library takes once
    work = forward_and_backward(kind, device, precision, side, dim, batch)
    gc.collect()
    forget_peak_memory(device)
    before = peak_memory(device)
    work()
    return (peak_memory(device) - before) / 2**20


def forward_and_backward(
    kind: str, device: torch.device, precision: str, side: int, dim: int, batch: int
) -> Callable[[], tuple[Tensor, list[Tensor]]]:  # fmt: skip
    """One of KINDS on `batch` images of side x side tokens of noise -> (loss, gradients of the tokens and of all weights)."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.randn(batch, side * side, dim, generator=random).to(device).requires_grad_()
    pairs = draw_pairs(side * side, PAIRS, random).to(device) if kind == "sampled" else None
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        head = PositionHead(dim, (side, side), "rpl").to(device)
    wanted = [tokens, *head.parameters()]
    dtype = DTYPES[precision]

    def work() -> tuple[Tensor, list[Tensor]]:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
            loss = naive(head, tokens) if kind == "naive" else head(tokens, pairs)[0]
        loss.backward()
        gradients = [tensor.grad for tensor in wanted if tensor.grad is not None]
        for tensor in wanted:
            tensor.grad = None
        return loss.detach(), gradients

    return work


def naive(head: PositionHead, tokens: Tensor) -> Tensor:
    """`head`'s loss as the published code computes it: all pairs put together, then layer after layer."""
    batch, n, _ = tokens.shape
    q = tokens[:, :, None, : head.middle].expand(-1, -1, n, -1)                                     # (B, N, N, h)
    k = tokens[:, None, :, -head.middle :].expand(-1, n, -1, -1)
    y = head.classifier(head.fc2(F.gelu(head.fc1(torch.cat([q, k], dim=3)))))                     # (B, N, N, classes)
    return F.cross_entropy(y.flatten(0, 2), head.label.expand(batch, -1, -1).flatten())


def differences(device: torch.device, side: int, dim: int, batch: int) -> list[float]:
    """The worst of the loss and of each gradient: the largest difference of fast and naive, relative to the largest value."""
    ours, theirs = (forward_and_backward(kind, device, "fp32", side, dim, batch)() for kind in ("fast", "naive"))
    pairs = zip([ours[0], *ours[1]], [theirs[0], *theirs[1]], strict=True)
    return [max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)]


def main(argv: Sequence[str]) -> None:
    kind, device, precision, *numbers = argv
    *sizes, threads = map(int, numbers)
    with harness.threads(threads):
        print(peak_mib(kind, torch.device(device), precision, *sizes))


if __name__ == "__main__":
    main(sys.argv[1:])
