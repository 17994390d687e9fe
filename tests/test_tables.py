"""ssl-bench table: golden runs to golden tables, and every way in which a table could mislead its reader."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import statistics
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from ssl_bench.runs import collect, read_runs_csv, write_runs_csv
from ssl_bench.summary import table as api_table
from ssl_bench.summary import wide
from ssl_bench.tables import LAYOUTS, cost_table, main, main_table, render, seed_table, statistics_tables, summarize

GOLDEN = Path(__file__).parent / "golden" / "table"
STUDY = GOLDEN / "study"


def write_run(log: Path, method="fixmatch", data="Digits", labels=4, seed=0, top1=(60.0,), arch="net", **flags) -> Path:
    """A run folder as training leaves it; top1=None: not finished.  `note` is no part of the run's identity."""
    args = {"data": data, "num_samples_per_class": labels, "arch": arch, "seed": seed, "device": "cpu", **flags}
    identity = [name for name in args if name not in ("device", "note")]
    args_hash = hashlib.sha256(json.dumps([method, *((name, args[name]) for name in identity)]).encode()).hexdigest()[
        :12
    ]
    folder = log / method / data.replace("/", "-") / f"{labels}x" / f"{seed}-{args_hash}"
    folder.mkdir(parents=True)
    record = {"method": method, "args": args, "args_hash": args_hash, "recipe": "none", "identity": identity}
    (folder / "args.json").write_text(json.dumps(record))
    if top1 is not None:
        scores = [
            {"epoch": k, "step": 5 * k, "top1": v, "top5": None, "mean_class": v / 2} for k, v in enumerate(top1, 1)
        ]
        named = {"schema": 1, "data": data, "labels_per_class": labels, "seed": seed, "arch": arch}
        (folder / "result.json").write_text(json.dumps({**record, **named, "evaluations": scores}))
    return folder


def table(*folders: Path, format: str = "github", **how: str) -> str:
    return render(summarize(collect(folders), **how), format)


