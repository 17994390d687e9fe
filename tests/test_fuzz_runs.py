"""Folders of runs with any file missing, torn, of another type or made up: every word that reads them works, or says in one line what is wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fuzzing import SIZES, ask, fuzz, no_litter, refused_kindly
from hypothesis import strategies as st
from PIL import Image
from test_fuzz_yaml import damaged
from test_tables import write_run

from ssl_bench import run_state

FILES = ["args.json", "result.json", "failed.json", "metrics.jsonl", "classes.json", "environment.json", "predictions.npz", ".owner.json", ".queued", "log.txt"]
NUMBERS = st.sampled_from([0, 1, -1, 4, 2**31, 2**63, 2**64, 10**30, 10**400, 0.5, 99.9, 100, 101, 1e308, float("nan"), float("inf"), -0.0, True])
LEAVES = NUMBERS | st.sampled_from([None, False, "", "x", "erm", "Digits", "<script>", "\x1b[1m", "a\nb", "\ud800", "ü", "=1+1", "y" * 3000, "1e3", [], {}])
KEYS = st.sampled_from(
    "method args args_hash identity recipe schema data labels_per_class seed arch evaluations epoch step top1 top5 mean_class val_top1 teacher_top1 num_classes minutes packages "
    "lists split_hash device processes joules kind text loss epochs iters_per_epoch message pid host python platform minutes_of_stages finished num_samples_per_class commit".split()
)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=5)
TORN = [b"", b"{", b"[" * 5000, b'{"a":' * 5000, b"null", b"[]", b"{}", b'"', b"\xff", b"\x00", b"\xef\xbb\xbf{}", b"NaN", b"1e999", b"9" * 5000, b'{"a": 1, "a": 2}', b"PK\x03\x04", b"\n\n"]
Damage = Callable[[Path], None]


def encoded(tree: object) -> bytes:
    return json.dumps(tree).encode()


@st.composite
def changed(draw: st.DrawFn) -> Damage:
    """A value or two of a file's JSON is another, at any depth."""
    spots = draw(st.lists(st.tuples(KEYS, TREES), min_size=1, max_size=2))

    def change(path: Path) -> None:
        try:
            tree = json.loads(path.read_bytes())
        except (OSError, ValueError):
            tree = {}
        for key, value in spots:
            for inner in [tree, *(tree.values() if isinstance(tree, dict) else []), *(tree.get("evaluations") or [] if isinstance(tree, dict) else [])]:
                if isinstance(inner, dict) and (key in inner or inner is tree):
                    inner[key] = value
        path.write_bytes(encoded(tree))

    return change


def written(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content) and None


ROWS = st.lists(st.fixed_dictionaries({"kind": st.sampled_from(["test", "train", "warning", 1]), "step": NUMBERS | st.integers(0, 9)}, optional={
    "top1": LEAVES, "loss": LEAVES, "epoch": LEAVES, "text": LEAVES, "mask_rate": LEAVES}), max_size=4).map(lambda rows: b"\n".join(map(encoded, rows)))  # fmt: skip
AS_SOMETHING_ELSE = st.sampled_from([
    os.mkdir, os.mkfifo, lambda path: os.symlink(path.name, path), lambda path: os.symlink("nowhere", path), lambda path: os.symlink("/dev/zero", path), lambda path: None,
])  # fmt: skip
DAMAGE = st.tuples(st.sampled_from(FILES), changed() | st.sampled_from(TORN).map(written) | damaged(TREES.map(encoded)).map(written)) | st.tuples(
    st.sampled_from(FILES), AS_SOMETHING_ELSE) | st.tuples(st.just("metrics.jsonl"), damaged(ROWS).map(written))  # fmt: skip
NAMES = st.sampled_from(["runs", "a\nb", "\x1b[31m", "\udcff", "<b>", "-x", "ü", "y" * 200, "'", '"', "$(x)", "%s", "{}"])


