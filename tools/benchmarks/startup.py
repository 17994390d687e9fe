"""From the start of the process: to the end of the first FixMatch step, and to the printed help."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from typing import Any

from benchmarks import harness
from benchmarks.harness import Options, seconds
from benchmarks.loops import WRN
from benchmarks.step import TINY

IMPORT = "import torch, torchvision, timm"


def run(options: Options) -> dict[str, Any]:
    """Each round starts processes of its own; B is the floor: a process that only imports what the network needs."""
    threads = 1 if options.tiny else options.threads or 2
    rounds = options.rounds_or(7)
    rows = []
    with tempfile.TemporaryDirectory() as log, harness.threads(threads):
        ours, floor = (f"import torch; torch.set_num_threads({threads})\n{code}" for code in (_first_step(options, log), IMPORT))
        cases = {
            "process start to the end of the first FixMatch step, WRN-28-2, B 16, mu 7": (ours, floor, "<= 6"),
            "ssl-bench --help": ("from ssl_bench.cli import main; main(['--help'])", "pass", "<= 1"),
        }
        for case, (code, bare, goal) in cases.items():
            if not options.wants(case):
                continue
            names = ("the suite", "python, importing torch, torchvision and timm" if bare is floor else "python alone")
            a, b = ((name, seconds(partial(python, text))) for name, text in zip(names, (code, bare), strict=True))
            row = harness.compare(case, a, b, rounds=rounds, ratio="a/b", unit="s")
            row |= {"goal": f"{goal} s of A", "met": row["a_values"]["median"] <= float(goal.split()[1])}
            rows.append(row)
    return harness.report("startup", rows, options)


def python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def _first_step(options: Options, log: str) -> str:
    """A whole `ssl-bench fixmatch` up to the end of its first update: digits, so that no time goes to a data set."""
    flags = [*(TINY if options.tiny else WRN), "--scratch", "--device", "cpu", "--log", log]
    return f"""
from ssl_bench import catalog, launch
from ssl_bench.trainer import Trainer
update = Trainer.update
def first(self, batch):
    update(self, batch)
    raise SystemExit(0)
Trainer.update = first
launch.run_command(catalog.load_method("fixmatch"), {flags!r})
raise AssertionError("no step was made")
"""