def cells(text: str) -> dict[str, list[str]]:
    """First cell -> the other cells of a markdown table."""
    lines = [re.split(r"\s*(?<!\\)\|\s*", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return {line[0]: line[1:] for line in lines}


@pytest.mark.parametrize(("format", "file"), [("github", "table.md"), ("csv", "table.csv"), ("latex", "table.tex"), ("html", "table.html")])
def test_golden_runs_give_the_golden_tables(format, file, capsys):
    assert main([str(STUDY), "--format", format]) == 0
    out, err = capsys.readouterr()
    assert out == (GOLDEN / file).read_text(encoding="utf-8")
    assert "19 of 22 runs done" in err


def test_golden_markdown_holds_the_numbers_worked_out_by_hand():
    rows = cells((GOLDEN / "table.md").read_text(encoding="utf-8"))
    assert rows["erm"] == ["32.0 ± 2.0 (3)", "61.0 ± 1.0 (3)", "46.5"]  # 30 32 34, 60 61 62
    assert rows["fixmatch (threshold=0.95)"] == [
        "**42.0** ± 2.8 (2/3)",
        "**82.0** ± 2.0 (3)",
        "**62.0**",
    ]  # 40 44, 80 82 84
    assert rows["mean_teacher"][1] == "71.0 ± 1.7 (3)"  # 70 70 73
    assert rows["pseudo_label"] == ["–", "–", "–"]


def test_mean_and_deviation_agree_with_statistics(tmp_path):
    values = [61.23, 64.87, 59.01, 70.4]
    for seed, value in enumerate(values):
        write_run(tmp_path, seed=seed, top1=(1.0, value))
    (cell,) = summarize(collect([tmp_path])).itertuples()
    assert math.isclose(cell.mean, statistics.mean(values), rel_tol=1e-15)
    assert math.isclose(cell.std, statistics.stdev(values), rel_tol=1e-15)  # statistics.pstdev is 13 % smaller
    assert (cell.n, cell.expected, cell.missing) == (4, 4, "")


def test_selection_rules_and_their_names(tmp_path):
    scores = [90.0, *range(10, 34), 20.0]  # the last twenty: 15..33 and 20
    write_run(tmp_path, top1=scores)
    means = {select: summarize(collect([tmp_path]), select)["mean"].item() for select in ("last", "best", "median20")}
    assert means == {"last": 20.0, "best": 90.0, "median20": statistics.median(scores[-20:])}
    assert "last evaluation" in table(tmp_path)
    assert "best on the test set (optimistic: chosen on the test set)" in table(tmp_path, select="best")
    assert "median of the last 20 evaluations" in table(tmp_path, select="median20", format="latex")
    assert summarize(collect([tmp_path]), metric="mean_class")["mean"].item() == 10.0
    with pytest.raises(ValueError, match="median20"):
        summarize(collect([tmp_path]), select="mean")


def test_one_run_has_no_deviation(tmp_path):
    write_run(tmp_path, top1=(61.25,))
    assert cells(table(tmp_path))["fixmatch"] == ["**61.2** (1)"]


def test_order_of_the_input_does_not_matter(tmp_path):
    parts = [STUDY / "erm", STUDY / "fixmatch", STUDY / "mean_teacher", STUDY / "pseudo_label"]
    for format in ("github", "csv", "latex"):
        assert table(*parts, format=format) == table(*parts[::-1], format=format) == table(STUDY, format=format)
    frame = collect([STUDY])
    shuffled = frame.sample(frac=1, random_state=0)
    assert render(summarize(shuffled)) == render(summarize(frame))
    write_runs_csv(shuffled, tmp_path / "a.csv")
    write_runs_csv(frame, tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_missing_runs_are_shown(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "erm", seed=seed, top1=(50.0 + seed,))
        write_run(tmp_path, "erm", data="Other", seed=seed)
    write_run(tmp_path, seed=0, top1=(70.0,))
    write_run(tmp_path, seed=1, top1=(72.0,))
    write_run(tmp_path, seed=2, top1=None)
    write_run(tmp_path, "pi_model", seed=1)
    text = table(tmp_path)
    assert cells(text)["fixmatch"] == ["**71.0** ± 1.4 (2/3)", "–", "–"]
    assert cells(text)["pi_model"][0] == "60.0 (1/3)"
    foot = text.splitlines()[-1]
    assert foot.startswith("Missing: ")
    for note in (
        "fixmatch, Digits: seed 2 incomplete",
        "fixmatch, Other: not launched",
        "pi_model, Digits: seeds 0, 2 not launched",
    ):
        assert note in foot
    assert "Missing" not in table(tmp_path / "erm")


def test_a_metric_that_a_run_does_not_have_is_missing_not_averaged(tmp_path):
    write_run(tmp_path)  # top5 is null there: fewer than five classes
    text = table(tmp_path, metric="top5")
    assert cells(text)["fixmatch"] == ["–"] and "seed 0 without top5" in text


def test_runs_that_differ_in_more_than_the_seed_are_never_averaged(tmp_path):
    for seed in range(2):
        write_run(tmp_path, seed=seed, top1=(80.0,), threshold=0.95, lr=0.03, note=str(seed))
        write_run(tmp_path, seed=seed, top1=(60.0,), threshold=0.8, lr=0.03)
        write_run(tmp_path, data="Other", seed=seed, top1=(40.0,), threshold=0.95, lr=0.1)
    rows = cells(table(tmp_path))
    assert rows["fixmatch (threshold=0.95)"][:2] == ["**80.0** ± 0.0 (2)", "**40.0** ± 0.0 (2)"]
    assert rows["fixmatch (threshold=0.8)"][:2] == ["60.0 ± 0.0 (2)", "–"]
    assert not any("lr=" in row or "note" in row for row in rows)  # lr differs between data sets only


def test_a_flag_that_older_runs_did_not_have_is_named_unset(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, mode="new")
    assert {"fixmatch (mode=unset)", "fixmatch (mode=new)"} < set(cells(table(tmp_path)))


def test_same_seed_and_arguments_but_another_hash_stand_alone(tmp_path):
    folder = write_run(tmp_path / "a", seed=0, top1=(60.0,))
    write_run(tmp_path / "a", seed=1, top1=(61.0,))
    shutil.copytree(folder, tmp_path / "b" / "fixmatch" / "Digits" / "4x" / "0-other")
    for path in (tmp_path / "b").rglob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "args_hash": "feedfacecafe"}))
    rows = cells(table(tmp_path))
    assert "fixmatch (args_hash=feedfacecafe)" in rows and "fixmatch" not in rows
    assert all(re.search(r"\(1/2\)$", row[0]) for name, row in rows.items() if name.startswith("fixmatch"))


