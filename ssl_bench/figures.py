"""Frames -> figures of a set of runs: learning curves, labels, pseudo-labels, cost.  Nothing is read, nothing written.

`summary` is a frame of `tables.summarize`; `series` one of `time_series`.  Rows are named as in the table, columns are panels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from ssl_bench.drawing import Mark, canvas, settings, title
from ssl_bench.runs import METRICS, SELECTIONS
from ssl_bench.summary import is_oracle

COLUMN = ["data", "labels_per_class", "arch"]
SERIES = ["name", *COLUMN, "seed", "step", "value"]
BANDS = {"std": "mean ± std", "range": "mean, least and most"}
SHADE = 0.15, 0.07  # how dark a band is: of up to FEW methods, of more, whose bands lie over one another
FEW = 5
KEPT = {"kept": "kept (%)", "kept_pairs": "kept (%)", "pseudo_acc": "of those, right (%)"}


def named(frame: pd.DataFrame) -> pd.Series:
    """What each row is called in tables and legends: method (variant)."""
    return frame["method"] + frame["variant"].map(lambda text: f" ({text})" if text else "")


def time_series(
    frame: pd.DataFrame, metrics: Mapping[str, Sequence[dict[str, Any]]], key: str, kind: str = "test"
) -> pd.DataFrame:
    """A long frame, columns SERIES, of `key` in the rows of that kind of every run of `frame`.

    frame: of `runs.collect`; metrics: its column folder -> `curves.read_metrics`.  value: nan where the row has none.  Of a row of
    the table with finished runs the others are left out: a mean over fewer and fewer seeds would jump.
    """
    lines = []
    done = set(zip(named(frame), *(frame[part] for part in COLUMN), frame["state"], strict=True))
    for name, run in zip(named(frame), frame.to_dict("records"), strict=True):
        column = tuple(run[part] for part in COLUMN)
        if run["state"] != "done" and (name, *column, "done") in done:
            continue
        points = {row["step"]: row[key] for row in metrics.get(run["folder"], ()) if row["kind"] == kind and key in row}
        for step, value in points.items():
            known = type(value) in (int, float) and math.isfinite(value)
            lines.append((name, *column, run["seed"], step, float(value) if known else math.nan))
    return pd.DataFrame(lines, columns=SERIES)


def over_seeds(series: pd.DataFrame, band: str = "std") -> pd.DataFrame:
    """Of each row, column and step that all its seeds have: mean, low, high and n (seeds with a value), nan without any.

    band: "std" for mean -+ deviation (ddof 1, 0 for one seed), "range" for the least and the most.
    """
    keys = ["name", *COLUMN]
    seeds = series.groupby(keys, sort=False)["seed"].nunique()
    found = series.groupby([*keys, "step"], sort=False)["value"].agg(["size", "mean", "std", "min", "max", "count"]).reset_index()
    found = found[found["size"] == seeds.loc[pd.MultiIndex.from_frame(found[keys])].to_numpy()] if len(found) else found
    spread = found["std"].fillna(0.0)
    low, high = (found["min"], found["max"]) if band == "range" else (found["mean"] - spread, found["mean"] + spread)
    if series["value"].between(0, 100).all():  # percentages: a deviation must not be drawn where none can be
        low, high = low.clip(lower=0), high.clip(upper=100)
    parts = {"mean": found["mean"], "low": low, "high": high, "n": found["count"]}
    return found[[*keys, "step"]].assign(**parts).sort_values("step", kind="stable").reset_index(drop=True)


def learning_curves(
    series: pd.DataFrame, marks: Mapping[str, Mark], *, metric: str = "top1", band: str = "std", width: str = "column"
) -> Figure:
    """Accuracy at each evaluation over steps, a panel a column.  ValueError: nothing to draw."""
    if series.empty:
        raise ValueError(f"no run has evaluations of {metric} in its metrics.jsonl")
    lines = over_seeds(series, band)
    caption = f"{METRICS.get(metric, metric)} at each evaluation; {_of_seeds(band, lines['n'])}."
    with settings():
        panels, figure, axes = _panels(lines, marks, caption, width)
        for panel, (ax,) in zip(panels, axes, strict=True):
            _bands(ax, lines[_in(lines, panel)], marks)
            ax.set_xlabel("step")
            ax.set_ylabel(_short(metric))
    return figure


def pseudo_labels(
    parts: Mapping[str, pd.DataFrame], marks: Mapping[str, Mark], *, band: str = "std", width: str = "column"
) -> Figure:
    """Share of pseudo-labels kept, and of those right, over steps; from training, so of weak views and a moving network.

    parts: of KEPT those that are logged, -> series, in shares of 1.  ValueError: nothing to draw.
    """
    lines = {key: over_seeds(series.assign(value=100 * series["value"]), band) for key, series in parts.items() if len(series)}
    if not lines:
        raise ValueError("no run logs pseudo-labels (kept, pseudo_acc): methods that select none have none to show")
    whole = pd.concat(lines.values())
    caption = f"Pseudo-labels in training, means since the row before; {_of_seeds(band, whole['n'])}."
    caption += " Thin: used after mixing." * ("kept_pairs" in lines)
    heads = list(dict.fromkeys(KEPT[key] for key in lines))
    with settings():
        panels, figure, axes = _panels(whole, marks, caption, width, rows=len(heads), height=1.35)
        for panel, column in zip(panels, axes, strict=True):
            for ax, head in zip(column, heads, strict=True):
                for key, of in lines.items():
                    if KEPT[key] == head:
                        _bands(ax, of[_in(of, panel)], marks, thin=key == "kept_pairs")
                ax.set_ylabel(head)
            column[-1].set_xlabel("step")
    return figure


def accuracy_by_labels(summary: pd.DataFrame, marks: Mapping[str, Mark], *, width: str = "column") -> Figure:
    """Mean and std over labels per class, log x, a panel a data set and network.

    summary: with a column ``labels`` too, of images a class where labels_per_class is 0, all.
    ValueError: nowhere two numbers of labels.
    """
    cells = summary.assign(name=named(summary))
    cells = cells[cells["mean"].notna()]
    places = [place for place, of in cells.groupby(["data", "arch"], sort=False) if of["labels"].nunique() > 1]
    if not places:
        raise ValueError("accuracy against labels needs a data set with two numbers of labels per class or more")
    cells = cells[pd.Series([*zip(cells["data"], cells["arch"], strict=True)], index=cells.index).isin(places)]
    with settings():
        figure, axes = canvas(len(places), width, about(cells), _legend(cells, marks))
        for (data, arch), (ax,) in zip(places, axes, strict=True):
            here = cells[(cells["data"] == data) & (cells["arch"] == arch)].sort_values("labels", kind="stable")
            for name, of in here.groupby("name", sort=False):
                ax.errorbar(
                    of["labels"],
                    of["mean"],
                    yerr=of["std"].fillna(0.0),
                    label=name,
                    capsize=1.5,
                    elinewidth=0.7,
                    **marks[str(name)].style,
                )
            ax.set_xscale("log")
            ticks = sorted(here["labels"].unique())
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.set_xlabel("labels per class")
            ax.set_ylabel(_short(cells["metric"].iloc[0]))
            title(ax, f"{data}, {arch}")
    return figure


def accuracy_by_cost(summary: pd.DataFrame, marks: Mapping[str, Mark], *, width: str = "column") -> Figure:
    """Mean and std over cost, log x, and the Pareto front: rows that none beats at no greater cost; oracles are not on it.

    summary: with columns ``cost`` and ``cost_std`` too, minutes x processes of a run.  ValueError: no cost is known.
    """
    cells = summary.assign(name=named(summary), oracle=[is_oracle(("", variant)) for variant in summary["variant"]])
    cells = cells[cells["mean"].notna()]
    if cells.empty:
        raise ValueError(f"no finished run has {summary['metric'].iloc[0]} by {summary['select'].iloc[0]}")
    cells = cells[cells["cost"] > 0]
    if cells.empty:
        raise ValueError("no finished run says how many minutes it took")
    caption = (
        about(cells)
        + " Cost: mean minutes of training x processes of a run. Dashed: Pareto front"
        + ", oracle aside." * bool(cells["oracle"].any())
    )
    with settings():
        panels, figure, axes = _panels(cells, marks, caption.rstrip(".") + ".", width, line=False)
        for panel, (ax,) in zip(panels, axes, strict=True):
            here = cells[_in(cells, panel)]
            row: Any
            for row in here.itertuples():
                spread = [None if math.isnan(value) else value for value in (row.cost_std, row.std)]
                mark = marks[row.name].style | {"linestyle": "none"}
                ax.errorbar(row.cost, row.mean, xerr=spread[0], yerr=spread[1], label=row.name, elinewidth=0.4, **mark)
            front = pareto_front(here[~here["oracle"]])
            ax.plot(front["cost"], front["mean"], drawstyle="steps-post", color="0.25", linewidth=1.1, linestyle=(0, (4, 2)), zorder=3, label="_front")
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            ax.xaxis.set_minor_formatter(FuncFormatter(_sparse))
            low, high = ax.get_xlim()
            if sum(low <= lead * 10.0**k <= high for k in range(-9, 10) for lead in (1, 2, 5)) < 2:
                ax.xaxis.set_major_locator(MaxNLocator(4))
                ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xlabel("minutes x processes")
            ax.set_ylabel(_short(cells["metric"].iloc[0]))
    return figure


def pareto_front(cells: pd.DataFrame) -> pd.DataFrame:
    """The rows of `cells` (columns cost, mean) by rising cost, each better than all that cost no more."""
    ordered = cells.sort_values(["cost", "mean"], ascending=[True, False], kind="stable")
    return ordered[ordered["mean"] > ordered["mean"].astype(float).cummax().shift(fill_value=-math.inf)]


def _panels(
    frame: pd.DataFrame, marks: Mapping[str, Mark], caption: str, width: str, rows: int = 1, height: float = 1.9, line: bool = True
) -> tuple[list[tuple], Figure, list[list[Axes]]]:  # fmt: skip
    panels = list(dict.fromkeys(frame[COLUMN].itertuples(index=False, name=None)))
    if not panels:
        raise ValueError("no run has what is to be drawn")
    legend = _legend(frame, marks)
    if not line:
        legend = {name: Mark(mark.colour, mark.marker, "none") for name, mark in legend.items()}
    figure, axes = canvas(len(panels), width, caption, legend, rows=rows, height=height)
    for panel, column in zip(panels, axes, strict=True):
        title(column[0], panel_title(panel))
    return panels, figure, axes


def _bands(ax: Axes, lines: pd.DataFrame, marks: Mapping[str, Mark], thin: bool = False) -> None:
    groups = [(str(name), of) for name, of in lines.groupby("name", sort=False)]
    for name, of in groups:
        every = max(1, -(-len(of) // 8))
        thinner = {"marker": "none", "linewidth": 0.5} if thin else {"markevery": every}
        ax.plot(of["step"], of["mean"], label=f"_{name}" if thin else name, **marks[name].style | thinner)
        if not thin:
            shade = SHADE[len(groups) > FEW]
            ax.fill_between(of["step"], of["low"], of["high"], color=marks[name].colour, alpha=shade, linewidth=0)
    ax.set_xlim(left=0)


def _in(frame: pd.DataFrame, panel: tuple) -> pd.Series:
    return (frame[COLUMN] == pd.Series(dict(zip(COLUMN, panel, strict=True)))).all(axis=1)


def _legend(frame: pd.DataFrame, marks: Mapping[str, Mark]) -> dict[str, Mark]:
    present = set(frame["name"])
    return {name: mark for name, mark in marks.items() if name in present}


def panel_title(panel: tuple) -> str:
    """Of (data, labels per class or 0 for all, network)."""
    data, labels, arch = panel
    return f"{data}, {labels or 'all'} label{'s' * (labels != 1)}/class, {arch}"


def _of_seeds(band: str, n: pd.Series) -> str:
    return _seeds(n) if n.max() == 1 else f"{BANDS.get(band, 'mean')} of {_seeds(n)}"


def _seeds(n: pd.Series) -> str:
    least, most = int(n[n > 0].min()), int(n.max())
    return f"{most} seed{'s' * (most != 1)}" if least == most else f"{least} to {most} seeds"


def about(cells: pd.DataFrame, spread: bool = True) -> str:
    """Metric, selection rule and number of seeds of a `summary`, for a caption."""
    known = cells[cells["mean"].notna()]
    metric, select = known["metric"].iloc[0], known["select"].iloc[0]
    return f"{METRICS[metric]}, {SELECTIONS[select]}; {_of_seeds('std' if spread else '', known['n'])}."


def _short(metric: str) -> str:
    return METRICS.get(metric, metric)


def _sparse(x: float, _: int) -> str:
    lead = x / 10 ** math.floor(math.log10(x))
    return f"{x:g}" if any(math.isclose(lead, each) for each in (2, 5)) else ""
