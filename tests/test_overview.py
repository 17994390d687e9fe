"""What is said of a study while it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_bench import overview, plan


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(overview.time, "perf_counter", lambda: now[0])
    return now


def runs(folder: Path, count: int) -> list[plan.Run]:
    return [plan.Run("erm", (), folder / f"r{i}", "Digits", 100) for i in range(count)]


def test_what_failed_or_was_trained_elsewhere_is_neither_work_done_nor_left(tmp_path, clock, capsys):
    eight = runs(tmp_path, 8)
    live = overview.Live(eight, terminal=False)
    for run, code in zip(eight, (1, 1, 75, 0), strict=False):  # the last was done already
        live.show(plan.Event(run, "ended", code))
    assert "left" not in capsys.readouterr().out
    clock[0] = 60
    live.show(plan.Event(eight[4], "ended", 0, 60.0))
    assert "about 3.0 min left" in capsys.readouterr().out  # three more of a minute each
    eight[5].folder.mkdir()
    (eight[5].folder / "metrics.jsonl").write_text('{"step": 50, "kind": "train"}\n')
    live.show(plan.Event(eight[5], "running"))
    clock[0] = 90
    live.show(plan.Event(eight[5], "ended", 1, 30.0))
    assert "about 2.0 min left" in capsys.readouterr().out
    live.close()
