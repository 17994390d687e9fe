"""Figures: what the artists hold is what the runs say, worked out by hand; how they look is docs/figures.md's."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest

matplotlib = pytest.importorskip("matplotlib", reason='figures need pip install "ssl-bench[report]"')

from ssl_bench import comparison, curves, drawing, figures, prediction_figures, rank_figure, significance  # noqa: E402
from ssl_bench.curves import Predictions  # noqa: E402
from ssl_bench.prediction_figures import Predicted  # noqa: E402

CELL = ("digits", 4, "net")


def line(ax, label):
    (found,) = [each for each in ax.lines if each.get_label() == label]
    return [list(map(float, part)) for part in found.get_data()]


def summary_of(*rows: tuple, select: str = "last") -> pd.DataFrame:
    """rows: (method, data, labels, mean, std, n)."""
    lines = [(method, "", data, labels, "net", "top1", select, mean, std, n) for method, data, labels, mean, std, n in rows]
    return pd.DataFrame(lines, columns="method variant data labels_per_class arch metric select mean std n".split())


def series_of(values: dict[tuple[str, int], dict[int, float]]) -> pd.DataFrame:
    lines = [(name, *CELL, seed, step, value) for (name, seed), points in values.items() for step, value in points.items()]
    return pd.DataFrame(lines, columns=figures.SERIES)


CURVES = series_of({("a", 0): {5: 10.0, 10: 30.0, 15: 50.0}, ("a", 1): {5: 20.0, 10: 36.0}, ("b", 0): {5: 7.0, 10: math.nan}})


def test_learning_curves_hold_mean_and_deviation_over_seeds():
    figure = figures.learning_curves(CURVES, drawing.marks(["a", "b"]))
    (ax,) = figure.axes
    assert line(ax, "a") == [[5, 10], [15, 33]]  # step 15 is known of one seed: no point
    assert line(ax, "b")[1][0] == 7 and math.isnan(line(ax, "b")[1][1])
    band = ax.collections[0].get_paths()[0].vertices
    assert {round(y, 9) for x, y in band if x == 10} == {round(33 - 18**0.5, 9), round(33 + 18**0.5, 9)}  # ddof 1: sqrt(9 + 9)
    assert "Top-1 accuracy" in figure.get_label() and "1 to 2 seeds" in figure.get_label()
    assert ax.get_title().replace("\n", " ") == "digits, 4 labels/class, net"
    (ax,) = figures.learning_curves(CURVES, drawing.marks(["a", "b"]), band="range").axes
    assert {y for x, y in ax.collections[0].get_paths()[0].vertices if x == 10} == {30.0, 36.0}


def test_a_series_is_read_off_the_rows_of_finished_runs():
    frame = pd.DataFrame(
        [("m", "", *CELL, seed, state, f"f{seed}") for seed, state in enumerate(["done", "incomplete", "done"])]
        + [("n", "k=1", *CELL, 0, "incomplete", "f3")],
        columns=["method", "variant", *figures.COLUMN, "seed", "state", "folder"],
    )
    rows = {f"f{i}": [{"step": 1, "kind": "test", "top1": float(i)}, {"step": 1, "kind": "train", "kept": None}] for i in (0, 1, 3)}
    found = figures.time_series(frame, rows, "top1")
    assert found[["name", "seed", "value"]].values.tolist() == [["m", 0, 0.0], ["n (k=1)", 0, 3.0]]
    assert figures.time_series(frame, rows, "kept", "train")["value"].isna().all()
    with pytest.raises(ValueError, match="nothing|no run"):
        figures.learning_curves(found.iloc[:0], {})


def test_pseudo_labels_are_percents_in_two_panels():
    parts = {key: CURVES.assign(value=CURVES["value"] / 100) for key in ("kept", "pseudo_acc", "kept_pairs")}
    figure = figures.pseudo_labels(parts, drawing.marks(["a", "b"]))
    kept, right = figure.axes
    for values in (line(kept, "a"), line(right, "a"), line(kept, "_a")):
        np.testing.assert_allclose(values, [[5, 10], [15, 33]])
    assert "_a" not in [each.get_label() for each in right.lines]
    with pytest.raises(ValueError, match="no run logs pseudo-labels"):
        figures.pseudo_labels({"kept": CURVES.iloc[:0]}, {})


def test_accuracy_by_labels_is_the_table_on_a_logarithmic_axis():
    summary = summary_of(("a", "d", 4, 40.0, 2.0, 3), ("a", "d", 0, 90.0, math.nan, 1), ("b", "d", 4, 50.0, 1.0, 3), ("a", "alone", 4, 1.0, 1.0, 3))
    figure = figures.accuracy_by_labels(summary.assign(labels=[4, 100, 4, 4]), drawing.marks(["a", "b"]), width="page")
    (ax,) = figure.axes  # a data set with one number of labels has no panel
    containers = {each.get_label(): each for each in ax.containers}
    assert [list(part) for part in containers["a"][0].get_data()] == [[4, 100], [40, 90]]
    ends = [segment[:, 1].tolist() for segment in containers["a"][2][0].get_segments()]
    assert ends == [[38, 42], [90, 90]]
    assert ax.get_xscale() == "log" and [each.get_text() for each in ax.get_xticklabels()] == ["4", "100"]
    assert "last evaluation" in figure.get_label() and "1 to 3 seeds" in figure.get_label()
    with pytest.raises(ValueError, match="two numbers of labels"):
        figures.accuracy_by_labels(summary.assign(labels=4), {})


@pytest.mark.parametrize("costs", [(0.22, 0.44), (0.5, 40.0), (3.1, 3.3), (1.0, 2000.0), (0.3, 0.3)])
def test_an_axis_of_costs_has_numbers(costs):
    summary = summary_of(("a", "d", 4, 40.0, 2.0, 3), ("b", "d", 4, 50.0, 1.0, 3)).assign(cost=costs, cost_std=0.01)
    (ax,) = (figure := figures.accuracy_by_cost(summary, drawing.marks(["a", "b"]))).axes
    figure.draw_without_rendering()
    low, high = ax.get_xlim()
    assert sum(bool(label.get_text()) and low <= label.get_position()[0] <= high for label in ax.xaxis.get_ticklabels(which="both")) >= 2


def test_cost_and_its_front():
    summary = summary_of(("a", "d", 4, 40.0, 2.0, 3), ("b", "d", 4, 50.0, 1.0, 3), ("c", "d", 4, 45.0, 1.0, 3), ("e", "d", 4, 50.0, 1.0, 3), ("o", "d", 4, 99.0, 1.0, 3))
    summary = summary.assign(cost=[1.0, 2.0, 3.0, 2.0, 0.5], cost_std=0.1)
    summary.loc[4, "variant"] = "oracle"
    names = ["a", "b", "c", "e", "o (oracle)"]
    (ax,) = figures.accuracy_by_cost(summary, drawing.marks(names)).axes
    assert {each.get_label(): tuple(map(float, each[0].get_xydata()[0])) for each in ax.containers} == dict(
        zip(names, zip(summary["cost"], summary["mean"], strict=True), strict=True)
    )
    assert line(ax, "_front") == [[1, 2], [40, 50]]
    with pytest.raises(ValueError, match="minutes"):
        figures.accuracy_by_cost(summary.assign(cost=math.nan), {})


def test_the_front_is_what_nothing_beats():
    random = np.random.default_rng(0)
    cells = pd.DataFrame({"cost": random.integers(1, 20, 40), "mean": random.integers(0, 20, 40)}).drop_duplicates()
    points = set(cells.itertuples(index=False, name=None))
    beaten = {p for p, q in itertools.product(points, points) if p != q and q[0] <= p[0] and q[1] >= p[1]}
    assert set(figures.pareto_front(cells)[["cost", "mean"]].itertuples(index=False, name=None)) == points - beaten


# Three methods on five blocks: ranks 1 2 3 four times, and 2 1 3 once; d lacks one.
RANKED = pd.DataFrame({"a": [9.0] * 4 + [5], "b": [8.0] * 4 + [6], "c": [7.0] * 4 + [4]})


def compared(scores: pd.DataFrame, reason: str = "") -> comparison.Comparison:
    return comparison.Comparison([*scores], scores, f"{len(scores)} blocks: as given", ["d (lacks 1 of 5)"], reason)


def test_the_diagram_shows_ranks_and_bars():
    figure = rank_figure.ranks(compared(RANKED), drawing.marks("abcd"), about="Top-1.")
    (ax,) = figure.axes
    assert [line(ax, name)[0][0] for name in "abc"] == pytest.approx([1.2, 1.8, 3])
    difference = significance.critical_difference(3, 5)  # 1.48: two bars
    assert np.diff(line(ax, "_cd")[0]).item() == pytest.approx(difference)
    bars = [[*map(float, each.get_xdata())] for each in ax.lines if each.get_label() == "_bar"]
    assert bars == [pytest.approx([1.2, 1.8]), pytest.approx([1.8, 3])]
    caption = figure.get_label().replace("\n", " ")
    assert "over 5 blocks: as given. Top-1." in caption and "CD = 1.48" in caption and "Left out: d (lacks 1 of 5)." in caption
    with pytest.raises(ValueError, match=r"too few\. Left out: d"):
        rank_figure.ranks(compared(RANKED, "too few."), {}, about="")


@pytest.mark.parametrize("seed", range(3))
def test_bars_are_those_of_scikit_posthocs(seed):
    posthocs = pytest.importorskip("scikit_posthocs")
    random = np.random.default_rng(seed)
    k, n = 6, 12
    scores = pd.DataFrame(random.normal(size=(n, k)) + np.linspace(0, 3, k), columns=[f"m{j}" for j in range(k)])
    (ax,) = rank_figure.ranks(compared(scores), drawing.marks(scores), about="").axes
    bars = [tuple(each.get_xdata()) for each in ax.lines if each.get_label() == "_bar"]
    ranks = scores.rank(axis=1, ascending=False).mean().sort_values()
    p = posthocs.posthoc_nemenyi_friedman(scores.to_numpy()).set_axis(scores.columns).set_axis(scores.columns, axis=1)
    joined = lambda names: all(p.loc[pair] >= 0.05 for pair in itertools.combinations(names, 2))  # noqa: E731
    stretches = [(i, j) for i, j in itertools.combinations(range(k), 2) if joined(ranks.index[i : j + 1])]
    longest = [s for s in stretches if not any(t != s and t[0] <= s[0] and s[1] <= t[1] for t in stretches)]
    assert bars == [pytest.approx((ranks.iloc[i], ranks.iloc[j])) for i, j in longest]


FIRST = Predictions(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]), np.array([0.9, 0.9, 0.55, 0.55]))
SECOND = Predictions(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), np.array([0.9, 0.9, 0.55, 0.55]))
RUNS = [Predicted("a", 0, FIRST), Predicted("a", 1, SECOND), Predicted("b", 0, FIRST)]


def test_class_accuracy_by_hand():
    marks = drawing.marks("ab")
    figure = prediction_figures.class_accuracy(RUNS, ["cat", "dog"], marks, about="d")
    (ax,) = figure.axes
    widths = {each.get_label(): [bar.get_width() for bar in each] for each in ax.containers if each.get_label() in marks}
    assert widths == {"a": [75, 75], "b": [100, 50]}
    assert [each.get_text() for each in ax.get_yticklabels()] == ["cat", "dog"]
    five = [Predicted(name, 0, FIRST) for name in "abcde"]
    (ax,) = prediction_figures.class_accuracy(five, ["cat", "dog"], drawing.marks("abcde"), about="d").axes
    assert line(ax, "e") == [[100, 50], [0, 1]]
    many = Predictions(np.arange(40), np.r_[np.arange(30), np.zeros(10, int)], np.ones(40))
    (ax,) = prediction_figures.class_accuracy([Predicted("a", 0, many)], [str(i) for i in range(40)], marks, about="d").axes
    assert line(ax, "a")[1] == [100] * 30 + [0] * 10


def test_confusion_by_hand():
    figure = prediction_figures.confusion(RUNS, ["cat", "dog"], about="d")
    first, second = figure.axes
    np.testing.assert_array_equal(first.images[0].get_array(), [[75, 25], [25, 75]])  # both seeds' images together
    np.testing.assert_array_equal(second.images[0].get_array(), [[100, 0], [50, 50]])
    assert [each.get_text() for each in second.texts] == ["100", "50", "50"]
    assert first.get_title() == "a: 75.0 % right"
    many = Predictions(np.arange(40), np.arange(40), np.ones(40))
    (ax,) = prediction_figures.confusion([Predicted("a", 0, many)], [str(i) for i in range(40)], about="d", width="page").axes
    assert not ax.texts and ax.images[0].get_array().shape == (40, 40)
    thirty = Predictions(np.arange(30), np.arange(30), np.ones(30))
    (ax,) = prediction_figures.confusion([Predicted("a", 0, thirty)], [str(i) for i in range(30)], about="d", width="page").axes
    assert len(ax.texts) == 30


def test_reliability_by_hand():
    (ax, _) = prediction_figures.reliability(RUNS, about="d", bins=2).axes
    heights = {each.get_label(): [bar.get_height() for bar in each] for each in ax.containers}
    assert heights["accuracy"] == pytest.approx([75])  # all lie above 0.5: the other bin is empty, and has no bar
    assert heights["not sure enough"] == pytest.approx([2.5]) and heights["too sure"] == [0]
    # a: confidence 0.725 in one bin; accuracy 0.75 in both seeds: ECE 0.025 each.
    assert ax.texts[0].get_text() == "ECE 2.5 ± 0.0 %"
    assert curves.ece(curves.reliability(FIRST, 2)) == pytest.approx(0.025)


def test_sixteen_methods_look_different_and_neighbours_most():
    marks = drawing.marks(map(str, range(16)))
    assert len({(mark.colour, mark.line) for mark in marks.values()}) == 16
    for one, other in itertools.pairwise(marks.values()):
        assert one.colour != other.colour and one.marker != other.marker


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(w * (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4) for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def test_colours_can_be_seen_on_white():
    assert all(1.05 / (_luminance(colour) + 0.05) > 2 for colour in drawing.COLOURS)  # yellow, left out: 1.3


def test_text_stays_inside_and_is_large_enough():
    names = [f"method_{i} (an_option=true, another=['x'])" for i in range(14)]
    series = series_of({(name, 0): {1: 1.0, 2: 2.0} for name in names})
    diagram = rank_figure.ranks(compared(pd.DataFrame([range(14)] * 5, columns=names)), drawing.marks(names), about="Top-1 accuracy.")
    for figure in (figures.learning_curves(series, drawing.marks(names)), diagram):
        drawing.render(figure, "png")
        figure.draw_without_rendering()  # at its own dots an inch again
        width, height = figure.get_size_inches() * figure.dpi
        assert width == pytest.approx(3.3 * figure.dpi)
        texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() and text.get_visible()]
        ticks = {label for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for label in axis.get_ticklabels()}  # some lie beyond the axes, unseen
        assert len(texts) > 15
        for text in {*texts} - ticks:
            if getattr(text.axes, "axison", True) or text in text.axes.texts:  # of axes that are off only the texts are drawn
                assert text.get_fontsize() >= 5
                box = text.get_window_extent()
                assert box.x0 >= -3 and box.x1 <= width + 3 and box.y0 >= -3 and box.y1 <= height + 3, text.get_text()


def test_an_svg_for_a_page_takes_the_pages_colour_and_has_its_own_ids():
    marks = drawing.marks(["a<b&\"c\"$x_1$", "b"])
    series = CURVES.replace({"a": "a<b&\"c\"$x_1$"})
    first = drawing.svg(figures.learning_curves(series, marks))
    second = drawing.svg(figures.learning_curves(series, marks, band="range"))
    ids = [re.findall(r'\bid="([^"]+)"', text) for text in (first, second)]
    assert len(ids[0]) == len(set(ids[0])) and not {*ids[0]} & {*ids[1]}
    assert {*re.findall(r'href="#([^"]+)"', first), *re.findall(r"url\(#([^)]+)\)", first)} <= {*ids[0]}
    tree = ElementTree.fromstring(first)
    assert tree.get("fill") == "currentColor" and "#000000" not in first and "stroke: currentColor" in first
    assert "a<b&\"c\"$x_1$" in "".join(tree.itertext())  # text as text, escaped
    assert not re.search(r"fill: #ffffff", first)  # see-through
    assert drawing.svg(figures.learning_curves(series, marks), name="x").count('id="x-') == len(ids[0])


MAKE = """
import hashlib, sys
sys.path.insert(0, {tests!r})
from test_figures import CURVES, RUNS, drawing, figures, prediction_figures
for figure in (figures.learning_curves(CURVES, drawing.marks("ab")), prediction_figures.confusion(RUNS, ["cat", "dog"], about="d")):
    for format in drawing.FORMATS:
        print(hashlib.sha256(drawing.render(figure, format)).hexdigest())
