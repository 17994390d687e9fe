"""Splits that others published as a file: which images of the training part are labelled, or unlabelled.

A file is recognised by its first line, and so needs no option:

    Index                          csv with a column ``Index``: 0-based positions in the training part as torchvision's ImageFolder
    17                             lists it (Semi-ViT, EMAN); further columns are passed over
    n01440764_10026.JPEG           names, with or without folders before them (SimCLR)
    n01440764_10026.JPEG,3,120     names with anything behind a comma (Semiformer)
    abbey/00000012.jpg,0           paths with anything behind a comma (Semiformer's lists of Places205)
    17                             positions, one a line

What is read depends on the file and the data set alone, so every process of a run gets the same split.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

COLUMN = "Index"
LONGEST = 4096  # characters of a line that may name a file
_POSITION = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_NAME = re.compile(r".*\.[A-Za-z]\w{0,4}", re.ASCII)
_WNID = re.compile(r"(n\d{8})(?:_\d+\.\w+)?$", re.ASCII)
_HELD_OUT = re.compile(r"ILSVRC2012_(val|test)_\d+\.|(^|[/\\])(val|valid|validation|test)[/\\]", re.ASCII)


@dataclass(frozen=True)
class SplitList:
    """Positions of the images a file names, in its order.

    file: as given; positions: int64 (N,), each once; lines: int64 (N,), the line each stands in, from 1.
    """

    file: str
    positions: np.ndarray
    lines: np.ndarray


def read_split_list(file: str, count: int, paths: Sequence[str] | None = None, left_out: Collection[str] = ()) -> SplitList:
    """The images of a training part of `count` images that `file` names.

    paths: the files of these images, in order; None where they are none, and a list of names then an error.
    left_out: files of the data set that are not among its images since they cannot be decoded; their names are passed over.

    A name is looked up by its last part.  The folder before it counts where that leaves several images, and everywhere once
    it is right for any line: else `dogs/1.png` could be taken for `cats/1.png`.  Where folders of one name stand in several
    folders, the one above counts likewise.  O(count + lines).
    Raises OSError: no such file; ValueError, with file and line: it is empty, no text or of no known form; a value that is no
    position, or out of range; a name that no image or several have; an image named twice.
    """
    lines, entries = _read(file)
    if isinstance(entries[0], int):
        if left_out:
            raise ValueError(f"{file} lists positions, and they moved when {len(left_out)} broken images were left out: list names")
        outside = next((k for k, position in enumerate(entries) if not 0 <= position < count), None)
        if outside is not None:
            where = f"{file} line {lines[outside]}: position {entries[outside]}"
            raise ValueError(f"{where} is out of range: the training part has {count} images, 0 to {count - 1}")
    elif paths is None:
        raise ValueError(f"{file} line {lines[0]} names a file, but these images are held in memory, without their names: list positions, one a line")
    else:
        lines, entries = _look_up(file, lines, entries, paths, {_split(path)[1] for path in left_out})
    positions, numbers = np.array(entries, dtype=np.int64), np.array(lines, dtype=np.int64)
    _, first, back = np.unique(positions, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[back] != np.arange(len(positions)))
    if len(again):
        earlier = numbers[first[back[again[0]]]]
        raise ValueError(f"{file} line {numbers[again[0]]}: names the same image as line {earlier} (one of {len(again)} repetitions)")
    return SplitList(file, positions, numbers)


def require_labels(listed: SplitList, targets: np.ndarray, classes: Sequence[str]) -> None:
    """ValueError unless every image of `listed` has a label in `targets`, (N,) with -1 for none, and every class an image."""
    labels = targets[listed.positions]
    if len(labels) and labels.min() < 0:
        raise ValueError(f"{listed.file} line {listed.lines[labels.argmin()]}: this image has no label in the data set")
    lacking = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
    if len(lacking):
        others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ValueError(f"{listed.file} names no image of class {classes[lacking[0]]}{others}: each needs a labelled one")


def content_hash(file: str) -> str:
    """sha256 of the file's bytes, 64 hex digits: a list is the same list wherever it lies."""
    return hashlib.sha256(Path(file).expanduser().read_bytes()).hexdigest()


