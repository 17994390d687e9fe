"""One declaration is a flag and a recipe key: conversion, ranges, prefixes, messages, help."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ssl_bench
from ssl_bench import flags
from ssl_bench.args import Args as SharedArgs
from ssl_bench.args import TwoViewArgs
from ssl_bench.flags import FlagError, flag


@dataclass
class Args:
    root: str | None = flag(None, "folder", positional=True)
    epochs: int = flag(20, "passes", ge=1)
    lr: float = flag(0.1, "rate", names=("--learning-rate",), gt=0)
    batch_size: int = flag(8, "images", names=("-b",), ge=1, le=64)
    threshold: float = flag(0.95, "confidence", ge=0, le=1)
    ratio: float = flag(0.5, "open interval", gt=0, lt=1)
    mean: tuple[float, ...] = flag((0.5, 0.25, 0.125), "per channel", many=3, gt=0)
    words: tuple[str, ...] = flag((), "any number of words")
    mode: str = flag("a", "which of two", choices=("a", "b"))
    note: str = flag("", "free text, 100% free")
    file: str | None = flag(None, "path")
    pool: bool = flag(True, "pool it")
    fast: bool = flag(False, "hurry")


@dataclass
class Child(Args):
    epochs: int = 60
    extra: int = flag(3, "only here", ge=0)


def parse(*argv: str, args_class: type = Args) -> dict:
    return flags.parse(args_class, list(argv), "prog", "what it does")


def message(*argv: str, args_class: type = Args) -> str:
    with pytest.raises(FlagError) as caught:
        parse(*argv, args_class=args_class)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


# ---- conversion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], {}),
        (["there"], {"root": "there"}),
        (["--epochs", "3"], {"epochs": 3}),
        (["--lr", "5e-4"], {"lr": 0.0005}),
        (["--lr=1"], {"lr": 1.0}),
        (["--learning-rate", "0.25"], {"lr": 0.25}),
        (["--lr", "0.5", "--learning-rate", "0.25"], {"lr": 0.25}),
        (["-b", "7"], {"batch_size": 7}),
        (["-b7"], {"batch_size": 7}),
        (["--batch-size=7"], {"batch_size": 7}),
        (["--mean", "1", "2", "3"], {"mean": (1.0, 2.0, 3.0)}),
        (["--words", "x=1", "y"], {"words": ("x=1", "y")}),
        (["--mode", "b"], {"mode": "b"}),
        (["--note", ""], {"note": ""}),
        (["--note=--epochs"], {"note": "--epochs"}),
        (["--note=a=b"], {"note": "a=b"}),
        (["--note", "0.5"], {"note": "0.5"}),
        (["--file", "x"], {"file": "x"}),
        (["--fast"], {"fast": True}),
        (["--no-fast"], {"fast": False}),
        (["--pool", "--no-pool"], {"pool": False}),
        (["--no-pool", "--pool"], {"pool": True}),
        (["--fast", "true"], {"fast": True}),
        (["--fast", "False"], {"fast": False}),
        (["--fast=TRUE"], {"fast": True}),
        (["--pool=false"], {"pool": False}),
        (["--no-pool", "true"], {"pool": False}),
        (["--no-pool=False"], {"pool": True}),
        (["--fa", "true", "--ep=3"], {"fast": True, "epochs": 3}),
        (["--fast", "there"], {"fast": True, "root": "there"}),
        (["true", "--fast"], {"fast": True, "root": "true"}),
        (["--fast", "true", "true"], {"fast": True, "root": "true"}),
        (["--fast=false", "true"], {"fast": False, "root": "true"}),
        (["--fast", "./true"], {"fast": True, "root": "./true"}),
        (["--fast", "--", "true"], {"fast": True, "root": "true"}),
        (["--note", "true"], {"note": "true"}),
        (["--words", "a", "--fast", "false"], {"words": ("a",), "fast": False}),
        (["--epochs", "3", "--", "--odd-folder"], {"epochs": 3, "root": "--odd-folder"}),
        (["--threshold", "0"], {"threshold": 0.0}),
        (["--threshold", "1"], {"threshold": 1.0}),
        (["-b", "1"], {"batch_size": 1}),
        (["-b", "64"], {"batch_size": 64}),
    ],
)
def test_values_are_converted_and_only_given_ones_returned(argv, expected):
    got = parse(*argv)
    assert got == expected
    assert {key: type(value) for key, value in got.items()} == {key: type(value) for key, value in expected.items()}


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--epochs", "1.5"], "--epochs"),
        (["--epochs", "many"], "--epochs"),
        (["--epochs", ""], "--epochs"),
        (["--epochs", "1e400"], "--epochs"),
        (["--epochs"], "--epochs"),
        (["--lr", "fast"], "--lr"),
        (["--mean", "1", "2"], "--mean takes 3 values, got 2"),
        (["--mean", "1", "2", "3", "4"], "--mean takes 3 values, got 4"),
        (["--mean", "1", "2", "x"], "--mean"),
        (["--mean", "1", "2", "0"], "--mean"),
        (["--mode", "c"], "--mode is one of a, b"),
        (["--fast=yes"], "--fast is a switch: true or false, got 'yes'"),
        (["--no-pool="], "--no-pool is a switch: true or false, got ''"),
        (["--fast", "true", "false", "other"], "other"),
        (["one", "two"], "two"),
        (["-z"], "-z"),
    ],
)
def test_bad_values_name_the_flag(argv, named):
    assert named in message(*argv)


# ---- ranges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "limit"),
    [
        ("--epochs", "0", ">= 1"),
        ("--epochs", "-3", ">= 1"),
        ("--lr", "0", "> 0"),
        ("--lr", "-0.001", "> 0"),
        ("--lr", "inf", "> 0"),
        ("--lr", "nan", "> 0"),
        ("--batch-size", "65", ">= 1 and <= 64"),
        ("--threshold", "7", ">= 0 and <= 1"),
        ("--threshold", "1.0000001", ">= 0 and <= 1"),
        ("--threshold", "-0.0001", ">= 0 and <= 1"),
        ("--threshold", "nan", ">= 0 and <= 1"),
        ("--ratio", "0", "> 0 and < 1"),
        ("--ratio", "1", "> 0 and < 1"),
        ("--ratio", "1e400", "> 0 and < 1"),
    ],
)
def test_out_of_range_states_flag_and_range(option, value, limit):
    text = message(option, value)
    assert option in text and "out of range" in text and limit in text
    assert message(f"{option}={value}") == text


def test_negative_number_in_scientific_notation_is_out_of_range_too():
    assert "--lr -1e-09 is out of range: > 0" in message("--lr=-1e-9")
    assert "--lr" in message("--lr", "-1e-9")  # older argparse takes this for a flag; it must still name --lr


def test_infinite_and_nan_are_refused_without_a_declared_range():
    @dataclass
    class Free:
        x: float = flag(0.0, "anything finite")

    for value in ("inf", "-inf", "nan", "1e999"):
        with pytest.raises(FlagError, match="--x .* out of range: finite"):
            flags.parse(Free, [f"--x={value}"], "prog", "")
    assert flags.parse(Free, ["--x=-1e300"], "prog", "") == {"x": -1e300}


# ---- names and prefixes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("--epoch-s", "--epochs"),
        ("--treshold", "--threshold"),
        ("--no-pol", "--no-pool"),
        ("--BATCH-SIZE", "--batch-size"),
    ],
)
def test_unknown_flag_offers_the_nearest(wrong, right):
    text = message(wrong, "1")
    assert wrong in text and right in text and "--help" in text


def test_unknown_flag_with_a_value_attached_names_only_the_flag():
    assert message("--treshold=0.5").startswith("unknown flag '--treshold'")


def test_prefixes_resolve_when_unique_and_are_reported_when_not():
    assert parse("--ep", "3", "--thr=0.5", "--learning", "2") == {"epochs": 3, "threshold": 0.5, "lr": 2.0}
    assert parse("--no-po", "--fa") == {"pool": False, "fast": True}
    text = message("--m", "1")
    assert "--m is ambiguous: --mean, --mode" in text
    assert "ambiguous" in message("--f", "1")
    assert parse("--file", "f") == {"file": "f"}


def test_flags_tllib_had_win_a_prefix_over_later_ones():
    @dataclass
    class Grown:
        alpha: float = flag(0.5, "TLlib's")
        all_new: float = flag(0.5, "ours")
        mu: int = flag(1, "ours")
        mux: int = flag(1, "ours")

    assert flags.parse(Grown, ["--al", "0.25"], "prog", "") == {"alpha": 0.25}
    assert flags.parse(Grown, ["--mu", "2"], "prog", "") == {"mu": 2}, "an exact name is no prefix"
    with pytest.raises(FlagError, match="--m is ambiguous: --mu, --mux"):
        flags.parse(Grown, ["--m", "2"], "prog", "")


def test_values_after_a_double_dash_are_not_expanded():
    assert parse("--", "--epo") == {"root": "--epo"}


# ---- declarations ----------------------------------------------------------------------------------------------------


def test_subclass_default_inherits_help_range_and_names():
    base, child = flags.specs(Args), flags.specs(Child)
    assert (base["epochs"].default, child["epochs"].default, Child().epochs, Args().epochs) == (20, 60, 60, 20)
    assert child["epochs"].metadata["help"] == "passes" and child["epochs"].metadata["ge"] == 1
    assert list(child) == [*base, "extra"]
    assert "out of range" in message("--epochs", "0", args_class=Child)
    assert parse("--extra", "0", args_class=Child) == {"extra": 0}
    assert "default 60" in " ".join(flags.build_parser(Child, "prog", "").format_help().split())


def test_field_without_flag_is_a_type_error_that_names_it():
    @dataclass
    class Careless(Args):
        forgotten: int = 3

    with pytest.raises(TypeError, match=r"Careless\.forgotten must be declared with ssl_bench\.flags\.flag"):
        flags.specs(Careless)


def test_kinds_of_fields():
    table = flags.specs(Args)
    assert (table["file"].kind, table["file"].optional, table["file"].sequence) == (str, True, False)
    assert (table["mean"].kind, table["mean"].optional, table["mean"].sequence) == (float, False, True)
    assert table["batch_size"].option == "--batch-size"


# ---- recipe values ---------------------------------------------------------------------------------------------------


def test_recipe_values_pass_through_the_type_of_the_field():
    values = {
        "lr": "5e-4",
        "epochs": "3",
        "mean": [1, "2", 3.5],
        "fast": True,
        "file": None,
        "threshold": 1,
        "words": "one",
    }
    checked = flags.check_keys(Args, values, "here")
    assert checked == {
        "lr": 0.0005, "epochs": 3, "mean": (1.0, 2.0, 3.5), "fast": True, "file": None, "threshold": 1.0,
        "words": ("one",),
    }  # fmt: skip
    assert type(checked["epochs"]) is int and type(checked["threshold"]) is float


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"epochs": 2.5}, "--epochs"),
        ({"epochs": None}, "--epochs"),
        ({"epochs": True}, "--epochs"),
        ({"epochs": [3]}, "--epochs"),
        ({"epochs": {"a": 1}}, "--epochs"),
        ({"epochs": float("inf")}, "--epochs"),
        ({"lr": float("nan")}, "--lr"),
        ({"lr": False}, "--lr"),
        ({"fast": "true"}, "--fast"),
        ({"fast": 1}, "--fast"),
        ({"mean": 1.0}, "--mean"),
        ({"mean": [1, [2], 3]}, "--mean"),
        ({"mode": "c"}, "--mode"),
        ({"threshold": 7}, "--threshold"),
        ({"epoch": 3}, "did you mean epochs"),
        ({3: 3}, "unknown key '3'"),
    ],
)
def test_bad_recipe_values_name_place_and_key(values, named):
    with pytest.raises(FlagError) as caught:
        flags.check_keys(Args, values, "recipe x[all]")
    assert str(caught.value).startswith("recipe x[all]: ") and named in str(caught.value)


# ---- help ------------------------------------------------------------------------------------------------------------


def entries(text: str) -> dict[str, str]:
    """Long flag -> its whole help entry on one line."""
    blocks = re.split(r"\n(?=  \S)", text)[1:]  # the first is usage and description
    found = {}
    for block in blocks:
        for option in re.findall(r"(?<!\S)(--[\w-]+)", block.split("  ")[1]):
            found[option] = " ".join(block.split())
    return found


@pytest.mark.parametrize("args_class", [Args, Child, SharedArgs, TwoViewArgs])
def test_help_states_default_and_range_of_every_field(args_class):
    text = flags.build_parser(args_class, "prog", "what it does").format_help()
    found = entries(text)
    for field in dataclasses.fields(args_class):
        spec = flags.specs(args_class)[field.name]
        if spec.metadata["positional"]:
            assert spec.metadata["help"] in text
            continue
        entry = found["--" + field.name.replace("_", "-")]
        assert spec.metadata["help"] in entry
        default = getattr(args_class(), field.name)
        if isinstance(default, tuple):
            default = " ".join(str(value) for value in default)
        if default not in (None, ""):
            assert f"[default {default}]" in entry, entry
        for sign, bound in ((">=", "ge"), (">", "gt"), ("<=", "le"), ("<", "lt")):
            if spec.metadata[bound] is not None:
                shown = re.search(rf"(?<!\S|\[){re.escape(sign)} ([\d.e+-]+)|\[{re.escape(sign)} ([\d.e+-]+)", entry)
                assert shown is not None, (sign, entry)
                assert float(shown[1] or shown[2]) == pytest.approx(spec.metadata[bound], rel=1e-5), entry
        for name in (*spec.metadata["names"], *spec.metadata["choices"]):
            assert name in entry


def test_help_prints_and_stops_without_torch():
    code = (
        "import sys\n"
        "from ssl_bench import flags\n"
        "from ssl_bench.args import TwoViewArgs\n"
        "try:\n"
        "    flags.parse(TwoViewArgs, ['--help'], 'prog', 'what it does')\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "else:\n"
        "    raise AssertionError('help did not stop')\n"
        "heavy = {'torch', 'numpy', 'timm', 'torchvision', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = str(Path(ssl_bench.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--trade-off-cls-strong" in done.stdout and "what it does" in done.stdout


# ---- any text at all -------------------------------------------------------------------------------------------------

KNOWN = [
    option
    for parser in (flags.build_parser(Args, "p", ""), flags.build_parser(TwoViewArgs, "p", ""))
    for action in parser._actions
    for option in action.option_strings
]
TOKENS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(KNOWN),
    st.builds(lambda option, cut: option[:cut], st.sampled_from(KNOWN), st.integers(0, 12)),
    st.builds(lambda option, value: f"{option}={value}", st.sampled_from(KNOWN), st.text(max_size=5)),
    st.sampled_from(
        [
            "--",
            "-",
            "=",
            "--=",
            "-1",
            "nan",
            "inf",
            "1_0",
            "0x1",
            "١",
            "9" * 400,
            "9" * 5000,
            "%s",
            "%",
            "@x",
            "1",
            ".5",
        ]
    ),
)


@pytest.mark.parametrize("args_class", [Args, TwoViewArgs])
@settings(max_examples=120, deadline=None, derandomize=True)
@given(argv=st.lists(TOKENS, max_size=5))
def test_any_tokens_parse_or_raise_flag_error(args_class, argv):
    try:
        values = flags.parse(args_class, argv, "prog", "")
    except FlagError as error:
        assert str(error)
    except SystemExit as stop:
        assert stop.code == 0 and any(token in ("-h", "--help") or token.startswith(("--h", "-h")) for token in argv)
    else:
        assert set(values) <= set(flags.specs(args_class))
        dataclasses.replace(args_class(), **values)


YAML = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.dates(),
        st.datetimes(),
        st.binary(max_size=3),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
        | st.sets(st.integers(), max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(key=st.sampled_from(list(flags.specs(Args))), value=YAML)
def test_any_yaml_value_is_converted_or_raises_flag_error(key, value):
    try:
        checked = flags.check_keys(Args, {key: value}, "here")
    except FlagError as error:
        assert str(error).startswith("here: ")
    else:
        assert set(checked) == {key}
