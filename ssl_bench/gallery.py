"""Kinds of figures by name, of a set of runs: what each needs of their folders, and why one cannot be drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ssl_bench import curves, figures, prediction_figures, rank_figure, tables
from ssl_bench.drawing import Mark, marks
from ssl_bench.prediction_figures import Predicted
from ssl_bench.runs import METRICS, SELECTIONS

KINDS = {
    "curves": "accuracy at each evaluation over steps, mean and band over seeds",
    "labels": "accuracy against labels per class",
    "ranks": "critical-difference diagram of average ranks (Nemenyi)",
    "pseudo": "pseudo-labels kept, and how many of them are right, over steps",
    "classes": "accuracy of each class",
    "confusion": "true against predicted classes",
    "cost": "accuracy against minutes x processes, with the Pareto front",
    "calibration": "reliability diagram and expected calibration error",
}
OF_IMAGES = ("classes", "confusion", "calibration")  # drawn of predictions.npz, a figure a column of the table


@dataclass(frozen=True)
class Gallery:
    """Figures of the runs of one frame, in which every method has one mark.

    frame: of `runs.collect`; folders: of `curves.run_folders`; methods: what is drawn, () for all:
    rows of the table by name, or all of a method that has no row of its bare name; data, labels (per class), arch: likewise;
    select, metric: as of a table; band: of `figures.BANDS`; width: of `drawing.WIDTHS`;
    blocks: that ranks are over, of `comparison.BLOCKS`; unreadable: gets a line for each damaged file, whose run is left out.
    """

    frame: pd.DataFrame
    folders: dict[str, Path]
    select: str = "last"
    metric: str = "top1"
    band: str = "std"
    methods: tuple[str, ...] = ()
    width: str = "column"
    data: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    arch: tuple[str, ...] = ()
    blocks: str = "columns"
    unreadable: list[str] = field(default_factory=list)

    @cached_property
    def marks(self) -> dict[str, Mark]:
        """Of all rows, drawn or not: leaving a method out changes no other's colour."""
        return marks(figures.named(tables.summarize(self.frame)))

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The rows of `frame` that are drawn.  ValueError: a name that has none, or all names together."""
        names, drawn = figures.named(self.frame), pd.Series(not self.methods, index=self.frame.index)
        for method in self.methods:
            own = names == method
            own = own if own.any() else self.frame["method"] == method
            if not own.any():
                raise ValueError(f"no runs of {method!r}; there are: {', '.join(dict.fromkeys(names))}")
            drawn |= own
        for column, wanted in (("data", self.data), ("labels_per_class", self.labels), ("arch", self.arch)):
            for value in wanted:
                if value not in set(self.frame[column]):
                    raise ValueError(
                        f"no runs of {column} {value!r}; there are: {', '.join(map(str, dict.fromkeys(self.frame[column])))}"
                    )
            drawn &= self.frame[column].isin(wanted) if wanted else True
        if not drawn.any():
            raise ValueError("no run is of all of --methods, --data, --labels and --arch at once")
        return self.frame[drawn]

    @cached_property
    def metrics(self) -> dict[str, list[dict[str, Any]]]:
        return {name: curves.read_metrics(self.folders[name]) for name in self.runs["folder"] if name in self.folders}

    @cached_property
    def summary(self) -> pd.DataFrame:
        return tables.summarize(self.runs, self.select, self.metric)

    def columns(self) -> list[tuple]:
        """The (data, labels per class, network) of the runs."""
        return list(self.runs[figures.COLUMN].drop_duplicates().itertuples(index=False, name=None))

    def draw(self, kind: str) -> dict[str, Figure]:
        """Ending of a name -> figure: one of most kinds, with the ending ""; of OF_IMAGES one a column that has predictions.

        ValueError: another kind, or what is missing, in one line.
        """
        draw: dict[str, Callable[[], dict[str, Figure]]] = {
            "curves": lambda: {
                "": figures.learning_curves(self._series(self.metric), self.marks, metric=self.metric, **self._how())
            },
            "labels": lambda: {"": figures.accuracy_by_labels(self._with_labels(), self.marks, width=self.width)},
            "ranks": lambda: {"": self._ranks()},
            "pseudo": lambda: {
                "": figures.pseudo_labels({key: self._series(key, "train") for key in figures.KEPT}, self.marks, **self._how())
            },
            "cost": lambda: {"": figures.accuracy_by_cost(self._with_cost(), self.marks, width=self.width)},
            **dict.fromkeys(OF_IMAGES, lambda: self._of_images(kind)),
        }
        if kind not in draw:
            raise ValueError(f"no figure {kind!r}; known: {', '.join(KINDS)}")
        return draw[kind]()

    def _ranks(self) -> Figure:
        compared = tables.compared(self.runs, self.select, self.metric, self.blocks)
        about = f"{METRICS[self.metric]}, {SELECTIONS[self.select]}."
        if self.blocks == "columns":
            about = figures.about(self.summary, spread=False)
        return rank_figure.ranks(compared, self.marks, about=about, width=self.width)

    def _how(self) -> dict[str, str]:
        return {"band": self.band, "width": self.width}

    def _series(self, key: str, kind: str = "test") -> pd.DataFrame:
        if not self.metrics:
            raise ValueError("a runs.csv alone has no curves: name the folder of the runs")
        return figures.time_series(self.runs, self.metrics, key, kind)

    def _with_labels(self) -> pd.DataFrame:
        cells = self.summary
        every = (
            (self.runs["num_labeled"] / self.runs["num_classes"])
            .groupby([self.runs["data"], self.runs["arch"], self.runs["labels_per_class"]])
            .first()
        )
        found = [
            n or every.get((data, arch, n))
            for data, arch, n in zip(cells["data"], cells["arch"], cells["labels_per_class"], strict=True)
        ]
        return cells.assign(labels=pd.array(found, dtype="Float64").to_numpy("float64", na_value=float("nan")))

    def _with_cost(self) -> pd.DataFrame:
        runs = self.runs
        processes = runs["processes"].fillna(1).astype(float) if "processes" in runs else 1.0
        keys = ["method", "variant", *figures.COLUMN]
        cost = runs.assign(cost=runs["minutes"] * processes).groupby(keys)["cost"].agg(["mean", "std"]).reset_index()
        return self.summary.merge(
            cost.rename(columns={"mean": "cost", "std": "cost_std"}), on=keys, how="left", suffixes=("", "_")
        )

    def _of_images(self, kind: str) -> dict[str, Figure]:
        found: dict[tuple, list[Predicted]] = {}
        classes: dict[tuple, tuple[str, ...]] = {}
        names, without = figures.named(self.runs), []
        order = list(self.marks)
        for name, run in sorted(zip(names, self.runs.to_dict("records"), strict=True), key=lambda each: order.index(each[0])):
            folder, column = self.folders.get(run["folder"]), tuple(run[part] for part in figures.COLUMN)
            predictions = self._predictions(folder) if folder and run["state"] == "done" else None
            if folder is None or predictions is None:
                without.append(run["folder"])
                continue
            found.setdefault(column, []).append(Predicted(name, run["seed"], predictions))
            count = (
                int(run["num_classes"])
                if pd.notna(run["num_classes"])
                else int(max(predictions.target.max(), predictions.prediction.max())) + 1
            )
            given = curves.read_classes(folder)
            classes[column] = given if len(given) == count else tuple(map(str, range(count)))
        if not found:
            raise ValueError(
                f"no predictions.npz in {_some(without)}: runs of an older version or not finished; train them again"
            )
        made = {}
        for column, runs in found.items():
            about = figures.panel_title(column)
            if kind == "classes":
                figure = prediction_figures.class_accuracy(runs, classes[column], self.marks, about=about, width=self.width)
            elif kind == "confusion":
                figure = prediction_figures.confusion(runs, classes[column], about=about, width=self.width)
            else:
                figure = prediction_figures.reliability(runs, about=about, width=self.width)
            made["" if len(found) == 1 else f"-{_file_name(column)}"] = figure
        return made

    def _predictions(self, folder: Path) -> curves.Predictions | None:
        try:
            return curves.read_predictions(folder)
        except ValueError as error:
            if str(error) not in self.unreadable:
                self.unreadable.append(str(error))
            return None


def _some(folders: Sequence[str]) -> str:
    return folders[0] + f" and {len(folders) - 1} more runs" * (len(folders) > 1) if folders else "the runs"


def _file_name(column: tuple) -> str:
    data, labels, arch = column
    text = f"{data}-{labels or 'all'}-{arch}"
    return "".join(character if character.isalnum() or character in "-_." else "-" for character in text)
