"""The moving average of a network: one fused call against a loop over its parameters, and its share of a step."""

from __future__ import annotations

from typing import Any

import torch
from benchmarks import harness
from benchmarks.harness import Options, Row, seconds
from benchmarks.loops import WRN, setup, suite_loop
from benchmarks.step import TINY
from torch import nn

from ssl_bench.ema import EMATeacher
from ssl_bench.launch import pick_device
from ssl_bench.models import build_classifier

DECAY = 0.999
NETWORKS = {"WRN-28-2": ("wrn_28_2", 32), "ResNet-50": ("resnet50", 224), "ViT-S/16": ("vit_small_patch16_224", 224)}


def run(options: Options) -> dict[str, Any]:
    """EMATeacher.update on 2 threads (or --threads): against the peers' loop, against the bytes it moves, against a step."""
    device = pick_device(options.device)
    rows: list[Row] = []
    with harness.threads(1 if options.tiny else options.threads or 2):
        networks = {"WRN-10-1": ("wrn_10_1", 8)} if options.tiny else NETWORKS
        for name, (arch, size) in networks.items():
            if options.wants(f"update, {name}") or options.wants(f"distance to the floor, {name}"):
                rows += _against_a_loop(name, build_classifier(arch, 10, size, bottleneck_dim=0), options, device)
        rows += _against_a_step(options, device)
    return harness.report("ema", rows, options, device)


def _against_a_loop(name: str, student: nn.Module, options: Options, device: torch.device) -> list[Row]:
    student = student.to(device)
    fused, looped = EMATeacher(student, "eval"), EMATeacher(student, "eval")
    count = sum(tensor.numel() for tensor in (*student.parameters(), *student.buffers()) if tensor.is_floating_point())
    source, target = (torch.zeros(12 * count // 2, dtype=torch.uint8, device=device) for _ in range(2))
    rounds, calls = options.rounds_or(15), 1 if options.tiny else 10
    a = ("EMATeacher.update", seconds(lambda: fused.update(student, DECAY), calls, device))
    b = ("loop over parameters", seconds(lambda: loop_over_parameters(looped.model, student, DECAY), calls, device))
    floor = ("copy of the same bytes", seconds(lambda: target.copy_(source), calls, device))
    return [
        harness.compare(f"update, {name}", a, b, rounds=rounds, ratio="b/a", parameters=count),
        harness.compare(f"distance to the floor, {name}", a, floor, rounds=rounds, ratio="a/b", bytes=12 * count),
    ]


def loop_over_parameters(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """What TLlib, USB and TorchSSL do at every step: parameter by parameter, then buffer by buffer."""
    with torch.no_grad():
        for theirs, ours in zip(teacher.parameters(), student.parameters(), strict=True):
            theirs.copy_(decay * theirs + (1 - decay) * ours)
        for theirs, ours in zip(teacher.buffers(), student.buffers(), strict=True):
            theirs.copy_(ours)


def _against_a_step(options: Options, device: torch.device) -> list[Row]:
    case = "share of a FixMatch step, WRN-28-2, B 16, mu 7"
    if not options.wants(case):
        return []
    s = setup("fixmatch", TINY if options.tiny else WRN, device)
    student = s.build().model
    teacher = EMATeacher(student, "eval")  # a copy, so on the same device in the same memory order
    a = ("EMATeacher.update", seconds(lambda: teacher.update(student, DECAY), 1 if options.tiny else 10, device))
    b = ("FixMatch step", seconds(suite_loop(s), 1, device))
    return [harness.compare(case, a, b, rounds=options.rounds_or(9), ratio="a/b", goal="<= 0.01")]
