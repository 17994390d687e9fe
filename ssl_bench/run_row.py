"""The files of one run's folder -> its row in a frame of runs: what is read, what is checked, what each selection rule means."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Collection, Sequence
from typing import Any

from ssl_bench.messages import said
from ssl_bench.whole_file import read_file

SCHEMA = 1
METRICS = {"top1": "Top-1 accuracy (%)", "top5": "Top-5 accuracy (%)", "mean_class": "Mean per-class accuracy (%)",
           "teacher_top1": "Top-1 accuracy of the teacher (%)", "conv_top1": "Top-1 accuracy of the convolutional stream (%)",
           "trans_top1": "Top-1 accuracy of the transformer stream (%)"}
SELECTIONS = {
    "last": "last evaluation",
    "best": "best on the test set (optimistic: chosen on the test set)",
    "median20": "median of the last 20 evaluations (of all, where there are fewer)",
    "val": "best on held-out validation images",
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
    **dict.fromkeys(["num_classes", "num_labeled", "num_unlabeled", "num_val", "num_test"], "Int64"),
    **dict.fromkeys(["images_per_second", "minutes", "peak_memory_mib", "joules"], "float64"),
    "processes": "Int64",
    **dict.fromkeys(["device", "commit", "packages", "recipe", "recipe_hash", "args_hash"], "str"),
    **dict.fromkeys(["split_labeled", "split_unlabeled", "identity", "folder"], "str"),
}
NEVER_MISSING = ("method", "data", "labels_per_class", "arch", "seed", "state", "args_hash", "identity")
TYPES = {"str": (str,), "Int64": (int,), "float64": (float, int)}  # accepted from a JSON file; bool is none of them
MISSING = {"str": "", "Int64": None, "float64": math.nan}
FILES = ("args.json", "result.json", "failed.json")  # all that a row is made of
BEGUN = ("method", "args", "identity", "labels_per_class", "recipe", "recipe_hash", "lists")  # args.json says this before there is a result
LARGEST = 2**63
Row = dict[str, Any]  # column -> value

ABSENT: Row = {name: MISSING[dtype] for name, dtype in COLUMNS.items()}
RECORDED = {name: dtype for name, dtype in COLUMNS.items() if name not in SCORES}
CHECKED = [(name, dtype, TYPES[dtype], name in NEVER_MISSING) for name, dtype in RECORDED.items()]


def read_run(folder: str, names: Collection[str], texts_of: dict[str, str] | None = None) -> tuple[Row | None, list[str]]:
    """The row of the run in `folder`, which holds files of these `names`; None where there is no run to read.  texts_of: JSON that other
    runs shared, kept by whoever reads many.

    With it, what a reader must be told, one line each.  state: done, failed (it has a failed.json and no result), incomplete.
    """
    texts_of = {} if texts_of is None else texts_of
    texts, told = {}, []
    for name in ("args.json", "result.json"):
        if name in names:
            try:
                texts[name] = read_file(f"{folder}/{name}")
            except OSError as error:
                told.append(_line(folder, name, error))
    row, started = None, {}
    parsed: list[Any] = []
    if "result.json" in texts:
        try:
            parsed = [json.loads(texts["result.json"])]
        except (ValueError, RecursionError) as error:
            told.append(_line(folder, "result.json", error))
    if "args.json" in texts and not (parsed and _agrees(texts["args.json"], parsed[0])):
        try:
            record = json.loads(texts["args.json"])
            row = _row(folder, record, {}, False, texts_of)
            started = record
        except (ValueError, RecursionError) as error:
            told.append(_line(folder, "args.json", error))
    for result in parsed:
        try:
            row = _row(folder, result, started, True, texts_of)
        except ValueError as error:
            if not started:  # its own arguments may still say which run this is
                row = read_run(folder, [name for name in names if name != "result.json"])[0]
            told.append(_line(folder, "result.json", error))
    if row is None:
        told = [f"{told[0]}; nothing read from it: {folder} is skipped, with all that lies in it"]
    elif row["state"] == "done":
        told = [f"{line}; the result beside it counts" for line in told]
    else:
        row["state"] = "failed" if "failed.json" in names else "incomplete"
        told = [f"{line}; counted as {row['state']}" for line in told]
    return row, told


def _json(value: Any, texts_of: dict[str, str]) -> str:
    key = repr(value)
    if key not in texts_of:
        texts_of[key] = json.dumps(value, sort_keys=True)
    return texts_of[key]


def _line(folder: str, name: str, error: Exception) -> str:
    return f"{os.path.join(folder, name)}: {said(error)}"


def _agrees(args: bytes, result: Any) -> bool:
    """Whether args.json, unparsed (half of the time of a table), can say nothing that is not in `result`: the same run's."""
    if not isinstance(result, dict) or not args.rstrip().endswith(b"}"):
        return False
    if any(name not in result and f'"{name}"'.encode() in args for name in BEGUN):
        return False
    return args.count(b'"args_hash"') == 1 and f'"args_hash": "{result.get("args_hash")}"'.encode() in args


