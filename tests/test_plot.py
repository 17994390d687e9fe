"""ssl-bench plot: every kind from real runs, and one line for what cannot be drawn."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssl_bench import plot

pytest.importorskip("matplotlib", reason='figures need pip install "ssl-bench[report]"')

RESULTS = Path(__file__).parents[1] / "results"
DIGITS = RESULTS / "digits"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Three methods of the digits study; two of them with predictions, of the accuracy their runs reached."""
    top = tmp_path_factory.mktemp("runs")
    for name in ("erm", "fixmatch", "semi_vit"):
        shutil.copytree(DIGITS / name, top / name)
    for file in [*top.glob("erm/**/result.json"), *top.glob("fixmatch/**/result.json")]:
        result = json.loads(file.read_text())
        target = np.repeat(np.arange(10), 50)
        wrong = np.arange(500) % 500 >= result["evaluations"][-1]["top1"] * 5
        confidence = np.linspace(0.2, 1, 500, dtype=np.float32)
        np.savez(file.parent / "predictions.npz", target=target.astype("i4"), prediction=np.where(wrong, 0, target).astype("i4"), confidence=confidence)
    return top


def command(*argv: object) -> int:
    return plot.main([str(word) for word in argv])


def test_words_are_those_of_the_modules_below():
    from ssl_bench import drawing, figures, gallery

    assert tuple(gallery.KINDS) == plot.KINDS  # repeated so that --help needs no matplotlib
    assert tuple(drawing.FORMATS) == plot.FORMATS and tuple(drawing.WIDTHS) == plot.WIDTHS and tuple(figures.BANDS) == ("std", "range")


@pytest.mark.slow
def test_all_of_a_study(runs, tmp_path, capsys):
    assert command("all", runs, "--arch", "test_resnet", "--out", tmp_path / "new" / "out", "--format", "svg") == 0
    out, err = capsys.readouterr()
    wrote = {file.name for file in (tmp_path / "new" / "out").iterdir()}
    assert wrote == {f"{kind}.svg" for kind in ("curves", "pseudo", "cost", "classes", "confusion", "calibration")}
    assert {Path(line).name for line in out.split()} == wrote
    assert err.count("\n") == 2 and "not drawn: labels: " in err and "not drawn: ranks: " in err
    assert all((tmp_path / "new" / "out" / name).read_text().startswith("<?xml") for name in wrote)


def test_figures_of_images_are_one_a_column_and_ranks_go_over_blocks(runs, tmp_path):
    assert command("classes", runs, "--out", tmp_path / "a.png") == 0
    assert command("ranks", runs, "--blocks", "seeds", "--out", tmp_path / "r.pdf") == 0
    assert {file.name for file in tmp_path.iterdir()} == {"a-Digits-4-test_resnet.png", "a-Digits-4-test_vit.png", "r.pdf"}


def test_labels_of_a_study_of_several(tmp_path, capsys):
    assert command("labels", RESULTS / "positional_cifar10", "--out", tmp_path / "a.pdf") == 0
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF") and capsys.readouterr().out.strip() == str(tmp_path / "a.pdf")
    before = (tmp_path / "a.pdf").read_bytes()
    assert command("labels", RESULTS / "positional_cifar10", "--out", tmp_path / "a.pdf") == 0
    assert (tmp_path / "a.pdf").read_bytes() == before


def test_ranks_are_those_that_table_prints(runs, tmp_path):
    from ssl_bench.gallery import Gallery
    from ssl_bench.runs import collect
    from ssl_bench.tables import statistics_tables

    frame = collect([runs])
    (figure,) = Gallery(frame, {}, select="best", blocks="seeds").draw("ranks").values()
    (table, _), _ = statistics_tables(frame, "best", "top1", "seeds", "")
    drawn = sorted(text.get_text().replace("\n", " ") for text in figure.axes[0].texts if re.search(r" \d\.\d\d$", text.get_text()) and "=" not in text.get_text())
    assert drawn == sorted(f"{name.text} {rank.text}" for name, rank, *_ in table.body)
    assert re.search(r"critical difference (\d\.\d\d)", table.caption)[1] in figure.get_label().replace("\n", " ")


