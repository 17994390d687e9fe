"""One file over HTTP: whole and with its checksum, or not there at all; a cut transfer goes on where it stopped."""
from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from ssl_bench.datasets.archive import crc_error
from ssl_bench.messages import reason_of

STALLED_SECONDS = 60.0
"""A connection that says nothing for so long is given up; without a limit it would wait for ever."""
ATTEMPTS = 20
"""Most connections to one address; after the first, only while each brings something."""
_BLOCK = 1 << 18
_PARTIAL, _NO_SUCH_RANGE = 206, 416


class _Broken(Exception):
    """What went wrong with one address."""


def fetch(urls: Sequence[str], checksum: str, target: str) -> None:
    """Put a published file at `target`, unless it is there already with this checksum.

    Meanwhile its bytes lie beside it, in `.<name>.part`. They stay when the transfer is cut or the process ends, and the
    next call goes on from them where the server allows it (HTTP ranges). Bytes with a wrong checksum are removed. Lines on
    stdout say what is fetched, and why an address was given up for the next one.

    Args:
        urls: addresses of the file, tried in order.
        checksum: md5 (32 hex digits) or sha256 (64); "" where none is published: a .gz, .tgz or .zip must then agree
            with the CRC-32 it carries.
        target: path of the file; its folder exists.

    Raises:
        OSError: no address gave the file (the message says what was wrong with each), or the disk did not take it.
    """
    if os.path.isfile(target) and mismatch(target, checksum) is None:
        return
    part = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.part")
    failures: list[str] = []
    try:
        for url in urls:
            print(f"note: {failures[-1]}; trying {url}" if failures else f"fetching {url}", flush=True)
            try:
                _receive_intact(url, checksum, target, part)
            except _Broken as broken:
                failures.append(f"{url}: {broken}")
                continue
            os.replace(part, target)
            return
        if kept := _size(part):
            failures.append(f"{kept:,} bytes are kept, the same command goes on from there")
        raise OSError("; ".join(failures) or "no address is known that has it")
    finally:
        if not _size(part):
            with suppress(FileNotFoundError):
                os.remove(part)


def mismatch(path: str, checksum: str, name: str | None = None) -> str | None:
    """Why the file is not the one with this checksum (see `fetch`), or None if it is; name: its own, if `path` differs."""
    if not checksum:
        return crc_error(path, name or path)
    kind = "md5" if len(checksum) == 32 else "sha256"
    digest = hashlib.new(kind, usedforsecurity=False)  # else systems that forbid md5 for security would refuse
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return None if digest.hexdigest() == checksum else f"its {kind} is {digest.hexdigest()}, expected {checksum}"


def _receive_intact(url: str, checksum: str, target: str, part: str) -> None:
    """All of `url` in the file `part`, with this checksum; else `_Broken`."""
    resumed = _size(part) > 0
    _receive(url, part)
    wrong = mismatch(part, checksum, target)
    if wrong and resumed:  # the older bytes may have been another server's, or damaged
        os.remove(part)
        _receive(url, part)
        wrong = mismatch(part, checksum, target)
    if wrong:
        os.remove(part)
        raise _Broken(f"what came is not the published file, {wrong}")


def _receive(url: str, part: str) -> None:
    """All of `url` in the file `part`, over as many connections as it takes."""
    for _ in range(ATTEMPTS):
        before = _size(part)
        try:
            return _transfer(url, part)
        except _Broken as broken:
            last = broken
            if _size(part) <= before:
                break
    raise last


def _transfer(url: str, part: str) -> None:
    """One connection: what `part` lacks of `url`, or as much of it as comes before the connection breaks (`_Broken`)."""
    have = _size(part)
    response = _opened(url, have)
    if response is None:
        return
    with response:
        if response.status == _PARTIAL:
            start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if start is None or int(start[1]) != have:
                os.remove(part)
                raise _Broken("the server sent another part of the file than was asked for")
        else:
            have = 0
        length = response.headers.get("Content-Length")
        whole = have + int(length) if length is not None and length.isdigit() else None
        with open(part, "ab" if have else "wb") as file, _bar(url, have, whole) as bar:
            for block in _blocks(response):
                file.write(block)
                bar.update(len(block))
    if whole is not None and (size := _size(part)) < whole:
        raise _Broken(f"cut after {size:,} of {whole:,} bytes")


def _opened(url: str, have: int) -> Any:
    """The response from byte `have` on; None if the server says that there are no more."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    # Some hosts refuse urllib's own name.
    headers = {"User-Agent": "ssl-bench", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        return urlopen(Request(url, headers=headers), timeout=STALLED_SECONDS)
    except HTTPError as error:
        error.close()
        if have and error.code == _NO_SUCH_RANGE:
            return None
        raise _Broken(f"HTTP {error.code} {error.reason}") from error
    except URLError as error:
        raise _Broken(_reason(error.reason)) from error
    except (OSError, HTTPException) as error:
        raise _Broken(_reason(error)) from error


def _blocks(response: Any) -> Iterator[bytes]:
    from http.client import HTTPException

    while True:
        try:
            block = response.read1(_BLOCK)  # read() would wait for the whole block, and lose it when the connection breaks
        # A full disk must not be taken for a broken connection, so only reading is guarded.
        except (OSError, HTTPException) as error:
            raise _Broken(_reason(error)) from error
        if not block:
            return
        yield block


def _reason(error: Any) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came for {STALLED_SECONDS:g} s"
    return reason_of(error)


def _bar(url: str, have: int, whole: int | None) -> Any:
    from tqdm import tqdm

    return tqdm(desc=url.rpartition("/")[2], initial=have, total=whole, unit="B", unit_scale=True, leave=False,
                disable=not sys.stderr.isatty())  # fmt: skip


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0
