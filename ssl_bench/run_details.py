"""What a page shows of one run besides its row in the table: arguments, environment, curves, predictions, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_bench import curves, defaults
from ssl_bench.run_state import read_object

POINTS = 200  # of a curve, at most
CONFUSION_CLASSES = 30  # a larger matrix is no longer read, and its largest entries are listed instead
CONFUSIONS = 30
SHOWN_CLASSES = 1_000  # of more, a browser would take a minute to lay out the bars, and each run a megabyte of the page
ENVIRONMENT = ("python", "platform", "packages")


def arguments(method: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """args: those that differ from the method's defaults (all, of a method that is not shipped); unset: flags of the method that
    the run's record lacks, being older than they are; command: what gives the run again."""
    known = {name: default.value for name, default in defaults.flag_defaults(method).items()}
    return {
        "args": {name: value for name, value in args.items() if value != known.get(name, defaults.ABSENT)},
        "unset": [name for name in known if name not in args],
        "command": defaults.command(method, args),
    }


def series(rows: Sequence[Mapping[str, Any]], points: int = POINTS) -> dict[str, list[list[float]]]:
    """"test top1" and the like -> [steps, values], evenly thinned to `points`; the last one is always there.

    As `curves.curve` of each key, in one pass: a page has thousands of them.
    """
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items() if row["kind"] in ("test", "train") else ():
            if curves.is_number(value) and name not in ("step", "epoch"):
                found.setdefault(f"{row['kind']} {name}", {})[row["step"]] = value
    return {name: _thinned(sorted(values.items()), points) for name, values in sorted(found.items(), key=lambda each: each[0].split()[0] == "train")}


def _thinned(pairs: list[tuple[int, float]], points: int) -> list[list[float]]:
    last, count = len(pairs) - 1, min(points, len(pairs))
    kept = [pairs[round(i * last / max(1, count - 1))] for i in range(count)]
    return [[step for step, _ in kept], [float(f"{value:.4g}") for _, value in kept]]


def predictions(folder: Path, num_classes: int | None) -> dict[str, Any] | None:
    """Accuracy by class, confusions and calibration on the test set; None without predictions.npz.

    classes: names, numbers where none are recorded; per_class: [share right or None, images] of the first of these; matrix: rows of
    counts, of at most 30 classes; confused: [true, predicted, images], the most frequent first; bins: [confidence, accuracy, images].
    Of more than `SHOWN_CLASSES` classes, `num_classes` in all, per_class has the least right, and classes those that are named.
    Raises ValueError, naming the file, for one that cannot be read.
    """
    found = curves.read_predictions(folder)
    if found is None:
        return None
    largest = int(max(found.target.max(), found.prediction.max())) + 1
    count = max(largest, num_classes or 0)
    names = [*curves.read_classes(folder)]
    names = names if len(names) == count else [str(label) for label in range(count)]
    accuracy, images = curves.per_class(found, count)
    confused = curves.confused(found, CONFUSIONS)
    shown = range(count) if count <= SHOWN_CLASSES else np.argsort(accuracy, kind="stable")[:SHOWN_CLASSES].tolist()  # nan: last
    place = {label: i for i, label in enumerate(dict.fromkeys([*shown, *(label for pair in confused for label in pair[:2])]))}
    table = curves.reliability(found)
    bins = zip(table.confidence.tolist(), table.accuracy.tolist(), table.count.tolist(), strict=True)
    return {
        "num_classes": count,
        "classes": [names[label] for label in place],
        "per_class": [[None if a != a else round(float(a), 4), int(n)] for a, n in zip(accuracy[shown], images[shown], strict=True)],
        "matrix": curves.confusion(found, count).tolist() if count <= CONFUSION_CLASSES else None,
        "confused": [[place[true], place[predicted], n] for true, predicted, n in confused],
        "bins": [[round(c, 4), round(a, 4), n] for c, a, n in bins if n],
        "ece": round(curves.ece(table), 4),
    }


def environment(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Python, platform and packages, of the run's result or else of its environment.json."""
    other = read_object(folder / "environment.json")
    return {name: record.get(name) or other.get(name) for name in ENVIRONMENT if record.get(name) or other.get(name)}
