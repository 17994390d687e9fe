"""Cells -> the tables people read: methods x data sets and labels, seeds, costs, statistics; and ``ssl-bench table``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ssl_bench import comparison, published
from ssl_bench.atomic import write_bytes
from ssl_bench.layouts import LAYOUTS, Cell, Table
from ssl_bench.messages import one_line, refuse
from ssl_bench.runs import METRICS, SELECTIONS, collect, csv_text, write_runs_csv
from ssl_bench.summary import CELL, COSTS, costs, is_oracle, per_seed, summarize, with_published
from ssl_bench.word_parser import WordParser

FORMATS = ("github", "csv", "latex", "html")
AVERAGE = "Average"
RUNS = ["runs"]


def render(summary: pd.DataFrame, format: str = "github") -> str:
    """The table of a `summarize` frame: github (markdown), latex (booktabs) and html as methods x columns, csv long, exact.

    Raises ValueError for an unknown `format` and an empty `summary`.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    if summary.empty:
        raise ValueError("no runs to show; collect() found none")
    return csv_text(summary.drop(columns="note")) if format == "csv" else LAYOUTS[format](main_table(summary))


def main_table(summary: pd.DataFrame) -> Table:
    """Methods x columns of a `summarize` frame.

    Printed to 0.1 %.  Labels per class and arch stand in the column heads where they vary, else in the caption.  Bold:
    the best printed mean of a column, ties included, oracles not (they saw all labels) and published numbers not.
    Average: over all columns, for rows that have each of them.  A network that one method alone has trained, and no other
    there, is no column but a line below: it would leave every other row without an average.  A published number of another
    network than all own ones stands in each column of its data set and labels; its row says which network.  So do all where
    there are no own runs.
    """
    cells, columns = _placed(summary)
    alone = _alone(cells, columns)
    columns = [column for column in columns if column not in alone]
    rows = [row for row in dict.fromkeys(row for row, _ in cells) if row not in alone.values()]
    names = {row: comparison.name_of(row) + (f" [{row[2]}]" if row[2] else "") for row in rows}
    heads, fixed = _heads(columns)
    means: dict[tuple, float] = {(row, column): cells[row, column].mean if (row, column) in cells else math.nan for row in rows for column in columns}
    if len(columns) > 1:
        heads[AVERAGE] = AVERAGE
        means |= {(row, AVERAGE): math.fsum(means[row, column] for column in columns) / len(columns) for row in rows}
    ranked = {row for row in rows if not is_oracle(row) and not row[2]}
    ranks = {head: [means[row, head] for row in ranked if not math.isnan(means[row, head])] for head in heads}
    best = {head: max(map(_shown, values), key=float, default="") for head, values in ranks.items()}

    def cell_of(row: tuple, head: tuple | str) -> Cell:
        mean, cell = means[row, head], cells.get((row, head))
        if math.isnan(mean):
            return Cell("–")
        text = _shown(mean)
        return Cell(text + _spread(cell) if cell else text, len(text) if text == best[head] and row in ranked else 0)

    first = summary.iloc[0]
    what = [f"{METRICS[first.metric]}, mean ± std (n seeds)", *([SELECTIONS[first.select]] if not rows[0][2] else [])]
    caption = "; ".join([", ".join(what), *fixed]) + "."
    if any(map(is_oracle, rows)):
        caption += " Oracle: trained with the true labels of all images, not ranked."
    if "published" in summary:
        caption += _about_published(summary[summary["published"] != ""])
    notes = [f"{names[row]}, {heads[column]}: {cell.note}" for (row, column), cell in cells.items() if cell.note and row in names and column in heads]
    foot = f"Missing: {'; '.join(notes)}." if notes else ""
    for column, row in reversed(alone.items()):
        cell = cells[row, column]
        foot = f"On a network of its own, {column[2]} ({column[0]}): {row[0]} {_shown(cell.mean)}{_spread(cell)}. {foot}".strip()
    body = [[Cell(names[row]), *(cell_of(row, head) for head in heads)] for row in rows]
    return Table(["Method", *heads.values()], body, caption, foot)


