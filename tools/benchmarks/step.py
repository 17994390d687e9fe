"""A step of the suite against bare loops: what the suite costs, what its order of work gains, where the time goes.

1. ERM and FixMatch against a bare loop with the same views, network, memory format and order of backwards (`bare_loop`).
2. FixMatch with WRN-28-2 against the published loop (`published_loop`), fp32 and bf16; and that both compute the same losses.
3. FlexMatch and Self-Tuning against FixMatch, four forwards each.
4. Peak memory of FixMatch against the bare loop, a process each.
5. Shares of a step.
6. On a GPU: Semi-ViT at its published batch, and every method on the field's networks (`networks`).
"""

from __future__ import annotations

from typing import Any

import torch
from benchmarks import harness
from benchmarks.harness import Options, Row, seconds
from benchmarks.loops import WRN, Setup, bare_loop, plain_sgd, published_loop, published_step, setup, suite_loop
from benchmarks.memory import peak_in_a_process
from benchmarks.shares import PARTS, shares_of_a_step
from torch import nn

from ssl_bench.devices import pick_device
from ssl_bench.feed import training_batches
from ssl_bench.trainer import Trainer

DIGITS = "--arch test_resnet --bottleneck-dim 128 --image-size 16 --train-resizing cifar".split()
RESNET18_32 = "--arch resnet18 --bottleneck-dim 1024 --image-size 32 --train-resizing cifar".split()
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # CPU flags: either of them multiplies bf16 in hardware
RESNET18_224 = "--arch resnet18 --bottleneck-dim 1024 --image-size 224 --batch-size 16".split()
TINY = "--arch wrn_10_1 --bottleneck-dim 0 --image-size 8 --train-resizing cifar --batch-size 4 --trade-off-cls-strong 0".split()
# With the labelled strong view FixMatch makes three forwards with gradient and one without; Self-Tuning two and two.
FOUR_FORWARDS = "--arch wrn_28_2 --bottleneck-dim 0 --image-size 32 --train-resizing cifar --batch-size 64".split()
FOUR_FORWARDS_TINY = "--arch wrn_10_1 --bottleneck-dim 0 --image-size 8 --train-resizing cifar --batch-size 4".split()


def run(options: Options) -> dict[str, Any]:
    """All of the above, on 2 threads where none are asked for (1 for the smallest network)."""
    device = pick_device(options.device)
    rows: list[Row] = []
    with harness.threads(1 if options.tiny else options.threads or 1):
        rows += _cost_of_the_suite(options, device, {"small CNN, 16 px": DIGITS})
    with harness.threads(1 if options.tiny else options.threads or 2):
        if not options.tiny:
            rows += _cost_of_the_suite(options, device, {"ResNet-18, 32 px": RESNET18_32, "WRN-28-2, B 16, mu 7": WRN})
        rows += _against_the_published_loop(options, device)
        rows += _against_fixmatch(options, device)
        rows += _memory(options, device)
        rows += _shares(options, device)
        if device.type == "cuda":
            from benchmarks.networks import rows_of_every_method, rows_of_semi_vit

            rows += rows_of_semi_vit(options, device) + rows_of_every_method(options, device)
        else:
            cases = ("semi_vit, ViT-S/16, 224 px, 16 + 80 images, bf16", "every method on the field's networks, 32 and 224 px")
            rows += [harness.skipped(case, "no CUDA device here") for case in cases if options.wants(case)]
    return harness.report("step", rows, options, device)


def _cost_of_the_suite(options: Options, device: torch.device, networks: dict[str, list[str]]) -> list[Row]:
    rows = []
    for network, flags in networks.items():
        for name in ("erm", "fixmatch"):
            case = f"{name} step, {network}"
            if not options.wants(case):
                continue
            s = setup(name, TINY if options.tiny else flags, device)
            calls, rounds = (8, 31) if flags is DIGITS else (2, 11)
            a, b = (seconds(loop(s), 1 if options.tiny else calls, device) for loop in (suite_loop, bare_loop))
            rows.append(
                harness.compare(
                    case, ("suite", a), ("bare loop", b), rounds=options.rounds_or(rounds), warm_up=2, ratio="a/b",
                    goal="<= 1.05", work=(s.images, "images"),
                )
            )  # fmt: skip
    return rows


def _against_the_published_loop(options: Options, device: torch.device) -> list[Row]:
    rows = []
    for precision, more, goal in (("fp32", [], ">= 1.7"), ("fp32", ["--compile"], ">= 1.7"), ("bf16", [], ">= 2.6")):
        case = " ".join([f"FixMatch WRN-28-2, B 16, mu 7, {precision}", *more])
        if options.tiny and more:
            continue  # compiling takes minutes
        if not options.wants(case):
            continue
        s, published = (
            setup("fixmatch", [*(TINY if options.tiny else WRN), *flags], device)
            for flags in (["--precision", precision, *more], ["--precision", "fp32"])
        )
        a = (", ".join(["suite", precision, *more]), seconds(suite_loop(s), 1, device))
        b = ("published loop, fp32", seconds(published_loop(published), 1, device))
        emulated = precision == "bf16" and device.type == "cpu" and not BF16 & {*harness.machine()["flags"]}
        rounds, warm_up = (options.rounds_or(2), 0) if emulated else (options.rounds_or(11), 2)  # minutes a step, emulated
        notes: dict[str, Any] = {"note": "this CPU has no bf16 arithmetic: emulated"} if emulated else {}
        rows.append(
            harness.compare(
                case, a, b, rounds=rounds, warm_up=warm_up, ratio="b/a", goal=goal, work=(s.images, "images"), **notes
            )
        )
    case = "same losses as the published loop, BatchNorm frozen, fp32"
    if options.wants(case):
        s = setup("fixmatch", [*(TINY if options.tiny else WRN), "--threshold", "0"], device)
        losses, updates = zip(*relative_differences(s, 2 if options.tiny else 5), strict=True)
        rows.append(harness.figure(case, losses, unit="", goal="<= 0.0001", of="largest relative difference of a loss term"))
        rows.append(harness.figure(case, updates, unit="", goal="<= 0.01", of="relative difference (2-norm) of the update"))
    return rows


