"""Runs: what is read of a folder, what is never averaged, and an index that changes nothing but the time."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pandas as pd
import pytest
from test_tables import cells, table, write_run

from ssl_bench import run_index
from ssl_bench.run_index import NAME, runs_under
from ssl_bench.runs import collect, read_runs_csv, write_runs_csv


@pytest.fixture
def settled(monkeypatch):
    monkeypatch.setattr(run_index, "SETTLED", -(10**18))  # the change time cannot be set back


def evaluate(folder: Path, rows: list[dict], **more) -> None:
    path = folder / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more, "evaluations": rows}))


def test_val_is_the_evaluation_that_held_out_images_choose(tmp_path):
    rows = [{"epoch": k, "step": k, "top1": t, "mean_class": m, "val_top1": vt, "val_mean_class": vm, "teacher_top1": 40.0 + k}
            for k, (t, m, vt, vm) in enumerate([(50.0, 30.0, 60.0, 71.0), (70.0, 40.0, 65.0, 70.0), (60.0, 80.0, 65.0, 71.0)])]  # fmt: skip
    evaluate(write_run(tmp_path), rows, num_val=20, processes=4, joules=7.5)
    (run,) = collect([tmp_path]).itertuples()
    assert (run.top1_val, run.mean_class_val, run.teacher_top1_val) == (70.0, 30.0, 41.0)  # the first of ties; the teacher by top-1
    assert (run.num_val, run.processes, run.joules) == (20, 4, 7.5)
    assert "best on held-out validation images" in table(tmp_path, select="val")


def test_without_held_out_images_val_is_missing_not_something_else(tmp_path):
    write_run(tmp_path)
    assert cells(table(tmp_path, select="val"))["fixmatch"] == ["–"] and "seed 0 without top1" in table(tmp_path, select="val")


def test_a_failed_run_is_said_to_have_failed_until_it_is_done(tmp_path):
    folder = write_run(tmp_path, top1=None)
    (folder / "failed.json").write_text('{"message": "out of memory", "exit_code": 1}')
    assert collect([tmp_path])["state"].tolist() == ["failed"] and "seed 0 failed" in table(tmp_path)
    (write_run(tmp_path, seed=1) / "failed.json").write_text("{}")
    assert collect([tmp_path])["state"].tolist() == ["failed", "done"]


def test_foreign_and_partial_folders_are_named_and_skipped(tmp_path, capsys):
    write_run(tmp_path, top1=(60.0,))
    for name, text in {"theirs": '{"lr": 0.1}', "list": "[]", "huge": '{"seed": ' + "9" * 30 + "}"}.items():
        (tmp_path / name).mkdir()
        for file in ("args.json", "result.json"):
            (tmp_path / name / file).write_text(text)
    write_run(tmp_path / "theirs", seed=5)  # inside it
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "result.json").write_text("{}")
    assert cells(table(tmp_path))["fixmatch"] == ["**60.0** (1)"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all("skipped" in line for line in lines)
    for name in ("theirs", "list", "huge", "half"):
        assert sum(str(tmp_path / name) in line for line in lines) == 1


def test_numbers_no_column_can_hold_and_half_characters_are_broken_not_a_crash(tmp_path, capsys):
    write_run(tmp_path, seed=0, top1=(60.0,))
    evaluate(write_run(tmp_path, seed=1), [{"epoch": 1, "step": 2**70, "top1": 50.0}])
    evaluate(write_run(tmp_path, seed=2), [{"epoch": 1, "step": 1, "top1": 50.0}], device="\ud800")
    evaluate(write_run(tmp_path, seed=3), [{"epoch": 1, "step": 1, "top1": 50.0}], minutes=float("inf"))
    assert cells(table(tmp_path))["fixmatch"] == ["**60.0** (1/4)"] and capsys.readouterr().err.count("counted as incomplete") == 3


def test_duplicates_are_named_and_counted_once(tmp_path, capsys):
    folder = write_run(tmp_path / "a", top1=(60.0,))
    shutil.copytree(folder, tmp_path / "b" / "copy")
    frame = collect([tmp_path, tmp_path / "a"])  # named twice on the command line is no duplicate
    (line,) = capsys.readouterr().err.splitlines()
    assert len(frame) == 1 and str(folder) in line and str(tmp_path / "b" / "copy") in line and "the same run" in line


def test_a_stage_inside_a_run_is_no_run(tmp_path):
    folder = write_run(tmp_path, "semi_vit", top1=(80.0,))
    shutil.copytree(write_run(tmp_path / "x", "semi_vit", epochs=3, top1=(20.0,)), folder / "finetune")
    shutil.rmtree(tmp_path / "x")
    assert cells(table(tmp_path))["semi_vit"] == ["**80.0** (1)"]


def change(top: Path, rng: random.Random, count: list[int]) -> None:
    """Something that happens to a folder of runs between two tables."""
    folders = sorted(path.parent for path in top.rglob("args.json"))
    folder = rng.choice(folders)
    match rng.randrange(8):
        case 0:
            count[0] += 1
            write_run(top, rng.choice("abc"), seed=count[0], top1=(rng.uniform(0, 100),))
        case 1:
            shutil.rmtree(folder)
            write_run(top, "d", seed=(count.append(0), len(count) + 1000)[1])
        case 2 if (folder / "result.json").exists() and (folder / "result.json").stat().st_size > 9:
            evaluate(folder, [{"epoch": 1, "step": 9, "top1": round(rng.uniform(10, 99), 1)}])  # as long as before, most often
            os.utime(folder / "result.json", ns=(0, rng.getrandbits(60)))  # a clock that ticks
        case 3:
            (folder / "result.json").unlink(missing_ok=True)
        case 4:
            (folder / "result.json").write_text("{")
        case 5:
            (folder / "failed.json").write_text("{}")
        case 6:
            (top / "old").mkdir(exist_ok=True)
            folder.rename(top / "old" / f"{folder.name}-{rng.random()}")
        case _:
            (folder / "args.json").write_bytes((folder / "args.json").read_bytes())


@pytest.mark.parametrize("seed", range(6))
def test_an_index_changes_nothing_but_the_time(seed, tmp_path, capsys, settled):
    rng, count = random.Random(seed), [0]
    for k in range(6):
        write_run(tmp_path, "abc"[k % 3], seed=100 + k, top1=(50.0 + k,))
    for _ in range(12):
        change(tmp_path, rng, count)
        plain, said = collect([tmp_path], index_from=0), capsys.readouterr().err
        pd.testing.assert_frame_equal(collect([tmp_path], index_from=1), plain, check_exact=True)
        assert sorted(capsys.readouterr().err.splitlines()) == sorted(said.splitlines()) and (tmp_path / NAME).is_file()


def test_a_run_known_from_the_index_is_not_read(tmp_path, settled, monkeypatch):
    for seed in range(3):
        write_run(tmp_path, seed=seed)
    plain = collect([tmp_path], index_from=1)
    index = (tmp_path / NAME).read_bytes()
    read = []
    monkeypatch.setattr(run_index, "read_run", lambda folder, names, texts_of: read.append(folder) or (None, []))
    pd.testing.assert_frame_equal(collect([tmp_path], index_from=1), plain)
    assert read == [] and (tmp_path / NAME).read_bytes() == index
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    assert len(collect([moved], index_from=1)) == 3 and read == []


@pytest.mark.parametrize("damage", ["empty", "cut", "byte", "foreign", "form", "code", "folder"])
def test_an_index_that_is_not_whole_ours_and_new_is_passed_over_and_written_anew(damage, tmp_path, settled):
    for seed in range(3):
        write_run(tmp_path, seed=seed)
    plain = collect([tmp_path], index_from=1)
    path = tmp_path / NAME
    good = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
        pd.testing.assert_frame_equal(collect([tmp_path], index_from=1), plain)
        return
    head, _, body = good.partition(b"\n")
    path.write_bytes({
        "empty": b"", "cut": good[:-40], "byte": good.replace(b"60.0", b"99.0", 1), "foreign": b"\x80\x04pickle",
        "form": json.dumps({**run_index._header(b"[]\n[1]\n")}).encode() + b"\n[]\n[1]\n",
        "code": json.dumps({**json.loads(head), "code": "0"}).encode() + b"\n" + body.replace(b"60.0", b"99.0"),
    }[damage])  # fmt: skip
    pd.testing.assert_frame_equal(collect([tmp_path], index_from=1), plain)
    assert path.read_bytes() == good


def test_few_runs_get_no_index_and_what_has_just_been_written_is_in_none(tmp_path):
    write_run(tmp_path)
    collect([tmp_path])
    assert not (tmp_path / NAME).exists()
    collect([tmp_path], index_from=1)
    assert not (tmp_path / NAME).exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_only_be_read(tmp_path, settled):
    write_run(tmp_path)
    tmp_path.chmod(0o500)
    assert len(runs_under(str(tmp_path), print, 1)) == 1


def test_an_index_that_cannot_be_written_is_no_error(tmp_path, settled, monkeypatch):
    write_run(tmp_path)

    def full(path: Path, content: bytes) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(run_index, "write_bytes", full)
    assert len(collect([tmp_path], index_from=1)) == 1 and not (tmp_path / NAME).exists()


def test_the_new_columns_survive_runs_csv(tmp_path):
    evaluate(write_run(tmp_path), [{"epoch": 1, "step": 1, "top1": 100 / 3, "val_top1": 5.0}], num_val=3, processes=2, joules=0.1)
    write_run(tmp_path, seed=1, top1=None)
    frame = collect([tmp_path])
    write_runs_csv(frame, tmp_path / "runs.csv")
    pd.testing.assert_frame_equal(read_runs_csv(tmp_path / "runs.csv"), frame, check_exact=True)
