"""Peak memory of one loop in a process of its own: `python -m benchmarks.memory suite|bare METHOD DEVICE STEPS FLAGS...`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmarks.loops import bare_loop, setup, suite_loop

from ssl_bench.placement import peak_memory


def peak_in_a_process(which: str, method: str, device: torch.device, flags: Sequence[str], steps: int) -> float:
    """Peak MiB of `steps` updates of `method`: of the process on a CPU, of the allocator on a CUDA device."""
    argv = [sys.executable, "-m", "benchmarks.memory", which, method, str(device), str(steps), *flags]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", check=True, cwd=Path(__file__).parent.parent)
    return float(done.stdout.split()[-1])


def main(argv: Sequence[str]) -> None:
    which, method, name, steps, *flags = argv
    device = torch.device(name)
    update = {"suite": suite_loop, "bare": bare_loop}[which](setup(method, flags, device))
    for _ in range(int(steps)):
        update()
    print(peak_memory(device) / 2**20)


if __name__ == "__main__":
    main(sys.argv[1:])
