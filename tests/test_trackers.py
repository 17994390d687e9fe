"""TensorBoard and Weights & Biases get a run's numbers; what fails there costs a line, and no training."""

from __future__ import annotations

import json
import math
import socket
import struct
from pathlib import Path

import pytest
from conftest import TINY, only_run

from ssl_bench import catalog, launch, trackers
from ssl_bench.progress import Progress
from ssl_bench.record import read_jsonl
from ssl_bench.trackers import TensorBoard, WandB


class Memory:
    name = "memory"

    def __init__(self) -> None:
        self.rows, self.summary = [], None

    def log(self, values, step) -> None:
        self.rows.append((step, dict(values)))

    def close(self, summary) -> None:
        self.summary = dict(summary)


class Broken(Memory):
    name = "broken"

    def log(self, values, step) -> None:
        raise RuntimeError("no space\nleft on device")


def train(log: Path, *flags: str) -> tuple[int, Path]:
    code = launch.run_command(catalog.load_method("erm"), [*TINY, "--log", str(log), *flags])
    return code, only_run(log)


def test_a_run_tells_its_trackers_what_metrics_jsonl_says(tmp_path, monkeypatch):
    memory = Memory()
    monkeypatch.setattr("ssl_bench.trainer.chosen", lambda *_: [memory])
    code, folder = train(tmp_path / "runs")
    assert code == 0
    rows = read_jsonl(folder / "metrics.jsonl")
    want = [{f"test/{key}" if row["kind"] == "test" else key: row[key] for key in row.keys() - {"step", "epoch", "kind"}} for row in rows]
    assert [(row["step"]) for row in rows] == [step for step, _ in memory.rows]
    for (_, got), values in zip(memory.rows, want, strict=True):
        assert {k: v for k, v in got.items() if not math.isnan(v)} == {k: v for k, v in values.items() if v is not None}
    tops = [row["top1"] for row in json.loads((folder / "result.json").read_text())["evaluations"]]
    assert memory.summary == {"last_top1": tops[-1], "best_top1": max(tops)}


def test_a_tracker_that_fails_costs_one_line(capsys):
    broken, memory = Broken(), Memory()
    progress = Progress("title", 10, 0, [broken, memory])
    for step in (1, 2):
        progress.losses(0, step, 10, step, 1.0, 1.0, {"loss": 0.5})
    progress.close({"last_top1": 1.0})
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "broken gets no more of this run: no space left on device; metrics.jsonl has all of it" in err
    assert len(memory.rows) == 2 and memory.summary == {"last_top1": 1.0} and broken.summary is None


def test_tensorboard_reads_it_back_and_a_continued_run_drops_what_came_after(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoard(tmp_path, 0)
    for step in (1, 2, 3):
        first.log({"loss": step}, step)
    first.close({})
    again = TensorBoard(tmp_path, 1)
    again.log({"loss": 20}, 2)
    again.close({"last_top1": 50.0})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1), (2, 20)]
    assert [event.value for event in events.Scalars("last_top1")] == [50.0]


def read_wandb(file: Path) -> list:
    """The records of a .wandb file: LevelDB's log format after 7 bytes of header, blocks of 32 KiB, parts (crc, length, type)."""
    from wandb.proto import wandb_internal_pb2

    body, at, whole, records = file.read_bytes(), 7, b"", []
    while at < len(body):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        length, kind = struct.unpack_from("<HB", body, at + 4)
        whole += body[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            records.append(record)
            whole = b""
    return records


@pytest.fixture
def offline(monkeypatch):
    """W&B as a machine without network runs it; a connection to elsewhere fails the test."""
    connect, elsewhere = socket.socket.connect, []

    def local_only(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            elsewhere.append(address)
            raise OSError(f"a connection to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    assert not elsewhere


@pytest.mark.slow
def test_wandb_offline_for_real(tmp_path, offline):
    code, folder = train(tmp_path / "runs", "--wandb", "--wandb-project", "mine")
    assert code == 0
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    records = read_wandb(file)
    (run,) = [record.run for record in records if record.HasField("run")]
    assert run.project == "mine" and run.run_id == json.loads((folder / "args.json").read_text())["args_hash"]
    assert run.display_name == "/".join(folder.parts[-4:])
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["method"] == "erm" and config["lr"] == 0.01
    history = [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item} for record in records if record.HasField("history")]
    got = [(row["step"], row["test/top1"]) for row in history if "test/top1" in row]
    result = json.loads((folder / "result.json").read_text())
    assert got == [(row["step"], row["top1"]) for row in result["evaluations"]]
    summary = {item.key: json.loads(item.value_json) for record in records if record.HasField("summary") for item in record.summary.update}
    assert summary["last_top1"] == result["evaluations"][-1]["top1"] and "best_top1" in summary


def test_wandb_without_a_key_is_one_warning(tmp_path, monkeypatch, capsys):
    import wandb

    def refuse(**_):
        raise wandb.errors.UsageError("api_key not configured (no-tty). call wandb.login(key=[your_api_key])")

    monkeypatch.setattr(wandb, "init", refuse)
    code, folder = train(tmp_path / "runs", "--wandb")
    err = capsys.readouterr().err
    assert code == 0 and err.count("\n") == 1 and "Weights & Biases gets no more of this run: api_key not configured" in err


def test_a_continued_run_has_the_same_identifier(tmp_path, monkeypatch):
    import wandb

    given = []
    monkeypatch.setattr(wandb, "init", lambda **kwargs: given.append(kwargs) or pytest.fail("stop here"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for _ in range(2):
        with pytest.raises(pytest.fail.Exception):
            WandB(tmp_path, "p", "abc", {})
    assert {(kwargs["id"], kwargs["resume"]) for kwargs in given} == {("abc", "allow")}


@pytest.mark.parametrize("name", trackers.PACKAGES)
def test_a_missing_package_is_one_line_before_anything_is_read(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda wanted: None)
    log = tmp_path / "runs"
    assert launch.run_command(catalog.load_method("erm"), [*TINY, "--log", str(log), f"--{name}"]) == 1
    assert f'--{name} needs' in (err := capsys.readouterr().err) and f'pip install "ssl-bench[{name}]"' in err and not log.exists()


def test_trackers_do_not_make_another_run():
    from conftest import resolved

    from ssl_bench.record import args_hash

    assert args_hash("erm", resolved("erm")) == args_hash("erm", resolved("erm", "--wandb", "--wandb-project", "x", "--tensorboard"))
