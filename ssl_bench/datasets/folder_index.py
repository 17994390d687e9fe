"""Which images lie in each of many folders, remembered from one start to the next: ImageNet's 1.3 million names in a second."""
from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ssl_bench.atomic import write_bytes
from ssl_bench.datasets.cache import usual_folders
from ssl_bench.datasets.decode import SUFFIXES
from ssl_bench.datasets.resident import in_threads

WORTH_KEEPING = 50_000
"""Below so many names listing the folders takes no time."""
_VERSION = 1
# A file that comes in the same tick of the clock as the listing would not change the folder's time again; 3 s: the coarsest
# file systems count in steps of 2.
_SETTLED_SECONDS = 3.0


def listed(folders: Sequence[str], root: str, worth_keeping: int = WORTH_KEEPING) -> list[list[str]]:
    """Names of the image files directly in each folder, by suffix, sorted, without hidden ones.

    A folder is read only if its time of change differs from that in the index, which costs one `stat` a folder and none a file.
    The index is kept beside the data or in the user's cache folder (`cache.usual_folders`), when there are `worth_keeping` names
    or more; where neither can be written, every start reads all folders.

    Raises:
        OSError: a folder cannot be read.
    """
    name = f"names-{hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]}.json"
    places = [folder / name for folder in usual_folders(root)]
    kept = _stored(places)
    keys = [os.path.relpath(folder, root) for folder in folders]

    def look(start: int, chunk: Sequence[str]) -> list[tuple[int, str, bool]]:
        return [_look(folder, kept.get(key)) for key, folder in zip(keys[start : start + len(chunk)], chunk, strict=True)]

    with closing(in_threads(look, folders)) as chunks:  # threads, since a network drive answers slowly
        found = [entry for chunk in chunks for entry in chunk]
    names = [text.split("/") if text else [] for _, text, _ in found]
    if any(new for _, _, new in found) and sum(map(len, names)) >= worth_keeping:
        kept |= {key: [changed, text] for key, (changed, text, _) in zip(keys, found, strict=True)}
        _keep(places, {key: entry for key, entry in kept.items() if os.path.isdir(os.path.join(root, key))})
    return names


def _look(folder: str, entry: list | None) -> tuple[int, str, bool]:
    """(the folder's time of change, -1 if it may change unseen; its names with / between; whether they were read just now)."""
    changed = os.stat(folder).st_mtime_ns
    if entry is not None and entry[0] == changed:
        return changed, entry[1], False
    settled = time.time_ns() - changed > _SETTLED_SECONDS * 1e9
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.lower().endswith(SUFFIXES) and entry.name[0] != ".")
    return changed if settled else -1, "/".join(names), settled


def _stored(places: Sequence[Path]) -> dict[str, list]:
    """Folder -> [time, names] of the first index that can be read; whatever is wrong with one, it is made anew."""
    for path in places:
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get("version") == _VERSION and isinstance(content.get("folders"), dict):
            return {key: entry for key, entry in content["folders"].items() if _is_entry(entry)}
    return {}


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], int) and isinstance(entry[1], str)


def _keep(places: Sequence[Path], folders: dict[str, list]) -> None:
    content = json.dumps({"version": _VERSION, "folders": folders}).encode()
    for path in places:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, content)
            return
        except OSError:
            continue
