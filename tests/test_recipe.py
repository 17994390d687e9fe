"""Recipes: precedence, names and paths, strictness; and every shipped file against the flags of its method."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tllib import ALL

import ssl_bench
from ssl_bench import flags, recipe
from ssl_bench.flags import FlagError, flag

ROOT = Path(ssl_bench.__file__).parent.parent
METHODS = sorted(path.stem for path in (ROOT / "methods").glob("*.py") if path.stem != "__init__")
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))


@dataclass
class Args:
    root: str | None = flag(None, "folder", positional=True)
    data: str = flag("Digits", "data set")
    recipe: str = flag("default", "recipe")
    phase: str = flag("train", "phase")
    dry_run: bool = flag(False, "print only")
    a: int = flag(0, "first")
    b: int = flag(0, "second")
    c: int = flag(0, "third")
    d: int = flag(0, "fourth")
    lr: float = flag(0.1, "rate", gt=0)
    threshold: float = flag(0.95, "confidence", ge=0, le=1)


@pytest.fixture
def shipped(monkeypatch, tmp_path):
    """A writable stand-in for the folder of shipped recipes: call it with name=text."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(recipe.resources, "files", lambda package: folder)

    def write(**files: str) -> None:
        for name, text in files.items():
            (folder / f"{name}.yaml").write_text(text, encoding="utf-8")

    return write


def fails(name: str = "default", data: str = "X") -> str:
    with pytest.raises(FlagError) as caught:
        recipe.resolve(Args, "toy", data, name)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


# ---- precedence ------------------------------------------------------------------------------------------------------


def test_later_sections_win(shipped):
    shipped(
        base="default: {all: {a: 1, b: 1, c: 1, d: 1}, X: {b: 2, c: 2, d: 2}, Y: {a: 9}}",
        toy="default: {all: {c: 3, d: 3}, X: {d: 4}, Y: {a: 8}}",
    )
    found = recipe.resolve(Args, "toy", "X", "default")
    assert found.values == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert found.sections == ("base[all]", "base[X]", "toy[all]", "toy[X]")
    assert recipe.resolve(Args, "toy", "Y", "default").values == {"a": 8, "b": 1, "c": 3, "d": 3}
    assert recipe.resolve(Args, "toy", "Z", "default").values == {"a": 1, "b": 1, "c": 3, "d": 3}
    assert recipe.resolve(Args, "other", "Z", "default").values == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_method_all_beats_base_data(shipped):
    shipped(base="default: {X: {a: 1}}", toy="default: {all: {a: 2}}")
    assert recipe.resolve(Args, "toy", "X", "default").values == {"a": 2}


def test_command_line_beats_every_section(shipped):
    from ssl_bench.args import TwoViewArgs
    from ssl_bench.launch import resolve
    from ssl_bench.method import Method

    class Toy(Method):
        """A toy."""

        name = "toy"
        Args = TwoViewArgs

    shipped(
        base="default: {all: {epochs: 1, mu: 1, lr: 1}, CIFAR10: {epochs: 2, mu: 2, lr: 2, batch_size: 2}}",
        toy="default: {all: {epochs: 3, mu: 3}, CIFAR10: {epochs: 4}}",
    )
    common = ["folder", "-d", "CIFAR10", "--num-samples-per-class", "4"]
    args, used = resolve(Toy, common)
    assert (args.epochs, args.mu, args.lr, args.batch_size, args.iters_per_epoch) == (4, 3, 2.0, 2, 500)
    assert used.values == {"epochs": 4, "mu": 3, "lr": 2.0, "batch_size": 2}
    args, _ = resolve(Toy, [*common, "--epochs", "5", "--mu=6", "--lr", "7", "-b", "8"])
    assert (args.epochs, args.mu, args.lr, args.batch_size) == (5, 6, 7.0, 8)
    # a value equal to the field's default is still the command line's
    args, _ = resolve(Toy, [*common, "--epochs", "20", "--learning-rate", "0.003", "-b32", "--mu", "1"])
    assert (args.epochs, args.mu, args.lr, args.batch_size) == (20, 1, 0.003, 32)
    args, used = resolve(Toy, [*common, "--recipe", "none"])
    assert (args.epochs, args.mu, args.lr, args.batch_size) == (20, 1, 0.003, 32)
    assert (used.name, used.values, used.sections) == ("none", {}, ())


# ---- names and paths -------------------------------------------------------------------------------------------------


def test_none_is_no_recipe(shipped):
    shipped(base="default: {all: {a: 1}}", toy="none: {all: {a: 2}}")
    assert recipe.resolve(Args, "toy", "X", "none") == recipe.Recipe("none", {}, ())