def _spread(cell: Any) -> str:
    spread = f" ± {_shown(cell.std)}" if not math.isnan(cell.std) else ""
    return spread + f" ({cell.n if cell.n == cell.expected else f'{cell.n}/{cell.expected}'})"


def _alone(cells: dict, columns: list[tuple[str, int, str]]) -> dict[tuple[str, int, str], tuple]:
    """Column -> its only row, where that row has no other column of the data set and labels, and several rows have one."""
    rows = {column: [row for (row, place), cell in cells.items() if place == column and cell.n and not row[2]] for column in columns}
    found = {}
    for column, trained in rows.items():
        others = [rows[other] for other in columns if other[:2] == column[:2] and other != column]
        if len(trained) == 1 and any(len(several) > 1 for several in others) and not any(trained[0] in several for several in others):
            found[column] = trained[0]
    return found


def _placed(summary: pd.DataFrame) -> tuple[dict, list[tuple[str, int, str]]]:
    """(row, column) -> its line of `summary`, and the columns: of own runs, or of published numbers if these are all there is.

    row: method, variant, and of published numbers where they are from; column: data, labels per class, arch ("" where rows alone
    say it: of published numbers of several networks).
    """
    rows: Iterable[Any] = summary.itertuples()
    lines = [(c, getattr(c, "published", ""), (c.data, c.labels_per_class, c.arch)) for c in rows]
    own = [column for _, origin, column in lines if not origin]
    columns = list(dict.fromkeys(own)) or _published_columns([column for *_, column in lines])
    cells: dict[tuple, Any] = {}
    for c, origin, column in lines:
        places = [column] if column in columns else [other for other in columns if other[:2] == column[:2]]
        row = c.method, c.variant, f"{origin}: {c.arch}, {c.pretrained}, {c.select}" if origin else ""
        if any((row, place) in cells for place in places):
            raise ValueError(f"two numbers for {row[0]} on {c.data} from tables named {origin}: rename one of the files")
        cells |= {(row, place): c for place in places}
    return cells, columns


def _published_columns(columns: list[tuple[str, int, str]]) -> list[tuple[str, int, str]]:
    """By data set, then labels per class, all of them last."""
    archs = {arch for *_, arch in columns}
    found = {column if len(archs) == 1 else (*column[:2], "") for column in columns}
    return sorted(found, key=lambda column: (column[0].casefold(), column[0], column[1] or math.inf))


def _about_published(numbers: pd.DataFrame) -> str:
    sources = [f"{name} from {', and from '.join(of['source'].unique())}" for name, of in numbers.groupby("published", sort=False)]
    rules = [f"{select} = {SELECTIONS[select]}" for select in dict.fromkeys(numbers["select"])]
    return f" In [ ]: published numbers, not ranked: {'; '.join([*sources, *rules])}." if sources else ""


def _heads(columns: list[tuple[str, int, str]]) -> tuple[dict, list[str]]:
    """Column -> its head, and what all columns share: for the caption."""
    labels, archs = {labels for _, labels, _ in columns}, {arch for *_, arch in columns}
    per_class = {count: f"{count or 'all'} label{'s' if count != 1 else ''}" for count in labels}
    heads = {}
    for column in columns:
        varying = [f"{per_class[column[1]]}/class"] * (len(labels) > 1) + [column[2]] * (len(archs) > 1)
        heads[column] = ", ".join([column[0], *varying])
    fixed = [f"{text} per class" for text in per_class.values() if len(labels) == 1]
    return heads, fixed + [arch for arch in archs if arch and len(archs) == 1]


def _shown(percent: float) -> str:
    return f"{percent:.1f}"


