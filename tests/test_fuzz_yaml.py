"""Recipes and studies in YAML, of every form and none: each is read as meant or refused in a kind line that names the file.  Nothing is trained."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from fuzzing import SIZES, ask, files_under, fuzz, refused_kindly
from hypothesis import strategies as st

from ssl_bench import launch, study

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)
MERGED = "a: &a {x: 1}\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{', '.join([f'*{chr(97 + i)}'] * 9)}]}}\n" for i in range(9))
WHOLE = [
    b"", b"\n", b"#", b"---\n---\n", b"a: 1\n---\nb: 2\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"a: \x00", b"default: {all: {lr: 1}}\x1b", b"%YAML 9.9\n---\n",
    b"[" * 3000, b"{a: " * 3000, b"- " * 3000, b"[" * 100_000, b"a: &a [*a]", b"default: &a {all: *a}", b"&a default: *a", b"? [a]\n: 1", b"? {a: 1}\n: 1", b"*x", b"!!python/name:os.system",
    b"!!set {a, b}", b"!!binary x", b"!!int x", b"!!float x", b"!!timestamp 2020-13-45", b"2020-13-45", b"a: 2020-99-99", b"!!bool maybe", b"a: 1\na: 2", b"\t- a", b"a: b: c", b"'", b'"', b"|", b">",
    b"default: {all: {lr: " + b"9" * 5000 + b"}}", b"default: {all: {epochs: 0x" + b"f" * 5000 + b"}}", b"default: {all: {epochs: 1:1:1}}", b"=", b"<<: 1", b"<<: [1]", b"a: {<<: *b}",
    LAUGHS.encode(), MERGED.encode(), LAUGHS.encode() + b"default: {all: {lr: *j}}\nmethods: *j\nsettings: [{data: *j}]\n", b"default: {all: {lr: 1}}".decode().encode("utf-16"), b"default: {\xe4: {lr: 1}}",
    b"default: !!omap [a: 1]", b"default: !!pairs [a: 1]", b"default: {all: !!omap [lr: 1]}", b"default: {? !!binary aGFsbG8= : {lr: 1}}", b"{!!null '': {}}", b"default:\r\n  all: {lr: 0.5}\r\n",
]  # fmt: skip
SCALARS = st.sampled_from([
    None, True, False, 0, 1, -1, 3, 10**30, 1e308, float("inf"), float("nan"), "", "x", "all", "none", "a\nb", "\x1b[1m", "\ufeff", "1e-3", "Digits", "erm", "fixmatch",
    "erm --oracle", "erm '", "--epochs", "x.yaml", "~", "data", "\u2028", "ü" * 300, b"\xff", "a:b", 4, 0.5,
])  # fmt: skip


def trees(leaves: st.SearchStrategy, keys: st.SearchStrategy) -> st.SearchStrategy:
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6)


def with_faults(good: st.SearchStrategy[dict], keys: st.SearchStrategy[str]) -> st.SearchStrategy[dict]:
    """`good` trees with a key or two that are something else."""
    wrong = st.dictionaries(keys, trees(SCALARS, keys), max_size=2)
    return st.tuples(good, wrong).map(lambda pair: pair[0] | pair[1])


FLAGS = st.sampled_from(
    "lr epochs seed log data root recipe device milestones norm_mean arch batch_size threshold treshold pool model_kwargs all Digits only without num-samples-per-class".split()
)
RECIPES = st.dictionaries(
    st.sampled_from(["default", "long", "none", "x"]) | SCALARS,
    st.dictionaries(st.sampled_from(["all", "Digits", "CIFAR10"]) | SCALARS, trees(SCALARS, FLAGS) | st.dictionaries(FLAGS, SCALARS | st.lists(SCALARS, max_size=3), max_size=3), max_size=2),
    max_size=2,
)
SETTING = st.fixed_dictionaries({"data": st.sampled_from(["Digits", "Digits", "Digit"])}, optional={
    "epochs": st.sampled_from([1, 2, "x", 0]), "lr": st.sampled_from([0.1, "1e-2", -1]), "only": trees(SCALARS, FLAGS), "without": st.lists(st.sampled_from(["erm", "uda", 1])),
    "arch": st.sampled_from(["test_resnet", "resnet18", "resnet19", 7]), "image_size": st.sampled_from([8, 32, 0, 10**9]),
})  # fmt: skip
STUDY = st.fixed_dictionaries(
    {"methods": st.lists(st.sampled_from(["erm", "pseudo_label", "erm --lr 0.5", "fixmatsh"]), min_size=1, max_size=2), "settings": st.lists(SETTING, min_size=1, max_size=2)},
    optional={"seeds": st.lists(st.sampled_from([0, 1, -1, 10**30]), max_size=2), "num_samples_per_class": st.lists(st.sampled_from([1, 4, 10**6]), max_size=2), "data_root": st.just("data")},
)
NAMES = st.sampled_from("methods settings seeds num_samples_per_class data_root method default".split())


def text_of(tree: object) -> bytes:
    return yaml.safe_dump(tree, allow_unicode=True).encode(errors="surrogatepass")


def damaged(content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """As it is, cut short, with a byte changed, with another end of lines, with a mark in front, in another encoding."""

    def change(text: bytes, how: int, at: int, byte: int) -> bytes:
        at %= len(text) + 1
        return [
            text, text, text, text[:at], text[:at] + bytes([byte]) + text[at + 1 :], text.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + text, text + text,
            text.decode("utf-8", "replace").encode("utf-16"),
        ][how]  # fmt: skip

    return st.builds(change, content, st.integers(0, 8), st.integers(0, 400), st.integers(0, 255))


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch):
    monkeypatch.setattr(launch, "train", lambda *_: 0)
    monkeypatch.setattr(study, "_run", lambda *_: 0)


def of_recipe(content: bytes, name: str) -> bool:
    Path("it.yaml").write_bytes(content)
    return refused_kindly(ask(["erm", "--recipe", f"it.yaml{name}", "--dry-run"]), "it.yaml")


def of_study(content: bytes) -> bool:
    Path("it.yaml").write_bytes(content)
    return refused_kindly(ask(["study", "it.yaml", "--dry-run"]))


RECIPE_FILES = st.sampled_from(WHOLE) | damaged(with_faults(RECIPES, st.sampled_from(["default", "x"])).map(text_of)) | st.binary(max_size=20)
STUDY_FILES = st.sampled_from(WHOLE) | damaged(with_faults(STUDY, NAMES).map(text_of)) | st.binary(max_size=20)


@pytest.mark.parametrize("examples", SIZES)
def test_recipes(examples):
    fuzz(2 * examples, of_recipe, RECIPE_FILES, st.sampled_from(["", "", "", ":default", ":x", ":", ":none"]))
    assert files_under(".").keys() == {"it.yaml"}


@pytest.mark.parametrize("examples", SIZES)
def test_studies(examples):
    fuzz(examples, of_study, STUDY_FILES)
    assert files_under(".").keys() == {"it.yaml"}


@pytest.mark.parametrize("kind", ["folder", "fifo", "loop", "nowhere", "long", "newline", "surrogate", "device"])
@pytest.mark.parametrize("word", ["erm", "study"])
def test_what_is_no_file_is_named(word, kind):
    """A pipe that nobody writes to would be waited for forever."""
    name = {"long": "x" * 300 + ".yaml", "newline": "a\nb.yaml", "surrogate": "\udcff.yaml"}.get(kind, "it.yaml")
    {"folder": os.mkdir, "fifo": os.mkfifo, "loop": lambda at: os.symlink(at, at), "device": lambda at: os.symlink("/dev/zero", at)}.get(kind, lambda _: None)(name)
    assert refused_kindly(ask([*({"erm": ["erm", "--recipe"], "study": ["study"]}[word]), name, "--dry-run"]), ".yaml")