def test_summarize_refuses_two_runs_of_one_seed():
    frame = collect([STUDY])
    with pytest.raises(ValueError, match="two runs of seed 0"):
        summarize(pd.concat([frame, frame]))


def test_a_run_met_twice_counts_once(tmp_path, capsys):
    shutil.copytree(STUDY, tmp_path / "copy")
    write_runs_csv(collect([STUDY]), tmp_path / "runs.csv")
    assert table(STUDY, tmp_path / "copy", STUDY / "erm", tmp_path / "runs.csv") == table(STUDY)
    assert "two results" not in capsys.readouterr().err


def test_a_run_with_two_results_is_named(tmp_path, capsys):
    write_run(tmp_path / "a", top1=(60.0,))
    write_run(tmp_path / "b", top1=(61.0,))
    first = table(tmp_path / "a", tmp_path / "b")
    assert "one run with two results" in capsys.readouterr().err
    assert first == table(tmp_path / "b", tmp_path / "a")


def test_finished_copy_of_an_incomplete_run_counts(tmp_path):
    write_run(tmp_path / "a", top1=None)
    folder = write_run(tmp_path / "b", top1=(61.0,))
    folder.rename(folder.with_name("z-renamed"))
    assert cells(table(tmp_path))["fixmatch"] == ["**61.0** (1)"]


def test_runs_csv_reproduces_frame_and_tables_exactly(tmp_path):
    write_run(
        tmp_path / "runs", method="=cmd", data='a,"b"\n\'c', seed=1, top1=(100 / 3, 0.1 + 0.2), name="'x'", value=1e-300
    )
    write_run(tmp_path / "runs", method="NA", data="null", top1=None, arch="-1", path="é\r\n")
    write_run(tmp_path / "runs", method="'quoted", seed=2**31)
    frame = collect([tmp_path / "runs", STUDY])
    write_runs_csv(frame, tmp_path / "deep" / "runs.csv")
    back = read_runs_csv(tmp_path / "deep" / "runs.csv")
    pd.testing.assert_frame_equal(back, frame, check_exact=True)
    assert list(back["top1_last"].dropna()) == list(frame["top1_last"].dropna())
    for format in ("github", "csv", "latex"):
        assert table(tmp_path / "deep" / "runs.csv", format=format) == render(summarize(frame), format)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["runs.csv"]
    assert not re.search(r"^[=+@-]|,[=+@-]", (tmp_path / "deep" / "runs.csv").read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("damage", ["foreign", "cut", "number", "empty", "identity"])
def test_a_csv_that_is_no_runs_csv_is_refused_in_one_line(damage, tmp_path, capsys):
    path = tmp_path / "runs.csv"
    write_runs_csv(collect([STUDY]), path)
    text = path.read_text()
    broken = {
        "foreign": "a,b\n1,2\n", "cut": text[:-80], "number": text.replace(",81.0,", ",many,"), "empty": "",
        "identity": text.replace('"{""arch""', '"{arch'),
    }  # fmt: skip
    path.write_text(broken[damage])
    capsys.readouterr()
    assert main([str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and str(path) in err


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"schema": 1}', b'{"schema": 2}',
        {"schema": 2}, {"evaluations": []}, {"evaluations": [1]}, {"evaluations": None}, {"evaluations": [{}]},
        {"evaluations": [{"top1": "99"}]}, {"evaluations": [{"top1": math.nan}]}, {"evaluations": [{"top1": 101}]},
        {"evaluations": [{"top1": True}]}, {"seed": "0"}, {"method": None}, {"labels_per_class": 4.5}, {"args": []},
        {"identity": [["lr"]]}, {"args_hash": "of another"}, {"minutes": "long"}, {"lists": ["a"]},
    ],
)  # fmt: skip
def test_broken_results_are_named_and_counted_as_incomplete(content, tmp_path, capsys):
    write_run(tmp_path, seed=1, top1=(60.0,))
    path = write_run(tmp_path, seed=0, top1=(99.0,)) / "result.json"
    if isinstance(content, dict):
        content = json.dumps({**json.loads(path.read_text()), **content}).encode()
    path.write_bytes(content)
    text = table(tmp_path)
    assert cells(text)["fixmatch"] == ["**60.0** (1/2)"] and "seed 0 incomplete" in text
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and str(path) in err and "incomplete" in err


