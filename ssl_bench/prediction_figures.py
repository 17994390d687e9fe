"""Predictions of the last evaluation -> figures: accuracy by class, confusion, reliability.  Nothing is read, nothing written.

`runs`: one entry a run, of one column of the table (data set, labels per class, network); several seeds share a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssl_bench import curves
from ssl_bench.curves import BINS, Predictions
from ssl_bench.drawing import WIDTHS, Mark, canvas, settings, title

NAMED_CLASSES = 30  # from there on names and numbers of classes are left out
FEW = 4  # methods beside one another as bars; more are points
CELL_TEXT = 0.5, 3.5, 6.0  # of a cell's side; the least that can be read; the most, points
DARK = "#010101"  # on a light cell; plain black would turn white with a page's dark mode


@dataclass(frozen=True)
class Predicted:
    """A run's predictions, and how its row of the table is called."""

    name: str
    seed: int
    predictions: Predictions


def class_accuracy(
    runs: Sequence[Predicted], classes: Sequence[str], marks: Mapping[str, Mark], *, about: str, width: str = "column"
) -> Figure:
    """Accuracy of each class, percent, mean and std over seeds: bars of up to FEW methods, points of more; of more than
    NAMED_CLASSES classes a line, by falling accuracy.

    classes: names in the order of the labels; about: data, labels and network, for the caption.
    """
    found = {}
    for name, several in _by_name(runs).items():
        shares = np.stack([100 * curves.per_class(run.predictions, len(classes))[0] for run in several])
        found[name] = shares.mean(axis=0), shares.std(axis=0, ddof=1) if len(several) > 1 else np.zeros(len(classes))
    caption = f"{about}: accuracy by class at the last evaluation, {'mean ± std of ' * (_most(runs) > 1)}{_seeds(runs)}."
    legend = {name: marks[name] for name in marks if name in found}
    many = len(classes) > NAMED_CLASSES
    if not many:
        legend = {name: Mark(mark.colour, mark.marker, "none") for name, mark in legend.items()}
    with settings():
        figure, [[ax]] = canvas(
            1, width, caption, legend, height=2.2 if many else 0.5 + len(classes) * max(0.16, 0.06 * min(len(found), FEW))
        )
        if many:
            for name in legend:
                ordered = np.sort(found[name][0][~np.isnan(found[name][0])])[::-1]
                style = marks[name].style | {"marker": "none"}
                ax.plot(np.arange(1, len(ordered) + 1), ordered, label=name, **style)
            ax.set_xlabel("classes, each method's own order from best to worst")
            ax.set_ylabel("accuracy of the class (%)")
            ax.set_ylim(0, 102)
            return figure
        places = np.arange(len(classes))
        for i, name in enumerate(legend):
            mean, std = found[name]
            if len(legend) <= FEW:
                thick = 0.8 / len(legend)
                y = places + (i - (len(legend) - 1) / 2) * thick
                ax.barh(
                    y,
                    mean,
                    thick * 0.92,
                    xerr=std if std.any() else None,
                    color=marks[name].colour,
                    label=name,
                    error_kw={"elinewidth": 0.7, "ecolor": "0.5"},
                )
            else:
                ax.plot(mean, places, label=name, **marks[name].style | {"linestyle": "none"})
        ax.set_yticks(places, [_cut(text) for text in classes])
        ax.set_ylim(len(classes) - 0.5, -0.5)
        if len(legend) <= FEW:
            ax.set_xlim(0, 102)  # a bar without its foot says nothing
        ax.grid(axis="y", linewidth=0.3, color="0.8")
        ax.set_axisbelow(True)
        ax.set_xlabel("accuracy of the class (%)")
    return figure