def test_leaving_out_a_method_changes_no_colour(runs):
    from ssl_bench.curves import run_folders
    from ssl_bench.gallery import Gallery
    from ssl_bench.runs import collect

    frame, folders = collect([runs]), run_folders([runs])
    whole, part = Gallery(frame, folders), Gallery(frame, folders, methods=("semi_vit",), arch=("test_vit",))
    (figure,) = part.draw("curves").values()
    (ax,) = figure.axes
    assert ax.lines[0].get_color() == whole.marks["semi_vit"].colour == part.marks["semi_vit"].colour
    values = [run["evaluations"] for run in (json.loads(f.read_text()) for f in runs.glob("semi_vit/**/result.json")) if run["arch"] == "test_vit"]
    assert ax.lines[0].get_ydata()[-1] == pytest.approx(np.mean([each[-1]["top1"] for each in values]))
    assert set(Gallery(frame, folders, methods=("erm",)).runs["variant"]) == {""}  # the row of that name, not the oracle's
    assert part.draw("cost")[""].axes[0].containers[0].get_label() == "semi_vit"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["curves", "RUNS", "--methods", "nobody"], "no runs of 'nobody'; there are: erm"),
        (["curves", "RUNS", "--data", "CIFAR10"], "no runs of data 'CIFAR10'; there are: Digits"),
        (["curves", "RUNS", "--arch", "test_vit", "--labels", "7"], "no runs of labels_per_class 7; there are: 4"),
        (["labels", "RUNS"], "two numbers of labels per class"),
        (["ranks", "RUNS"], "No statistics over 2 blocks"),
        (["curves", "RUNS", "--metric", "conv_top1"], "no run has evaluations of conv_top1"),
        (["pseudo", "RUNS", "--methods", "erm"], "no run logs pseudo-labels"),
        (["classes", "RUNS", "--methods", "semi_vit"], "no predictions.npz in semi_vit/Digits/4x/"),
        (["curves", "RUNS", "--out", "a.gif"], "a figure ends in .pdf, .svg, .png"),
        (["curves", "RUNS", "--out", "a.pdf", "--format", "svg"], "two different things"),
        (["all", "RUNS", "--out", "a.pdf"], "it is a folder"),
        (["curves", "RUNS/none"], "neither a folder nor a .csv file"),
        (["curves", "RUNS/empty"], "no runs found"),
        (["curves", "CSV"], "a runs.csv alone has no curves"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(runs, tmp_path, monkeypatch, capsys, argv, says):
    monkeypatch.chdir(tmp_path)
    (runs / "empty").mkdir(exist_ok=True)
    argv = [word.replace("RUNS", str(runs)).replace("CSV", str(RESULTS / "runs.csv")) for word in argv]
    assert command(*argv) == 2
    out, err = capsys.readouterr()
    assert says in err and err.startswith("ssl-bench plot: error: ") and err.count("\n") == 1 and not out
    assert not [*tmp_path.iterdir()]


def test_a_table_alone_has_its_cost(tmp_path):
    assert command("cost", RESULTS / "runs.csv", "--data", "Digits", "--out", tmp_path / "a.svg") == 0


def test_without_matplotlib_one_line_names_the_extra(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("matplotlib") or name in ("ssl_bench.drawing", "ssl_bench.gallery")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert command("curves", DIGITS) == 2
    assert capsys.readouterr().err == 'ssl-bench plot: error: figures need matplotlib: pip install "ssl-bench[report]"\n'


def test_help_needs_neither_torch_nor_matplotlib():
    code = "import sys\nfrom ssl_bench import plot\ntry: plot.main(['--help'])\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("kind", ["curves", "labels", "ranks"])
def test_the_figures_of_the_docs_are_those_of_the_results(kind, tmp_path):
    docs = RESULTS.parent / "docs"
    (line,) = [line for line in (docs / "figures.md").read_text(encoding="utf-8").splitlines() if line.startswith(f"`ssl-bench plot {kind} results/")]
    argv = line.strip("`").split()[2:]
    argv[1], argv[-1] = str(RESULTS.parent / argv[1]), str(tmp_path / "a.svg")
    assert command(*argv) == 0
    drawn, shown = (re.findall(r"<text[^>]*>([^<]*)", file.read_text(encoding="utf-8")) for file in (tmp_path / "a.svg", docs / "figures" / f"{kind}.svg"))
    assert drawn == shown  # lines may differ by a hair between versions of matplotlib


def test_a_damaged_file_costs_its_run_alone(runs, tmp_path, capsys):
    copy = Path(shutil.copytree(runs, tmp_path / "copy"))
    broken = sorted(copy.glob("erm/**/predictions.npz"))[0]
    broken.write_bytes(broken.read_bytes()[:100])
    assert command("calibration", copy, "--out", tmp_path / "c.svg") == 0
    out, err = capsys.readouterr()
    assert out.count("c-Digits") == 2 and err.count("\n") == 1 and f"ssl-bench plot: warning: {broken} cannot be read" in err


def test_a_metric_that_no_run_has_is_named(runs, capsys):
    assert command("cost", runs, "--metric", "conv_top1") == 2
    assert "no finished run has conv_top1 by last" in capsys.readouterr().err
