"""TLlib's command lines stay valid: 132 published commands, every flag, default and unique prefix of four scripts.

The commands (tests/data/tllib_commands.json) and the table below describe thuml/Transfer-Learning-Library at c4aa59e.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import ssl_bench
from ssl_bench import flags, launch

ROOT = Path(ssl_bench.__file__).parent.parent
COMMANDS = json.loads((Path(__file__).parent / "data" / "tllib_commands.json").read_text(encoding="utf-8"))
CLASSES = {"erm": "ERM", "pseudo_label": "PseudoLabel", "mean_teacher": "MeanTeacher", "fixmatch": "FixMatch"}
METHODS = {name: getattr(importlib.import_module(f"ssl_bench.methods.{name}"), cls) for name, cls in CLASSES.items()}

E, PL, MT, FX = "erm", "pseudo_label", "mean_teacher", "fixmatch"
ALL = (E, PL, MT, FX)


def same(value: object) -> dict[str, object]:
    return dict.fromkeys(ALL, value)


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
    ("--oracle", "oracle", [], True, {E: False}),
    ("-a --arch", "arch", ["resnet18"], "resnet18", same("resnet50")),
    ("--bottleneck-dim", "bottleneck_dim", ["256"], 256, same(1024)),
    ("--no-pool", "pool", [], False, same(True)),
    ("--pretrained-backbone", "pretrained_backbone", ["file.pth"], "file.pth", same(None)),
    ("--finetune", "finetune", [], True, same(False)),
    ("--trade-off-cls-strong", "trade_off_cls_strong", ["0.5"], 0.5, same(0.1)),
    ("--trade-off-self-training", "trade_off_self_training", ["0.5"], 0.5, {PL: 1.0, FX: 1.0}),
    ("--trade-off-con", "trade_off_con", ["0.5"], 0.5, {MT: 0.1}),
    ("--threshold", "threshold", ["0.5"], 0.5, {PL: 0.95, FX: 0.95}),
    ("--warm-up-epochs", "warm_up_epochs", ["5"], 5, {MT: 10}),
    ("--alpha", "alpha", ["0.5"], 0.5, {MT: 0.999}),
    ("-b --batch-size", "batch_size", ["64"], 64, same(32)),
    ("--lr --learning-rate", "lr", ["0.5"], 0.5, {E: 0.003, PL: 0.003, MT: 0.01, FX: 0.003}),
    ("--lr-scheduler", "lr_scheduler", ["cos"], "cos", same("exp")),
    ("--lr-gamma", "lr_gamma", ["0.5"], 0.5, {E: 0.0004, PL: 0.0004, MT: 0.0001, FX: 0.0004}),
    ("--lr-decay", "lr_decay", ["0.5"], 0.5, same(0.75)),
    ("--wd --weight-decay", "wd", ["1e-3"], 0.001, same(5e-4)),
    ("-j --workers", "workers", ["2"], 2, same(4)),
    ("--epochs", "epochs", ["7"], 7, {E: 20, PL: 40, MT: 40, FX: 60}),
    ("-i --iters-per-epoch", "iters_per_epoch", ["50"], 50, same(500)),
    ("-p --print-freq", "print_freq", ["10"], 10, same(100)),
    ("--seed", "seed", ["1"], 1, same(0)),
    (
        "--log",
        "log",
        ["elsewhere"],
        "elsewhere",
        {E: "baseline", PL: "pseudo_label", MT: "mean_teacher", FX: "fixmatch"},
    ),
    ("--phase", "phase", ["test"], "test", same("train")),
]

# What TLlib has no flag for, at the value that does what TLlib does (which Mean Teacher network is evaluated is a
# documented difference).
AS_TLLIB = dict(
    image_size=224, hflip=0.5, color_jitter=0.0, erasing=0.0, cutout=0.0, model_kwargs=(), scratch=False, mu=1,
    optimizer="sgd",
    lr_warmup_epochs=0.0, clip_grad=0.0, accumulate=1, precision="fp32", all_labeled=False,
)  # fmt: skip


def table_of(script: str) -> list[tuple]:
    return [
        (names.split(), field, argv, value, defaults[script])
        for names, field, argv, value, defaults in TABLE
        if script in defaults
    ]


def tllib_defaults(script: str) -> dict[str, object]:
    return {field: default for _, field, _, _, default in table_of(script)}


def as_json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


# ---- the published commands ------------------------------------------------------------------------------------------


def test_the_data_file_holds_every_published_command_once():
    assert Counter(command["method"] for command in COMMANDS) == {E: 66, PL: 22, MT: 22, FX: 22}
    assert len({(command["method"], *command["argv"]) for command in COMMANDS}) == 132
    assert len({command["expected"]["log"] for command in COMMANDS}) == 132
    assert sum("--lr-scheduler" in command["argv"] for command in COMMANDS) == 66
    assert sum("--oracle" in command["argv"] for command in COMMANDS) == 22


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command["expected"]["log"].removeprefix("logs/"))
def test_published_command_means_what_it_meant(command):
    script = command["method"]
    args, _ = launch.resolve(METHODS[script], command["argv"])
    expected = {"root": None, **tllib_defaults(script), **command["expected"]}
    got = {field: as_json(getattr(args, field)) for field in expected}
    assert got == {field: as_json(value) for field, value in expected.items()}
    assert {field: getattr(args, field) for field in AS_TLLIB} == AS_TLLIB


# ---- flags, short forms, types, defaults -----------------------------------------------------------------------------


@pytest.mark.parametrize("script", ALL)
def test_bare_defaults_are_tllibs(script):
    args, used = launch.resolve(METHODS[script], ["--recipe", "none"])
    assert used.values == {}
    expected = tllib_defaults(script) | AS_TLLIB | {"root": None}
    got = {field: getattr(args, field) for field in expected}
    assert got == expected
    assert {field: type(value) for field, value in got.items()} == {
        field: type(value) for field, value in expected.items()
    }


@pytest.mark.parametrize("script", ALL)
def test_every_spelling_sets_its_field(script):
    for names, field, argv, value, default in table_of(script):
        assert value != default, "the sample must differ from the default, or this shows nothing"
        for name in names:
            forms = [[name, *argv]]
            if len(argv) == 1:
                forms.append([f"{name}={argv[0]}"] if name.startswith("--") else [name + argv[0]])
            for form in forms:
                given = flags.parse(METHODS[script].Args, form, script, "")
                assert given == {field: value} and type(given[field]) is type(value), form
    assert flags.parse(METHODS[script].Args, ["folder"], script, "") == {"root": "folder"}


@pytest.mark.parametrize("script", ALL)
def test_whole_number_flags_stay_whole_numbers(script):
    for names, _, _, value, _ in table_of(script):
        if type(value) is int:
            with pytest.raises(flags.FlagError, match="takes a whole number"):
                flags.parse(METHODS[script].Args, [names[-1], "1.5"], script, "")
        if type(value) is float:
            given = flags.parse(METHODS[script].Args, [names[-1], "1"], script, "")
            assert list(given.values()) == [1.0] and type(next(iter(given.values()))) is float


@pytest.mark.parametrize("script", ALL)
def test_a_script_has_no_flag_of_another(script):
    foreign = {names.split()[-1] for names, _, _, _, defaults in TABLE if script not in defaults}
    assert foreign
    for name in foreign:
        with pytest.raises(flags.FlagError, match="unknown flag"):
            flags.parse(METHODS[script].Args, [name, "1"], script, "")


def test_the_root_may_stand_anywhere_and_values_may_be_attached():
    parts = [["-d", "CIFAR10"], ["--finetune"], ["--lr=0.5"], ["--no-pool"], ["-b64"], ["--seed", "1"]]
    for position in range(len(parts) + 1):
        argv = [token for part in [*parts[:position], ["folder"], *parts[position:]] for token in part]
        args, _ = launch.resolve(METHODS[FX], argv)
        assert (args.root, args.data, args.finetune, args.lr, args.pool, args.batch_size, args.seed) == (
            "folder", "CIFAR10", True, 0.5, False, 64, 1,
        ), argv  # fmt: skip


# ---- unique prefixes -------------------------------------------------------------------------------------------------


def unique_prefixes(script: str) -> dict[str, str]:
    """Prefix -> the one long flag of TLlib's script that argparse takes it for."""
    options = ["--help"] + [name for names, *_ in table_of(script) for name in names if name.startswith("--")]
    found = {}
    for option in options:
        for length in range(3, len(option)):
            prefix = option[:length]
            hits = [other for other in options if other.startswith(prefix)]
            if prefix not in options and hits == [option]:
                found[prefix] = option
    return found


