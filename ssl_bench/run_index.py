"""Runs under a folder, and an index of them kept there, so that the next table reads only what has changed.

``<folder>/.ssl-bench-index`` is JSON lines: a header (form, code that made the rows, checksum of the rest), the longer texts once each,
then one line a run: its folder, modification and change times and sizes of the files its row is made of, the row.  It holds nothing
that is not in those files: it may be removed at any time, and one that is stale, damaged, cut short, of another version or
somebody else's is passed over and written anew.  Folders with less than INDEX_FROM runs get none, nor do those that cannot be written.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ssl_bench import run_row
from ssl_bench.atomic import write_bytes
from ssl_bench.run_row import COLUMNS, FILES, Row, read_run, shown_folder
from ssl_bench.whole_file import read_file

NAME = ".ssl-bench-index"
INDEX_FROM = 500  # runs; so many are read in a fifth of a second
SETTLED = 2 * 10**9  # ns; a file changed later than this before it was read might change again within one tick of its clock
SHARED = ("identity", "packages", "device", "recipe_hash", "commit")  # texts that many runs have
Stamp = list  # of each of FILES: [mtime_ns, ctime_ns, size], None where it is not there
Known = dict[str, tuple[Stamp, Row]]  # folder relative to the top -> its row


def runs_under(top: str, warn: Callable[[str], None], index_from: int = INDEX_FROM) -> list[Row]:
    """The row of every run under `top`, itself perhaps one; links and hidden folders are not followed, nor anything inside a run.

    Besides COLUMNS a row has "path", of the folder as found.  The same with and without an index.  index_from: with fewer runs no index is read or written; 0: never.
    """
    begun = time.time_ns()
    path = os.path.join(top, NAME)
    known = _read(path) if index_from else {}
    rows: list[Row] = []
    kept: Known = {}
    texts_of: dict[str, str] = {}
    for folder, relative, found, names in _walk(top, known, warn):
        row = found[1] if found else None
        if row is None:
            before = _stamp(folder) if index_from else []  # what is written after this has another stamp, and is read anew next time
            row, told = read_run(folder, names, texts_of)
            for line in told:
                warn(line)
            if row is None:
                continue
            newest = max((max(each[:2]) for each in before if each), default=0)
            as_listed = [each is not None for each in before] == [name in names for name in FILES]  # nothing came between the two looks
            found = (before, row) if not told and as_listed and newest < begun - SETTLED else None
        if found and relative:
            kept[relative] = found
        row["path"] = folder
        rows.append(row)
    if index_from and len(rows) >= index_from and (len(kept) != len(known) or any(known.get(name) is not each for name, each in kept.items())):
        _write(path, kept)
    return rows


def _walk(top: str, known: Known, warn: Callable[[str], None]) -> Iterator[tuple[str, str, tuple[Stamp, Row] | None, list[str]]]:
    """Folders with an args.json: path, path from the top, what is known of it and still so, names of its files."""
    waiting = [(top, "")]
    while waiting:
        folder, relative = waiting.pop()
        found = known.get(relative)
        if found and found[0] == _stamp(folder):
            found[1]["folder"] = shown_folder(folder)
            yield folder, relative, found, []
            continue
        inner, files = [], []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not _leads_to_folder(entry):
                        files.append(entry.name)
                    elif not entry.name.startswith(".") and not entry.is_symlink():
                        inner.append(entry.name)
        except OSError as error:
            warn(f"{error}; skipped")
            continue
        if "args.json" in files:
            yield folder, relative, None, files
            continue
        if "result.json" in files:
            warn(f"{folder}: a result.json without an args.json; skipped")
        waiting += [(os.path.join(folder, name), f"{relative}/{name}" if relative else name) for name in inner]


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle hides nothing beside it
        return False


def _stamp(folder: str) -> Stamp:
    stamps: Stamp = []
    for name in FILES:
        try:
            stat = os.stat(f"{folder}/{name}")
        except OSError:
            stamps.append(None)
        else:
            stamps.append([stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size])
    return stamps


def _header(body: bytes) -> dict[str, Any]:
    code = hashlib.sha256(Path(run_row.__file__).read_bytes()).hexdigest()
    return {"ssl-bench-index": 1, "code": code, "columns": [*COLUMNS], "sha256": hashlib.sha256(body).hexdigest()}


def _read(path: str) -> Known:
    try:
        head, _, body = read_file(path).partition(b"\n")
        if json.loads(head) != _header(body):
            return {}
        texts, *lines = json.loads(b"[" + body.replace(b"\n", b",") + b"null]")[:-1]
        known: Known = {}
        for folder, stamp, values in lines:
            row = dict(zip(COLUMNS, values, strict=True))
            for name in SHARED:
                row[name] = texts[row[name]]
            known[folder] = stamp, row
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return {}
    return known


def _write(path: str, kept: Known) -> None:
    texts: dict[str, int] = {}
    lines = []
    for folder, (stamp, row) in sorted(kept.items()):
        values = row | {"folder": "", "variant": ""} | {name: texts.setdefault(row[name], len(texts)) for name in SHARED}
        lines.append(json.dumps([folder, stamp, [values[name] for name in COLUMNS]]))
    body = "\n".join([json.dumps([*texts]), *lines, ""]).encode()
    try:
        write_bytes(Path(path), json.dumps(_header(body)).encode() + b"\n" + body)
    except OSError:
        return  # a folder that may only be read: as before
