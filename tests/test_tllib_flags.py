"""TLlib's command line stays valid: every flag, short form, default and unique prefix of its eleven scripts."""

from __future__ import annotations

import dataclasses

import pytest
from tllib import ALL, AS_THE_SEED, AS_TLLIB, METHODS, TABLE, defaults_of, table_of

from ssl_bench import flags, launch
from ssl_bench.args import Args as SharedArgs


def parse(script: str, *argv: str) -> dict[str, object]:
    return flags.parse(METHODS[script].Args, argv, script, "")


# ---- flags, short forms, types, defaults -----------------------------------------------------------------------------


@pytest.mark.parametrize("script", ALL)
def test_bare_defaults_are_tllibs(script):
    args, used = launch.resolve(METHODS[script], ["--recipe", "none"])
    assert used.values == {}
    expected = defaults_of(script) | AS_TLLIB | {"root": None}
    got = {field: getattr(args, field) for field in expected}
    assert got == expected
    assert {field: type(value) for field, value in got.items()} == {
        field: type(value) for field, value in expected.items()
    }
    assert args.lr_scheduler == ("step" if script == "self_tuning" else "exp")
    for field, value in AS_THE_SEED.get(script, {}).items():
        assert getattr(args, field) != value, f"the default of {field} is TLlib's bug"


@pytest.mark.parametrize("script", ALL)
def test_every_spelling_sets_its_field(script):
    for names, field, argv, value, default in table_of(script):
        assert value != default, "the sample must differ from the default, or this shows nothing"
        for name in names:
            forms = [[name, *argv]]
            if len(argv) == 1:
                forms.append([f"{name}={argv[0]}"] if name.startswith("--") else [name + argv[0]])
            for form in forms:
                given = parse(script, *form)
                assert given == {field: value} and type(given[field]) is type(value), form
    assert parse(script, "folder") == {"root": "folder"}


@pytest.mark.parametrize("script", ALL)
def test_whole_number_flags_stay_whole_numbers(script):
    for names, _, _, value, _ in table_of(script):
        if type(value) is int:
            with pytest.raises(flags.FlagError, match="takes a whole number"):
                parse(script, names[-1], "1.5")
        if type(value) is float:
            given = parse(script, names[-1], "1" if names != ["--m"] and names != ["--momentum"] else "0")
            assert type(next(iter(given.values()))) is float


@pytest.mark.parametrize("script", ALL)
def test_a_script_has_no_flag_of_another(script):
    shared = {field.name for field in dataclasses.fields(SharedArgs)}
    foreign = {names.split()[-1] for names, field, *_, defaults in TABLE if script not in defaults and field not in shared}
    assert len(foreign) > 8
    for name in foreign - {"--m"}:  # also a prefix
        with pytest.raises(flags.FlagError, match="unknown flag"):
            parse(script, name, "1")


def test_the_root_may_stand_anywhere_and_values_may_be_attached():
    parts = [["-d", "CIFAR10"], ["--finetune"], ["--lr=0.5"], ["--no-pool"], ["-b64"], ["--seed", "1"]]
    for position in range(len(parts) + 1):
        argv = [token for part in [*parts[:position], ["folder"], *parts[position:]] for token in part]
        args, _ = launch.resolve(METHODS["fixmatch"], argv)
        assert (args.root, args.data, args.finetune, args.lr, args.pool, args.batch_size, args.seed) == (
            "folder", "CIFAR10", True, 0.5, False, 64, 1,
        ), argv  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "on"),
    [
        (["--warmup"], True), (["--no-warmup"], False),
        (["--warmup", "True"], True), (["--warmup", "true"], True), (["--warmup=TRUE"], True), (["--warm", "true"], True),
        # argparse's type=bool: any text but "" was True in TLlib, so these turned the warm-up on there.
        (["--warmup", "False"], False), (["--warmup", "false"], False), (["--warmup=False"], False), (["--warmup=false"], False),
    ],
)  # fmt: skip
def test_flexmatchs_warmup_is_a_switch_that_takes_a_word_too(argv, on):
    assert parse("flexmatch", *argv) == {"warmup": on}
    assert parse("flexmatch", *argv, "data/x") == {"warmup": on, "root": "data/x"}


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
def test_every_unique_prefix_of_tllib_still_resolves(script):
    prefixes = unique_prefixes(script)
    assert len(prefixes) > 150
    parser = flags.build_parser(METHODS[script].Args, script, "")
    assert {prefix: flags.expand_prefixes(parser, [prefix]) for prefix in prefixes} == {
        prefix: [option] for prefix, option in prefixes.items()
    }


def test_some_prefixes_by_hand():
    """The same, written out: what argparse made of these with TLlib's flags."""
    argv = "x --dat CIFAR10 --nu 10 --ar resnet18 --th .5 --e 3 --s 9 --lo z --wo 1 --no-p --f --ph train --iters=5".split()
    args, _ = launch.resolve(METHODS["fixmatch"], argv)
    assert (args.data, args.num_samples_per_class, args.arch, args.threshold) == ("CIFAR10", 10, "resnet18", 0.5)
    assert (args.epochs, args.seed, args.log, args.workers, args.pool, args.finetune, args.iters_per_epoch) == (
        3, 9, "z", 1, False, True, 5,
    )  # fmt: skip
    assert parse("debiasmatch", "--m", "0.5") == {"momentum": 0.5}, "its script had no --milestones"
    assert parse("self_tuning", "--m", "0.5", "--mi", "1", "2") == {"m": 0.5, "milestones": (1, 2)}
    assert parse("self_tuning", "--lr-", "0.5") == {"lr_gamma": 0.5}, "its script had no --lr-scheduler"
