"""Lists that others wrote - splits, published numbers, runs.csv - cut, torn, re-encoded and made up: read as meant or refused with file and line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fuzzing import SIZES, answer_of, ask, files_under, fuzz, refused_kindly
from hypothesis import strategies as st
from test_fuzz_yaml import damaged
from test_tables import write_run

from ssl_bench.messages import refuse
from ssl_bench.runs import collect, write_runs_csv
from ssl_bench.split_list import content_hash, read_split_list

PATHS = [os.path.join("train", name, f"{name}_{k}.JPEG") for name in ("n01440764", "n01443537") for k in range(6)] + ["train/a,b/c d.png", "train/ü/\udcff.jpg"]
ODD = ["", " ", ",", '"', "\x00", "\x1b[1m", "-1", "1.0", "1e3", "9" * 19, "9" * 5000, "+3", "NaN", "Index", "index", "a/b/c.png", "../x.jpg", "," * 5000, ",a" * 5000, ".a" * 5000, "x" * 5000,
       "n01440764_1.JPEG", "n01440764/n01440764_1.JPEG", "val/n01440764_1.JPEG", "n99999999_1.JPEG", "c d.png", "a,b/c d.png", "=cmd()", "\ufeff", "\u2028", "१", "3 4", "'3'"]  # fmt: skip
ENTRY = st.sampled_from(PATHS) | st.integers(-1, 14).map(str) | st.sampled_from(ODD)
LINES = st.one_of(
    st.lists(st.integers(0, 13).map(str), unique=True, max_size=6), st.lists(st.sampled_from(PATHS), unique=True, max_size=6), st.lists(ENTRY, max_size=6),
    st.lists(st.sampled_from(PATHS).map(lambda path: f"{path},3,120"), unique=True, max_size=6),
    st.lists(st.tuples(st.integers(0, 13).map(str), ENTRY).map(",".join), max_size=5).map(lambda rows: ["Index,Class", *rows]),
    st.lists(st.tuples(ENTRY, st.integers(0, 13).map(str)).map(",".join), max_size=5).map(lambda rows: ['Class, "Index"', *rows]),
)  # fmt: skip
LISTS = damaged(LINES.map(lambda lines: "\n".join(lines).encode(errors="surrogateescape")))


def a_split_list(content: bytes, named: bool) -> bool:
    Path("it.csv").write_bytes(content)

    def command() -> int:
        try:
            found = read_split_list("it.csv", len(PATHS), PATHS if named else None)
        except (OSError, ValueError) as error:
            return refuse("erm", error, 1)
        assert len({*found.positions.tolist()}) == len(found.lines) and all(0 <= position < len(PATHS) for position in found.positions)
        return 0

    return refused_kindly(answer_of(command), "it.csv")


@pytest.mark.parametrize("examples", SIZES)
def test_split_lists(examples):
    fuzz(4 * examples, a_split_list, LISTS, st.sampled_from([True, True, False]))


HEAD = "method,variant,data,labels_per_class,arch,pretrained,top1,std,seeds,select,source".split(",")
GOOD = {"method": "fixmatch", "variant": "", "data": "Digits", "labels_per_class": "4", "arch": "net", "pretrained": "none", "top1": "60.5", "std": "1", "seeds": "3", "select": "last", "source": "a paper"}
CELL = st.sampled_from(["", "x", "0", "-1", "100", "100.1", "nan", "inf", "1e400", "1_0", "9" * 30, "9" * 5000, "a\nb", '"', "\x1b[1m", "=1+1", "fixmatsh", "uda", "best", "\u202e", "y" * 3000, "\x00"])


@st.composite
def published_numbers(draw: st.DrawFn) -> bytes:
    head = draw(st.sampled_from([HEAD, HEAD, HEAD, HEAD, HEAD, HEAD[::-1], HEAD[1:], [*HEAD, "top1"], [*HEAD, "top_1"], []]))
    rows = [GOOD | draw(st.dictionaries(st.sampled_from(HEAD), CELL, max_size=1)) for _ in range(draw(st.integers(0, 2)))]
    lines = [",".join(f'"{row.get(name, "")}"' if "\n" in row.get(name, "") else row.get(name, "") for name in head) for row in rows]
    return "\n".join([",".join(head), *lines]).encode()


def a_published_table(content: bytes) -> bool:
    Path("it.csv").write_bytes(content)
    return refused_kindly(ask(["table", "--published", "it.csv", "--runs-csv", ""]), "it.csv")


@pytest.mark.parametrize("examples", SIZES)
def test_published_numbers(examples):
    fuzz(2 * examples, a_published_table, damaged(published_numbers()))


def a_runs_csv(whole: bytes, row: int, column: int, cell: str, cut: bytes) -> bool:
    rows = [line.split(",") for line in whole.decode().split("\n")]
    cells = rows[row % (len(rows) - 1)]
    cells[column % len(cells)] = cell
    Path("it.csv").write_bytes("\n".join(map(",".join, rows)).encode(errors="surrogatepass") + cut)
    return refused_kindly(ask(["table", "it.csv", "--runs-csv", "", "--cost", "--seeds"]), "it.csv")


@pytest.mark.parametrize("examples", SIZES)
def test_runs_csv(examples, tmp_path):
    for seed in range(2):
        write_run(tmp_path / "runs", seed=seed, top1=(50.0, 60.0 + seed))
    frame = collect(["runs"])
    frame["identity"] = "{}"
    write_runs_csv(frame, "runs.csv")
    whole = Path("runs.csv").read_bytes()
    fuzz(examples, lambda *drawn: a_runs_csv(whole, *drawn), st.integers(0, 2), st.integers(0, 70), CELL, st.sampled_from([b"", b"", b"", b"x", b"\xff", b"\n\n", b"\x00", b'"']))


@pytest.mark.parametrize("kind", ["folder", "fifo", "loop", "device"])
@pytest.mark.parametrize("argv", [["table", "--published", "it.csv"], ["table", "it.csv"], ["report", "it.csv"], ["erm", "--labeled-list", "it.csv", "--dry-run"]])
def test_what_is_no_file_is_refused_and_not_waited_for(argv, kind):
    {"folder": os.mkdir, "fifo": os.mkfifo, "loop": lambda at: os.symlink(at, at), "device": lambda at: os.symlink("/dev/zero", at)}[kind]("it.csv")
    assert refused_kindly(ask(argv), "it.csv" if argv[-1:] != ["it.csv"] or kind != "folder" else "")
    assert files_under(".").keys() == {"it.csv"}


def test_a_line_of_a_million_commas_is_no_name_and_takes_no_time():
    Path("it.csv").write_text("n01440764_0.JPEG\n" + "," * 10**6)
    with pytest.raises(ValueError, match="it.csv line 2"):
        read_split_list("it.csv", len(PATHS), PATHS)
    assert len(content_hash("it.csv")) == 64
