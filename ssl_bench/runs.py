"""Run folders -> one row a run, and runs.csv: a pure function of the files read.

A run is a folder holding ``args.json``; it is *done* once ``result.json`` stands beside it, *incomplete* before.  Runs
are averaged only where they differ in nothing but the seed: whatever else differs becomes a row of its own.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from ssl_bench.atomic import write_bytes

SCHEMA = 1
METRICS = {"top1": "Top-1 accuracy (%)", "top5": "Top-5 accuracy (%)", "mean_class": "Mean per-class accuracy (%)",
           "teacher_top1": "Top-1 accuracy of the teacher (%)", "conv_top1": "Top-1 accuracy of the convolutional stream (%)",
           "trans_top1": "Top-1 accuracy of the transformer stream (%)"}
SELECTIONS = {
    "last": "last evaluation",
    "best": "best on the test set (optimistic: chosen on the test set)",
    "median20": "median of the last 20 evaluations",
}
SCORES = [f"{metric}_{select}" for metric in METRICS for select in SELECTIONS]
# Column of a frame of runs -> dtype, in the order of runs.csv.  A missing text is "", a missing number NaN or NA.
COLUMNS: dict[str, str] = {
    **dict.fromkeys(["method", "variant", "data"], "str"),
    "labels_per_class": "Int64",
    **dict.fromkeys(["arch", "pretrained"], "str"),
    "seed": "Int64",
    "state": "str",
    **dict.fromkeys(SCORES, "float64"),
    **dict.fromkeys(["evaluations", "epoch", "step"], "Int64"),
    **dict.fromkeys(["num_classes", "num_labeled", "num_unlabeled", "num_test"], "Int64"),
    **dict.fromkeys(["images_per_second", "minutes", "peak_memory_mib"], "float64"),
    **dict.fromkeys(["device", "commit", "packages", "recipe", "recipe_hash", "args_hash"], "str"),
    **dict.fromkeys(["split_labeled", "split_unlabeled", "identity", "folder"], "str"),
}
NEVER_MISSING = ("method", "data", "labels_per_class", "arch", "seed", "state", "args_hash", "identity")
TYPES = {"str": (str,), "Int64": (int,), "float64": (float, int)}  # accepted from a JSON file; bool is none of them
MISSING = {"str": "", "Int64": None, "float64": math.nan}
Row = dict  # column -> value


def collect(folders: Sequence[str | Path]) -> pd.DataFrame:
    """One row a run found under `folders` (run folders, folders of them, runs.csv files), whatever their order.

    Columns: COLUMNS.  ``labels_per_class``: 0 for all there are.  Accuracies in percent as ``<metric>_<selection>``
    (best: the largest of that metric; median20: of all evaluations where there are fewer); images/s, minutes, MiB.
    ``identity``: JSON of the arguments that make the run, but the seed; ``variant``: "oracle", and the identity
    arguments that differ among the method's runs within a cell; ``folder``: the last four parts of the path.

    A run met twice counts once.  Hidden folders and links are skipped.  Broken files are named on stderr, and their
    runs are incomplete.

    Raises FileNotFoundError for a folder that is not there, ValueError for a .csv that is no runs.csv.
    """
    rows: list[Row] = []
    for path in map(Path, folders):
        if path.is_dir():
            rows += _runs_under(path)
        elif path.suffix == ".csv" and path.is_file():
            rows += read_runs_csv(path).to_dict("records")
        else:
            raise FileNotFoundError(f"{path}: neither a folder nor a .csv file; name what was given as --log (ssl-bench fixmatch: fixmatch)")
    return _frame(_name_variants(_once(rows)))


def _warn(text: str) -> None:
    print(f"ssl-bench table: warning: {text}", file=sys.stderr)


def _runs_under(top: Path) -> Iterator[Row]:
    for folder, inner, files in os.walk(top, onerror=lambda error: _warn(f"{error}; skipped")):
        inner[:] = [name for name in inner if "args.json" not in files and not name.startswith(".")]
        row, started = None, {}
        for name in ("args.json", "result.json") if "args.json" in files else ():
            try:
                if name in files:
                    record = json.loads(Path(folder, name).read_bytes())
                    row = _run_row(folder, record, started, done=name == "result.json")
                    started = record
            except (OSError, ValueError, RecursionError) as error:
                _warn(f"{Path(folder, name)}: {error}; " + ("counted as incomplete" if row else "nothing read from it"))
        if row:
            yield row


def _run_row(folder: str, record: object, started: Row, done: bool) -> Row:
    if not isinstance(record, dict) or done and record.get("schema") != SCHEMA:
        raise ValueError(f"not a record of schema {SCHEMA}")
    if started and record.get("args_hash") != started["args_hash"]:
        raise ValueError(f"of another run: args_hash {record.get('args_hash')}, args.json has {started['args_hash']}")
    record = {**started, **record}
    args, names = record.get("args"), record.get("identity")
    if not isinstance(args, dict) or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("no 'args', or no list 'identity' of those that make the run")
    lists = record.get("lists", {})
    if not isinstance(lists, dict):
        raise ValueError("'lists' is no map of flags to hashes")
    identity = {name: args[name] for name in names if name in args and name != "seed"}
    identity |= {name: f"sha256_{str(content)[:12]}" for name, content in lists.items()}  # where a list lay is no part of a run
    values = {name: args.get(name) for name in ("data", "arch", "seed")}
    values["labels_per_class"] = args.get("num_samples_per_class")
    values |= {name: record[name] for name in COLUMNS if name in record and name not in SCORES}
    if args.get("all_labeled") or values["labels_per_class"] is None:
        values["labels_per_class"] = 0
    if "labeled_list" in lists:
        identity["num_samples_per_class"] = values["labels_per_class"]  # beside drawn labels, as many, only the list differs
    values |= {"state": "incomplete", "variant": "", "identity": json.dumps(identity, sort_keys=True)}
    values |= {"folder": "/".join(os.path.abspath(folder).split(os.sep)[-4:]), "evaluations": None, "packages": None}
    if done:
        evaluations, split = record.get("evaluations"), record.get("split_hash")
        if not isinstance(evaluations, list) or not evaluations or {*map(type, evaluations)} != {dict}:
            raise ValueError("no list of evaluations")
        values |= {"state": "done", "evaluations": len(evaluations), **_scores(evaluations)}
        values |= {name: evaluations[-1].get(name) for name in ("epoch", "step")}
        values |= {f"split_{part}": split.get(part) for part in ("labeled", "unlabeled") if isinstance(split, dict)}
        values["packages"] = json.dumps(record.get("packages"), sort_keys=True)
    for name, dtype in COLUMNS.items():
        value = values.get(name)
        if value in (None, "") and name in NEVER_MISSING or value is not None and type(value) not in TYPES[dtype]:
            raise ValueError(f"{name} is {value!r}, not {'a text' if dtype == 'str' else 'a number'}")
        values[name] = MISSING[dtype] if value is None else float(value) if dtype == "float64" else value
    return values


def _scores(evaluations: list[dict]) -> Row:
    scores: Row = {}
    for metric in METRICS:
        values = [each.get(metric) for each in evaluations]
        if metric != "top1" and None in values:  # top-5 has no meaning below five classes
            continue
        for value in values:
            if type(value) not in (int, float) or not 0 <= value <= 100:
                raise ValueError(f"{metric} is {value!r}, not a percentage")
        scores |= {f"{metric}_last": values[-1], f"{metric}_best": max(values)}
        scores[f"{metric}_median20"] = statistics.median(values[-20:])
    return scores


def _once(rows: list[Row]) -> list[Row]:
    kept: dict[tuple, Row] = {}
    for row in sorted(rows, key=lambda row: (row["state"] != "done", row["folder"], str(row))):
        other = kept.setdefault((row["method"], row["args_hash"]), row)
        if row["state"] == "done" and any(row[name] != other[name] and row[name] == row[name] for name in SCORES):
            _warn(f"{row['folder']} and {other['folder']} are one run with two results; the latter counts")
    return list(kept.values())


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
    return pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=dtype) for name, dtype in COLUMNS.items()})


def write_runs_csv(frame: pd.DataFrame, path: str | Path) -> None:
    """Writes a frame of `collect`, sorted, whole or not at all; `read_runs_csv` gives the same frame, bit for bit."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(Path(path), csv_text(_frame(frame.to_dict("records"))).encode())


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
        return pd.DataFrame({name: _parsed(texts[name].tolist(), dtype) for name, dtype in COLUMNS.items()})
    except ValueError as error:
        reason = str(error).strip().replace("\n", " ")
        raise ValueError(f"{path}: not a whole runs.csv ({reason}); write it anew from the run folders") from error


def _parsed(texts: list[str], dtype: str) -> pd.Series:
    if dtype == "str":
        return pd.Series([text.removeprefix("'") for text in texts], dtype=dtype)
    return pd.Series([TYPES[dtype][0](text) if text else MISSING[dtype] for text in texts], dtype=dtype)


def csv_text(frame: pd.DataFrame) -> str:
    """csv with floats to the last bit, safe in a spreadsheet."""
    texts = frame.select_dtypes(exclude="number")  # a spreadsheet must not take a name for a formula
    guarded = {name: ["'" * text.startswith(tuple("=+-@'\t\r")) + text for text in texts[name]] for name in texts}
    return frame.assign(**guarded).to_csv(index=False, lineterminator="\n")
