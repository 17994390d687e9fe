"""One row a run -> the cells of a table: means and deviations over seeds, values seed by seed, what the runs cost."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ssl_bench.runs import METRICS, SELECTIONS, collect

SUMMARY = "method variant data labels_per_class arch metric select mean std n expected missing note".split()
CELL = ["method", "variant", "data", "labels_per_class", "arch"]
COSTS = {"device_minutes": "Device-minutes", "images_per_second": "Images/s", "peak_memory_mib": "Memory, MiB", "joules": "Energy, J"}
ORIGIN = ["published", "arch", "pretrained", "select"]  # of a published number


def table(folders: str | Path | Sequence[str | Path] = "runs", select: str = "last", metric: str = "top1") -> pd.DataFrame:
    """The cells of the table of all runs under `folders` (one or several): `summarize` of `runs.collect`.

    One row a (method, variant) x (data, labels, arch): mean, std (ddof 1), n and expected number of seeds, and what is missing.
    ``.attrs["seeds"]`` holds the values behind the means, as `per_seed` gives them; `wide` makes a row a method of it.  Raises
    FileNotFoundError for a folder that is not there, ValueError for an unknown selection rule or metric.
    """
    frame = collect([folders] if isinstance(folders, (str, Path)) else folders)
    summary = summarize(frame, select, metric)
    summary.attrs["seeds"] = per_seed(frame, select, metric).to_dict("list")
    return summary


def summarize(frame: pd.DataFrame, select: str = "last", metric: str = "top1") -> pd.DataFrame:
    """Cells of the table, long: one row a (method, variant) x (data, labels, arch), columns SUMMARY, in printing order.

    mean, std: percent, over the n runs that have a value; std with ddof = 1, NaN for n < 2.  expected: number of seeds
    that any run of the column has; missing: those without a value here, blank-separated; note: why.  Rows: erm, its
    variants, its oracle, then the other methods by name; columns by name, labels, arch.

    Raises ValueError for an unknown `select` or `metric`, and where two runs of one seed would meet in a cell.
    """
    _check(select, metric)
    runs: dict[tuple, dict[int, tuple[str, float]]] = {}
    seeds: dict[tuple, set[int]] = {}
    wanted = [*CELL, "seed", "state", f"{metric}_{select}"]
    for *cell, seed, state, value in zip(*(frame[name].tolist() for name in wanted), strict=True):
        found = runs.setdefault(tuple(cell), {})
        if seed in found:
            raise ValueError(f"two runs of seed {seed} in {cell}; make the frame with one call of collect()")
        found[seed] = state, value
        seeds.setdefault(tuple(cell[2:]), set()).add(seed)
    lines = []
    for row in sorted({cell[:2] for cell in runs}, key=row_order):
        for column in sorted(seeds, key=lambda column: (column[0].casefold(), column)):
            found = runs.get(row + column, {})
            values = [value for _, value in found.values() if not math.isnan(value)]
            mean = math.fsum(values) / len(values) if values else math.nan
            std = statistics.stdev(values) if len(values) > 1 else math.nan
            why: dict[str, list[str]] = {}
            for seed in sorted(seeds[column]):
                state, value = found.get(seed, ("not launched", math.nan))
                if math.isnan(value):
                    why.setdefault(f"without {metric}" if state == "done" else state, []).append(str(seed))
            missing = " ".join(seed for several in why.values() for seed in several)
            note = " and ".join(
                f"seed{'s'[: len(each) - 1]} {', '.join(each)} {reason}" for reason, each in why.items()
            )
            note = note if found else "not launched"
            lines.append((*row, *column, metric, select, mean, std, len(values), len(seeds[column]), missing, note))
    return pd.DataFrame(lines, columns=SUMMARY)


def _check(select: str, metric: str) -> None:
    if select not in SELECTIONS or metric not in METRICS:
        raise ValueError(f"no {metric!r} by {select!r}; known: {', '.join(METRICS)} by {', '.join(SELECTIONS)}")


def per_seed(frame: pd.DataFrame, select: str = "last", metric: str = "top1") -> pd.DataFrame:
    """The values behind `summarize`: one row a run that has one; columns CELL, seed, value (percent).  ValueError as there."""
    _check(select, metric)
    values = frame[[*CELL, "seed", f"{metric}_{select}"]].rename(columns={f"{metric}_{select}": "value"})
    return values[values["value"].notna()].reset_index(drop=True)


def wide(summary: pd.DataFrame) -> pd.DataFrame:
    """Means of a `summarize` frame: a row a (method, variant), a column a (data, labels_per_class, arch), both in its order; NaN
    where there is none."""
    rows = list(dict.fromkeys(zip(summary["method"], summary["variant"], strict=True)))
    columns = list(dict.fromkeys(zip(summary["data"], summary["labels_per_class"], summary["arch"], strict=True)))
    means = dict(zip(zip(*(summary[name] for name in CELL), strict=True), summary["mean"], strict=True))
    values = [[means.get((*row, *column), math.nan) for column in columns] for row in rows]
    index, heads = (pd.MultiIndex.from_tuples(names, names=of) for names, of in ((rows, CELL[:2]), (columns, CELL[2:])))
    return pd.DataFrame(values, index=index, columns=heads)


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """What a finished run took, mean over the seeds: one row a cell, columns CELL, COSTS, n, devices.

    device_minutes: minutes x processes; NaN where no run says.  devices: those the runs were on, ", " between.  Rows as in `summarize`.
    """
    done = frame[frame["state"] == "done"]
    done = done.assign(device_minutes=done["minutes"] * done["processes"].fillna(1).astype("float64"))
    lines = []
    for place, runs in done.groupby(CELL, sort=False):
        cell: tuple[Any, ...] = tuple(place)
        means = [runs[name].mean() for name in COSTS]
        lines.append((*cell, *means, len(runs), ", ".join(sorted({text for text in runs["device"] if text}))))
    lines.sort(key=lambda line: (row_order(line[:2]), line[2].casefold(), line[2:5]))
    return pd.DataFrame(lines, columns=[*CELL, *COSTS, "n", "devices"])


def with_published(summary: pd.DataFrame, numbers: pd.DataFrame) -> pd.DataFrame:
    """A `summarize` frame, and below its rows those of `published.read` for the same data sets and labels per class.

    Without own runs: all of them.  Three columns more: pretrained and source, empty in own rows, and published: the
    table's name, empty in own rows.
    """
    own = set(zip(summary["data"], summary["labels_per_class"], strict=True))
    kept = [line for line in numbers.to_dict("records") if not own or (line["data"], line["labels_per_class"]) in own]
    kept.sort(key=lambda c: (*(c[name] for name in ORIGIN), row_order((c["method"], c["variant"])), c["data"].casefold()))
    lines = [line | dict.fromkeys(["pretrained", "source", "published"], "") for line in summary.to_dict("records")] + kept
    return pd.DataFrame(lines, columns=[*SUMMARY, "pretrained", "source", "published"])


def is_oracle(row: tuple[str, ...]) -> bool:
    return row[1].split(", ")[0] == "oracle"


def row_order(row: tuple[str, ...]) -> tuple:
    parts = re.split(r"(\d+\.?\d*)", row[1])  # numbers by size
    return row[0] != "erm", row[0], is_oracle(row), [(k % 2, float(p) if k % 2 else p) for k, p in enumerate(parts)]
