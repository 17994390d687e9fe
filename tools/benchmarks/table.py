"""Run folders -> table, against the floor of reading and parsing the same files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Options, seconds

from ssl_bench import runs, tables

EVIDENCE = Path(__file__).resolve().parents[2] / "results" / "digits"
METHODS = ("erm", "fixmatch", "mean_teacher", "pseudo_label")


def run(options: Options) -> dict[str, Any]:
    """A: what `ssl-bench table` does, without an index and with one; B: `json.loads` of the same args.json and result.json.

    Memory: the largest resident size of a process of its own that does A, imports included.
    """
    rows = []
    for count in (20,) if options.tiny else (1_000, 10_000):
        large = count == 10_000
        names = {form: f"{count:,} run folders, {form}" for form in ("cold", "warm", "memory")}
        if not any(map(options.wants, names.values())):
            continue
        with tempfile.TemporaryDirectory() as folder:
            files = make_runs(Path(folder), count)
            rounds = options.rounds_or(5)
            b = ("json.loads of the same files", seconds(partial(parse, files)))
            for form, index_from, goal in (("cold", 0, "<= 3"), ("warm", 1, "<= 1")):
                if options.wants(names[form]):
                    if form == "warm":
                        time.sleep(2.5)  # what has just been written is not indexed
                        ours(Path(folder), 1)
                    a = (f"table, {'no index' if form == 'cold' else 'index'}", seconds(partial(ours, Path(folder), index_from)))
                    row = harness.compare(names[form], a, b, rounds=rounds, ratio="a/b", unit="s", work=(count, "runs"))
                    median = row["a_values"]["median"]
                    rows.append(row | ({"goal": f"{goal} s", "met": median <= float(goal.split()[1])} if large else {}))
            if options.wants(names["memory"]):
                peaks = [peak(f"from ssl_bench import runs, tables; tables.render(tables.summarize(runs.collect([{folder!r}], {k})))") for k in (0, 1)]
                rows.append(harness.figure(names["memory"], [max(peaks)], unit="MiB", goal="<= 500" if large else "", of="the whole process"))
    return harness.report("table", rows, options)


def ours(folder: Path, index_from: int) -> str:
    """The github table of every run under `folder`."""
    return tables.render(tables.summarize(runs.collect([folder], index_from)))


def peak(code: str) -> float:
    """MiB of a process that runs `code`; its ru_maxrss would be that of this process, from which it is forked."""
    code += "; print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout) / 1024


def parse(files: list[Path]) -> list[Any]:
    return [json.loads(path.read_bytes()) for path in files]


def make_runs(folder: Path, count: int) -> list[Path]:
    """`count` runs, copies of committed ones under other data sets, labels per class and seeds; returns their JSON files."""
    sources = {method: sorted((EVIDENCE / method).rglob("result.json"))[0].parent for method in METHODS}
    bodies = {(method, name): (source / name).read_text(encoding="utf-8") for method, source in sources.items() for name in ("args.json", "result.json")}
    files = []
    for k in range(count):
        method, data, labels, seed = METHODS[k % 4], f"Set{k // 4 % 10}", (1, 2, 4, 10, 25)[k // 40 % 5], k // 200
        target = folder / method / data / f"{labels}x" / f"{seed}-{k:012x}"
        target.mkdir(parents=True)
        for name in ("args.json", "result.json"):
            body = json.loads(bodies[method, name])
            body |= {"args_hash": f"{k:012x}"} | ({"seed": seed, "data": data, "labels_per_class": labels} if name == "result.json" else {})
            body["args"] |= {"seed": seed, "data": data, "num_samples_per_class": labels}
            (target / name).write_text(json.dumps(body, indent=1), encoding="utf-8")
            files.append(target / name)
        shutil.copyfile(sources[method] / "metrics.jsonl", target / "metrics.jsonl")
    return files