def test_an_unreadable_args_json_costs_nothing_where_the_result_is_whole(tmp_path, capsys):
    (write_run(tmp_path, seed=0) / "args.json").write_text("{")
    (write_run(tmp_path, seed=1, top1=None) / "args.json").write_text("{}")
    assert cells(table(tmp_path))["fixmatch"] == ["**60.0** (1)"]
    assert capsys.readouterr().err.count("args.json: ") == 2


def test_what_is_searched(tmp_path):
    folder = write_run(tmp_path / "log", seed=0)
    write_run(folder / "inner", seed=1)  # inside a run
    write_run(tmp_path / "log" / ".trash", seed=2)
    elsewhere = write_run(tmp_path / "elsewhere", seed=3)
    (tmp_path / "log" / "link").symlink_to(elsewhere.parent, target_is_directory=True)
    assert collect([tmp_path / "log"])["seed"].tolist() == [0]
    assert collect([folder])["folder"].tolist() == ["/".join(folder.parts[-4:])]
    assert collect([tmp_path / "log" / "link"])["seed"].tolist() == [3]  # named by the user
    assert collect([tmp_path / "log" / "fixmatch", folder])["folder"].tolist() == ["/".join(folder.parts[-4:])]


def test_bold_marks_printed_ties_but_no_oracle(tmp_path):
    for method, value in (("a", 81.24), ("b", 81.21), ("c", 81.1), ("d", 9.0), ("erm", 12.0)):
        write_run(tmp_path, method, top1=(value,), oracle=False)
    write_run(tmp_path, "erm", top1=(99.0,), oracle=True, epochs=80)
    write_run(tmp_path, "erm", data="Other", top1=(60.0,), oracle=True, epochs=80)
    write_run(tmp_path, "a", data="Other", top1=(60.0,), oracle=False)
    text = table(tmp_path)
    rows = cells(text)
    assert [rows[name][0] for name in "abcd"] == ["**81.2** (1)", "**81.2** (1)", "81.1 (1)", "9.0 (1)"]
    assert rows["erm (oracle)"] == ["99.0 (1)", "60.0 (1)", "79.5"] and "not ranked" in text
    assert rows["a"] == ["**81.2** (1)", "**60.0** (1)", "**70.6**"]
    assert "oracle" not in table(tmp_path / "a").lower()


def test_row_and_column_order(tmp_path):
    for value in (0.95, 0.8, 10.0, 9.0):
        write_run(tmp_path, "fixmatch", data="b", threshold=value)
    for method, flags in (("dst", {}), ("erm", {"oracle": False}), ("erm", {"oracle": True})):
        write_run(tmp_path, method, data="A", **flags)
    rows = list(cells(table(tmp_path)))
    variants = [f"fixmatch (threshold={value})" for value in (0.8, 0.95, 9.0, 10.0)]
    assert rows[2:] == ["erm", "erm (oracle)", "dst", *variants]
    assert cells(table(tmp_path))["Method"] == ["A", "b", "Average"]


def test_oracle_variants_are_told_apart(tmp_path):
    for lr in (0.1, 0.3):
        write_run(tmp_path, "erm", oracle=True, lr=lr)
    write_run(tmp_path, "erm", oracle=False, lr=0.03)
    assert list(cells(table(tmp_path)))[2:] == ["erm", "erm (oracle, lr=0.1)", "erm (oracle, lr=0.3)"]


def test_column_heads_name_what_varies(tmp_path):
    write_run(tmp_path, labels=25)
    write_run(tmp_path, labels=4)
    assert cells(table(tmp_path))["Method"] == ["Digits, 4 labels/class", "Digits, 25 labels/class", "Average"]
    assert "; net." in table(tmp_path)
    write_run(tmp_path, labels=1, arch="vit")
    heads = cells(table(tmp_path))["Method"]
    assert heads[0] == "Digits, 1 label/class, vit" and heads[2] == "Digits, 25 labels/class, net"
    write_run(tmp_path / "all", labels=9, all_labeled=True)
    result = next((tmp_path / "all").rglob("result.json"))
    result.write_text(json.dumps({**json.loads(result.read_text()), "labels_per_class": "all"}))
    assert "all labels per class" in table(tmp_path / "all")


