"""Run folders -> one row a run, and runs.csv: a pure function of the files read.

A run is a folder holding ``args.json``; it is *done* once ``result.json`` stands beside it, *incomplete* before.  Runs
are averaged only where they differ in nothing but the seed: whatever else differs becomes a row of its own.
"""

from __future__ import annotations

import contextlib
import csv
import gc
import io
import json
import math
import operator
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ssl_bench.atomic import write_bytes
from ssl_bench.layouts import spreadsheet_text
from ssl_bench.messages import one_line, said
from ssl_bench.run_index import INDEX_FROM, runs_under
from ssl_bench.run_row import COLUMNS, LARGEST, METRICS, MISSING, NEVER_MISSING, SCORES, SELECTIONS, TYPES, Row

__all__ = ["COLUMNS", "METRICS", "SCORES", "SELECTIONS", "collect", "csv_text", "read_runs_csv", "warning_of", "write_runs_csv"]


def warning_of(word: str) -> Callable[[str], None]:
    """Prints a line on stderr, as ``ssl-bench WORD``."""
    return lambda text: print(f"ssl-bench {word}: warning: {one_line(text)}", file=sys.stderr)


TABLE_WARNING = warning_of("table")


def collect(
    folders: Sequence[str | Path], index_from: int = INDEX_FROM, warn: Callable[[str], None] = TABLE_WARNING
) -> pd.DataFrame:
    """One row a run found under `folders` (run folders, folders of them, runs.csv files), whatever their order.

    Columns: COLUMNS.  ``state``: done, failed, incomplete.  ``labels_per_class``: 0 for all there are.  Accuracies in percent
    as ``<metric>_<selection>`` (best: the largest of that metric; median20: of all evaluations where there are fewer; val: at the
    first evaluation that is best on held-out images, by the metric's own figure there, else by top-1); images/s, minutes of
    `processes` devices, MiB, joules.  ``identity``: JSON of the arguments that make the run, but the seed; ``variant``: "oracle", and
    the identity arguments that differ among the method's runs within a cell; ``folder``: the last four parts of the path.

    A run met twice counts once.  Hidden folders and links are skipped.  What is broken, foreign or there twice is named to `warn` (stderr),
    a line each, with what became of it: nothing of it is averaged.  index_from: folders with as many runs get an index, see `run_index`; 0: none.

    Raises FileNotFoundError for a folder that is not there, ValueError for a .csv that is no runs.csv.
    """
    with _garbage_left():
        return _frame(_name_variants(_once(_rows(folders, index_from, warn), warn)))


def _rows(folders: Sequence[str | Path], index_from: int, warn: Callable[[str], None]) -> list[Row]:
    rows: list[Row] = []
    for path in map(Path, folders):
        if path.is_dir():
            rows += runs_under(str(path), warn, index_from)
        elif path.suffix == ".csv" and path.is_file():
            rows += ({str(name): value for name, value in row.items()} for row in read_runs_csv(path).to_dict("records"))
        else:
            raise FileNotFoundError(f"{path}: neither a folder nor a .csv file; name what was given as --log (ssl-bench fixmatch: fixmatch)")
    return rows