def seed_table(frame: pd.DataFrame, select: str, metric: str) -> Table:
    """One column a seed, one row a method and column of the main table."""
    values = per_seed(frame, select, metric)
    found = dict(zip(zip(*(values[name] for name in [*CELL, "seed"]), strict=True), values["value"], strict=True))
    seeds = sorted(set(frame["seed"]))
    summary = summarize(frame, select, metric)
    heads, fixed = _heads(list(dict.fromkeys(zip(*(summary[name] for name in CELL[2:]), strict=True))))
    body = []
    line: Any
    for line in summary[summary["n"] > 0].itertuples():
        cell = tuple(getattr(line, name) for name in CELL)
        each = [_shown(found[at]) if at in found else "–" for at in ((*cell, seed) for seed in seeds)]
        body.append([Cell(text) for text in (comparison.name_of(cell), *([heads[cell[2:]]] if len(heads) > 1 else []), *each, _shown(line.mean) + _spread(line))])
    caption = "; ".join([f"{METRICS[metric]} of each seed, {SELECTIONS[select]}", *(fixed if len(heads) > 1 else [*heads.values(), *fixed])]) + "."
    return Table(["Method", *(["Column"] if len(heads) > 1 else []), *(f"Seed {seed}" for seed in seeds), "Mean ± std (n)"], body, caption, names=1 + (len(heads) > 1))


def cost_table(frame: pd.DataFrame) -> Table:
    """One row a method and column of the main table; costs that no run knows have no column."""
    found = costs(frame)
    heads, fixed = _heads(list(dict.fromkeys(zip(*(found[name] for name in CELL[2:]), strict=True))))
    shown = [name for name in COSTS if found[name].notna().any()]
    body = []
    for line in found.itertuples():
        cell = tuple(getattr(line, name) for name in CELL)
        each = ["–" if math.isnan(value) else f"{value:,.1f}" if name == "device_minutes" else f"{value:,.0f}" for name in shown for value in [getattr(line, name)]]
        body.append([Cell(text) for text in (comparison.name_of(cell), *([heads[cell[2:]]] if len(heads) > 1 else []), *each, str(line.n))])
    devices = sorted({device for devices in found["devices"] for device in devices.split(", ") if device})
    caption = "; ".join(["Cost of a run, mean over n runs; device-minutes: minutes times processes", *(fixed if len(heads) > 1 else [*heads.values(), *fixed])])
    caption += f". On {', '.join(devices) or 'devices that are not recorded'}."
    foot = "Runs were on different devices: their times and memory do not compare." if len(devices) > 1 else ""
    return Table(["Method", *(["Column"] if len(heads) > 1 else []), *(COSTS[name] for name in shown), "n"], body, caption, foot, 1 + (len(heads) > 1))


def statistics_tables(frame: pd.DataFrame, select: str, metric: str, blocks: str, against: str) -> tuple[list[Table], str]:
    """Ranks and pairs, or none and the sentence that says why."""
    found = compared(frame, select, metric, blocks)
    if found.reason:
        return [], f"{found.reason} {comparison.left_out_line(found)}".strip()
    return [comparison.rank_table(found), comparison.pair_table(found, against)], ""


def compared(frame: pd.DataFrame, select: str = "last", metric: str = "top1", blocks: str = "columns") -> comparison.Comparison:
    """`comparison.blocks_of` the table's columns: the one rule of its statistics, of the report's, and of the figure of ranks."""
    # Columns of a network of its own are no blocks, as they are no columns.
    alone = _alone(*_placed(summarize(frame, select, metric)))
    return comparison.blocks_of(frame, select, metric, blocks, frozenset(alone))


def write_tables(frame: pd.DataFrame, stem: Path) -> str:
    """Write the table of `frame` to <stem>.md, .csv and .tex, each whole or not at all; returns the markdown."""
    summary = summarize(frame)
    texts = {"md": render(summary, "github"), "csv": render(summary, "csv"), "tex": render(summary, "latex")}
    for ending, text in texts.items():
        write_bytes(stem.with_name(f"{stem.name}.{ending}"), text.encode())
    return texts["md"]