@pytest.mark.parametrize("script", ALL)
def test_every_unique_prefix_of_tllib_still_resolves(script, capsys):
    prefixes = unique_prefixes(script)
    assert len(prefixes) > 150
    sample = {name: (field, argv, value) for names, field, argv, value, _ in table_of(script) for name in names}
    for prefix, option in prefixes.items():
        if option == "--help":
            with pytest.raises(SystemExit) as stop:
                flags.parse(METHODS[script].Args, [prefix], script, "")
            assert stop.value.code == 0 and "--num-samples-per-class" in capsys.readouterr().out
            continue
        field, argv, value = sample[option]
        assert flags.parse(METHODS[script].Args, [prefix, *argv], script, "") == {field: value}, f"{prefix} -> {option}"


def test_some_prefixes_by_hand():
    """The same, written out: what argparse made of these with TLlib's flags."""
    argv = [
        "x",
        "--dat",
        "CIFAR10",
        "--nu",
        "10",
        "--ar",
        "resnet18",
        "--th",
        ".5",
        "--e",
        "3",
        "--s",
        "9",
        "--lo",
        "z",
        "--wo",
        "1",
        "--no-p",
    ]
    args, _ = launch.resolve(METHODS[FX], [*argv, "--f", "--ph", "train", "--iters=5"])
    assert (args.data, args.num_samples_per_class, args.arch, args.threshold) == ("CIFAR10", 10, "resnet18", 0.5)
    assert (args.epochs, args.seed, args.log, args.workers, args.pool, args.finetune, args.iters_per_epoch) == (
        3,
        9,
        "z",
        1,
        False,
        True,
        5,
    )


