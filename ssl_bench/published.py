"""Published numbers, to stand beside own runs in a table: the csv files of results/published, or anyone's.

One row a number.  Columns: method (a name of ours), variant ("oracle", what was otherwise than in the method's own run, or
nothing), data, labels_per_class (0: all), arch, pretrained, top1 (percent), std (or nothing), seeds (how many the number is a mean
of), select (which evaluation it is: last, best, median20), source.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from ssl_bench import flags
from ssl_bench.catalog import method_names
from ssl_bench.runs import SELECTIONS
from ssl_bench.whole_file import read_file

CELL = "method variant data labels_per_class arch pretrained select".split()  # what no two lines of a file share
COLUMNS = "method variant data labels_per_class arch pretrained top1 std seeds select source".split()


def read(name: str) -> pd.DataFrame:
    """The numbers of a shipped table (``tllib_moco``, ``semi_vit``), of all that begin so (``tllib``), or of a csv file by its path.

    One row a number, as in the file; in the words of `ssl_bench.tables.summarize`: mean and std in percent (std NaN where
    there is none), n = expected = seeds, missing and note empty; besides these pretrained, source, and published: the file's
    stem.  Raises ValueError, naming file and line, for whatever is not of this form; OSError for what cannot be read.
    """
    if name.endswith(".csv"):
        return _parse(Path(name).stem, name, read_file(name))
    shipped = _shipped()
    wanted = [stem for stem in sorted(shipped) if stem == name or stem.startswith(f"{name}_")]
    if not wanted:
        first = [stem.partition("_")[0] for stem in shipped]
        known = {*shipped, *(word for word in first if first.count(word) > 1)}
        raise ValueError(flags.nearest(name, sorted(known), "published table") + " (or the path of a .csv file)")
    return pd.concat([_parse(stem, f"{stem}.csv", shipped[stem]) for stem in wanted], ignore_index=True)


def read_all(names: Sequence[str]) -> pd.DataFrame | None:
    """All numbers of the named tables, each once; None without a name.  Raises as `read`."""
    numbers = [read(name) for name in dict.fromkeys(names)]
    return pd.concat(numbers).drop_duplicates() if numbers else None


def _shipped() -> dict[str, bytes]:
    try:
        files = resources.files("ssl_bench.published_tables").iterdir()
    except ModuleNotFoundError:
        raise ValueError("the published tables are not installed with this ssl-bench: install it again, or name a .csv") from None
    return {file.name[:-4]: file.read_bytes() for file in files if file.name.endswith(".csv")}


def _parse(stem: str, shown: str, content: bytes) -> pd.DataFrame:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown}: not a text file in UTF-8 ({error.reason})") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[dict[str, Any]] = []
    lines: dict[tuple, int] = {}
    line, known = 1, {"method": method_names(), "select": list(SELECTIONS)}
    try:
        header = next(reader, [])
        for problem, names in (("lacks", set(COLUMNS) - {*header}), ("has an unknown", {*header} - set(COLUMNS))):
            if names:
                raise ValueError(f"{problem} column {', '.join(sorted(names))}; the columns are {', '.join(COLUMNS)}")
        if len({*header}) < len(header):
            raise ValueError(f"two columns of one name: {', '.join(sorted({name for name in header if header.count(name) > 1}))}")
        for cells in reader:
            line = reader.line_num
            if cells:
                rows.append(_row(header, cells, known))
                cell = tuple(rows[-1][name] for name in CELL)
                if lines.setdefault(cell, line) != line:
                    raise ValueError(f"the same cell as in line {lines[cell]}: {', '.join(str(part) for part in cell if part != '')}")
        if not rows:
            raise ValueError("no numbers below the header")
    except csv.Error as error:
        raise ValueError(f"{shown}:{reader.line_num}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{shown}:{line}: {error}") from None
    return pd.DataFrame(rows).assign(published=stem)


def _row(header: list[str], cells: list[str], known: dict[str, list[str]]) -> dict[str, Any]:
    if len(cells) != len(header):
        raise ValueError(f"{len(cells)} cells under {len(header)} columns")
    given = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    for name in ("method", "data", "arch", "pretrained", "source"):
        if not given[name]:
            raise ValueError(f"{name} is empty")
    for name, words in known.items():
        if given[name] not in words:
            raise ValueError(flags.nearest(given[name], words, name))
    seeds = _number(given, "seeds", int, 1, None)
    return {
        **{name: given[name] for name in ("method", "variant", "data")},
        "labels_per_class": _number(given, "labels_per_class", int, 0, None),
        "arch": given["arch"], "metric": "top1", "select": given["select"],
        "mean": _number(given, "top1", float, 0, 100),
        "std": _number(given, "std", float, 0, 100) if given["std"] else math.nan,
        "n": seeds, "expected": seeds, "missing": "", "note": "", "pretrained": given["pretrained"], "source": given["source"],
    }  # fmt: skip


def _number(given: dict[str, str], name: str, kind: Callable[[str], Any], low: int, high: int | None) -> Any:
    wanted = "a percentage" if high else f"a whole number from {low}"
    try:
        value = kind(given[name])
    except ValueError:
        raise ValueError(f"{name} is {given[name]!r}, not {wanted}") from None
    if not (low <= value and (high is None or value <= high)):
        raise ValueError(f"{name} is {given[name]}, not {wanted}")
    return value
