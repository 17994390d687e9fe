"""Run folders -> one HTML file that needs nothing else: table, figures, a page a run, two runs compared.

The page holds one record a run and computes the table itself, so that another selection rule or metric is a click.  Nothing
in it comes from or goes to a network: a Content-Security-Policy forbids it.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import html
import json
import math
import re
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from ssl_bench import __version__, comparison, curves, published, run_details, run_state
from ssl_bench.atomic import write_bytes
from ssl_bench.defaults import flag_defaults
from ssl_bench.layouts import Table
from ssl_bench.messages import refuse
from ssl_bench.runs import METRICS, SELECTIONS, collect, warning_of
from ssl_bench.summary import is_oracle
from ssl_bench.tables import RUNS, compared, summarize, with_published
from ssl_bench.word_parser import WordParser

SCRIPTS = ("table.js", "chart.js", "run.js", "report.js")
# A page of this many runs opens in about a second; beyond, numbers are worth more than curves.
DETAILED_RUNS = 2000
MOST_PAIRED = 20  # methods; the pairs of more take seconds, by every rule, and nobody reads them
WARNED = 20  # lines on stderr, of what is left out; the page has all
CURVE_NUMBERS = 1_600_000  # in all curves together, as they are thinned to; about 6 bytes each
FACTS = {
    "text": "pretrained device commit recipe recipe_hash split_labeled split_unlabeled folder args_hash".split(),
    "number": "seed evaluations epoch step num_classes num_labeled num_unlabeled num_test images_per_second minutes "
              "peak_memory_mib processes joules num_val".split(),
}  # fmt: skip
OF_RULE, OF_RUNS = ("labels", "ranks", "cost"), ("curves", "pseudo", "classes", "confusion", "calibration")
FIGURES = {
    "labels": "Accuracy by labels per class", "ranks": "Average ranks", "cost": "Accuracy by cost", "curves": "Accuracy in training",
    "pseudo": "Pseudo-labels in training", "classes": "Accuracy by class", "confusion": "Confusion matrices", "calibration": "Calibration",
}  # fmt: skip
PLACE = ["data", "labels_per_class", "arch"]
NUMBER = ["method", "variant", *PLACE, "pretrained", "select", "mean", "std", "n", "published", "source"]


def page_data(folders: Sequence[str | Path], numbers: pd.DataFrame | None = None, figures: bool = True) -> dict[str, Any]:
    """All that the page shows, as JSON: `rows` and `columns` of the table in printing order, one record a run in `runs`, published
    `numbers`, what was `left_out` and why, figures, statistics.

    Raises FileNotFoundError for a folder that is not there, ValueError where there is no run or a .csv is no runs.csv.
    """
    left_out: list[str] = []
    frame = collect(folders, warn=left_out.append)
    if frame.empty:
        raise ValueError(f"no runs found in {', '.join(map(str, folders))}; a run is a folder with an args.json")
    summary = summarize(frame)
    rows = list(dict.fromkeys(zip(summary["method"], summary["variant"], strict=True)))
    columns = list(dict.fromkeys(zip(*(summary[name] for name in PLACE), strict=True)))
    found = curves.all_run_folders(folder for folder in folders if Path(folder).is_dir())
    runs, tables, detailed = _runs(frame, found, left_out, rows, columns)
    beside = [] if numbers is None else with_published(summary, numbers).query("published != ''")[NUMBER].to_dict("records")
    return {
        "version": __version__, "made": time.strftime("%Y-%m-%d %H:%M"), "metrics": METRICS, "selections": SELECTIONS,
        "rows": [{"method": method, "variant": variant, "oracle": is_oracle((method, variant))} for method, variant in rows],
        "columns": [{"data": data, "labels": int(labels), "arch": arch} for data, labels, arch in columns],
        "runs": runs, **tables, "published": [_without_nan(dict(line)) for line in beside], "left_out": left_out,
        "defaults": {name: {flag: default.value for flag, default in flag_defaults(name).items()} for name in sorted(set(frame["method"]))},
        "omitted": "" if detailed else f"Curves and predictions are left out: {len(frame):,} runs are more than {DETAILED_RUNS:,}. "
                                       "A report of fewer folders has them.",
        "statistics": _statistics(frame), **(_figures(frame, found) if figures else {"figures": [], "figures_missing": ""}),
    }  # fmt: skip


def _runs(
    frame: pd.DataFrame, found: dict[str, list[Path]], left_out: list[str], rows: list[tuple], columns: list[tuple]
) -> tuple[list[dict[str, Any]], dict[str, list], bool]:
    detailed = len(frame) <= DETAILED_RUNS
    points = max(20, min(run_details.POINTS, CURVE_NUMBERS // (12 * len(frame))))
    row_of, column_of = ({key: i for i, key in enumerate(keys)} for keys in (rows, columns))
    # What many runs share is written once, and stands in them by its number.
    shared: dict[str, dict[str, int]] = {name: {} for name in ("steps", "unset", "environments")}
    runs, taken = [], set()
    line: Any
    for line in frame.to_dict("records"):
        key = line["args_hash"] if line["args_hash"] not in taken else f"{line['method']}-{line['args_hash']}"
        taken.add(key)
        folder = _of_state(found.get(line["folder"], []), line["state"])
        run: dict[str, Any] = {"id": key, "row": row_of[line["method"], line["variant"]], "column": column_of[tuple(line[name] for name in PLACE)]}
        run |= _facts(line) | _details(folder, line, points if detailed else 0, left_out)
        run["curves"] = {name: [_number(shared["steps"], x), y] for name, (x, y) in run.get("curves", {}).items()}
        run["unset"], run["environment"] = _number(shared["unset"], run["unset"]), _number(shared["environments"], run["environment"])
        runs.append(run)
    return runs, {name: [json.loads(text) for text in table] for name, table in shared.items()}, detailed


def _number(table: dict[str, int], value: Any) -> int:
    return table.setdefault(json.dumps(value), len(table))


def _of_state(folders: list[Path], state: str) -> Path | None:
    """The folder that `collect` took, of several by the same name: a finished one before others."""
    done = [folder for folder in folders if (folder / "result.json").is_file()]
    return next(iter(done if state == "done" and done else folders), None)


def _facts(line: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {name: line[name] for name in FACTS["text"] if line.get(name)}
    for name in FACTS["number"]:
        value = line.get(name)
        if value is not None and not pd.isna(value):
            facts[name] = int(value) if float(value).is_integer() else float(value)
    scores = {metric: [_or_none(line[f"{metric}_{select}"]) for select in SELECTIONS] for metric in METRICS}
    return {**facts, "state": line["state"], "scores": {metric: each for metric, each in scores.items() if any(v is not None for v in each)}}


def _details(folder: Path | None, line: dict[str, Any], points: int, left_out: list[str]) -> dict[str, Any]:
    if folder is None:  # known from a runs.csv only
        return {**run_details.arguments(line["method"], {"seed": line["seed"], **json.loads(line["identity"])}), "environment": {}}
    begun, result = run_state.read_object(folder / "args.json"), run_state.read_object(folder / "result.json")
    args = begun.get("args")
    given = args if isinstance(args, dict) else {}
    details = {**run_details.arguments(line["method"], given), "environment": run_details.environment(folder, result)}
    if points or line["state"] != "done":
        metrics = curves.read_metrics(folder)
        details["warnings"] = list(curves.warnings(metrics))
        if points:
            details["curves"] = run_details.series(metrics, points)
            try:
                details["predictions"] = run_details.predictions(folder, None if pd.isna(line["num_classes"]) else int(line["num_classes"]))
            except ValueError as error:
                left_out.append(str(error))
    return details if line["state"] == "done" else details | _state(folder)


def _state(folder: Path) -> dict[str, Any]:
    """Of a run without a result that counts: how far it is, who trains it or why it failed."""
    found = run_state.state(folder)
    progress = {"progress": {"step": found.step, "total": found.total or None, "top1": found.accuracy}}
    if found.name in (run_state.DONE, run_state.NOT_LAUNCHED):  # done since it was read, or its result is broken: as it was read
        return progress
    return {**progress, "state": found.name, **({"message": found.message} if found.message else {})}


def _or_none(value: float) -> float | None:
    return value if value == value else None


def _without_nan(line: dict[str, Any]) -> dict[str, Any]:
    return {name: _or_none(value) for name, value in line.items()}


def _figures(frame: pd.DataFrame, found: dict[str, list[Path]]) -> dict[str, Any]:
    """Figures as `ssl-bench plot` draws them, by each selection rule that they depend on; or why there are none."""
    if len(frame) > DETAILED_RUNS:
        return {"figures": [], "figures_missing": f"Of more than {DETAILED_RUNS:,} runs none are drawn."}
    try:
        from ssl_bench.drawing import render
        from ssl_bench.gallery import Gallery
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("matplotlib"):
            raise
        return {"figures": [], "figures_missing": 'There are none: they need matplotlib (pip install "ssl-bench[report]").'}
    states = dict(zip(frame["folder"], frame["state"], strict=True))
    chosen = {name: _of_state(several, states.get(name, "")) for name, several in found.items()}
    folders = {name: folder for name, folder in chosen.items() if folder is not None}
    rules = [select for select in SELECTIONS if frame[f"top1_{select}"].notna().any()]
    wanted = [(kind, select) for kind in OF_RULE for select in rules] + [(kind, "") for kind in OF_RUNS]
    drawn = []
    for kind, select in wanted:
        gallery = Gallery(frame, folders, select or "last", "top1", width="page")
        with contextlib.suppress(ValueError):  # there is nothing of this kind to draw
            for ending, figure in gallery.draw(kind).items():
                title = ": ".join(filter(None, [FIGURES[kind], ending.lstrip("-").replace("-", " ")]))
                picture = base64.b64encode(render(figure, "svg")).decode()
                drawn.append({"title": title, "select": select, "metric": "top1" if select else "", "svg": picture})
    return {"figures": drawn, "figures_missing": "" if drawn else "There is nothing to draw yet."}


def _statistics(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """By selection rule: average ranks and tests of every pair, as `ssl-bench table --statistics` has them; or why there are none."""
    blocks = []
    for select in (select for select in SELECTIONS if frame[f"top1_{select}"].notna().any()):
        found = compared(frame, select)
        rule = {"select": select, "metric": "top1"}
        if found.reason:
            blocks.append({**rule, "text": f"ssl-bench table --statistics: {found.reason} {comparison.left_out_line(found)}".strip()})
            continue
        blocks.append({**rule, **_table(comparison.rank_table(found))})
        if len(found.names) <= MOST_PAIRED:
            blocks.append({**rule, "title": "Every pair of methods", **_table(comparison.pair_table(found))})
        else:
            blocks.append({**rule, "text": f"Of more than {MOST_PAIRED} methods ssl-bench table --statistics tests the pairs."})
    return blocks


def _table(table: Table) -> dict[str, Any]:
    """A cell: its text, or what of it is bold and the rest."""
    rows = [[[cell.text[: cell.strong], cell.text[cell.strong :]] if cell.strong else cell.text for cell in row] for row in table.body]
    return {"text": table.caption, "foot": table.foot, "head": [*table.header], "rows": rows, "names": table.names}


def page(data: dict[str, Any], title: str, live: bool = False) -> bytes:
    """The HTML file: template, style, scripts and `data` in one; `live`: it asks its server for news."""
    files = resources.files("ssl_bench").joinpath("page")
    style, *scripts = (files.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", *SCRIPTS))
    script = '"use strict";\n' + "".join(scripts)
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"
    parts = {
        "policy": policy + "; connect-src 'self'" * live, "title": html.escape(title), "style": style, "script": script,
        "live": "live" * live, "data": embedded(data),
    }  # fmt: skip
    template = files.joinpath("report.html").read_text(encoding="utf-8")
    # In one pass: what is put in may itself look like a place to put something.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template).encode(errors="xmlcharrefreplace")


def embedded(data: dict[str, Any]) -> str:
    """JSON that cannot end the script tag it stands in."""
    try:
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    except ValueError:  # a run's record may hold what JSON has no word for
        text = json.dumps(_finite(data), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `report` and `watch` both ask for: folders, title, published numbers."""
    add = parser.add_argument
    add("folders", nargs="*", metavar="FOLDER", default=RUNS, help="given as --log, or a runs.csv (default: runs)")
    add("--title", default="Results", help="of the page (default: %(default)s)")
    add("--published", metavar="NAME", action="append", default=[],
        help="also show published numbers for the same data and labels: tllib, ..., or a .csv file; may be repeated")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """``ssl-bench report``: writes the page; returns 0, or 2 after one line on stderr where there is nothing to show."""
    parser = WordParser(prog="ssl-bench report", description="One HTML file of all runs, that needs no network.")
    add_arguments(parser)
    parser.add_argument("--out", metavar="FILE", default="report.html", help="the page (default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        data = page_data(options.folders, published.read_all(options.published))
        content, out = page(data, options.title), Path(options.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, content)
    except BrokenPipeError:  # `| head`; see cli
        raise
    except (OSError, ValueError) as error:
        return refuse("ssl-bench report", error, 2)
    done = sum(run["state"] == "done" for run in data["runs"])
    print(f"{out}: {done} of {len(data['runs'])} runs done, {len(content) / 1e6:.1f} MB")
    told, more = data["left_out"][:WARNED], len(data["left_out"]) - WARNED
    for text in filter(None, [*told, f"and {more} more, as the page says" if more > 0 else "", data["omitted"]]):
        warning_of("report")(text)
    return 0
