"""What a run's folder says over time and image by image: metrics.jsonl and predictions.npz, as plain arrays.

Figures and the report are made of these; nothing here needs torch, and nothing is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_bench.array_file import read_arrays
from ssl_bench.messages import said
from ssl_bench.run_row import shown_folder
from ssl_bench.run_state import read_object
from ssl_bench.whole_file import read_file

BINS = 15  # of confidence, as in Guo et al. 2017
MOST_CONFUSED = 5_000  # classes: a matrix of 200 MB
METRICS_FILE, PREDICTIONS_FILE, CLASSES_FILE = "metrics.jsonl", "predictions.npz", "classes.json"
LARGEST = 1e300  # of a figure
STEPS = 2**53  # of steps
MOST_CLASSES = 10**6
_ROUNDING = 1e-5  # a softmax in float32 may add up to a little more than 1
Row = dict[str, Any]


@dataclass(frozen=True)
class Predictions:
    """Of the last evaluation, in the order of the test set: target, prediction (N,) int64; confidence (N,) float64 in [0, 1], the
    largest softmax probability."""

    target: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray


@dataclass(frozen=True)
class Reliability:
    """Bins of confidence, equally wide, the m-th of M holding ((m - 1) / M, m / M].

    edges: (M + 1,); count: (M,) int64, images; confidence, accuracy: (M,) means in [0, 1], nan in an empty bin.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def run_folders(tops: Iterable[str | Path]) -> dict[str, Path]:
    """The first of `all_run_folders` by each name."""
    return {name: several[0] for name, several in all_run_folders(tops).items()}


def all_run_folders(tops: Iterable[str | Path]) -> dict[str, list[Path]]:
    """Column ``folder`` of a frame of runs (the last four parts of a path) -> where such runs lie: of all under `tops`, each once.

    As `runs.collect` looks for them: hidden folders and links are skipped, and a run's stages are no runs.
    """
    found: dict[str, list[Path]] = {}
    seen = set()
    for top in tops:
        for folder, inner, files in os.walk(top):
            inner[:] = sorted(name for name in inner if "args.json" not in files and not name.startswith("."))
            whole = os.path.abspath(folder)
            if "args.json" in files and whole not in seen:
                seen.add(whole)
                found.setdefault(shown_folder(whole), []).append(Path(folder))
    return found


def metrics_file(folder: str | Path) -> Path | None:
    """The metrics.jsonl that speaks for a run: its own; of a run of stages the last stage's, the one in progress where it is not
    done; None without any."""
    folder = Path(folder)
    own = folder / METRICS_FILE
    if own.is_file():
        return own
    stages = read_object(folder / "result.json").get("minutes_of_stages")
    named = [*stages] if isinstance(stages, dict) else []
    if named and (folder / named[-1]).parent == folder and (folder / named[-1] / METRICS_FILE).is_file():
        return folder / named[-1] / METRICS_FILE
    # Without a result: a stage that is done says when it was, and the one that is not comes after them.
    begun = [file for file in sorted(folder.glob(f"*/{METRICS_FILE}")) if (file.parent / "args.json").is_file()]
    return max(begun, key=lambda file: str(read_object(file.parent / "result.json").get("finished", "~")), default=None)


def read_metrics(folder: str | Path) -> list[Row]:
    """The rows of `metrics_file`, in order: each has a whole number ``step`` and a text ``kind`` (train, test, warning), and what
    else it came with.  Lines that are cut short or something else are left out; [] without a file."""
    file = metrics_file(folder)
    if file is None:
        return []
    rows = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get("step")) is int and 0 <= row["step"] < STEPS and isinstance(row.get("kind"), str):
            rows.append(row)
    return rows


