"""Thousands of command lines: every flag of every method, every word; each works or is refused in one kind line.  Nothing is trained."""

from __future__ import annotations

import http.server

import pytest
from fuzzing import SIZES, ask, files_under, fuzz, no_litter, refused_kindly
from hypothesis import strategies as st
from test_tables import write_run

from ssl_bench import cli, flags, launch, study
from ssl_bench.catalog import load_method, method_names


@pytest.fixture(autouse=True)
def nothing_starts(tmp_path, monkeypatch):
    for module, name in ((launch, "train"), (launch, "_test"), (study, "_run")):
        monkeypatch.setattr(module, name, lambda *_: 0)
    monkeypatch.setattr(http.server.ThreadingHTTPServer, "serve_forever", lambda self: None)
    for seed in range(2):
        write_run(tmp_path / "runs", "erm", seed=seed)


ODD = [
    "", " ", "-", "--", "-1", "0", "1", "1e400", "-1e400", "nan", "inf", "1_0", "0x10", "1e3", "9" * 400, "9" * 5000, "१२", "½", "true", "None", "null", "[]",
    "{}", "%s", "%(x)s", "{0}", "~", "~nobody", "/", ".", "..", "a\nb", "a\x1b[31mb", "a\0b", "\udcff", "ü", "x" * 300, "y" * 5000, "=", "a=b", "a=", "=b", "--seed",
    "-d", "@file", "none", "default", "all", "x.yaml", "x.yaml:", ":x", "a:b", "a.b:c", "cuda:99", "*", "[", "'", '"', "\\", "$HOME", "<script>", "\ufeff",
]  # fmt: skip
TEXT = st.sampled_from(ODD) | st.text(max_size=8).filter(lambda text: "/" not in text) | st.integers().map(str) | st.floats().map(str)


def values_of(spec: flags.Spec) -> st.SearchStrategy[str]:
    """Values a flag takes, those at the edges of its range and beyond, and whatever else."""
    edges = [f"{bound + by:g}" for key in ("ge", "gt", "le", "lt") if (bound := spec.metadata[key]) is not None for by in (-1, -0.001, 0, 0.001, 1)]
    good = [str(spec.default), *map(str, spec.metadata["choices"]), *edges]
    return st.sampled_from(good) | TEXT


@st.composite
def of_a_method(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from(method_names()))
    table = flags.specs(load_method(name).Args)
    words = []
    for spec in draw(st.lists(st.sampled_from([*table.values()]), max_size=3)):
        option = draw(st.sampled_from([spec.option, spec.option[: draw(st.integers(3, 12))], *spec.metadata["names"], spec.option.replace("--", "--no-", 1)]))
        several = draw(st.lists(values_of(spec), max_size=4)) if spec.sequence else [draw(values_of(spec))]
        words += draw(st.sampled_from([[option, *several], [option], [f"{option}={several[0] if several else ''}"]]))
    words += draw(st.lists(TEXT, max_size=1)) if draw(st.integers(0, 9)) == 0 else []
    return [name, *words]


def a_method(argv: list[str]) -> bool:
    return refused_kindly(ask([*argv, "--dry-run"] if "--" not in argv else [argv[0], "--dry-run", *argv[1:]]))


@pytest.mark.parametrize("examples", SIZES)
def test_flags_of_methods(examples):
    before = files_under(".")
    fuzz(4 * examples, a_method, of_a_method())
    assert files_under(".") == before


OPTIONS = {
    "study": "--methods --num-samples-per-class --seeds --data-root --log --jobs --retry-failed --status --launcher --slurm-time --slurm-extra --slurm-memory",
    "table": "--select --metric --format --seeds --cost --statistics --blocks --against --published --out --runs-csv",
    "report": "--title --published --out", "watch": "--title --published --port",
    "plot": "--out --format --width --select --metric --band --blocks --methods --data --labels --arch",
    "show": "--method --stage --images --step --out -d --seed",
    "predict": "--best --unfinished --args --method --out --top-k --device --batch-size -j --skip-broken",
    "evaluate": "--best --unfinished --args --method -d --out --predictions --device --batch-size -j --no-download",
    "export": "--best --unfinished --args --method --format --out --backbone-only",
    "list": "methods datasets recipes studies archs",
}  # fmt: skip
FAR = ("/", "..", "~")  # of which a command that reads runs would read all that is below, on any machine as long as that takes
GOOD = ["runs", "nothing", "digits", "erm", "fixmatch", "all", "csv", "html", "svg", "last", "best", "top1", "curves", "tllib", "out.pdf", "out.png", "local", "0", "3"]


@st.composite
def of_a_word(draw: st.DrawFn) -> list[str]:
    word = draw(st.sampled_from([*cli.COMMANDS]))
    known = st.sampled_from([*OPTIONS[word].split(), "--help", "--selct", "--otu"])
    value = st.sampled_from(GOOD) | TEXT.filter(lambda text: text not in FAR)
    words = draw(st.lists(st.one_of(value, known.flatmap(lambda option: st.just(option) | value.map(lambda v: f"{option}={v}"))), max_size=5))
    return [word, *words] + {"study": ["--dry-run"], "watch": ["--port", "0"], "show": ["--arch", "test_resnet", "--image-size", "8"]}.get(word, [])


def a_word(argv: list[str]) -> bool:
    answer = ask(argv)
    no_litter(".")
    return refused_kindly(answer)


@pytest.mark.parametrize("examples", SIZES)
def test_words(examples):
    fuzz(2 * examples, a_word, of_a_word())