@contextlib.contextmanager
def _garbage_left() -> Iterator[None]:
    """No search for reference cycles: in a million small objects that all stay, it takes half of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _once(rows: list[Row], warn: Callable[[str], None]) -> list[Row]:
    found: dict[tuple, list[Row]] = {}
    for row in rows:
        found.setdefault((row["method"], row["args_hash"]), []).append(row)
    return [several[0] if len(several) == 1 else _one_of(several, warn) for several in found.values()]


def _one_of(several: list[Row], warn: Callable[[str], None]) -> Row:
    """A finished one before others; which of equals never depends on the order of the input."""
    several = sorted(several, key=lambda row: (row["state"] != "done", row["folder"], str({name: row[name] for name in COLUMNS}), row.get("path", "")))
    first = several[0]
    places = {os.path.realpath(first["path"])} if "path" in first else set()
    for row in several[1:]:
        place = os.path.realpath(row["path"]) if "path" in row else ""
        if place in places:  # named twice on the command line
            continue
        places |= {place} - {""}
        shown = [each.get("path", f"{each['folder']} in a runs.csv") for each in (row, first)]
        if row["state"] == "done" and any(row[name] != first[name] and row[name] == row[name] for name in SCORES):
            warn(f"{shown[0]} and {shown[1]} are one run with two results; the latter counts")
        elif place and "path" in first:
            warn(f"{shown[0]} is the same run as {shown[1]}; skipped, the latter counts")
    return first


def _name_variants(rows: list[Row]) -> list[Row]:
    """An argument that differs within one cell is named in all rows of that method, so that table rows span columns."""
    parsed = {text: json.loads(text) for text in {row["identity"] for row in rows}}
    cells: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        row["variant"] = "oracle" if parsed[row["identity"]].get("oracle") else ""
        cells.setdefault(_cell(row), {})[row["identity"]] = parsed[row["identity"]]
    differing: dict[tuple, set[str]] = {}
    for (method, variant, *_), identities in cells.items():
        for name in {name for identity in identities.values() for name in identity} if len(identities) > 1 else ():
            if len({_show(identity, name) for identity in identities.values()}) > 1:
                differing.setdefault((method, variant), set()).add(name)
    seeds: dict[tuple, set[int]] = {}
    doubtful = set()
    for row in rows:
        shown = [f"{name}={_show(parsed[row['identity']], name)}" for name in sorted(differing.get(_cell(row)[:2], ()))]
        row["variant"] = ", ".join([row["variant"]] * bool(row["variant"]) + shown)
        if row["seed"] in seeds.setdefault(_cell(row), set()):
            doubtful.add(_cell(row))
        seeds[_cell(row)].add(row["seed"])
    for row in rows:  # nothing says which of a seed's two runs belongs with the other seeds, so each stands alone
        if _cell(row) in doubtful:
            row["variant"] += ", " * bool(row["variant"]) + f"args_hash={row['args_hash']}"
    return rows


def _cell(row: Row) -> tuple[str, str, str, int, str]:
    return row["method"], row["variant"], row["data"], row["labels_per_class"], row["arch"]


def _show(identity: Row, name: str) -> str:
    value = identity.get(name, "unset")
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value, sort_keys=True)


def _frame(rows: list[Row]) -> pd.DataFrame:
    rows = sorted(rows, key=lambda row: (*_cell(row), row["seed"], row["args_hash"]))
    lists = zip(*map(operator.itemgetter(*COLUMNS), rows), strict=True) if rows else [()] * len(COLUMNS)
    return pd.DataFrame({name: pd.Series(values, dtype=dtype) for (name, dtype), values in zip(COLUMNS.items(), lists, strict=True)})


def write_runs_csv(frame: pd.DataFrame, path: str | Path) -> None:
    """Writes a frame of `collect`, sorted, whole or not at all; `read_runs_csv` gives the same frame, bit for bit."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    order = list(zip(*(frame[name] for name in ("method", "variant", "data", "labels_per_class", "arch", "seed", "args_hash")), strict=True))
    write_bytes(Path(path), csv_text(frame.iloc[sorted(range(len(order)), key=order.__getitem__)]).encode())


def read_runs_csv(path: str | Path) -> pd.DataFrame:
    """The frame that `write_runs_csv` wrote.  Raises ValueError, naming the file, for anything else."""
    try:
        texts = pd.read_csv(path, dtype=str, keep_default_na=False)
        if (
            list(texts) != list(COLUMNS)
            or texts.isna().any(axis=None)
            or (texts[[*NEVER_MISSING]] == "").any(axis=None)
        ):
            raise ValueError("columns or values are missing")
        if not all(isinstance(json.loads(text), dict) for text in texts["identity"].unique()):
            raise ValueError("column identity is not JSON")
        return pd.DataFrame({name: _parsed(name, texts[name].tolist(), dtype) for name, dtype in COLUMNS.items()})
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        reason = said(error)
        raise ValueError(f"{path}: not a whole runs.csv ({reason}); write it anew from the run folders") from error


def _parsed(name: str, texts: list[str], dtype: str) -> pd.Series:
    if dtype == "str":
        return pd.Series([text.removeprefix("'") for text in texts], dtype=dtype)
    values = []
    for row, text in enumerate(texts, 1):
        try:
            value: Any = TYPES[dtype][0](text) if text else MISSING[dtype]
        except ValueError:
            value = math.inf
        if text and not -LARGEST <= value < LARGEST:
            raise ValueError(f"{name} of its run {row} is {text[:60]!r}, no number that it could be")
        values.append(value)
    return pd.Series(values, dtype=dtype)


def csv_text(frame: pd.DataFrame) -> str:
    """csv with floats to the last bit, safe in a spreadsheet; a missing value is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(frame.columns)
    writer.writerows(zip(*(_texts(frame[name]) for name in frame), strict=True))
    return file.getvalue()


def _texts(values: pd.Series) -> list[str]:
    if pd.api.types.is_float_dtype(values) and values.isna().all():
        return [""] * len(values)
    if pd.api.types.is_numeric_dtype(values):
        return ["" if missing else str(value) for value, missing in zip(values.tolist(), values.isna().tolist(), strict=True)]
    return [*map(spreadsheet_text, values.tolist())]