def test_average_only_of_whole_rows(tmp_path):
    for data, value in (("a", 10.0), ("b", 20.0), ("c", 60.0)):
        write_run(tmp_path, "erm", data=data, top1=(value,))
        if data != "c":
            write_run(tmp_path, data=data, top1=(90.0,))
    rows = cells(table(tmp_path))
    assert rows["erm"][-1] == "**30.0**" and rows["fixmatch"][-1] == "–"
    assert "Average" not in table(tmp_path / "erm" / "a")


def test_names_are_escaped(tmp_path):
    write_run(tmp_path, "a_b%c&d#e$f{g}h~i^j\\k", data="[x]|<b>*")
    latex = table(tmp_path, format="latex")
    assert r"a\_b\%c\&d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k & " in latex
    assert r"Method & {[}x]\textbar{}\textless{}b\textgreater{}* \\" in latex
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\usepackage{booktabs}"):
        assert latex.count(rule) == 1
    assert cells(table(tmp_path))["Method"] == [r"[x]\|\<b>\*"]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "'=1"])
def test_csv_is_safe_in_a_spreadsheet(name, tmp_path):
    write_run(tmp_path, "m", data=name)
    assert f",'{name}," in table(tmp_path, format="csv")


def test_csv_numbers_are_plain_and_exact(tmp_path):
    for seed, value in enumerate((100 / 3, 50.1)):
        write_run(tmp_path, seed=seed, top1=(value,))
    head, line = table(tmp_path, format="csv").splitlines()
    cell = dict(zip(head.split(","), line.split(","), strict=True))
    assert float(cell["mean"]) == statistics.mean((100 / 3, 50.1)) and cell["n"] == "2"
    assert (cell["select"], cell["metric"]) == ("last", "top1")


def test_main_writes_what_it_is_asked_to(tmp_path, capsys):
    out, runs = tmp_path / "new" / "table.tex", tmp_path / "results" / "runs.csv"
    assert main([str(STUDY), "--format", "latex", "--out", str(out), "--runs-csv", str(runs)]) == 0
    printed, said = capsys.readouterr()
    assert out.read_text(encoding="utf-8") == printed
    assert str(out) in said and str(runs) in said
    assert main([str(runs), "--format", "latex"]) == 0
    assert capsys.readouterr().out == printed