def _against_fixmatch(options: Options, device: torch.device) -> list[Row]:
    """What FlexMatch's memory of 50,000 labels and Self-Tuning's of 32 keys a class cost: all make four forwards a step."""
    flags = FOUR_FORWARDS_TINY if options.tiny else FOUR_FORWARDS
    rows = []
    for name in ("flexmatch", "self_tuning"):
        if not options.wants(case := f"{name} step against fixmatch's, {'tiny' if options.tiny else 'WRN-28-2, B 64, mu 1'}"):
            continue
        ours, fixmatch = (setup(each, flags, device) for each in (name, "fixmatch"))
        method = ours.build()
        if name == "flexmatch":
            method.selected = torch.full((50_000,), -1, device=device)
        a, b = ((label, seconds(loop, 1, device)) for label, loop in (
            (name, suite_loop(ours, method)), ("fixmatch", suite_loop(fixmatch))))  # fmt: skip
        rows.append(harness.compare(case, a, b, rounds=options.rounds_or(11), warm_up=2, ratio="a/b", goal="<= 1.1", work=(ours.images, "images")))
    return rows


def relative_differences(s: Setup, steps: int) -> list[tuple[float, float]]:
    """(of a loss term, of the update of the weights) at each step, suite against published loop from the same weights and
    batch; --threshold 0 keeps both terms awake.

    BatchNorm uses the statistics of one calibrating forward: in training mode it normalises labelled, weak and strong views
    together in the published loop and apart in the suite (as TLlib), so that there the losses differ by design.
    """
    suite, published = s.build(), s.build().model.to(memory_format=torch.contiguous_format)
    batches = training_batches(suite, s.pools, s.args, s.device, 0)
    first = next(batches)
    _freeze_batch_norm(suite.model, torch.cat(first.x_u))
    trainer, optimizer = Trainer(suite, s.args, s.device), plain_sgd(published.eval(), s.args)
    found = []
    for _ in range(steps):
        batch = next(batches)
        published.load_state_dict(suite.model.state_dict())  # each step from the same weights: rounding must not pile up
        before = _flat(published)
        trainer.update(batch)
        ours = trainer.means.pop()
        theirs = published_step(published, optimizer, batch, s.args.threshold)
        pairs = zip((ours["cls_loss"], ours["self_training_loss"]), (term.item() for term in theirs), strict=True)
        moved, wanted = (_flat(model) for model in (suite.model, published))
        loss = max(abs(a - b) / b for a, b in pairs)  # a term asleep divides by zero, and should
        found.append((loss, ((moved - wanted).norm() / (wanted - before).norm()).item()))
    return found


def _flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])  # a copy, in NCHW order


def _freeze_batch_norm(model: nn.Module, x: torch.Tensor) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(x)
    model.eval()


def _memory(options: Options, device: torch.device) -> list[Row]:
    case = "peak memory, FixMatch WRN-28-2, B 16, mu 7"
    if not options.wants(case):
        return []
    flags, steps = (TINY, 1) if options.tiny else (WRN, 4)
    a, b = ((name, lambda name=name: peak_in_a_process(name, "fixmatch", device, flags, steps)) for name in ("suite", "bare"))
    rounds = options.rounds_or(3)
    return [harness.compare(case, a, b, rounds=rounds, warm_up=0, ratio="a/b", unit="MiB", goal="<= 1.05")]


def _shares(options: Options, device: torch.device) -> list[Row]:
    cases = {
        "FixMatch WRN-28-2, B 16, mu 7": ("fixmatch", WRN, ""),
        "Mean Teacher WRN-28-2, B 16, mu 7": ("mean_teacher", WRN, ""),
        "FixMatch ResNet-18, 224 px, B 16, mu 1": ("fixmatch", RESNET18_224, "<= 8" if device.type == "cpu" else ""),
    }
    rows: list[Row] = []
    for case, (name, flags, goal) in cases.items():
        if not options.wants(f"share, {case}") or (options.tiny and rows):
            continue
        steps = shares_of_a_step(setup(name, TINY if options.tiny else flags, device), options.rounds_or(5), warm_up=1)
        for part in PARTS:
            bound = goal if part == PARTS[0] else ""
            rows.append(harness.figure(f"share, {case}", [step[part] for step in steps], unit="%", goal=bound, of=part))
    return rows
