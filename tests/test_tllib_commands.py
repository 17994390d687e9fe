"""TLlib's 268 published commands stay valid, mean what they meant, and are what the recipes tllib* say."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tllib import ALL, AS_THE_SEED, AS_TLLIB, COMMANDS, METHODS, as_json, defaults_of, lines, name_of

import ssl_bench
from ssl_bench import flags, launch
from ssl_bench.args import Args

ROOT = Path(ssl_bench.__file__).parent.parent
LINES = lines()


def means(args: Args, expected: dict[str, object]) -> None:
    got = {field: as_json(getattr(args, field)) for field in expected}
    assert got == {field: as_json(value) for field, value in expected.items()}


def correct(script: str) -> dict[str, object]:
    defaults = METHODS[script].Args()
    return {field: getattr(defaults, field) for field in AS_THE_SEED.get(script, {})}


# ---- the published commands ------------------------------------------------------------------------------------------


def test_the_data_file_holds_every_published_command_once():
    assert Counter(command["method"] for command in COMMANDS) == dict.fromkeys(ALL, 22) | {"erm": 66, "noisy_student": 4}
    assert len({(command["method"], *command["argv"]) for command in COMMANDS}) == len(COMMANDS) == 268
    assert len({command["expected"]["log"] for command in COMMANDS}) == 268 and len(LINES) == 272
    assert sum("--pretrained-backbone" in command["argv"] for command in COMMANDS) == 134
    assert sum("--lr-scheduler" in command["argv"] for command in COMMANDS) == 123  # not Self-Tuning's eleven
    assert sum("--oracle" in command["argv"] for command in COMMANDS) == 22
    for command in COMMANDS:
        assert {"--finetune", "resnet50", "--seed"} <= set(command["argv"])
        assert ("cifar" in command["argv"]) == ("CIFAR" in command["expected"]["data"])


@pytest.mark.parametrize("line", LINES, ids=name_of)
def test_published_command_means_what_it_meant(line):
    script = line["method"]
    args, _ = launch.resolve(METHODS[script], line["argv"])
    means(args, {"root": None, **defaults_of(script), **line["expected"]} | AS_TLLIB | correct(script))


def test_the_one_published_value_that_cannot_be_meant_is_warned_of(capsys):
    """DebiasMatch on DTD was published with --threshold 7: no confidence is above 7, so it trained on the labels alone."""
    (line,) = [line for line in LINES if line["expected"].get("threshold", 0) > 1]
    assert launch.run_command(METHODS["debiasmatch"], [*line["argv"], "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["threshold"] == 7 and captured.err.startswith("debiasmatch: warning: --threshold 7 is above 1: no prediction")
    args, _ = launch.resolve(METHODS["debiasmatch"], ["data/dtd", "-d", "DTD"])
    assert args.threshold == 0.7 and not flags.warnings(args)


# ---- recipe = command ------------------------------------------------------------------------------------------------


def by_recipe(line: dict) -> Args:
    """The arguments of the recipe that stands for a published command; for a round of Noisy Student, those of its stage."""
    expected, method = line["expected"], METHODS[line["method"]]
    recipe = "tllib" + "-moco" * bool(expected["pretrained_backbone"]) + "-oracle" * expected.get("oracle", False)
    argv = [expected["root"], "-d", expected["data"], "--recipe", recipe, "--log", expected["log"]]
    if expected["num_samples_per_class"] != 4:
        argv += ["--num-samples-per-class", str(expected["num_samples_per_class"])]
    args, used = launch.resolve(method, argv)
    assert any(section.endswith(f"[{expected['data']}]") and section.startswith(line["method"]) for section in used.sections)
    return method.stages(args)[line["round"]].args


@pytest.mark.parametrize("line", LINES, ids=name_of)
def test_recipe_is_the_published_command(line):
    script = line["method"]
    command = dataclasses.asdict(launch.resolve(METHODS[script], line["argv"])[0])
    args = by_recipe(line)
    recipe = dataclasses.asdict(args)
    differing = {field for field in command if command[field] != recipe[field]} - {"recipe"}
    assert differing - {"pretrained_teacher", "T"} == set(AS_THE_SEED.get(script, {}))
    assert {field: recipe[field] for field in AS_THE_SEED.get(script, {})} == AS_THE_SEED.get(script, {})
    if script != "noisy_student":
        assert not differing & {"pretrained_teacher", "T"}
        means(args, {**defaults_of(script), **line["expected"]})
        return
    # The first teacher has no temperature to use; the others' teacher is the stage before instead of a file of that run.
    assert ("T" in differing) == (line["round"] == 0)
    assert recipe["pretrained_teacher"] == (f"generation{line['round'] - 1}" if line["round"] else None)
    assert command["pretrained_teacher"] is None or f"/iter_{line['round'] - 1}/" in command["pretrained_teacher"]


def test_noisy_students_recipe_has_the_published_rounds_and_no_more():
    args, _ = launch.resolve(METHODS["noisy_student"], "data/cifar100 -d CIFAR100 --recipe tllib".split())
    assert [stage.name for stage in METHODS["noisy_student"].stages(args)] == [f"generation{i}" for i in range(4)]


def test_the_command_line_goes_over_the_recipe():
    argv = "x -d DTD --recipe tllib-moco --pretrained-backbone mine.pth --lr 0.5 --no-reset-prior".split()
    args, _ = launch.resolve(METHODS["debiasmatch"], argv)
    assert (args.pretrained_backbone, args.lr, args.reset_prior, args.tau) == ("mine.pth", 0.5, False, 3.0)


# ---- dry run ---------------------------------------------------------------------------------------------------------


def command_for(log: str) -> dict:
    return next(command for command in COMMANDS if command["expected"]["log"] == log)


def check_dry_run(stdout: str, command: dict) -> None:
    lines = stdout.splitlines()
    assert len(lines) == 1, stdout
    shown = json.loads(lines[0])
    assert shown["method"] == command["method"] and shown["dry_run"] is True
    for field, value in {**defaults_of(command["method"]), **command["expected"]}.items():
        assert shown[field] == as_json(value), field


@pytest.mark.parametrize("door", ["script", pytest.param("command", marks=pytest.mark.slow)])
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
    assert launch.run_command(METHODS["fixmatch"], argv + ["--dry-run"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fixmatch: error: ") and err.count("\n") == 1 and named in err
