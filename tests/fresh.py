"""Trains runs and tells what each was: the positions of every batch's images, and a hash of every tensor it ended with.

As a script, for a process of its own: ``fresh.py JOBS`` with JOBS a JSON list of [start method of workers, method, arguments].
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
from unittest import mock


def trained(jobs: list[tuple[str, str, list[str]]]) -> list[list[dict]]:
    """Of each job what each of its stages was: batches and weights."""
    from ssl_bench import catalog, launch, trainer

    results: list[list[dict]] = []
    stages: list[dict] = []
    seen: list[list[int]] = []
    update = trainer.Trainer.update

    def recorded(self, batch) -> None:
        seen.append([*batch.y_l.tolist(), *batch.idx_u.tolist()])
        update(self, batch)
        if self.step == self.total_steps:
            tensors = sorted(self.method.state_dict().items())
            digest = hashlib.sha256(b"".join(name.encode() + value.contiguous().numpy().tobytes() for name, value in tensors)).hexdigest()
            stages.append({"batches": list(seen), "weights": digest})
            seen.clear()

    before = multiprocessing.get_start_method()
    with mock.patch.object(trainer.Trainer, "update", recorded), mock.patch.object(os, "cpu_count", lambda: 4):  # as many workers as are asked for
        try:
            for start, name, argv in jobs:
                multiprocessing.set_start_method(start, force=True)
                assert launch.run_command(catalog.load_method(name), argv) == 0, argv
                results.append(list(stages))
                stages.clear()
        finally:
            multiprocessing.set_start_method(before, force=True)
    return results


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    print("RESULTS " + json.dumps(trained(json.loads(sys.argv[1]))))