def curve(rows: list[Row], key: str, kind: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """(steps (n,) int64 rising, values (n,) float64) of `key` in the rows of that kind; where it is missing or not finite there
    is no point, and of two rows of one step the later counts."""
    found = {row["step"]: row[key] for row in rows if row["kind"] == kind and is_number(row.get(key))}
    steps = sorted(found)
    return np.array(steps, dtype=np.int64), np.array([found[step] for step in steps], dtype=np.float64)


def keys(rows: list[Row], kind: str = "test") -> list[str]:
    """What `curve` can draw of the rows of that kind, in the order in which it turns up."""
    found = [key for row in rows if row["kind"] == kind for key, value in row.items() if is_number(value)]
    return [key for key in dict.fromkeys(found) if key not in ("step", "epoch")]


def warnings(rows: list[Row]) -> list[tuple[int, str]]:
    """(step, text) of each warning."""
    return [(row["step"], row["text"]) for row in rows if row["kind"] == "warning" and isinstance(row.get("text"), str)]


def read_predictions(folder: str | Path) -> Predictions | None:
    """Of the run's predictions.npz; None without one.  ValueError, naming the file, for one cut short or something else."""
    file = Path(folder) / PREDICTIONS_FILE
    if not file.is_file():
        return None
    try:
        target, prediction, confidence = read_arrays(file, ("target", "prediction", "confidence")).values()
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({said(error)}); train the run again to write it") from None
    shapes = {part.shape for part in (target, prediction, confidence)}
    if len(shapes) != 1 or target.ndim != 1 or not len(target):
        raise ValueError(f"{file}: target, prediction and confidence must be three rows of one length, got {sorted(shapes)}")
    if not all(part.dtype.kind in "iu" and part.min() >= 0 and part.max() < MOST_CLASSES for part in (target, prediction)):
        raise ValueError(f"{file}: target and prediction must be whole numbers from 0, below {MOST_CLASSES:,}")
    if confidence.dtype.kind != "f" or not (confidence >= 0).all() or not (confidence <= 1 + _ROUNDING).all():
        raise ValueError(f"{file}: confidence must lie in 0..1")
    return Predictions(target.astype(np.int64), prediction.astype(np.int64), np.minimum(confidence.astype(np.float64), 1.0))


def read_classes(folder: str | Path) -> tuple[str, ...]:
    """The names of classes.json, in the order of the labels; () where there is none, or something else."""
    try:
        names = json.loads(read_file(Path(folder) / CLASSES_FILE))
    except (OSError, ValueError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def confusion(predictions: Predictions, num_classes: int) -> np.ndarray:
    """(C, C) int64, rows: true class, columns: predicted class.

    ValueError: a label that is none of the C; more than `MOST_CONFUSED` classes, whose matrix no memory holds and no one can read.
    """
    _check_labels(predictions, num_classes)
    if num_classes > MOST_CONFUSED:
        raise ValueError(
            f"a confusion matrix of {num_classes:,} classes would take {num_classes**2 / 2**27:,.1f} GiB, and could not be read: "
            f"of more than {MOST_CONFUSED:,} classes there is none, but accuracy by class"
        )
    cell = predictions.target.astype(np.int64) * num_classes + predictions.prediction
    return np.bincount(cell, minlength=num_classes**2).reshape(num_classes, num_classes)


def confused(predictions: Predictions, most: int) -> list[tuple[int, int, int]]:
    """(true class, predicted class, images) of the wrong predictions, the most frequent first; of as many by class.  At most `most`."""
    wrong = predictions.target != predictions.prediction
    pairs = np.stack([predictions.target[wrong], predictions.prediction[wrong]]).astype(np.int64)
    (true, predicted), count = np.unique(pairs, axis=1, return_counts=True)
    order = np.argsort(-count, kind="stable")[:most]
    return list(zip(true[order].tolist(), predicted[order].tolist(), count[order].tolist(), strict=True))


def per_class(predictions: Predictions, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(C,) share of each class's images predicted right, in [0, 1], nan for a class without images; (C,) its images.

    ValueError: a label that is none of the C."""
    _check_labels(predictions, num_classes)
    count = np.bincount(predictions.target, minlength=num_classes)
    right = np.bincount(predictions.target[predictions.target == predictions.prediction], minlength=num_classes)
    return np.where(count > 0, right / np.maximum(count, 1), np.nan), count


def _check_labels(predictions: Predictions, num_classes: int) -> None:
    largest = int(max(predictions.target.max(), predictions.prediction.max()))
    if largest >= num_classes:
        raise ValueError(f"class {largest} is predicted or true, of {num_classes}: predictions of another data set")


def reliability(predictions: Predictions, bins: int = BINS) -> Reliability:
    """How often predictions of about equal confidence are right.  Source: Guo et al. 2017 (arXiv:1706.04599) section 2."""
    edges = np.linspace(0, 1, bins + 1)
    own = np.maximum(np.searchsorted(edges, predictions.confidence, side="left") - 1, 0)
    right = predictions.prediction == predictions.target
    count, confident, accurate = (np.bincount(own, weights, bins) for weights in (None, predictions.confidence, right))
    some = np.maximum(count, 1)
    return Reliability(edges, count, *(np.where(count > 0, total / some, np.nan) for total in (confident, accurate)))


def ece(table: Reliability) -> float:
    """Expected calibration error, in [0, 1]: mean distance of a bin's accuracy from its confidence, by images.

    Source: Guo et al. 2017 (arXiv:1706.04599) eq. 3.
    """
    return float(np.nansum(table.count * np.abs(table.accuracy - table.confidence)) / table.count.sum())


def is_number(value: Any) -> bool:
    """Whether it is one that an array and a page can hold: no nan, no infinity, no whole number of a hundred digits."""
    return type(value) in (int, float) and -LARGEST < value < LARGEST