"""


@pytest.mark.slow
def test_the_same_figure_is_the_same_bytes_in_every_process(tmp_path):
    expected = []
    for make in (lambda: figures.learning_curves(CURVES, drawing.marks("ab")), lambda: prediction_figures.confusion(RUNS, ["cat", "dog"], about="d")):
        for format in drawing.FORMATS:
            expected.append(hashlib.sha256(drawing.render(make(), format)).hexdigest())
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: black\nfont.size: 30\nsvg.fonttype: path\n")  # a user's own settings
    environment = os.environ | {"PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "TZ": "Asia/Tokyo"}
    here = os.path.dirname(__file__)
    done = subprocess.run([sys.executable, "-c", MAKE.format(tests=here)], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


def test_files_have_their_fonts_and_no_date():
    figure = figures.learning_curves(CURVES, drawing.marks("ab"))
    pdf, svg, png = (drawing.render(figure, format) for format in ("pdf", "svg", "png"))
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf
    assert b"<text" in svg and b"dc:date" not in svg and png.startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="gif"):
        drawing.render(figure, "gif")


def test_nothing_global_changes():
    before = dict(matplotlib.rcParams)
    drawing.render(figures.learning_curves(CURVES, drawing.marks("ab")), "png")
    assert dict(matplotlib.rcParams) == before
    code = "import sys, ssl_bench.gallery; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