def damaged_runs(top: Path, damages: list[tuple[str, Damage]]) -> None:
    for seed in range(2):
        write_run(top, "erm", seed=seed, top1=(50.0, 60.0 + seed))
        folder = next((top / "erm" / "Digits" / "4x").glob(f"{seed}-*"))
        (folder / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": 2.5}\n{"kind": "test", "step": 5, "top1": 50.0}\n')
        (folder / "classes.json").write_text('["a", "b"]')
        np.savez_compressed(folder / "predictions.npz", target=[0, 1], prediction=[0, 0], confidence=np.array([0.5, 0.25], np.float32))
        damage_files(folder, damages)


def damage_files(folder: Path, damages: list[tuple[str, Damage]]) -> None:
    for name, damage in damages:
        path = folder / name
        if damage.__name__ != "change" and path.exists() or path.is_symlink():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        try:
            damage(path)
        except OSError:
            continue  # of a name that is something else by now


def readers(argv: list[str], name: str, damages: list[tuple[str, Damage]], top: str = "top") -> bool:
    shutil.rmtree(top, ignore_errors=True)
    folder = Path(top, name)
    damaged_runs(folder, damages)
    answer = ask([argv[0], *(["curves"] if argv[0] == "plot" else []), "./" + str(folder), *argv[1:]])
    for run in (folder / "erm" / "Digits" / "4x").iterdir():
        run_state.state(run)
    no_litter(folder)
    return refused_kindly(answer)


WORDS = st.sampled_from([["table", "--runs-csv", ""], ["table", "--cost", "--seeds", "--statistics", "--runs-csv", "it.csv"], ["report", "--out", "it.html"], ["plot", "--out", "it.svg"]])


@pytest.mark.parametrize("examples", SIZES)
def test_words_that_read_runs(examples, monkeypatch):
    monkeypatch.setattr("ssl_bench.report._figures", lambda *_: {"figures": [], "figures_missing": ""})  # half a second each
    fuzz(examples, readers, WORDS, NAMES, st.lists(DAMAGE, min_size=1, max_size=3), both=False)


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory) -> Path:
    log = tmp_path_factory.mktemp("trained")
    argv = ["erm", "-d", "Digits", "--device", "cpu", "--arch", "test_resnet", "--epochs", "1", "-i", "1", "--log", str(log)]
    assert ask(argv).code == 0
    return next(log.rglob("result.json")).parent


@pytest.mark.slow
def test_words_that_open_a_network(trained_run):
    def of_a_network(word: list[str], damages: list[tuple[str, Damage]]) -> bool:
        shutil.rmtree("top", ignore_errors=True)
        shutil.copytree(trained_run, "top")
        damage_files(Path("top"), damages)
        return refused_kindly(ask([word[0], "top", *word[1:]]))

    Image.fromarray(np.zeros((8, 8), np.uint8)).save("an.png")
    words = [["predict", "an.png", "--device", "cpu"], ["evaluate", "--device", "cpu"], ["evaluate", "--unfinished", "--device", "cpu"]]
    fuzz(200, of_a_network, st.sampled_from(words), st.lists(DAMAGE, max_size=2))


@pytest.mark.parametrize("word", ["table", "report"])
def test_a_link_in_a_circle_hides_no_run_beside_it(word):
    write_run(Path("runs"))
    os.symlink("a", "runs/a")
    os.symlink("z", "runs/fixmatch/z")
    assert not refused_kindly(ask([word, "runs"]))


def test_a_number_that_json_has_no_word_for_costs_no_page():
    folder = write_run(Path("runs"), lr=1.0)
    for name in ("args.json", "result.json"):
        (folder / name).write_text((folder / name).read_text().replace('"lr": 1.0', '"lr": 1e999'))
    (folder / "metrics.jsonl").write_text('{"kind": "test", "step": 1, "top1": NaN}\n{"kind": "train", "step": 1, "loss": 1' + "0" * 400 + "}\n" + "[" * 5000)
    assert not refused_kindly(ask(["report", "runs"]))


@pytest.mark.parametrize("content", [b"", b"{}\n", b"[" * 5000, b"\xff\n\n"])
def test_an_index_that_is_something_else_is_passed_over(content):
    write_run(Path("runs"))
    Path("runs/.ssl-bench-index").write_bytes(content)
    assert not refused_kindly(ask(["table", "runs"]))


def test_an_index_that_is_a_pipe_is_not_waited_for():
    write_run(Path("runs"))
    os.mkfifo("runs/.ssl-bench-index")
    assert not refused_kindly(ask(["table", "runs"]))