def _read(file: str) -> tuple[list[int], list[int] | list[str]]:
    """(line numbers, positions or names), both of one length above 0."""
    content = Path(file).expanduser().read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"{file} is not text: give a csv with a column {COLUMN}, names or positions, one a line")
    rows = [(number, line.strip()) for number, line in enumerate(io.StringIO(text, newline=None), 1) if line.strip()]
    if not rows:
        raise ValueError(f"{file} is empty: it should list images")
    number, head = rows[0]
    if COLUMN in _fields(head):
        rows = _column(file, text)
    elif _NAME.fullmatch(_name(head)):
        return [number for number, _ in rows], [_name(line) for _, line in rows]
    elif not _POSITION.fullmatch(head):
        raise ValueError(
            f"{file} line {number}: {head[:60]!r} is neither a header with a column {COLUMN}, nor an image's name, nor a position"
        )
    wrong = next((row for row in rows if not _POSITION.fullmatch(row[1])), None)
    if wrong:
        raise ValueError(f"{file} line {wrong[0]}: {wrong[1][:60]!r} is no whole number")
    return [number for number, _ in rows], [int(value) for _, value in rows]


def _fields(line: str) -> list[str]:
    try:
        return [field.strip() for field in next(csv.reader([line], skipinitialspace=True, strict=True))]
    except csv.Error:
        return []


def _name(line: str) -> str:
    if len(line) > LONGEST:
        return line[:LONGEST]
    comma = line.find(",")
    while comma >= 0:  # a name may hold commas
        first = line[:comma].strip()
        if _NAME.fullmatch(first):
            return first
        comma = line.find(",", comma + 1)
    return line


def _column(file: str, text: str) -> list[tuple[int, str]]:
    """(line number, value) of the column `COLUMN` in every row of a csv."""
    reader = csv.reader(io.StringIO(text, newline=None), skipinitialspace=True, strict=True)
    rows: list[tuple[int, str]] = []
    column = None
    try:
        for row in reader:
            if not any(field.strip() for field in row):
                continue
            if column is None:
                column = [field.strip() for field in row].index(COLUMN)
            elif len(row) <= column:
                raise ValueError(f"{file} line {reader.line_num}: no value in column {COLUMN}")
            else:
                rows.append((reader.line_num, row[column].strip()))
    except csv.Error as error:
        raise ValueError(f"{file} line {reader.line_num}: no csv ({error})") from None
    if not rows:
        raise ValueError(f"{file} is empty: nothing stands below its header")
    return rows