def test_default_may_be_absent_other_names_may_not(shipped):
    shipped(base="default: {all: {a: 1}}", toy="paper: {all: {b: 2}}\nquick: {all: {b: 3}}")
    assert recipe.resolve(Args, "toy", "X", "default").values == {"a": 1}
    assert recipe.resolve(Args, "toy", "X", "paper").values == {"a": 1, "b": 2}
    assert recipe.resolve(Args, "nobody", "X", "default").values == {"a": 1}
    text = fails("papre")
    assert "papre" in text and "did you mean paper" in text and "toy" in text
    assert "none" in fails("zzzzzz")


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_paths(shipped, tmp_path, suffix):
    shipped(base="default: {all: {a: 1}}", toy="default: {all: {b: 9}}")
    path = tmp_path / f"mine{suffix}"
    path.write_text("default: {all: {b: 2}, X: {c: 3}}\nlong: {X: {c: 4}}")
    assert recipe.resolve(Args, "toy", "X", str(path)).values == {"a": 1, "b": 2, "c": 3}
    assert recipe.resolve(Args, "toy", "Z", str(path)).values == {"a": 1, "b": 2}
    assert recipe.resolve(Args, "toy", "X", f"{path}:long").values == {"a": 1, "c": 4}
    assert recipe.resolve(Args, "toy", "X", f"{path}:long").name == f"{path}:long"
    assert "did you mean long" in fails(f"{path}:lnog") and str(path) in fails(f"{path}:lnog")
    path.write_text("other: {}")
    assert "default" in fails(str(path)), "a file without the asked-for name is an error, not an empty recipe"


def test_missing_or_unreadable_file_names_it(shipped, tmp_path):
    assert "gone.yaml" in fails(str(tmp_path / "gone.yaml"))
    assert "gone.yaml" in fails(str(tmp_path / "gone.yaml") + ":long")
    (tmp_path / "folder.yaml").mkdir()
    assert "folder.yaml" in fails(str(tmp_path / "folder.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"default: {all: {a: \xff}}")
    assert "latin.yaml" in fails(str(tmp_path / "latin.yaml"))


# ---- strictness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("default: {all: {treshold: 0.5}}", "did you mean threshold"),
        ("default: {all: {threshold: 7}}", "--threshold 7.0 is out of range: >= 0 and <= 1"),
        ("default: {X: {threshold: .nan}}", "--threshold nan is out of range"),
        ("default: {all: {a: 1.5}}", "--a takes a whole number"),
        ("default: {all: {a: null}}", "--a takes a whole number"),
        ("default: {all: {lr: 2020-01-01}}", "--lr takes a number"),
        ("default: {all: 3}", "toy[all] must map keys to values"),
        ("default: {all: 0}", "toy[all] must map keys to values"),
        ("default: {X: [a, 1]}", "toy[X] must map keys to values"),
        ("default: {all: [a]}", "toy[all] must map keys to values"),
        ("default: 3", "toy.yaml must map recipe names"),
        ("[1, 2]", "toy.yaml must map recipe names"),
        ("just text", "toy.yaml must map recipe names"),
        ("default: {all: {a: 1}", "toy.yaml is not valid YAML"),
        ("default: !!python/object/apply:os.getcwd []", "toy.yaml is not valid YAML"),
    ],
)
def test_bad_files_are_refused_in_one_line(shipped, text, named):
    shipped(toy=text)
    assert named in fails()


@pytest.mark.parametrize("key", ["root", "data", "recipe", "phase", "dry_run"])
@pytest.mark.parametrize("file", ["base", "toy"])
def test_keys_of_the_command_line_only(shipped, file, key):
    shipped(**{file: f"default: {{all: {{{key}: x, a: 1}}}}"})
    text = fails()
    assert key in text and "command line" in text and f"{file}[all]" in text


def test_bad_base_is_named_as_base(shipped):
    shipped(base="default: {X: {bb: 1}}", toy="default: {}")
    assert "recipe base[X]: unknown key 'bb'" in fails()


def test_yaml_exponent_without_a_dot_is_a_number(shipped):
    assert yaml.safe_load("5e-4") == "5e-4", "PyYAML reads this as text: the reason values go through the field's type"
    shipped(toy="default: {all: {lr: 5e-4}}")
    values = recipe.resolve(Args, "toy", "X", "default").values
    assert values == {"lr": 0.0005} and type(values["lr"]) is float


def test_empty_section_sets_nothing(shipped):
    shipped(toy="default: {all: , X: {a: 1}}")
    assert recipe.resolve(Args, "toy", "X", "default").values == {"a": 1}


def test_recipes_share_sections_through_anchors(shipped):
    shipped(toy="default: &one\n  X: {a: 1}\n  Y: {a: 2}\nmore:\n  <<: *one\n  all: {b: 3}\n  Y: {c: 4}\nsame: *one")
    resolved = {name: [recipe.resolve(Args, "toy", data, name).values for data in "XY"] for name in ("default", "more", "same")}
    assert resolved["default"] == resolved["same"] == [{"a": 1}, {"a": 2}]
    assert resolved["more"] == [{"b": 3, "a": 1}, {"b": 3, "c": 4}]


def test_what_a_reader_of_a_recipe_does_to_it_is_gone_at_the_next(shipped):
    shipped(toy="default: {X: {a: 1}}")
    recipe.resolve(Args, "toy", "X", "default").values["a"] = 9
    assert recipe.resolve(Args, "toy", "X", "default").values == {"a": 1}


