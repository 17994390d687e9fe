"""A file's bytes; a pipe is not waited for, a device not read to its end."""

from __future__ import annotations

import os

import pytest
from fuzzing import time_limit

from ssl_bench.whole_file import read_file


@pytest.mark.parametrize("size", [0, 1, 7000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_bytes_of_a_file_whatever_its_size(tmp_path, size):
    (tmp_path / "it").write_bytes(b"x" * size)
    assert read_file(tmp_path / "it") == b"x" * size


def test_a_small_file_takes_four_calls(tmp_path, monkeypatch):
    (tmp_path / "it").write_bytes(b"x" * 7000)
    calls = []

    def counted(real):
        return lambda *given: calls.append(real.__name__) or real(*given)

    for name in ("open", "fstat", "read", "close"):
        monkeypatch.setattr(f"os.{name}", counted(getattr(os, name)))
    read_file(tmp_path / "it")
    assert calls == ["open", "fstat", "read", "close"]  # of 10,000 runs there are 20,000 such files


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no files without a size here")
def test_a_file_that_says_it_is_empty_is_read_to_its_end():
    assert b"Name:" in read_file("/proc/self/status")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "nothing"])
def test_whatever_else_is_an_error_that_names_it(tmp_path, kind):
    it = tmp_path / "it"
    {"folder": it.mkdir, "pipe": lambda: os.mkfifo(it), "device": lambda: it.symlink_to("/dev/zero"), "nothing": lambda: None}[kind]()
    with time_limit(5), pytest.raises(OSError, match=str(it)):
        read_file(it)