def test_main_without_runs_names_the_folders(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    assert main([str(tmp_path / "absent")]) == 2
    assert main([str(tmp_path / "empty"), "--out", str(tmp_path / "t.md")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 3 and str(tmp_path / "empty") in err and str(tmp_path / "absent") in err
    assert not (tmp_path / "t.md").exists()


def test_main_with_incomplete_runs_only(tmp_path, capsys):
    write_run(tmp_path, top1=None)
    assert main([str(tmp_path)]) == 0
    assert cells(capsys.readouterr().out)["fixmatch"] == ["–"]


def test_render_refuses_what_it_does_not_know(tmp_path):
    write_run(tmp_path)
    with pytest.raises(ValueError, match="github, csv, latex, html"):
        table(tmp_path, format="pdf")
    with pytest.raises(ValueError, match="no runs"):
        render(summarize(collect([])))


def test_many_runs(tmp_path):
    """A sanity bound on growth, not a speed test: 1,500 runs of forty evaluations must not take minutes."""
    for seed in range(500):
        for method in "abc":
            write_run(tmp_path, method, seed=seed, top1=[50.0 + seed / 100] * 40)
    assert cells(table(tmp_path))["a"][0].endswith("(500)")


def test_a_network_of_one_method_alone_is_a_line_below_and_takes_no_average_away(tmp_path):
    for arch, value in (("cnn", 80.0), ("vit", 60.0)):
        for method in ("erm", "fixmatch"):
            write_run(tmp_path, method, arch=arch, top1=(value,))
    for seed in (0, 1):
        write_run(tmp_path, "semiformer", arch="two", seed=seed, top1=(90.0 + seed,))
    text = table(tmp_path)
    rows = cells(text)
    assert rows["Method"] == ["Digits, cnn", "Digits, vit", "Average"] and "semiformer" not in rows
    assert rows["erm"][-1] == "**70.0**"
    assert "On a network of its own, two (Digits): semiformer 90.5 ± 0.7 (2)." in text
    assert "semiformer" in table(tmp_path, format="csv") and "On a network of its own, two" in table(tmp_path, format="latex")
    write_run(tmp_path, "erm", arch="two")  # no longer
    assert "semiformer" in cells(table(tmp_path))


def test_a_method_that_shares_another_network_keeps_its_column(tmp_path):
    for method, arch in (("erm", "cnn"), ("fixmatch", "cnn"), ("erm", "big")):
        write_run(tmp_path, method, arch=arch)
    assert cells(table(tmp_path))["Method"] == ["Digits, big", "Digits, cnn", "Average"]


def test_html_is_escaped_and_whole(tmp_path):
    write_run(tmp_path, "<script>alert(1)</script>", data='a"b&c', top1=(60.0,))
    text = table(tmp_path, format="html")
    assert "<script" not in text and '<th scope="row">&lt;script&gt;alert(1)&lt;/script&gt;</th>' in text
    assert '<th scope="col">a&quot;b&amp;c</th>' in text and "<strong>60.0</strong> (1)" in text and text.count("<table>") == 1


def test_latex_compiles(tmp_path):
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("pdflatex is not installed")
    write_run(tmp_path / "runs", "a_b%c&d#e$f{g}h~i^j\\k", data="[x]|<b>*")
    texts = [table(tmp_path / "runs", format="latex")]
    frame = collect([STUDY])
    texts += [LAYOUTS["latex"](each) for each in (main_table(summarize(frame)), seed_table(frame, "val", "top1"), cost_table(frame))]
    texts += [LAYOUTS["latex"](each) for each in statistics_tables(six_blocks(tmp_path / "six"), "last", "top1", "columns", "")[0]]
    page = "\n".join([r"\documentclass{article}\usepackage{booktabs}\begin{document}", *texts, r"\end{document}"])
    (tmp_path / "page.tex").write_text(page, encoding="utf-8")
    done = subprocess.run([program, "-interaction=nonstopmode", "-halt-on-error", "page.tex"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and (tmp_path / "page.pdf").is_file(), done.stdout[-2000:]


def six_blocks(log: Path) -> pd.DataFrame:
    """Three methods on six data sets, a is best everywhere; d lacks one of them; two seeds."""
    for k in range(6):
        for seed in range(2):
            for method, value in (("a", 80.0 + k), ("b", 70.0 + 2 * k), ("c", 70.0 - k)):
                write_run(log, method, data=f"Set{k}", seed=seed, top1=(value + seed,))
            if k:
                write_run(log, "d", data=f"Set{k}", seed=seed, top1=(99.0,))
    write_run(log, "erm", data="Set0", top1=(99.0,), oracle=True)
    return collect([log])


def test_of_runs_without_a_result_there_are_no_statistics_and_no_other_table_is_lost(tmp_path, capsys):
    for seed in range(2):
        write_run(tmp_path / "runs", seed=seed, top1=None)
    assert main([str(tmp_path / "runs"), "--statistics", "--seeds", "--cost", "--runs-csv", ""]) == 0
    out, err = capsys.readouterr()
    assert "fixmatch" in out and "Nothing to compare: 0 methods with a value in every column.\n" in err


def test_statistics_are_over_blocks_that_all_methods_have(tmp_path):
    frame = six_blocks(tmp_path)
    (ranks, pairs), reason = statistics_tables(frame, "last", "top1", "columns", "")
    assert [[cell.text for cell in row] for row in ranks.body] == [
        ["a", "1.00", "83.0", "12/0/0"], ["b", "2.08", "75.5", "5/1/6"], ["c", "2.92", "68.0", "0/1/11"],
    ] and reason == ""  # fmt: skip
    assert "3 methods over 6 blocks" in ranks.caption and "Nemenyi critical difference 1.35" in ranks.caption and "Friedman" in ranks.caption
    assert ranks.foot == "Left out: d (lacks 1 of 6)."
    assert [cell.text for cell in pairs.body[0]] == ["a", "b", "6/0/0", "+7.5 [+6.2, +8.8]", "0.031", "0.094"]
    (_, few), _ = statistics_tables(frame, "last", "top1", "seeds", "a")
    assert len(few.body) == 2 and "12 blocks: seeds of the table's columns (6 columns; seeds of one data set are no independent" in few.caption


def test_too_few_blocks_or_methods_are_a_sentence_and_no_numbers(tmp_path, capsys):
    assert main([str(STUDY), "--statistics", "--runs-csv", ""]) == 0
    out, err = capsys.readouterr()
    assert "note: No statistics over 2 blocks" in err and "--blocks seeds" in err and "Average rank" not in out
    assert "Left out: fixmatch (threshold=0.8) (lacks 1 of 2), pseudo_label (lacks 2 of 2)." in err
    write_run(tmp_path)
    assert main([str(tmp_path), "--statistics", "--runs-csv", ""]) == 0
    assert "Nothing to compare: 1 method " in capsys.readouterr().err
    assert main([str(tmp_path), "--statistics", "--format", "csv", "--runs-csv", ""]) == 2
    six_blocks(tmp_path / "six")
    assert main([str(tmp_path / "six"), "--statistics", "--against", "z", "--runs-csv", ""]) == 2
    assert "among the compared a, b, c" in capsys.readouterr().err


def test_seeds_and_costs_are_shown_cell_by_cell(tmp_path, capsys):
    for seed, device in enumerate(("cpu", "gpu")):
        path = write_run(tmp_path, seed=seed, top1=(60.0 + seed,)) / "result.json"
        more = {"minutes": 2.0 + seed, "processes": 2, "device": device, "images_per_second": 1000.0}
        path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    write_run(tmp_path, "pi_model", seed=2, top1=None)
    assert main([str(tmp_path), "--seeds", "--cost", "--runs-csv", ""]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\| fixmatch +\| +60.0 \| +61.0 \| +– \| +60.5 ± 0.7 \(2/3\) \|", out)
    assert re.search(r"\| fixmatch +\| +5.0 \| +1,000 \| +2 \|", out) and "On cpu, gpu." in out and "do not compare" in out
    assert main([str(tmp_path), "--seeds", "--format", "csv", "--runs-csv", ""]) == 0
    assert "fixmatch,,Digits,4,net,1,61.0,top1,last" in capsys.readouterr().out
    assert main([str(tmp_path), "--seeds", "--cost", "--format", "csv"]) == 2


def test_python_has_the_same_numbers(tmp_path):
    found = api_table(STUDY)
    pd.testing.assert_frame_equal(found, summarize(collect([STUDY])), check_like=True)
    seeds = pd.DataFrame(found.attrs["seeds"])
    means = seeds.groupby(["method", "variant", "data"])["value"].mean()
    assert means["erm", "", "CIFAR100"] == found.iloc[0]["mean"] == wide(found).iloc[0, 0] and len(seeds) == 19
    assert wide(found).shape[1] == 2 and wide(found).index.names == ["method", "variant"]


def test_a_published_number_makes_no_network_one_that_a_method_has_alone(tmp_path, capsys):
    """As on the page: a network of one own method stands below, whoever published numbers for the data set."""
    for method in ("erm", "fixmatch"):
        write_run(tmp_path / "runs", method, data="CIFAR10", arch="wrn_28_2", top1=(80.0,))
    write_run(tmp_path / "runs", "mean_teacher", data="CIFAR10", arch="vit_tiny", top1=(70.0,))
    assert main([str(tmp_path / "runs"), "--published", "tllib_moco", "--runs-csv", ""]) == 0
    text = capsys.readouterr().out
    assert "On a network of its own, vit_tiny (CIFAR10): mean_teacher 70.0 (1)." in text and "Average" not in text


@pytest.mark.parametrize("flags", [["--against", "erm"], ["--blocks", "seeds"]])
def test_flags_of_statistics_alone_are_refused(tmp_path, capsys, flags):
    write_run(tmp_path, "erm")
    assert main([str(tmp_path), *flags]) == 2 and "--statistics" in capsys.readouterr().err
