"""One row a run -> a table of methods x data sets, in github markdown, csv and LaTeX."""

from __future__ import annotations

import argparse
import math
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ssl_bench import published
from ssl_bench.atomic import write_bytes
from ssl_bench.runs import METRICS, SELECTIONS, collect, csv_text, write_runs_csv

SUMMARY = "method variant data labels_per_class arch metric select mean std n expected missing note".split()
FORMATS = ("github", "csv", "latex")
# Bare, a "[" after a line's "\\\\" would be read as its option.
LATEX = {
    **{character: "\\" + character for character in "_%&#${}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "|": r"\textbar{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$", "–": "--", "[": "{[}"},
}
AVERAGE = "Average"
RUNS = ["runs"]
ORIGIN = ["published", "arch", "pretrained", "select"]  # of a published number


def summarize(frame: pd.DataFrame, select: str = "last", metric: str = "top1") -> pd.DataFrame:
    """Cells of the table, long: one row a (method, variant) x (data, labels, arch), columns SUMMARY, in printing order.

    mean, std: percent, over the n runs that have a value; std with ddof = 1, NaN for n < 2.  expected: number of seeds
    that any run of the column has; missing: those without a value here, blank-separated; note: why.  Rows: erm, its
    variants, its oracle, then the other methods by name; columns by name, labels, arch.

    Raises ValueError for an unknown `select` or `metric`, and where two runs of one seed would meet in a cell.
    """
    if select not in SELECTIONS or metric not in METRICS:
        raise ValueError(f"no {metric!r} by {select!r}; known: {', '.join(METRICS)} by {', '.join(SELECTIONS)}")
    runs: dict[tuple, dict[int, tuple[str, float]]] = {}
    seeds: dict[tuple, set[int]] = {}
    wanted = ["method", "variant", "data", "labels_per_class", "arch", "seed", "state", f"{metric}_{select}"]
    for *cell, seed, state, value in zip(*(frame[name].tolist() for name in wanted), strict=True):
        found = runs.setdefault(tuple(cell), {})
        if seed in found:
            raise ValueError(f"two runs of seed {seed} in {cell}; make the frame with one call of collect()")
        found[seed] = state, value
        seeds.setdefault(tuple(cell[2:]), set()).add(seed)
    lines = []
    for row in sorted({cell[:2] for cell in runs}, key=_row_order):
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


def with_published(summary: pd.DataFrame, numbers: pd.DataFrame) -> pd.DataFrame:
    """A `summarize` frame, and below its rows those of `published.read` for the same data sets and labels per class.

    Without own runs: all of them.  Three columns more: pretrained and source, empty in own rows, and published: the
    table's name, empty in own rows.
    """
    own = set(zip(summary["data"], summary["labels_per_class"], strict=True))
    kept = [line for line in numbers.to_dict("records") if not own or (line["data"], line["labels_per_class"]) in own]
    kept.sort(key=lambda c: (*(c[name] for name in ORIGIN), _row_order((c["method"], c["variant"])), c["data"].casefold()))
    lines = [line | dict.fromkeys(["pretrained", "source", "published"], "") for line in summary.to_dict("records")] + kept
    return pd.DataFrame(lines, columns=[*SUMMARY, "pretrained", "source", "published"])


def _is_oracle(row: tuple[str, ...]) -> bool:
    return row[1].split(", ")[0] == "oracle"


def _row_order(row: tuple[str, ...]) -> tuple:
    parts = re.split(r"(\d+\.?\d*)", row[1])  # numbers by size
    return row[0] != "erm", row[0], _is_oracle(row), [(k % 2, float(p) if k % 2 else p) for k, p in enumerate(parts)]


def render(summary: pd.DataFrame, format: str = "github") -> str:
    """The table of a `summarize` frame: github (markdown) and latex (booktabs) as methods x columns, csv long, exact.

    Printed to 0.1 %.  Labels per class and arch stand in the column heads where they vary, else in the caption.  Bold:
    the best printed mean of a column, ties included, oracles not (they saw all labels) and published numbers not.
    Average: over all columns, for rows that have each of them.  A network that one method alone has trained, and no other
    there, is no column but a line below: it would leave every other row without an average.  A published number of another network than all own ones
    stands in each column of its data set and labels; its row says which network.  So do all where there are no own runs.

    Raises ValueError for an unknown `format` and an empty `summary`.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    if summary.empty:
        raise ValueError("no runs to show; collect() found none")
    if format == "csv":
        return csv_text(summary.drop(columns="note"))
    cells, columns = _placed(summary)
    alone = _alone(cells, columns)
    columns = [column for column in columns if column not in alone]
    rows = [row for row in dict.fromkeys(row for row, _ in cells) if row not in alone.values()]
    names = {row: (f"{row[0]} ({row[1]})" if row[1] else row[0]) + (f" [{row[2]}]" if row[2] else "") for row in rows}
    heads, fixed = _heads(columns)
    means = {(row, column): cells[row, column].mean if (row, column) in cells else math.nan for row in rows for column in columns}
    if len(columns) > 1:
        heads[AVERAGE] = AVERAGE
        means |= {(row, AVERAGE): math.fsum(means[row, column] for column in columns) / len(columns) for row in rows}
    ranked = {row for row in rows if not _is_oracle(row) and not row[2]}
    ranks = {head: [means[row, head] for row in ranked if not math.isnan(means[row, head])] for head in heads}
    best = {head: max(map(_shown, values), key=float, default="") for head, values in ranks.items()}

    def cell_text(row: tuple, head: tuple | str) -> str:
        mean, cell = means[row, head], cells.get((row, head))
        if math.isnan(mean):
            return _escape("–", format)
        text = _shown(mean)
        if text == best[head] and row in ranked:
            text = rf"\textbf{{{text}}}" if format == "latex" else f"**{text}**"
        return _number(cell, text, format) if cell else text

    first = summary.iloc[0]
    what = [f"{METRICS[first.metric]}, mean ± std (n seeds)", *([SELECTIONS[first.select]] if not rows[0][2] else [])]
    caption = "; ".join([", ".join(what), *fixed]) + "."
    if any(map(_is_oracle, rows)):
        caption += " Oracle: trained with the true labels of all images, not ranked."
    if "published" in summary:
        caption += _about_published(summary[summary["published"] != ""])
    notes = [f"{names[row]}, {heads[column]}: {cell.note}" for (row, column), cell in cells.items() if cell.note and row in names and column in heads]
    foot = f"Missing: {'; '.join(notes)}." if notes else ""
    for column, row in reversed(alone.items()):
        text = _number(cells[row, column], _shown(cells[row, column].mean))
        foot = f"On a network of its own, {column[2]} ({column[0]}): {row[0]} {text}. {foot}".strip()
    header = [_escape(text, format) for text in ("Method", *heads.values())]
    body = [[_escape(names[row], format), *(cell_text(row, head) for head in heads)] for row in rows]
    layout = _latex if format == "latex" else _markdown
    return layout(header, body, _escape(caption, format), _escape(foot, format))


def _number(cell: Any, mean: str, format: str = "") -> str:
    spread = f" ± {_shown(cell.std)}" if not math.isnan(cell.std) else ""
    spread += f" ({cell.n if cell.n == cell.expected else f'{cell.n}/{cell.expected}'})"
    return mean + (_escape(spread, format) if format else spread)


def _alone(cells: dict, columns: list[tuple[str, int, str]]) -> dict[tuple[str, int, str], tuple]:
    """Column -> its only row, where that row has no other column of the data set and labels, and several rows have one."""
    rows = {column: [row for (row, place), cell in cells.items() if place == column and cell.n] for column in columns}
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
    lines = [(c, getattr(c, "published", ""), (c.data, c.labels_per_class, c.arch)) for c in summary.itertuples()]
    own = [column for _, origin, column in lines if not origin]
    columns = list(dict.fromkeys(own)) or _published_columns([column for *_, column in lines])
    cells = {}
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


def _escape(text: str, format: str) -> str:
    text = " " * text.startswith(" ") + " ".join(text.split())
    if format == "latex":
        return "".join(LATEX.get(character, character) for character in text)
    return re.sub(r"([\\|*<`])", r"\\\1", text)


def _markdown(header: list[str], body: list[list[str]], caption: str, foot: str) -> str:
    from tabulate import tabulate

    align = ["left"] + ["right"] * (len(header) - 1)
    table = tabulate(body, header, tablefmt="pipe", disable_numparse=True, colalign=align)
    return "\n\n".join(filter(None, [caption, table, foot])) + "\n"


def _latex(header: list[str], body: list[list[str]], caption: str, foot: str) -> str:
    head, *lines = (" & ".join(cells) + r" \\" for cells in [header, *body])
    start = ["% in the preamble: \\usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
    start += [rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule", head, r"\midrule"]
    end = [r"\bottomrule", r"\end{tabular}", *filter(None, [foot and rf"\par\smallskip\footnotesize {foot}"])]
    return "\n".join([*start, *lines, *end, r"\end{table}"]) + "\n"


def write_tables(frame: pd.DataFrame, stem: Path) -> str:
    """Write the table of `frame` to <stem>.md, .csv and .tex, each whole or not at all; returns the markdown."""
    summary = summarize(frame)
    texts = {"md": render(summary, "github"), "csv": render(summary, "csv"), "tex": render(summary, "latex")}
    for ending, text in texts.items():
        write_bytes(stem.with_name(f"{stem.name}.{ending}"), text.encode())
    return texts["md"]


def main(argv: Sequence[str] | None = None) -> int:
    """``ssl-bench table``: prints the table; returns 0, or 2 after one line on stderr where there is none to print."""
    parser = argparse.ArgumentParser(prog="ssl-bench table", description="Table of finished runs: methods x data sets.")
    add = parser.add_argument
    add("folders", nargs="*", metavar="FOLDER", default=RUNS, help="given as --log, or a runs.csv (default: runs)")
    add("--select", choices=SELECTIONS, default="last", help="which evaluation of a run counts (default: %(default)s)")
    add("--metric", choices=METRICS, default="top1", help="accuracy shown, percent (default: %(default)s)")
    add("--format", choices=FORMATS, default="github", help="of the table (default: %(default)s)")
    add("--published", metavar="NAME", action="append", default=[],
        help="also show published numbers for the same data and labels: tllib, tllib_moco, ..., or a .csv file; may be repeated")
    add("--out", metavar="FILE", help="also write the table to this file")
    add("--runs-csv", metavar="FILE", default="results/runs.csv", help="one row a run; '' for none (default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        numbers = [published.read(name) for name in dict.fromkeys(options.published)]
        if numbers and options.metric != "top1":
            raise ValueError(f"published numbers are top-1 accuracies: leave out --metric {options.metric}")
        frame = collect([] if numbers and options.folders == RUNS and not Path(*RUNS).exists() else options.folders)
        if frame.empty and not numbers:
            raise ValueError(f"no runs found in {', '.join(options.folders)}; a run is a folder with an args.json")
        summary = summarize(frame, options.select, options.metric)
        if numbers:
            summary = with_published(summary, pd.concat(numbers).drop_duplicates())
            if not any(summary["published"]):
                note = "nothing published there for these data sets and labels per class; a folder without runs shows all"
                print(f"note: {note}", file=sys.stderr)
        table = render(summary, options.format)
        print(table, end="")
        done = "no own runs" if frame.empty else f"{(frame['state'] == 'done').sum()} of {len(frame)} runs done"
        runs_csv = "" if frame.empty else options.runs_csv
        if runs_csv:
            write_runs_csv(frame, runs_csv)
        if options.out:
            Path(options.out).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(Path(options.out), table.encode())
        print("; wrote ".join(filter(None, [done, runs_csv, options.out])), file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"ssl-bench table: {error}", file=sys.stderr)
        return 2
    return 0