def main(argv: Sequence[str] | None = None) -> int:
    """``ssl-bench table``: prints the table; returns 0, or 2 after one line on stderr where there is none to print."""
    parser = WordParser(prog="ssl-bench table", description="Table of finished runs: methods x data sets.")
    add = parser.add_argument
    add("folders", nargs="*", metavar="FOLDER", default=RUNS, help="given as --log, or a runs.csv (default: runs)")
    add("--select", choices=SELECTIONS, default="last", help="which evaluation of a run counts (default: %(default)s)")
    add("--metric", choices=METRICS, default="top1", help="accuracy shown, percent (default: %(default)s)")
    add("--format", choices=FORMATS, default="github", help="of the table (default: %(default)s)")
    add("--seeds", action="store_true", help="also the value of every seed")
    add("--cost", action="store_true", help="also device-minutes, images/s, memory and energy of a run")
    add("--statistics", action="store_true", help="also average ranks with their critical difference, and tests of every pair")
    add("--blocks", choices=comparison.BLOCKS, default="columns", help="what statistics are over (default: %(default)s)")
    add("--against", metavar="METHOD", default="", help="test pairs with this method only, named as in the table")
    add("--published", metavar="NAME", action="append", default=[],
        help="also show published numbers for the same data and labels: tllib, tllib_moco, ..., or a .csv file; may be repeated")
    add("--out", metavar="FILE", help="also write the table to this file")
    add("--runs-csv", metavar="FILE", default="results/runs.csv", help="one row a run; '' for none (default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        numbers = published.read_all(options.published)
        if numbers is not None and options.metric != "top1":
            raise ValueError(f"published numbers are top-1 accuracies: leave out --metric {options.metric}")
        if not options.statistics and (options.against or options.blocks != "columns"):
            raise ValueError("--against and --blocks are for --statistics: add it")
        if options.format == "csv" and options.seeds + options.cost + options.statistics > 1:
            raise ValueError("a csv holds one table: give one of --seeds, --cost and --statistics")
        frame = collect([] if numbers is not None and options.folders == RUNS and not Path(*RUNS).exists() else options.folders)
        if frame.empty and numbers is None:
            raise ValueError(f"no runs found in {', '.join(options.folders)}; a run is a folder with an args.json")
        text = _asked_for(frame, numbers, options)
        print(text, end="")
        done = "no own runs" if frame.empty else f"{(frame['state'] == 'done').sum()} of {len(frame)} runs done"
        runs_csv = "" if frame.empty else options.runs_csv
        if runs_csv:
            write_runs_csv(frame, runs_csv)
        if options.out:
            Path(options.out).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(Path(options.out), text.encode())
        print("; wrote ".join(filter(None, [done, runs_csv, options.out])), file=sys.stderr)
    except BrokenPipeError:  # `| head`; see cli
        raise
    except (OSError, ValueError) as error:
        return refuse("ssl-bench table", error, 2)
    return 0


def _asked_for(frame: pd.DataFrame, numbers: pd.DataFrame | None, options: argparse.Namespace) -> str:
    rule = options.select, options.metric
    if options.format == "csv" and options.seeds:
        return csv_text(per_seed(frame, *rule).assign(metric=options.metric, select=options.select))
    if options.format == "csv" and options.cost:
        return csv_text(costs(frame))
    if options.format == "csv" and options.statistics:
        found = compared(frame, *rule, options.blocks)
        if found.reason:
            raise ValueError(found.reason)
        return csv_text(comparison.pairs_frame(found, options.against))
    summary = summarize(frame, *rule)
    if numbers is not None:
        summary = with_published(summary, numbers)
        if not any(summary["published"]):
            note = "nothing published there for these data sets and labels per class; a folder without runs shows all"
            print(f"note: {note}", file=sys.stderr)
    texts = [render(summary, options.format)]
    if frame.empty:
        return texts[0]
    further = ([seed_table(frame, *rule)] if options.seeds else []) + ([cost_table(frame)] if options.cost else [])
    if options.statistics:
        made, reason = statistics_tables(frame, *rule, options.blocks, options.against)
        further += made
        if reason:
            print(f"note: {one_line(reason)}", file=sys.stderr)
    return "\n".join([*texts, *(LAYOUTS[options.format](table) for table in further)])
