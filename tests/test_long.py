"""Long runs: nothing grows, not memory, not the time of a step, not the logs.  A million steps: tests/long_run.py."""

from __future__ import annotations

import json

import long_run
import pytest
from conftest import LIVE, TINY

from ssl_bench import catalog, progress, record
from ssl_bench.progress import print_interval
from ssl_bench.record import RunFolder

MEASURED = [long_run.Sample(step, step * 1e-3, 10**9, 1_000, 0.005) for step in range(0, 1_001, 10)]
FILES = {"metrics.jsonl": 30_000, "checkpoints/state-00000900.pt": 1, "checkpoints/state-00001000.pt": 1}


def grown(samples=MEASURED, files=FILES, log_bytes=0) -> list[str]:
    return long_run.grown(long_run.Measured(samples, 1_000, 1, 1.0, log_bytes, files), most_rows=100)


def test_what_grows_is_seen():
    """The check itself can fail: 8 MiB, 2,000 objects, a step that doubles, logs and checkpoints that pile up."""
    assert grown() == []
    leak = [long_run.Sample(s.step, s.cpu_seconds, s.resident + s.step * 8_192, s.objects + 2 * s.step, 0.005) for s in MEASURED]
    assert len(grown(leak)) == 2
    slower = [long_run.Sample(s.step, s.step * 1e-3 + s.step**2 * 1e-6, s.resident, s.objects, 0.005) for s in MEASURED]
    (line,) = grown(slower)
    assert line.startswith("a step took")
    # A machine on which everything takes twice as long in the second half is no run that slows down.
    busy = [long_run.Sample(s.step, s.step * 1e-3 + max(0, s.step - 500) * 1e-3, s.resident, s.objects, 0.01 if s.step > 500 else 0.005) for s in MEASURED]
    assert grown(busy) == []
    assert "pile up" in grown(files=FILES | {"checkpoints/state-00000800.pt": 1})[0]
    assert "metrics.jsonl" in grown(files=FILES | {"metrics.jsonl": 10**6})[0] and "printed" in grown(log_bytes=10**6)[0]


def test_print_freq_asks_for_a_hundred_thousand_lines_at_most(capsys):
    assert print_interval(100, 1_000_000) == 100 and print_interval(1, 100_000) == 1 and not capsys.readouterr().out
    assert print_interval(1, 1_000_000) == 10 and print_interval(3, 100_001) == 3
    assert capsys.readouterr().out.startswith("note: 1,000,000 steps: a line every 10 of them, not every 1 (--print-freq), which may ask for 100,000 at most\n")


@pytest.mark.slow
def test_the_limit_of_lines_is_kept_by_the_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "MOST_ROWS", 20)
    measured = long_run.measure(long_run.Cheap, [*long_run.FLAGS, "--print-freq", "1"], 200, 100, tmp_path, own_batches=False)
    (file,) = tmp_path.rglob("metrics.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(10, 201, 10)) and measured.steps == 200
    assert sum(row["kind"] == "test" for row in rows) == 2


def test_states_are_ordered_by_step_whatever_its_digits(tmp_path):
    """By name, step 100,000,000 would come before 99,999,999, and be removed as the older one."""
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    for step in (99_999_998, 99_999_999, 100_000_000):
        run.save_state({"step": step}, step)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["state-100000000.pt", "state-99999999.pt"]
    assert run.load_state() == {"step": 100_000_000} and record.KEPT_STATES == 2


@pytest.mark.slow
def test_twenty_thousand_steps(tmp_path):
    measured = long_run.measure(long_run.Cheap, long_run.FLAGS, 20_000, 1_000, tmp_path, own_batches=False)
    print(long_run.described(measured))
    assert long_run.grown(measured, most_rows=200, most_slower=1.5) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flexmatch", "self_tuning", "debiasmatch"])
def test_methods_with_a_memory_do_not_grow(name, tmp_path):
    """Their own batches, streams and memories; a step of the small network is that of the loop."""
    flags = [*TINY, *LIVE[name], "--print-freq", "100", "--eval-batch-size", "500", "--batch-size", "4"]
    measured = long_run.measure(catalog.load_method(name), flags, 400, 100, tmp_path)
    print(long_run.described(measured))
    assert long_run.grown(measured, most_rows=20, most_mib=12.0, most_slower=1.5) == []
