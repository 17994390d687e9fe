"""The moving average of a network: one fused call against a loop over its parameters, and its share of a step."""

from __future__ import annotations

from typing import Any

import torch
from benchmarks import harness, mixing
from benchmarks.harness import Options, Row, seconds
from benchmarks.loops import WRN, Setup, setup, suite_loop
from benchmarks.step import TINY
from torch import nn

from ssl_bench.devices import pick_device
from ssl_bench.ema import EMATeacher
from ssl_bench.models import build_classifier

DECAY = 0.999
NETWORKS = {"WRN-28-2": ("wrn_28_2", 32), "ResNet-50": ("resnet50", 224), "ViT-S/16": ("vit_small_patch16_224", 224)}


VIT_S = "--arch vit_small_patch16_224 --image-size 224 --mu 5".split()
# Each with its method, flags, rounds and warm-up.  16 + 80 images are what a device holds in the published run: minutes on a CPU.
STEPS = {
    "FixMatch step, WRN-28-2, B 16, mu 7": ("fixmatch", WRN, 9, 1),
    "semi_vit step, ViT-S/16, 224 px, 2 + 10 images": ("semi_vit", [*VIT_S, "--batch-size", "2"], 3, 1),
    "semi_vit step, ViT-S/16, 224 px, 16 + 80 images": ("semi_vit", [*VIT_S, "--batch-size", "16"], 1, 0),
}


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
        for weight, own in zip(teacher.parameters(), student.parameters(), strict=True):
            weight.copy_(decay * weight + (1 - decay) * own)
        for theirs, ours in zip(teacher.buffers(), student.buffers(), strict=True):
            theirs.copy_(ours)


def _against_a_step(options: Options, device: torch.device) -> list[Row]:
    rows = []
    for step, (name, flags, rounds, warm_up) in STEPS.items():
        if options.wants(case := f"share of a {step}"):
            s = setup(name, _tiny(name) if options.tiny else flags, device)
            rows.append(share_of_a_step(case, s, options, rounds, warm_up))
    return rows


def _tiny(name: str) -> list[str]:
    return mixing.TINY if name == "semi_vit" else TINY


def share_of_a_step(case: str, s: Setup, options: Options, rounds: int, warm_up: int = 1) -> Row:
    """EMATeacher.update of a network / the whole step that trains it."""
    student = s.build().model
    teacher = EMATeacher(student, "eval")  # a copy, so on the same device in the same memory order
    a = ("EMATeacher.update", seconds(lambda: teacher.update(student, DECAY), 1 if options.tiny else 10, s.device))
    b = (f"{s.method.name} step", seconds(suite_loop(s), 1, s.device))
    return harness.compare(case, a, b, rounds=options.rounds_or(rounds), warm_up=warm_up, ratio="a/b", goal="<= 0.01")