def _look_up(
    file: str, lines: list[int], names: list[str], paths: Sequence[str], left_out: Collection[str]
) -> tuple[list[int], list[int]]:
    """(line numbers, positions) of the names that are found; those `left_out` are passed over."""
    parts = [_split(name) for name in names]
    wanted = {name for _, name in parts}
    first: dict[str, int] = {}
    further: dict[str, list[int]] = {}
    for position, path in enumerate(paths):
        name = path[path.rfind(os.sep) + 1 :]
        if name in wanted and first.setdefault(name, position) != position:
            further.setdefault(name, []).append(position)

    def of_name(name: str) -> list[int]:
        return [first[name], *further.get(name, ())] if name in first else []

    def in_folder(name: str, folder: str) -> list[int]:
        return [position for position in of_name(name) if _split(paths[position])[0] == folder]

    def in_both(listed: str, name: str, folder: str) -> list[int]:
        two = _two_folders(listed)
        return [position for position in in_folder(name, folder) if _two_folders(paths[position]) == two]

    folders_count = any(folder and in_folder(name, folder) for folder, name in parts)
    # Places has church/outdoor and apartment_building/outdoor: of such folders the one above counts as well.
    shared = _shared_folders(paths) if folders_count and any(_two_folders(name) for name in names) else frozenset()
    rows = list(zip(lines, names, parts, strict=True))
    two_count = any(folder in shared and in_both(listed, name, folder) for _, listed, (folder, name) in rows)
    found_lines, found, missing = [], [], []
    for line, listed, (folder, name) in rows:
        if two_count and folder in shared and _two_folders(listed):
            hits = in_both(listed, name, folder)
        else:
            hits = in_folder(name, folder) if folder and folders_count else of_name(name)
        if len(hits) > 1:
            two = f"{paths[hits[0]]} and {paths[hits[1]]}"
            raise ValueError(f"{file} line {line}: {len(hits)} images are called {name}, such as {two}: put the folder before it, or list positions")
        if hits:
            found_lines.append(line)
            found.append(hits[0])
        elif name not in left_out:
            missing.append((line, listed, folder, name))
    if missing:
        raise ValueError(f"{file} {_absence(missing, len(names), paths)}")
    return found_lines, found


def _absence(missing: list[tuple[int, str, str, str]], total: int, paths: Sequence[str]) -> str:
    """Which of the `total` names are missing, and what kind of list this therefore is.  missing: (line, listed, folder, name)."""
    held_out = [(line, name) for line, listed, _, name in missing if _HELD_OUT.search(listed)]
    if held_out:
        line, name = held_out[0]
        counts = f"{len(held_out)} of {total} names"
        return f"line {line}: {name} is of a validation or test part, as are {counts}: give a list of training images"
    line, _, folder, name = missing[0]
    says = f"is not in the training part ({len(missing)} of {total} names are not)"
    classes = {_wnid(path[path.rfind(os.sep) + 1 :]) for path in paths} | {_wnid(_split(path)[0]) for path in paths}
    if classes != {""}:  # an ImageNet, whole or in part
        asked = [(row[0], _wnid(row[3]) or _wnid(row[2]), row[3]) for row in missing]
        foreign = [row for row in asked if row[1] and row[1] not in classes]
        if foreign:
            line, wnid, name = foreign[0]
            others = len({row[1] for row in foreign}) - 1
            more = f", nor {others} others that the list names" if others else ""
            return f"line {line}: {name} {says}: the data has no class {wnid}{more}"
    if total > 2 * (total - len(missing)) and total > 1:
        here = paths[0][paths[0].rfind(os.sep) + 1 :] if len(paths) else "nothing"
        says += f": a list of another data set? Files here are called such as {here}"
    return f"line {line}: {os.path.join(folder, name)} {says}"


def _wnid(name: str) -> str:
    """'n01440764' of itself and of n01440764_10026.JPEG, '' of other names."""
    found = _WNID.match(name)
    return found[1] if found else ""


def _two_folders(path: str) -> tuple[str, str] | None:
    """('b', 'c') of 'a/b/c/d'; None with fewer than two folders."""
    above = (path if os.sep == "/" else path.replace(os.sep, "/")).split("/")[:-1]
    return (above[-2], above[-1]) if len(above) > 1 else None


def _shared_folders(paths: Sequence[str]) -> frozenset[str]:
    """Names of folders that stand in several folders."""
    above = {path[: path.rfind(os.sep)] for path in paths}
    pairs = {pair for folder in above if (pair := _two_folders(folder + os.sep)) is not None}
    counts = Counter(last for _, last in pairs)
    return frozenset(name for name, count in counts.items() if count > 1)


def _split(path: str) -> tuple[str, str]:
    """('c', 'd') of 'a/b/c/d', ('', 'd') of 'd'."""
    above, _, name = (path if os.sep == "/" else path.replace(os.sep, "/")).rpartition("/")
    return above[above.rfind("/") + 1 :], name
