"""Tiny runs on the embedded digits that every test file can afford."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import pytest
import torch

from ssl_bench import catalog, launch, zoo
from ssl_bench.args import Args
from ssl_bench.feed import training_batches
from ssl_bench.method import Method
from ssl_bench.placement import place
from ssl_bench.pools import Pools, make_pools
from ssl_bench.trainer import Trainer

TINY = (
    "--image-size 8 --arch test_resnet --bottleneck-dim 16 --batch-size 8 --epochs 2 --iters-per-epoch 3 --lr 0.01 "
    "--lr-scheduler constant --print-freq 2 --device cpu --recipe default"
).split()
BN_FREE = "--arch test_vit --model-kwargs patch_size=2 --bottleneck-dim 0".split()
BN_FREE_STREAMS = "--arch semiformer:test_convnext+test_vit --model-kwargs vit_patch_size=8 --image-size 32 --bottleneck-dim 0".split()

# Values at which every term of a method is awake from the first step: with a threshold of 0.95 a fresh network keeps
# nothing, and a test of the unlabelled loss would pass on broken code.
LIVE = {
    "erm": [],
    "pseudo_label": ["--threshold", "0"],
    "mean_teacher": ["--warm-up-epochs", "0", "--trade-off-con", "1"],
    "fixmatch": ["--threshold", "0"],
    "pi_model": ["--warm-up-epochs", "0", "--trade-off-con", "1"],
    "uda": ["--threshold", "0"],
    "flexmatch": ["--threshold", "0.2"],
    "debiasmatch": ["--threshold", "0", "--momentum", "0.5"],
    "dst": ["--threshold", "0", "--width", "16", "--head-dropout", "0"],
    "self_tuning": ["--K", "4", "--projection-dim", "8", "--m", "0.9", "--T", "0.5"],
    "semi_vit": "--threshold 0.1 --finetune-batch-size 8 --finetune-epochs 1 --finetune-iters-per-epoch 3 --ema-decay 0.5 "
                "--lr-warmup-epochs 0 --layer-decay 0.95 --head-init-std 0.1 --mu 1 --lr 0.005 --label-smoothing 0.5 --pseudo-smoothing 0.5 --optimizer sgd --cutmix 1 --no-disable-x-mixup".split(),  # as mae
    # SGD: AdamW divides gradients of rounding size by their own size, and does so on a CPU by waiting for each step's number.
    "mae": [*BN_FREE, *"--optimizer sgd --mu 1 --decoder-dim 16 --decoder-depth 1 --decoder-heads 2".split()],
    "positional_label": [*BN_FREE, *"--optimizer sgd --head-init-std 0.1 --mixup 0.8 --mu 1 --lr-warmup-epochs 0 --lr 0.05".split()],
    "semiformer": "--arch semiformer_tiny_patch4 --bottleneck-dim 0 --threshold 0 --optimizer sgd --mu 1 --lr-warmup-epochs 0 --drop-path 0 "
                  "--warmup-epochs 1 --warmup-iters-per-epoch 3 --warmup-batch-size 16".split(),
    "noisy_student": ["--generations", "1", "--teacher-epochs", "1"],
}


def bn_free(name: str) -> list[str]:
    """Flags of a network whose images do not influence each other, for the method of that name."""
    return BN_FREE_STREAMS if name == "semiformer" else BN_FREE


def pytest_sessionfinish() -> None:
    """Under `coverage run`: pytest-xdist ends a process that is slow to leave before it has written what it measured."""
    if "coverage" in sys.modules and (measuring := sys.modules["coverage"].Coverage.current()):
        measuring.save()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """For this process and those that it starts: several pytest processes share the cores."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def a_folder_of_its_own(tmp_path, monkeypatch):
    """What a test writes without saying where does not land in the repository."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def digits():
    return zoo.load("Digits", None)


@pytest.fixture
def tiny(digits):
    """tiny(name, *flags) -> TinyRun: a method, its pools and its trainer, without a run folder."""

    def make(name: str, *argv: str) -> TinyRun:
        return TinyRun(name, argv, digits)

    return make


class TinyRun:
    """One method on digits, stepped by hand through the real trainer."""

    def __init__(self, name: str, argv: tuple[str, ...], data) -> None:
        method = catalog.load_method(name)
        self.args, _ = launch.resolve(method, [*TINY, *LIVE.get(name, []), *argv])
        self.pools: Pools = make_pools(data, self.args.num_samples_per_class, self.args.seed)
        self.start(method)

    def start(self, method: type[Method]) -> None:
        self.method, self.args = last_stage_of(method, self.args, self.pools, torch.device("cpu"))
        self.trainer = Trainer(self.method, self.args, torch.device("cpu"))

    def steps(self, n: int) -> list[dict[str, float]]:
        """n real updates; what each logged."""
        batches = training_batches(self.method, self.pools, self.args, torch.device("cpu"), self.trainer.step)
        logged = []
        for _ in range(n):
            self.trainer.update(next(batches))
            logged.append(self.trainer.means.pop())
        return logged

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.method.state_dict().items()}


def last_stage_of(method: type[Method], args: Args, pools: Pools, device: torch.device) -> tuple[Method, Args]:
    """The last stage, ready for its first step; one that follows another begins with that one's initial weights of another seed."""
    *before, stage = method.stages(args)
    built = place(launch.build(method, stage.args, pools, pretrained=False), stage.args, device).train()
    if before:
        other = launch.build(method, dataclasses.replace(before[-1].args, seed=args.seed + 1), pools, pretrained=False)
        built.load_previous(other.evaluated().state_dict(), {name: net.state_dict() for name, net in other.also_evaluated().items()})
    built.prepare(pools)
    return built, stage.args


def resolved(name: str, *argv: str) -> Args:
    return launch.resolve(catalog.load_method(name), argv)[0]


def only_run(log: Path) -> Path:
    """The one run folder under `log`."""
    runs = sorted((file.parent for file in log.rglob("args.json")), key=lambda folder: len(folder.parts))
    assert all(folder.parent == runs[0] for folder in runs[1:]), runs  # its stages
    return runs[0]


def last_stage(run: Path) -> Path:
    """Where the last stage of a run trained: a folder inside of it, or itself."""
    return max(run.glob("*/args.json"), key=lambda file: file.stat().st_mtime_ns, default=run / "args.json").parent