def _row(folder: str, record: object, started: Row, done: bool, texts_of: dict[str, str]) -> Row:
    if not isinstance(record, dict) or done and record.get("schema") != SCHEMA:
        raise ValueError(f"not a record of schema {SCHEMA}")
    if started and record.get("args_hash") != started["args_hash"]:
        raise ValueError(f"of another run: args_hash {record.get('args_hash')}, args.json has {started['args_hash']}")
    record = {**started, **record}
    args, names = record.get("args"), record.get("identity")
    if not isinstance(args, dict) or not isinstance(names, list) or {*map(type, names)} - {str}:
        raise ValueError("no 'args', or no list 'identity' of those that make the run")
    lists = record.get("lists", {})
    if not isinstance(lists, dict):
        raise ValueError("'lists' is no map of flags to hashes")
    identity = {name: args[name] for name in names if name in args}
    identity.pop("seed", None)
    identity |= {name: f"sha256_{str(content)[:12]}" for name, content in lists.items()}  # where a list lay is no part of a run
    values = {name: args.get(name) for name in ("data", "arch", "seed")}
    values["labels_per_class"] = args.get("num_samples_per_class")
    values |= {name: record[name] for name in RECORDED if name in record}
    if args.get("all_labeled") or values["labels_per_class"] is None:
        values["labels_per_class"] = 0
    if "labeled_list" in lists:
        identity["num_samples_per_class"] = values["labels_per_class"]  # beside drawn labels, as many, only the list differs
    values |= {"state": "incomplete", "variant": "", "identity": _json(identity, texts_of)}
    values |= {"folder": "", "evaluations": None, "packages": None}
    scores: Row = {}
    if done:
        evaluations, split = record.get("evaluations"), record.get("split_hash")
        if not isinstance(evaluations, list) or not evaluations or {*map(type, evaluations)} != {dict}:
            raise ValueError("no list of evaluations")
        values |= {"state": "done", "evaluations": len(evaluations)}
        scores = _scores(evaluations)
        values |= {name: evaluations[-1].get(name) for name in ("epoch", "step")}
        values |= {f"split_{part}": split.get(part) for part in ("labeled", "unlabeled") if isinstance(split, dict)}
        values["packages"] = _json(record.get("packages"), texts_of)
    row = {**ABSENT, **scores}
    for name, dtype, types, needed in CHECKED:
        value = values.get(name)
        if value is None or value == "":
            if needed:
                raise ValueError(f"{name} is {value!r}, not {'a text' if dtype == 'str' else 'a number'}")
        elif type(value) not in types or dtype != "str" and not -LARGEST <= value < LARGEST:  # which infinity and nan are not either
            raise ValueError(f"{name} is {value!r}, not {'a text' if dtype == 'str' else 'a number'}")
        else:
            row[name] = float(value) if dtype == "float64" else value
            if dtype == "str" and not value.isascii():
                value.encode()  # half a surrogate pair, which no file could take
    row["folder"] = shown_folder(folder)
    return row


def shown_folder(folder: str) -> str:
    """The last four parts of the path: method/data/labels/run, and nothing of the machine."""
    shown = "/".join(os.path.abspath(folder).split(os.sep)[-4:])
    return shown if shown.isascii() else os.fsencode(shown).decode(errors="replace")


def _scores(evaluations: Sequence[dict]) -> Row:
    scores: Row = {}
    by_top1 = _percentages(evaluations, "val_top1")
    for metric in METRICS:
        values = _percentages(evaluations, metric)
        if values is None:  # top-5 has no meaning below five classes
            if metric == "top1":
                raise ValueError("top1 is None, not a percentage")
            continue
        scores[f"{metric}_last"], scores[f"{metric}_best"] = float(values[-1]), float(max(values))
        scores[f"{metric}_median20"] = float(statistics.median(values[-20:]))
        held_out = _percentages(evaluations, f"val_{metric}") or by_top1
        if held_out:
            scores[f"{metric}_val"] = float(values[held_out.index(max(held_out))])
    return scores


def _percentages(evaluations: Sequence[dict], name: str) -> list[float] | None:
    """None where an evaluation lacks it."""
    if evaluations[-1].get(name) is None:
        return None
    values: list[Any] = [each.get(name) for each in evaluations]
    if None in values:
        return None
    if {*map(type, values)} <= {int, float} and 0 <= min(values) and max(values) <= 100 and sum(values) == sum(values):  # min passes nan by
        return values
    wrong = next(value for value in values if type(value) not in (int, float) or not 0 <= value <= 100)
    raise ValueError(f"{name} is {wrong!r}, not a percentage")