# ---- dry run ---------------------------------------------------------------------------------------------------------


def command_for(log: str) -> dict:
    return next(command for command in COMMANDS if command["expected"]["log"] == log)


def check_dry_run(stdout: str, command: dict) -> None:
    lines = stdout.splitlines()
    assert len(lines) == 1, stdout
    shown = json.loads(lines[0])
    assert shown["method"] == command["method"] and shown["dry_run"] is True
    for field, value in {**tllib_defaults(command["method"]), **command["expected"]}.items():
        assert shown[field] == as_json(value), field


@pytest.mark.parametrize("door", ["script", "command"])
def test_dry_run_prints_one_object_and_leaves_no_trace(door, tmp_path):
    command = command_for(
        "logs/fixmatch_moco_pretrain/cifar100_4_labels_per_class" if door == "script" else "logs/erm/dtd_oracle"
    )
    start = {
        "script": [str(ROOT / "methods" / f"{command['method']}.py")],
        "command": ["-c", "from ssl_bench.cli import main; main()", command["method"]],
    }[door]
    command = json.loads(json.dumps(command))
    command["argv"][0] = command["expected"]["root"] = "/proc/there/is/no/such/folder"
    for name in ("cwd", "home"):
        (tmp_path / name).mkdir()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "HOME": str(tmp_path / "home"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *start, *command["argv"], "--dry-run"],
        cwd=tmp_path / "cwd", env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check_dry_run(done.stdout, command)
    assert list((tmp_path / "cwd").iterdir()) == []
    assert [file for file in (tmp_path / "home").rglob("*") if file.is_file()] == []


@pytest.mark.parametrize("script", ALL)
def test_dry_run_touches_neither_data_nor_network_nor_disk(script, tmp_path, monkeypatch, capsys):
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("touched during --dry-run")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch.zoo, "load", forbidden)
    monkeypatch.setattr(launch.record, "RunFolder", forbidden)
    monkeypatch.setattr(socket, "socket", forbidden)
    command = next(command for command in COMMANDS if command["method"] == script)
    for position in (0, len(command["argv"])):
        argv = [*command["argv"][:position], "--dry-run", *command["argv"][position:]]
        assert launch.run_command(METHODS[script], argv) == 0
        check_dry_run(capsys.readouterr().out, command)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["data/x", "-d", "CIFAR10", "--treshold", "0.9"], "--threshold"),
        (["data/x", "-d", "DTD", "--threshold", "7"], "--threshold 7.0 is out of range: >= 0 and <= 1"),
        (["data/x", "-d", "DTD", "--recipe", "no_such"], "no_such"),
        (["data/x", "-d", "CIFAR10", "--train-resizing", "res.|crop"], "--train-resizing"),
        (["data/x"], "-d NAME"),
    ],
)
def test_a_wrong_command_line_is_one_line_on_stderr_and_exit_code_2(argv, named, capsys):
    assert launch.run_command(METHODS[FX], argv + ["--dry-run"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fixmatch: error: ") and err.count("\n") == 1 and named in err
