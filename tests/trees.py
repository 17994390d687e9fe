"""Miniatures of published sets as they lie on a disk, for the tests of their loaders."""
from __future__ import annotations

import functools
import http.server
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from ssl_bench import zoo
from ssl_bench.datasets.images import DataSet, Images


def write_image(path: Path, level: int = 0, size: tuple[int, int] = (8, 8)) -> None:
    """A plain RGB image, (width, height), of one grey level by which it can be told from others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path, format="JPEG", quality=100)  # a level then survives as it is


def write_tree(folder: Path, classes: list[str], per_class: int, suffix: str = ".jpg", first: int = 0) -> None:
    """folder/<class>/<class>_<k><suffix> for k = first ... first + per_class - 1, each with the level k."""
    for name in classes:
        for k in range(first, first + per_class):
            write_image(folder / name / f"{name}_{k}{suffix}", k)


def mini(name: str, root: Path, download: bool = False) -> DataSet:
    return zoo.load(name, str(root), download=download, check_counts=False)


def files_of(images: Images, root: Path) -> list[str]:
    """Names below `root`, in the order of the part."""
    return [str(Path(path).relative_to(root)) for path in images.paths]


def error_of(name: str, root: Path, kind: type[Exception] = OSError, **options) -> str:
    """The one line that loading the set as a user does ends in."""
    with pytest.raises(kind) as caught:
        zoo.load(name, str(root), **options)
    message = str(caught.value)
    assert name in message and str(root) in message and "\n" not in message
    return message


def shrunk(monkeypatch, name: str, **counts) -> None:
    """Let the counts of a miniature be the published ones."""
    published = zoo.PUBLISHED[name]
    fields = {key: counts.get(key, getattr(published, key)) for key in published.__dataclass_fields__}
    monkeypatch.setitem(zoo.PUBLISHED, name, zoo.Published(**fields))


def class_counts(images: Images) -> list[int]:
    return np.bincount(images.targets).tolist()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server on this machine that hands out the files of `folder`."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with mock.patch.dict(os.environ, {"no_proxy": "127.0.0.1"}):
            yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
