"""TLlib's eleven scripts as tables: what each flag means, and the 268 published commands with what they resolve to.

Of thuml/Transfer-Learning-Library at c4aa59e.  The order of flags in a command is ours where the description did not keep it;
argparse does not see it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ssl_bench import catalog

COMMANDS = json.loads((Path(__file__).parent / "data" / "tllib_commands.json").read_text(encoding="utf-8"))
ALL = "erm pseudo_label pi_model mean_teacher uda fixmatch flexmatch debiasmatch dst self_tuning noisy_student".split()
METHODS = {name: catalog.load_method(name) for name in ALL}

# What TLlib did and its published numbers depend on -> the flags of its recipes here; the default is the correct one.
AS_THE_SEED = {
    "mean_teacher": {"evaluate": "student"},
    "uda": {"temperature_on": "student", "divide_by": "kept"},
    "debiasmatch": {"reset_prior": True},
    "dst": {"worst_case_labels": "predicted"},
    "self_tuning": {"two_updates": True},
}

# What TLlib has no flag for, at the value that does what TLlib does.
AS_TLLIB = dict(
    image_size=224, hflip=0.5, color_jitter=0.0, erasing=0.0, cutout=0.0, model_kwargs=(), scratch=False, mu=1,
    optimizer="sgd",
    lr_warmup_epochs=0.0, clip_grad=0.0, accumulate=1, precision="fp32", all_labeled=False,
)  # fmt: skip


def same(value: object, lacking: str = "", **others: object) -> dict[str, object]:
    """Script -> default: `value` but for `others`; no entry for the scripts that are lacking the flag."""
    return {name: others.get(name, value) for name in ALL if name not in lacking.split()}


def only(value: object, scripts: str, **others: object) -> dict[str, object]:
    return dict.fromkeys(scripts.split(), value) | others


# spellings | field here | values on the command line | what they mean here | script -> TLlib's default
# Two defaults differ by design: data (None ends in a KeyError there) and seed (None draws a split nobody can repeat).
TABLE = [
    ("-d --data", "data", ["CIFAR10"], "CIFAR10", same("Digits")),
    ("--num-samples-per-class", "num_samples_per_class", ["10"], 10, same(4)),
    ("--train-resizing", "train_resizing", ["cifar"], "cifar", same("default")),
    ("--val-resizing", "val_resizing", ["cifar"], "cifar", same("default")),
    ("--norm-mean", "norm_mean", ["0.1", "0.2", "0.3"], (0.1, 0.2, 0.3), same((0.485, 0.456, 0.406))),
    ("--norm-std", "norm_std", ["0.1", "0.2", "0.3"], (0.1, 0.2, 0.3), same((0.229, 0.224, 0.225))),
    ("--auto-augment", "auto_augment", ["rand-m9"], "rand-m9", same("rand-m10-n2-mstd2")),
    ("--oracle", "oracle", [], True, only(False, "erm")),
    ("-a --arch", "arch", ["resnet18"], "resnet18", same("resnet50")),
    ("--bottleneck-dim", "bottleneck_dim", ["256"], 256, same(1024)),
    ("--no-pool", "pool", [], False, same(True)),
    ("--pretrained-backbone", "pretrained_backbone", ["file.pth"], "file.pth", same(None)),
    ("--finetune", "finetune", [], True, same(False)),
    ("--trade-off-cls-strong", "trade_off_cls_strong", ["0.5"], 0.5, same(0.1, lacking="self_tuning")),
    ("--trade-off-self-training", "trade_off_self_training", ["0.5"], 0.5,
     only(1.0, "pseudo_label fixmatch flexmatch debiasmatch dst noisy_student")),
    ("--trade-off-con", "trade_off_con", ["0.5"], 0.5, only(0.1, "pi_model mean_teacher", uda=1.0)),
    ("--threshold", "threshold", ["0.5"], 0.5, only(0.95, "pseudo_label fixmatch flexmatch debiasmatch", uda=0.7, dst=0.7)),
    ("--T", "T", ["0.5"], 0.5, dict(uda=0.85, self_tuning=0.07, noisy_student=2.0)),
    ("--warm-up-epochs", "warm_up_epochs", ["5"], 5, only(10, "pi_model mean_teacher")),
    ("--alpha", "alpha", ["0.5"], 0.5, only(0.999, "mean_teacher")),
    ("--warmup", "warmup", ["True"], True, only(False, "flexmatch")),
    ("--momentum", "momentum", ["0.5"], 0.5, only(0.999, "debiasmatch")),
    ("--tau", "tau", ["0.5"], 0.5, only(1.0, "debiasmatch")),
    ("--width", "width", ["64"], 64, only(2048, "dst")),
    ("--eta", "eta", ["0.5"], 0.5, only(1.0, "dst")),
    ("--eta-prime", "eta_prime", ["0.5"], 0.5, only(2.0, "dst")),
    ("--projection-dim", "projection_dim", ["64"], 64, only(1024, "self_tuning")),
    ("--K", "K", ["8"], 8, only(32, "self_tuning")),
    ("--m", "m", ["0.5"], 0.5, only(0.999, "self_tuning")),
    ("--milestones", "milestones", ["1", "2"], (1, 2), only((12, 24, 36, 48), "self_tuning")),
    ("--pretrained-teacher", "pretrained_teacher", ["file.pth"], "file.pth", only(None, "noisy_student")),
    ("-b --batch-size", "batch_size", ["64"], 64, same(32)),
    ("--lr --learning-rate", "lr", ["0.5"], 0.5, same(0.003, mean_teacher=0.01, dst=0.01)),
    ("--lr-scheduler", "lr_scheduler", ["cos"], "cos", same("exp", lacking="self_tuning")),
    ("--lr-gamma", "lr_gamma", ["0.5"], 0.5, same(0.0004, mean_teacher=0.0001, dst=0.0002, self_tuning=0.1)),
    ("--lr-decay", "lr_decay", ["0.5"], 0.5, same(0.75, lacking="self_tuning")),
    ("--wd --weight-decay", "wd", ["1e-3"], 0.001, same(5e-4)),
    ("-j --workers", "workers", ["2"], 2, same(4)),
    ("--epochs", "epochs", ["7"], 7, same(40, erm=20, uda=60, fixmatch=60, self_tuning=60, flexmatch=90, debiasmatch=90, dst=90)),
    ("-i --iters-per-epoch", "iters_per_epoch", ["50"], 50, same(500)),
    ("-p --print-freq", "print_freq", ["10"], 10, same(100)),
    ("--seed", "seed", ["1"], 1, same(0)),
    ("--log", "log", ["elsewhere"], "elsewhere", {name: "baseline" if name == "erm" else name for name in ALL}),
    ("--phase", "phase", ["test"], "test", same("train")),
]  # fmt: skip


def table_of(script: str) -> list[tuple]:
    return [
        (names.split(), field, argv, value, defaults[script])
        for names, field, argv, value, defaults in TABLE
        if script in defaults
    ]


def defaults_of(script: str) -> dict[str, object]:
    return {field: default for _, field, _, _, default in table_of(script)}


def as_json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def lines() -> list[dict[str, Any]]:
    """The commands, Noisy Student's shell loops unrolled into one line a round: 272."""
    found = []
    for command in COMMANDS:
        for number in command.get("rounds", [0]):
            text = json.dumps(command).replace("{round}", str(number)).replace("{previous}", str(number - 1))
            found.append(json.loads(text) | {"round": number})
    return found


def name_of(line: dict[str, Any]) -> str:
    return line["expected"]["log"].removeprefix("logs/")
