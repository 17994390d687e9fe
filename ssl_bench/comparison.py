"""Runs -> which methods differ: the blocks that are compared, and the two tables of ``ssl-bench table --statistics``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ssl_bench import significance
from ssl_bench.layouts import Cell, Table
from ssl_bench.summary import CELL, is_oracle, per_seed, row_order

BLOCKS = {"columns": "the table's columns, each the mean over its seeds", "seeds": "seeds of the table's columns"}
LEAST_BLOCKS = 5  # with fewer, Wilcoxon's test cannot even come to p = 0.06


@dataclass(frozen=True)
class Comparison:
    """names: of the compared methods, k of them; scores: a row a block, a column a method; left_out: a line each; reason: why there are
    no statistics, "" where there are."""

    names: list[str]
    scores: pd.DataFrame
    blocks: str
    left_out: list[str]
    reason: str


def name_of(row: tuple) -> str:
    return f"{row[0]} ({row[1]})" if row[1] else row[0]


def blocks_of(frame: pd.DataFrame, select: str = "last", metric: str = "top1", blocks: str = "columns", skip: frozenset = frozenset()) -> Comparison:
    """What is compared: all methods but oracles, over the columns (data, labels, arch) of a frame of runs but those in `skip`.

    blocks: "columns": one value a column, the mean over seeds; "seeds": one a column and seed that all methods have.  A method that
    lacks a column is left out, and named: ranks over different blocks say nothing.
    """
    if blocks not in BLOCKS:
        raise ValueError(f"unknown blocks {blocks!r}; known: {', '.join(BLOCKS)}")
    values = per_seed(frame, select, metric)
    # An empty list would choose no columns rather than no rows.
    values = values[np.array([not is_oracle(name) for name in zip(values["method"], values["variant"], strict=True)], bool)]
    column, row = pd.Series(zip(*(values[name] for name in CELL[2:]), strict=True)), pd.Series(zip(*(values[name] for name in CELL[:2]), strict=True))
    values = pd.DataFrame({"row": row, "column": column, "seed": values["seed"].tolist(), "value": values["value"].tolist()}, dtype=object)
    values = values[np.array([place not in skip for place in values["column"]], bool)]
    columns = sorted(set(values["column"]), key=lambda place: (place[0].casefold(), place))
    has: dict[Any, set] = {name: set(of["column"]) for name, of in values.groupby("row", sort=False)}
    every = sorted({name for name in zip(frame["method"], frame["variant"], strict=True) if not is_oracle(name)}, key=row_order)
    names = [name for name in every if columns and len(has.get(name, ())) == len(columns)]
    left_out = [f"{name_of(name)} (lacks {len(columns) - len(has.get(name, ()))} of {len(columns)})" for name in every if columns and name not in names]
    kept = values[np.array([name in names for name in values["row"]], bool)]
    by = ["column"] if blocks == "columns" else ["column", "seed"]
    scores = kept.assign(value=kept["value"].astype(float)).pivot_table(index=by, columns="row", values="value", aggfunc="mean", sort=False)
    scores = scores.reindex(columns=pd.Index(names, tupleize_cols=False)) if names else scores
    scores = scores.dropna().round(9)  # ties are ties, whatever the order in which means were summed
    reason = ""
    if len(names) < 2:
        reason = f"Nothing to compare: {len(names)} method{'s'[: len(names) != 1]} with a value in every column."
    elif len(scores) < LEAST_BLOCKS:
        reason = f"No statistics over {len(scores)} block{'s'[: len(scores) != 1]} ({BLOCKS[blocks]}): they need {LEAST_BLOCKS}."
        reason += " With --blocks seeds, seeds count as blocks." * (blocks == "columns")
    shown = f"{len(scores)} blocks: {BLOCKS[blocks]}"
    if blocks == "seeds":
        dropped = len(set(zip(kept["column"], kept["seed"], strict=True))) - len(scores)
        shown += f" ({len(columns)} column{'s'[: len(columns) != 1]}; seeds of one data set are no independent data sets)"
        shown += f"; {dropped} that some method lacks left out" * bool(dropped)
    return Comparison([name_of(name) for name in names], scores, shown, left_out, reason)


def rank_table(found: Comparison) -> Table:
    """Average ranks, best first, with Friedman's test and Nemenyi's critical difference in the caption; wins, ties, losses over all pairs."""
    scores = found.scores.to_numpy()
    ranks = significance.average_ranks(scores)
    difference = significance.critical_difference(len(found.names), len(scores))
    others = [scores[:, [k]] - np.delete(scores, k, axis=1) for k in range(len(found.names))]
    tallies = [[np.count_nonzero(gaps > 0), np.count_nonzero(gaps == 0), np.count_nonzero(gaps < 0)] for gaps in others]
    order = sorted(range(len(ranks)), key=lambda k: (ranks[k], found.names[k]))
    near = [k for k in order if ranks[k] - ranks[order[0]] <= difference]
    body = []
    for k in order:
        rank = f"{ranks[k]:.2f}"
        body.append([Cell(found.names[k]), Cell(rank, len(rank) if k in near else 0), Cell(f"{scores[:, k].mean():.1f}"), Cell("/".join(map(str, tallies[k])))])
    caption = f"Average rank (1 is best) of {len(ranks)} methods over {found.blocks}."
    if len(ranks) > 2:
        chi2, p = significance.friedman(scores)
        caption += f" Friedman χ² = {chi2:.2f}, p = {_p(p)}."
    caption += f" Nemenyi critical difference {difference:.2f} (level 0.05): ranks no further apart are not told apart; bold: those not told from the best."
    return Table(["Method", "Average rank", "Mean", "Wins/ties/losses"], body, caption, left_out_line(found))


def left_out_line(found: Comparison) -> str:
    """Who is not compared, for below a table; empty where all are."""
    named, more = found.left_out[:8], len(found.left_out) - 8
    return f"Left out: {', '.join(named)}{f', and {more} more' if more > 0 else ''}." if named else ""


def pairs_frame(found: Comparison, against: str = "", seed: int = 0) -> pd.DataFrame:
    """One row a pair: method, against, wins, ties, losses, difference, low, high (points), p, p_holm.  ValueError: no such method."""
    if against and against not in found.names:
        raise ValueError(f"--against {against}: not among the compared {', '.join(found.names)}")
    pairs = significance.compare(found.scores.to_numpy(), found.names.index(against) if against else None, seed)
    lines = [(found.names[pair.a], found.names[pair.b], *pair[2:]) for pair in pairs]
    return pd.DataFrame(lines, columns="method against wins ties losses difference low high p p_holm".split())


def pair_table(found: Comparison, against: str = "") -> Table:
    """`pairs_frame` to read; bold: p below 0.05 after Holm's correction."""
    body = []
    line: Any
    for line in pairs_frame(found, against).itertuples():
        shown = _p(line.p_holm)
        interval = f"{line.difference:+.1f} [{line.low:+.1f}, {line.high:+.1f}]".replace("-", "−")
        tally = f"{line.wins}/{line.ties}/{line.losses}"
        body.append([Cell(line.method), Cell(line.against), Cell(tally), Cell(interval), Cell(_p(line.p)), Cell(shown, len(shown) if line.p_holm < 0.05 else 0)])
    caption = f"Pairs over {found.blocks}. Difference of means in points with a 95 % interval (paired bootstrap, percentiles of 10,000 resamples);"
    caption += f" p of Wilcoxon's signed-rank test, and by Holm's correction for {len(body)} tests."
    return Table(["Method", "Against", "Wins/ties/losses", "Difference", "p", "p (Holm)"], body, caption, names=2)


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else f"{p:.0e}"
