"""Start a few processes as torchrun does (gloo, CPU), each with the same list of jobs; used by test_distributed.py and test_parallel.py.

As a script: ``ranks.py JOBS`` with JOBS a JSON list of [function of this file, arguments].
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def start(world: int, jobs: list, cwd: Path) -> list[subprocess.Popen]:
    """The processes, running."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = dict(os.environ, WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    shared["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return [
        subprocess.Popen(
            [sys.executable, str(HERE / "ranks.py"), json.dumps(jobs)], env=dict(shared, RANK=str(rank), LOCAL_RANK=str(rank)), cwd=cwd,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip


def wait(processes: list[subprocess.Popen], timeout: float = 600) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each."""
    try:
        texts = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


def run(world: int, jobs: list, cwd: Path, timeout: float = 600) -> list[str]:
    """The standard output of each process; AssertionError with the standard errors if one failed."""
    ended = wait(start(world, jobs, cwd), timeout)
    assert all(code == 0 for code, _, _ in ended), "\n".join(error[-3000:] for _, _, error in ended)
    return [output for _, output, _ in ended]


# Jobs


def command(name: str, argv: list[str]) -> None:
    """One method's command line, which must succeed."""
    from ssl_bench import catalog, launch

    assert launch.run_command(catalog.load_method(name), argv) == 0, argv


def last_command(name: str, argv: list[str]) -> None:
    """One method's command line; the process ends with its exit code."""
    from ssl_bench import catalog, launch

    sys.exit(launch.run_command(catalog.load_method(name), argv))


def gradients(calls: list[list[int]], bucket_bytes: int) -> None:
    """Print, for each step, the averaged gradients of three weights; a step makes one backward for each entry of `calls`, over
    the weights whose number it has not left out (0: all, 1: without the first)."""
    import torch

    from ssl_bench import distributed
    from ssl_bench.parallel import GradientMean

    weights = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(5))]
    mean = GradientMean([torch.optim.SGD(weights, lr=1.0)], bucket_bytes)
    result = []
    for step, terms in enumerate(calls):
        for weight in weights:
            weight.grad = None
        for first in terms:
            mean.before_backward()
            sum((distributed.rank() + 1) * (step + 1) * (i + 1) * w.sum() for i, w in enumerate(weights) if i >= first).backward()
        mean.finish()
        result.append([None if w.grad is None else w.grad.unique().tolist() for w in weights])
    print(json.dumps({"buckets": [len(bucket) for bucket in mean.buckets], "gradients": result}))


def batch_norm() -> None:
    """Print a BatchNorm's statistics before and after they are averaged, and a buffer of another module."""
    import torch

    from ssl_bench import distributed
    from ssl_bench.parallel import average_batch_norm

    net = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(3, track_running_stats=False))
    net.register_buffer("queue", torch.tensor([float(distributed.rank())]))
    for i, norm in enumerate(net[:2]):
        norm.running_mean += distributed.rank() + i
        norm.running_var *= 1 + 2 * distributed.rank()
    average_batch_norm(net)
    print(json.dumps({key: value.tolist() for key, value in net.state_dict().items() if "running" in key or key == "queue"}))


def reductions() -> None:
    """Print what each collective of ssl_bench.distributed gives."""
    import torch

    from ssl_bench import distributed
    from ssl_bench.metrics import RunningMeans

    rank = distributed.rank()
    means = RunningMeans()
    means.add({"a": torch.tensor(float(rank)), "b": torch.tensor(float("nan") if rank else 3.0)})
    vote = distributed.Vote()
    votes = [vote.cast(15 if rank == 1 and step == 1 else 0) for step in range(4)]
    vote.close()
    print(json.dumps({
        "sum": distributed.sum_(torch.tensor([1.0, rank])).tolist(), "mean": distributed.mean_(torch.tensor([1.0, rank])).tolist(),
        "minimum": distributed.minimum_(torch.tensor([5, rank])).tolist(), "agree": distributed.agree(f"process {rank}"),
        "votes": votes, "means": means.pop(),
        "rows": distributed.gather_rows(distributed.take_rows(torch.arange(8)[rank::2, None] * 10, torch.tensor([7, 0, 0, 3, 2, 5, 4, 1])))[:, 0].tolist(),
    }))  # fmt: skip


def some_images(n: int):
    """The first n test images of the digits."""
    import numpy as np

    from ssl_bench import zoo

    return zoo.load("Digits", None).test.take(np.arange(n))


def network():
    """A linear classifier of 8x8 images, fixed."""
    import torch

    weight = torch.randn(10, 3 * 8 * 8, generator=torch.Generator().manual_seed(0)) / 10
    return lambda x: x.flatten(1) @ weight.T


def stream(images, batch_size: int):
    """Its evaluation stream."""
    import torch

    from ssl_bench.augment.views import build_view
    from ssl_bench.evaluate import evaluation_stream

    view = build_view("test", image_size=8, resizing="cifar", mean=(0.5,) * 3, std=(0.5,) * 3)
    return evaluation_stream(images, view, torch.device("cpu"), batch_size=batch_size)


def logits_of(pixels):
    """(N, 10) float64 of grey pixels (N, 1, 8, 8), in NumPy."""
    import numpy as np
    import torch

    weight = (torch.randn(10, 3 * 8 * 8, generator=torch.Generator().manual_seed(0)) / 10).double().numpy()
    x = (pixels.numpy().astype(np.float64) / 255 - 0.5) / 0.5
    return np.tile(x, (1, 3, 1, 1)).reshape(len(x), -1) @ weight.T


def figures(n: int, batch_size: int) -> dict:
    """What an evaluation gives, and the labels it noted."""
    import torch

    from ssl_bench.evaluate import Answers, evaluate

    answers = Answers(n, torch.device("cpu"))
    row = evaluate(network(), stream(some_images(n), batch_size), 10, answers)
    arrays = answers.arrays()
    return row | {"labels": [arrays[key].tolist() for key in ("target", "prediction")]}


def evaluation(sizes: list[list[int]]) -> None:
    """Print the figures of each (images, batch size)."""
    print(json.dumps([figures(*size) for size in sizes]))


def main() -> None:
    import torch

    from ssl_bench import distributed

    torch.set_num_threads(1)
    with distributed.process_group(torch.device("cpu")):
        for function, arguments in json.loads(sys.argv[1]):
            globals()[function](*arguments)


if __name__ == "__main__":
    main()