def test_hash_is_of_the_values_only():
    one = recipe.Recipe("x", {"a": 1, "lr": 0.1}, ("s",))
    assert one.hash == recipe.Recipe("y", {"lr": 0.1, "a": 1}, ()).hash
    assert one.hash != recipe.Recipe("x", {"a": 2, "lr": 0.1}, ("s",)).hash
    assert re.fullmatch("[0-9a-f]{12}", one.hash)


# ---- shipped files ---------------------------------------------------------------------------------------------------


def methods_args(stem: str) -> list[tuple[str, type]]:
    """(method name, its Args class) for the methods a shipped file speaks to."""
    found = []
    for name in METHODS if stem == "base" else [stem]:
        module = importlib.import_module(f"ssl_bench.methods.{name}")
        classes = [
            value for value in vars(module).values() if isinstance(value, type) and getattr(value, "name", None) == name
        ]
        assert len(classes) == 1, f"{name}: {classes}"
        found.append((name, classes[0].Args))
    return found


def test_there_is_something_to_check():
    assert len(METHODS) >= 11 and len(SHIPPED) >= 12
    for name in ALL:
        tree = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))
        assert {"default", "tllib", "tllib-moco"} <= set(tree), name


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_belongs_to_a_method_and_is_documented(path):
    assert path.stem == "base" or path.stem in METHODS, f"{path.name} is the recipe file of no method"
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for word in ("Source: ", "Command: ", "Expected: "):
        assert word in "".join(header), f"{path.name} has no header comment that says {word}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_parses_strictly_for_every_recipe_and_data_set(path):
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "base":
        assert set(tree) == {"default"}, "only base's default is ever applied"
    for name, args_class in methods_args(path.stem):
        table = flags.specs(args_class)
        for inner, sections in tree.items():
            known = [section for section in sections if section != "all"]
            if inner != "default" and known:
                with pytest.raises(flags.FlagError, match=f"recipe {inner} of {name} is for {known[0]}.*, not for Elsewhere"):
                    recipe.resolve(args_class, name, "Elsewhere", inner)
            for data in known + ["a data set no recipe knows"] * (inner == "default"):
                found = recipe.resolve(args_class, name, data, inner)
                for section in ("all", data):
                    for key, value in (sections.get(section) or {}).items():
                        assert key in table
                        wanted = found.values[key]
                        bounds = table[key].metadata
                        if wanted is None:  # nothing, or a word for it
                            assert table[key].optional and value in (None, bounds["none"])
                            continue
                        for item in wanted if isinstance(wanted, tuple) else [wanted]:
                            assert bounds["ge"] is None or item >= bounds["ge"]
                            assert bounds["gt"] is None or item > bounds["gt"]
                            assert bounds["le"] is None or item <= bounds["le"]
                            assert bounds["lt"] is None or item < bounds["lt"]
                            assert not bounds["choices"] or item in bounds["choices"]
                        if section == data and path.stem != "base" and not isinstance(value, list):
                            assert wanted == type(wanted)(value), (
                                f"{path.name} {inner}[{data}].{key} is not what applies"
                            )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_sections_are_data_sets(path):
    """A section with a typo would silently never apply."""
    from ssl_bench import zoo

    known = {"all", *zoo.names()}
    for inner, sections in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        assert set(sections) <= known, f"{path.name} {inner}: {set(sections) - known} is no data set"


def test_recorded_values_round_trip_through_json():
    """Resolved arguments written as JSON and read back as keys give the same values (re-running recorded arguments)."""
    from ssl_bench.args import TwoViewArgs

    values = json.loads(json.dumps({key: getattr(TwoViewArgs(), key) for key in flags.specs(TwoViewArgs)}))
    checked = flags.check_keys(TwoViewArgs, values, "args.json")
    assert checked == {key: getattr(TwoViewArgs(), key) for key in flags.specs(TwoViewArgs)}


def test_resolving_needs_no_torch_and_works_from_any_folder(tmp_path):
    code = (
        "import sys\n"
        "from ssl_bench import recipe\n"
        "from ssl_bench.args import TwoViewArgs\n"
        "found = recipe.resolve(TwoViewArgs, 'nobody', 'Digits', 'default')\n"
        "assert 'torch' not in sys.modules\n"
        "print(len(found.values))\n"
    )
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0, "the shipped base recipe has a section for Digits"


def test_an_unknown_key_of_a_file_has_its_line(shipped, tmp_path):
    (tmp_path / "my.yaml").write_text("default:\n  all:\n    a: 1\n    treshold: 0.5\n")
    text = fails(str(tmp_path / "my.yaml"))
    assert "my.yaml[all] line 4: unknown key 'treshold'; did you mean threshold" in text


@pytest.mark.parametrize("text", ["default: {1: {a: 1}}", "~: {all: {a: 1}}", "default: {all: {a: 1}}\n3: {}"])
def test_names_of_recipes_and_data_sets_are_texts(shipped, text):
    shipped(toy=text)
    assert "toy.yaml must map recipe names" in fails()
