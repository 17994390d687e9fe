"""Runs that are killed, cut off and refused at random moments go on to the same end; see faults.py, of which this is a small part."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssl_bench import atomic, record, run_state

SCRIPT = Path(__file__).parent / "faults.py"


def inject(*argv: str) -> str:
    done = subprocess.run([sys.executable, str(SCRIPT), *argv], capture_output=True, text=True, timeout=230, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_run_survives_kills_and_power_cuts():
    assert "0 demands not met" in inject("--kind", "erm", "--fault", "kill", "--fault", "power cut", "--kills", "1")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flexmatch", "noisy_student"])
def test_a_run_survives_every_fault(kind):
    assert "0 demands not met" in inject("--kind", kind, "--kills", "3")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["self_tuning", "semi_vit", "two_ranks"])
def test_a_run_survives_kills_and_stops(kind):
    assert "0 demands not met" in inject("--kind", kind, "--fault", "kill", "--fault", "term", "--kills", "4")


def test_a_rename_whose_answer_got_lost_is_no_failure_and_one_that_is_refused_once_is_tried_again(tmp_path, monkeypatch):
    real, refusals = os.replace, [OSError(errno.ESTALE, "Stale file handle")]

    def replace(source, target):
        if refusals:
            raise refusals.pop()
        real(source, target)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "replace", replace)
    atomic.write_bytes(tmp_path / "file", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_bytes() == b"content"


def test_a_rename_that_is_always_refused_keeps_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"before")

    def replace(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="cannot write .*file: .*Input/output error; what was there before is kept"):
        atomic.write_bytes(tmp_path / "file", b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_bytes() == b"before"


def test_a_new_folder_is_flushed_into_each_folder_above_it_that_is_new(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(atomic, "flush_folder", flushed.append)
    atomic.make_folder(tmp_path / "a" / "b")
    assert set(flushed) == {tmp_path, tmp_path / "a"}
    atomic.make_folder(tmp_path / "a" / "b")
    assert len(flushed) == 2


@pytest.mark.parametrize("call,code", [("open", errno.EACCES), ("fsync", errno.EINVAL), ("fsync", errno.ENOTSUP)])
def test_a_folder_that_cannot_be_flushed_is_made_and_written_to(tmp_path, monkeypatch, call, code):
    """One that may be written to and not listed, a mount that flushes files only: the run's folder "cannot be made", and was there."""
    original = getattr(os, call)

    def refuse(what, *rest):
        if (Path(what) if call == "open" else Path(os.readlink(f"/proc/self/fd/{what}"))).is_dir():
            raise OSError(code, os.strerror(code))
        return original(what, *rest)

    monkeypatch.setattr(os, call, refuse)
    atomic.make_folder(tmp_path / "a" / "b")
    atomic.write_bytes(tmp_path / "a" / "b" / "file", b"it")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"it"


def test_a_folder_that_the_disk_fails_to_flush_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        atomic.make_folder(tmp_path / "a")


def test_a_full_disk_is_named_by_torch_save_too(tmp_path):
    class Full:
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="cannot write .*No space left on device"):
        atomic.write_with(tmp_path / "state.pt", lambda _: torch.save({"x": torch.zeros(100)}, Full()))


def test_the_states_kept_are_ones_that_can_be_read(tmp_path):
    """Of a fall-back the unreadable state was kept as the newest, and the good one before it removed."""
    folder = record.RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    for step in (2, 4):
        folder.save_state({"step": step}, step)
    (folder.checkpoints / "state-00000006.pt").write_bytes(b"junk")
    assert folder.load_state() == {"step": 4}
    folder.save_state({"step": 5}, 5)
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["state-00000004.pt", "state-00000005.pt"]


def test_a_failure_is_told_where_even_it_cannot_be_kept(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "no failed.json")

    folder = record.RunFolder(tmp_path)
    monkeypatch.setattr(run_state, "note_failure", refuse)
    with pytest.raises(ValueError, match="the reason"), folder.claimed():
        raise ValueError("the reason")
