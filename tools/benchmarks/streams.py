"""Semiformer's semi-supervised step: the suite against a bare loop over the same network, in time and memory; channels last
against contiguous, compiled against eager."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from benchmarks import harness
from benchmarks.harness import Options, Row, seconds
from benchmarks.loops import Setup, Update, bare_loop, setup, suite_loop
from benchmarks.memory import peak_in_a_process

from ssl_bench.devices import pick_device
from ssl_bench.placement import forget_peak_memory, peak_memory

SMALL = "--arch semiformer_small_patch16 --image-size 224 --mu 5".split()
TINY = "--arch semiformer_tiny_patch4 --image-size 16 --train-resizing cifar --batch-size 2 --mu 2".split()


def run(options: Options) -> dict[str, Any]:
    """2 threads, or --threads; bf16 and 16 + 80 images on a GPU, else fp32 and 2 + 10.  On a CPU only --only "compiled ..."
    compiles."""
    device = pick_device(options.device)
    gpu = device.type == "cuda"
    batch, precision = (16, "bf16") if gpu else (2, "fp32")
    of = "tiny" if options.tiny else f"Semiformer-S, 224 px, {batch} + {5 * batch} images, {precision}"
    flags = [*TINY] if options.tiny else [*SMALL, "--batch-size", str(batch), "--precision", precision]
    with harness.threads(1 if options.tiny else options.threads or 2):
        rows = _memory(f"semiformer step, peak memory, {of}", flags, options, device)
        rows += _times(of, flags, options, device)
    return harness.report("streams", rows, options, device)


def _times(of: str, flags: list[str], options: Options, device: torch.device) -> list[Row]:
    gpu, rows, s = device.type == "cuda", [], setup("semiformer", flags, device)

    def suite(*more: str) -> Callable[[], Update]:
        return lambda: suite_loop(setup("semiformer", [*flags, *more], device))

    cases: dict[str, tuple[Any, Any, Any, str]] = {  # two (name, what makes the loop), which way round the ratio, goal
        f"semiformer step, {of}": (("suite", suite()), ("bare loop", lambda: bare_loop(s)), "a/b", "<= 1.05"),
        f"semiformer step, channels last, {of}": (
            ("channels last", suite()), ("--no-channels-last", suite("--no-channels-last")), "b/a", "",
        ),
        f"compiled step, {of}": (("--compile", suite("--compile")), ("eager", suite()), "b/a", ""),
        f"compiled step, channels last, {of}": (
            ("--compile", suite("--compile")),
            ("--compile --no-channels-last", suite("--compile", "--no-channels-last")), "b/a", "",
        ),
    }  # fmt: skip
    for case, (a, b, ratio, goal) in cases.items():
        if not options.wants(case):
            continue
        if case.startswith("compiled") and not gpu and "compiled" not in options.only:
            rows.append(harness.skipped(case, "compiling takes minutes on a CPU"))
            continue
        sides = ((name, seconds(loop(), 2 if gpu and not options.tiny else 1, device)) for name, loop in (a, b))
        rounds, warm_up = options.rounds_or(11 if gpu else 3), 2 if gpu else 1
        work = (s.images, "images")
        rows.append(harness.compare(case, *sides, rounds=rounds, warm_up=warm_up, ratio=ratio, goal=goal, work=work))
        del sides
        gc.collect()  # a trainer and its method refer to each other
    return rows


def _memory(case: str, flags: list[str], options: Options, device: torch.device) -> list[Row]:
    """First of all, on a GPU: what was there before would count."""
    if not options.wants(case):
        return []
    if device.type == "cuda":
        s = setup("semiformer", flags, device)
        a, b = partial(peak_here, suite_loop, s), partial(peak_here, bare_loop, s)
    else:
        a, b = (partial(peak_in_a_process, name, "semiformer", device, flags, 2) for name in ("suite", "bare"))
    return [harness.compare(case, ("suite", a), ("bare loop", b), rounds=1, warm_up=0, ratio="a/b", unit="MiB", goal="<= 1.05")]


def peak_here(loop: Callable[[Setup], Update], s: Setup) -> float:
    """Peak MiB of two updates."""
    gc.collect()
    forget_peak_memory(s.device)
    update = loop(s)
    for _ in range(2):
        update()
    return peak_memory(s.device) / 2**20
