"""`--cache disk|ram`: the training files of a set decoded once, shortened to a short side, in one file all runs share."""
from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_bench import host_memory
from ssl_bench.atomic import write_with
from ssl_bench.datasets import pixel_file
from ssl_bench.datasets.decode import UnreadableImage, decode, stored_size
from ssl_bench.datasets.file_lock import FileLock, can_share
from ssl_bench.datasets.images import DataSet, Images
from ssl_bench.datasets.pixel_file import BadPixelFile, CachedRows, PixelFile
from ssl_bench.datasets.resident import in_threads

if TYPE_CHECKING:
    import torch

FOLDER = ".ssl-bench-cache"  # hidden, so that listings of images pass it by
_MEMORY = Path("/dev/shm")
_SECONDS_BETWEEN_LINES = 10.0


class _NoCache(Exception):
    """The cache cannot be had here; the message says why and what to do."""


def with_cache(data: DataSet, where: str, short_side: int, folder: str | None, root: str | None) -> DataSet:
    """The data set with its training and unlabelled files replaced by rows of a cache file, built first if need be.

    Sets that are no files are returned as they are, and so are the test images of any: evaluation sees full resolution.  Where
    the cache cannot be had (no space), the set is returned as it is, with one line on stderr.

    Args:
        where: `disk` stays for later runs; `ram` lies in the machine's memory and goes with the last run that uses it.
        short_side: pixels; larger images are shortened to it (aspect kept, bicubic, antialiased).
        folder: of the disk cache; None: `FOLDER` under `root`, or the user's cache folder where that is not writable.
        root: folder of the data.

    Raises:
        UnreadableImage: a broken file was met while building.
        OSError: `folder` was given and is not writable.
    """
    parts = {name: part for name in ("train", "unlabeled") if (part := getattr(data, name)) is not None}
    if any(part.paths is None for part in parts.values()):
        print(f"note: the images of {data.name} are decoded already, --cache {where} is not needed", flush=True)
        return data
    files = [path for part in parts.values() for path in part.files]
    key = key_of(files, short_side)
    try:
        if where == "ram":
            cache = _in_memory(files, short_side, key)
        else:
            cache = _on_disk(files, short_side, key, folder, root)
    except _NoCache as reason:
        print(f"warning: no cache: {reason}; images are decoded each time instead", file=sys.stderr, flush=True)
        return data
    print(f"cache: {cache.path}", flush=True)
    first, cached = 0, dict[str, Any]()
    for name, part in parts.items():
        rows = np.arange(first, first + len(part))
        cached[name] = Images(part.targets, cached=CachedRows(cache, rows))
        first += len(part)
    return replace(data, **cached)


def key_of(files: Sequence[str], short_side: int) -> bytes:
    """32 bytes that change with the files' names (below their common folder), sizes, times of change, and `short_side`."""
    base = os.path.dirname(os.path.commonprefix(files))
    digest = hashlib.sha256(f"{pixel_file.VERSION} {short_side} {len(files)}".encode())

    def described(_: int, chunk: Sequence[str]) -> str:
        return "".join(f"\0{os.path.relpath(path, base)}\0{_size_and_time(path)}" for path in chunk)

    with closing(in_threads(described, files)) as texts:  # threads, since a network drive answers slowly
        for text in texts:
            digest.update(os.fsencode(text))
    return digest.digest()


