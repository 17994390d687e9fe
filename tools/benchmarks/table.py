"""Run folders -> table, against the floor of reading and parsing the same files."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Options, seconds

from ssl_bench import runs, table

EVIDENCE = Path(__file__).resolve().parents[2] / "results" / "digits"
METHODS = ("erm", "fixmatch", "mean_teacher", "pseudo_label")


def run(options: Options) -> dict[str, Any]:
    """A: what `ssl-bench table` does; B: `json.loads` of the same args.json and result.json."""
    rows = []
    for count in (20,) if options.tiny else (1_000, 10_000):
        case = f"{count:,} run folders"
        if options.wants(case):
            with tempfile.TemporaryDirectory() as folder:
                files = make_runs(Path(folder), count)
                a = ("ssl-bench table", seconds(lambda: ours(Path(folder))))
                b = ("json.loads of the same files", seconds(lambda: parse(files)))
                rounds = options.rounds_or(5 if count < 5_000 else 3)
                rows.append(harness.compare(case, a, b, rounds=rounds, ratio="a/b", unit="s", work=(count, "runs")))
    return harness.report("table", rows, options)


def ours(folder: Path) -> str:
    """The github table of every run under `folder`."""
    return table.render(table.summarize(runs.collect([folder])))


def parse(files: list[Path]) -> list[Any]:
    return [json.loads(path.read_bytes()) for path in files]


def make_runs(folder: Path, count: int) -> list[Path]:
    """`count` copies of committed runs under new seeds; returns their JSON files."""
    sources = {method: sorted((EVIDENCE / method).rglob("result.json"))[0].parent for method in METHODS}
    files = []
    for k in range(count):
        method, seed = METHODS[k % len(METHODS)], k // len(METHODS)
        source = sources[method]
        target = folder / method / "Digits" / "4x" / f"{seed}-{k:08x}"
        target.mkdir(parents=True)
        for name in ("args.json", "result.json"):
            body = json.loads((source / name).read_bytes())
            body["seed"] = seed
            body["args"]["seed"] = seed
            (target / name).write_text(json.dumps(body))
            files.append(target / name)
        shutil.copyfile(source / "metrics.jsonl", target / "metrics.jsonl")
    return files
