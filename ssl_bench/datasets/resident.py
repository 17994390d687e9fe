"""Many image files to tensors: whether a set fits in memory as uint8, decoding it with threads, finding broken files.

Results never depend on the number of threads: every file writes its own row, and of several broken files the first in
the given order is the one reported.
"""
from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ssl_bench.datasets.decode import UnreadableImage, decode, stored_size

if TYPE_CHECKING:
    import torch

LIMIT_BYTES = 2 * 2**30
"""Decoded sets up to this size are kept in memory."""
_CHUNK = 64

Result = TypeVar("Result")


def decode_together(parts: Sequence[Sequence[str]], limit_bytes: int = LIMIT_BYTES) -> list[torch.Tensor] | None:
    """Decode all files to one uint8 tensor (n, 3, H, W) a part, if all images have one size and fit.

    Args:
        parts: lists of files; none may be empty.
        limit_bytes: most bytes all tensors may take together.

    Returns:
        The tensors, or None when the sizes differ or the total exceeds the limit. Headers are read first, so that the
        usual "no" costs two files.

    Raises:
        UnreadableImage: a file met on the way cannot be decoded.
    """
    import torch

    height, width = stored_size(parts[0][0])
    if 3 * height * width * sum(map(len, parts)) > limit_bytes:
        return None
    for part in parts:
        with closing(in_threads(lambda _, chunk: {stored_size(path) for path in chunk}, part)) as sizes:
            if any(found - {(height, width), (width, height)} for found in sizes):
                return None
    # EXIF may turn portrait into landscape, so the size that counts is that of a decoded image.
    shape = tuple(decode(parts[0][0]).shape)
    tensors = [torch.empty((len(part), *shape), dtype=torch.uint8) for part in parts]
    for part, tensor in zip(parts, tensors, strict=True):
        with closing(in_threads(partial(_fill, tensor), part)) as fitted:
            if not all(fitted):
                return None
    return tensors


def _fill(tensor: torch.Tensor, start: int, chunk: Sequence[str]) -> bool:
    """Decode `chunk` into the rows of `tensor` from `start` on; False at the first image of another shape."""
    for row, path in enumerate(chunk, start):
        image = decode(path)
        if image.shape != tensor.shape[1:]:
            return False
        tensor[row] = image
    return True


def broken_files(paths: Sequence[str]) -> tuple[str, ...]:
    """The files that cannot be decoded, in the given order; decodes every one completely."""

    def unreadable(_: int, chunk: Sequence[str]) -> list[str]:
        found = []
        for path in chunk:
            try:
                decode(path)
            except UnreadableImage:
                found.append(path)
        return found

    with closing(in_threads(unreadable, paths)) as chunks:
        return tuple(path for found in chunks for path in found)


def in_threads(work: Callable[[int, Sequence[str]], Result], paths: Sequence[str]) -> Generator[Result, None, None]:
    """Yield `work(start, paths[start:stop])` for consecutive chunks, in order; a few chunks ahead of the reader at most.

    When the reader stops early, or a chunk fails, what has not begun is cancelled.
    """
    threads = min(32, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(max_workers=threads)
    running: deque[Future[Result]] = deque()
    try:
        for start in range(0, len(paths), _CHUNK):
            running.append(pool.submit(work, start, paths[start : start + _CHUNK]))
            if len(running) > 2 * threads:  # else the results of a large set would pile up
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
