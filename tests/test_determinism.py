"""On a CPU a run is a function of its arguments: whatever the process, its hash seed, its workers, how they start, and the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LIVE, TINY
from fresh import trained
from test_cache import make_folder

FRESH = Path(__file__).parent / "fresh.py"


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_folder(tmp_path / "data")


def jobs(settings: list[tuple[str, int, str]], folder: Path, name: str, key: str, *more: str) -> list:
    """One run of method `name` for each (start method, workers, cache)."""
    common = [*TINY, *LIVE[name], "--scratch", "--image-size", "16", "--train-resizing", "default", "--num-samples-per-class", "2", *more]
    made = []
    for start, workers, cache in settings:
        log = folder.parent / f"{key}-{start}-{workers}-{cache}"
        where = ["--workers", str(workers), "--cache", cache, "--cache-dir", str(log / "cache"), "--log", str(log)]
        made.append([start, name, [str(folder), "-d", "ImageFolder", *common, *where]])
    return made


def fresh(hash_seed: int, runs: list, folder: Path) -> list[list[dict]]:
    """What a new process makes of `runs`."""
    done = subprocess.run(
        [sys.executable, FRESH, json.dumps(runs)], env=dict(os.environ, PYTHONHASHSEED=str(hash_seed), OMP_NUM_THREADS="1"),
        cwd=folder.parent, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("RESULTS ")[2])


def check_all_equal(results: list[list[dict]]) -> None:
    assert results[0] and all(stage["batches"] and stage["weights"] for stage in results[0])
    assert all([stage["batches"] for stage in run] == [stage["batches"] for stage in results[0]] for run in results)
    assert all(run == results[0] for run in results)


@pytest.mark.slow
def test_another_process_hash_seed_worker_count_and_a_cache_change_nothing_and_another_seed_does(folder):
    other = [*jobs([("fork", 2, "disk")], folder, "flexmatch", "a"), *jobs([("fork", 0, "none")], folder, "flexmatch", "b", "--seed", "1")]
    here = trained(jobs([("fork", 0, "none")], folder, "flexmatch", "c"))
    same, seed_1 = fresh(1, other, folder)
    check_all_equal([*here, same])
    assert all(here[0][0][what] != seed_1[0][what] for what in ("batches", "weights"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flexmatch", "semi_vit", "mean_teacher"])
def test_workers_starts_caches_and_processes_change_nothing(folder, name):
    forked = [("fork", workers, cache) for cache in ("none", "ram") for workers in (0, 1, 2, 4)]
    results = fresh(1, jobs(forked, folder, name, "a"), folder)
    spawned = [("spawn", 1, "none"), ("spawn", 4, "none"), ("spawn", 2, "disk"), ("forkserver", 2, "none")]
    check_all_equal(results + fresh(12345, jobs(spawned, folder, name, "b"), folder))