def _size_and_time(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return "missing"  # the decoder says so, by name
    return f"{status.st_size} {status.st_mtime_ns}"


def _on_disk(files: Sequence[str], short_side: int, key: bytes, folder: str | None, root: str | None) -> PixelFile:
    candidates = [Path(folder)] if folder is not None else usual_folders(root)
    candidates = [candidate.expanduser().absolute() for candidate in candidates]
    name = f"{short_side}-{key.hex()[:16]}.pixels"
    for candidate in candidates:
        if (cache := _opened(candidate / name, short_side, key, quiet=True)) is not None:
            return cache
    for candidate in candidates:
        path = candidate / name
        try:
            candidate.mkdir(parents=True, exist_ok=True)
            lock = FileLock(candidate / f"{name}.lock")
        except OSError as error:
            if folder is not None:
                raise OSError(f"--cache-dir {folder} is not writable: {error.strerror}; give another folder") from None
            continue
        with closing(lock):
            lock.exclusive(f"cache: waiting for another run that builds {path}")
            return _opened(path, short_side, key) or _built(path, files, short_side, key, "")
    tried = " nor ".join(map(str, candidates))
    raise _NoCache(f"neither {tried} is writable, give --cache-dir")


def usual_folders(root: str | None) -> list[Path]:
    """Where what is made from a set's files is kept, the better place first: under `root`, in the user's cache folder."""
    own = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ssl-bench"
    return [own] if root is None else [Path(root) / FOLDER, own]


def _in_memory(files: Sequence[str], short_side: int, key: bytes) -> PixelFile:
    if not can_share():
        raise _NoCache("this system has no memory that runs share under a lock, use --cache disk")
    folder = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    path = folder / f"ssl-bench-{os.getuid()}-{short_side}-{key.hex()[:16]}.pixels"
    _sweep(folder, path)
    while True:
        try:
            lock = FileLock(Path(f"{path}.lock"))
        except OSError as error:
            raise _NoCache(f"{folder} is not writable ({error.strerror}), use --cache disk") from None
        if lock.try_exclusive():
            try:
                if _opened(path, short_side, key) is None:
                    _built(path, files, short_side, key, ", or use --cache disk")
            except BaseException:
                lock.remove_if_unused(path)
                raise
        lock.share(f"cache: waiting for another run that builds {path}")
        # Between two locks the last other user may have removed both files, or a builder may have failed: once more.
        if not lock.is_stale() and (cache := _opened(path, short_side, key)) is not None:
            weakref.finalize(cache, _leave, lock, path, os.getpid())
            return cache
        in_use = not lock.is_stale() and path.exists()
        lock.close()
        if in_use:
            raise _NoCache(f"{path} is damaged, and another run holds it")


def _leave(lock: FileLock, path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker must not remove what its parent uses
        lock.remove_if_unused(path)


def _sweep(folder: Path, ours: Path) -> None:
    """Remove what runs that were killed left in memory: no living process holds its lock."""
    for left in folder.glob(f"ssl-bench-{os.getuid()}-*.pixels.lock"):
        path = left.with_suffix("")
        if path != ours:
            lock = FileLock(left)
            if lock.try_exclusive():
                _remove_unfinished(path)
            lock.remove_if_unused(path)


def _opened(path: Path, short_side: int, key: bytes, *, quiet: bool = False) -> PixelFile | None:
    """The cache at `path`; None where there is none, or none that can be used (said on stderr unless `quiet`)."""
    try:
        cache = PixelFile(path, short_side, key)
        cache.check_samples()
    except FileNotFoundError:
        return None
    except (BadPixelFile, OSError) as error:
        if not quiet:
            print(f"warning: cache {path} {error}; it is built again", file=sys.stderr, flush=True)
        return None
    return cache


def _built(path: Path, files: Sequence[str], short_side: int, key: bytes, remedy: str) -> PixelFile:
    """Write the cache; the caller holds its lock."""
    _remove_unfinished(path)
    needed, free = _bytes_needed(files, short_side), _bytes_free(path.parent)
    if needed > free:
        raise _NoCache(
            f"{path.parent} has {free / 2**30:.2f} GiB free, {len(files):,} images at --cache-size {short_side} need about "
            f"{needed / 2**30:.2f} GiB{remedy}"
        )
    print(f"cache: decoding {len(files):,} images once, about {needed / 2**30:.2f} GiB, into {path}", flush=True)
    began = time.perf_counter()
    images = _said(_shortened(files, short_side), len(files))
    try:
        with closing(images):
            write_with(path, lambda file: pixel_file.write(file, images, len(files), short_side, key))
    except OSError as error:  # the disk filled up on the way, most likely; what was written is gone again
        raise _NoCache(str(error).removesuffix("; what was there before is kept") + remedy) from None
    print(f"cache: {path.stat().st_size / 2**30:.2f} GiB made in {time.perf_counter() - began:.0f} s", flush=True)
    return PixelFile(path, short_side, key)


def _remove_unfinished(path: Path) -> None:
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink(missing_ok=True)


def _shortened(files: Sequence[str], short_side: int) -> Generator[np.ndarray, None, None]:
    with closing(in_threads(lambda _, chunk: [shorten(decode(path), short_side) for path in chunk], files)) as chunks:
        for chunk in chunks:
            yield from chunk


def _said(images: Generator[np.ndarray, None, None], count: int) -> Generator[np.ndarray, None, None]:
    """The images, with a line now and then on how many are done."""
    began = said = time.perf_counter()
    with closing(images):
        for done, image in enumerate(images, 1):
            yield image
            now = time.perf_counter()
            if now - said > _SECONDS_BETWEEN_LINES:
                left = (now - began) / done * (count - done)
                print(f"cache: {done:,} of {count:,} images, {left:.0f} s left", flush=True)
                said = now


def shorten(image: torch.Tensor, short_side: int) -> np.ndarray:
    """(3, H, W) uint8 tensor -> (h, w, 3) with min(h, w) = short_side, bicubic, antialiased; smaller images stay as they are."""
    from PIL import Image

    pixels = image.permute(1, 2, 0).numpy()
    height, width = shortened_size(pixels.shape[0], pixels.shape[1], short_side)
    if (height, width) == pixels.shape[:2]:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def shortened_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width with the aspect kept and the shorter side at most `short_side`."""
    shorter = min(height, width)
    if shorter <= short_side:
        return height, width
    return max(1, round(height * short_side / shorter)), max(1, round(width * short_side / shorter))


def _bytes_needed(files: Sequence[str], short_side: int) -> int:
    """An estimate from the headers of some files, spread over the set."""
    sizes = []
    for i in sorted(set(np.linspace(0, len(files) - 1, 64).astype(int).tolist())):
        try:
            height, width = shortened_size(*stored_size(files[i]), short_side)
        except UnreadableImage:
            continue  # building names it
        sizes.append(3 * height * width)
    return int(1.02 * len(files) * (np.mean(sizes) if sizes else 0))


def _bytes_free(folder: Path) -> float:
    free = shutil.disk_usage(folder).free
    return min(free, host_memory.available()) if folder == _MEMORY else free