def confusion(runs: Sequence[Predicted], classes: Sequence[str], *, about: str, width: str = "column") -> Figure:
    """Of each true class (row) the percent predicted as each class (column), images of all seeds together; a panel a method.

    Numbers stand in the cells where they can be read; of more than NAMED_CLASSES classes there is only the image.
    """
    groups = _by_name(runs)
    caption = f"{about}: percent of each true class (row) predicted as each class (column) at the last evaluation, "
    caption += f"images of {_pooled(runs)}."
    named = len(classes) <= NAMED_CLASSES
    least = 2.0 if len(classes) <= 4 else WIDTHS["column"] - 0.1 if len(classes) <= 12 else WIDTHS["page"]
    across = max(1, min(len(groups), int(WIDTHS[width] / least)))
    side = WIDTHS[width] / across
    with settings():
        figure, axes = canvas(len(groups), width, caption, {}, height=side, least=least)
        for (name, several), (ax,) in zip(groups.items(), axes, strict=True):
            matrix = np.sum([curves.confusion(run.predictions, len(classes)) for run in several], axis=0)
            share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            ax.imshow(share, cmap="Blues", vmin=0, vmax=100, interpolation="nearest", aspect="equal", label=name)
            accuracy = 100 * np.trace(matrix) / matrix.sum()
            title(ax, f"{name}: {accuracy:.1f} % right")
            ax.set_xlabel("predicted")
            ax.set_ylabel("true")
            if named:
                names = [_cut(text) for text in classes]
                ax.set_xticks(range(len(classes)), names, rotation=90 if max(map(len, names)) > 2 else 0)
                ax.set_yticks(range(len(classes)), names)
                _numbers(ax, share, 0.72 * side * 72 / len(classes))
    return figure


def _numbers(ax: Axes, share: np.ndarray, side: float) -> None:
    """Percents in the cells, which are `side` points wide; none where they would be too small to read."""
    part, least, most = CELL_TEXT
    size = min(most, part * side)
    if size < least:
        return
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.5:
            ax.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=size, color=DARK if value < 55 else "#FFFFFF")


def reliability(runs: Sequence[Predicted], *, about: str, width: str = "column", bins: int = BINS) -> Figure:
    """Accuracy in each bin of confidence, against the diagonal, with the expected calibration error; a panel a method.

    Bars: images of all seeds together; ECE: mean and std of each seed's own.
    Source: Guo et al. 2017 (arXiv:1706.04599), figure 1 and eq. 3.
    """
    groups = _by_name(runs)
    caption = f"{about}: accuracy by confidence at the last evaluation, {bins} bins, images of {_pooled(runs)}; "
    caption += "orange: too sure by that much, light blue: not sure enough; "
    caption += f"ECE: expected calibration error{', mean ± std over seeds' * (_most(runs) > 1)}; line: share of the images."
    with settings():
        figure, axes = canvas(len(groups), width, caption, {}, height=1.55, least=1.6)
        for (name, several), (ax,) in zip(groups.items(), axes, strict=True):
            parts = zip(
                *((run.predictions.target, run.predictions.prediction, run.predictions.confidence) for run in several),
                strict=True,
            )
            table = curves.reliability(Predictions(*map(np.concatenate, parts)), bins)
            errors = 100 * np.array([curves.ece(curves.reliability(run.predictions, bins)) for run in several])
            middle, some = (table.edges[:-1] + table.edges[1:]) / 2, table.count > 0
            accurate, confident = 100 * table.accuracy[some], 100 * table.confidence[some]
            thick, gap = 1 / bins * 0.94, confident - accurate
            ax.bar(middle[some], accurate, thick, color="#0072B2", label="accuracy")
            ax.bar(middle[some], np.maximum(gap, 0), thick, accurate, color="#E69F00", label="too sure")
            ax.bar(middle[some], np.maximum(-gap, 0), thick, confident, color="#56B4E9", label="not sure enough")
            ax.plot([0, 1], [0, 100], color="black", linewidth=0.7, linestyle=(0, (3, 2)), label="_diagonal")
            ax.step(
                table.edges,
                100 * np.append(table.count, table.count[-1]) / table.count.sum(),
                where="post",
                color="black",
                linewidth=0.7,
                label="images",
            )
            spread = f" ± {errors.std(ddof=1):.1f}" if len(errors) > 1 else ""
            ax.text(0.03, 0.97, f"ECE {errors.mean():.1f}{spread} %", transform=ax.transAxes, va="top", fontsize="small")
            ax.set_xlim(0, 1)
            ax.set_ylim(0, 103)
            title(ax, name)
            ax.set_xlabel("confidence")
            ax.set_ylabel("accuracy (%)")
    return figure


def _by_name(runs: Sequence[Predicted]) -> dict[str, list[Predicted]]:
    if not runs:
        raise ValueError("no run has predictions")
    groups: dict[str, list[Predicted]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    return groups


def _most(runs: Sequence[Predicted]) -> int:
    return max(map(len, _by_name(runs).values()))


def _seeds(runs: Sequence[Predicted]) -> str:
    counts = sorted({len(several) for several in _by_name(runs).values()})
    return f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seed{'s' * (counts[0] > 1)}"


def _pooled(runs: Sequence[Predicted]) -> str:
    return _seeds(runs) + " together" * (_most(runs) > 1)


def _cut(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"
