"""What the suite costs over a bare hand-written loop, as ratios from one run; and how fast it starts.

    python tools/bench_loop.py step      suite step / bare step, ERM on digits, interleaved
    python tools/bench_loop.py memory    peak memory of a suite run / of a bare loop, a process each
    python tools/bench_loop.py startup   seconds: ssl-bench --help; import to first training step

Both loops run the same network on the same views; the bare one draws its indices with torch.randint, calls the two views,
and steps SGD.  --json FILE also writes the figures.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

FLAGS = {
    "cnn": [],
    "wide": ["--arch", "resnet18", "--image-size", "32", "--bottleneck-dim", "1024"],
}


def suite_loop(flags: list[str]) -> Callable[[], None]:
    """One update of the suite's ERM per call."""
    import torch

    from ssl_bench import launch
    from ssl_bench.trainer import Trainer, training_batches

    erm, args, pools = _task(flags)
    device = torch.device("cpu")
    method = launch.build(erm, args, pools, pretrained=False).train()
    trainer = Trainer(method, args, device)
    batches = training_batches(method, pools, args, device, 0)
    return lambda: trainer.update(next(batches))


def bare_loop(flags: list[str]) -> Callable[[], None]:
    """One update per call of what a person would write by hand for the same network and views."""
    import torch
    import torch.nn.functional as F

    from ssl_bench import launch
    from ssl_bench.trainer import training_views

    erm, args, pools = _task(flags)
    model = launch.build(erm, args, pools, pretrained=False).model.train()
    weak, strong = training_views(("weak", "strong"), args)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, nesterov=True, weight_decay=args.wd)
    pixels, targets = pools.labeled.pixels, torch.from_numpy(pools.labeled.targets)
    generator = torch.Generator().manual_seed(0)

    def update() -> None:
        index = torch.randint(len(targets), (args.batch_size,), generator=generator)
        x, y = pixels[index].expand(-1, 3, -1, -1), targets[index]
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(weak(x, generator)), y)
        loss = loss + args.trade_off_cls_strong * F.cross_entropy(model(strong(x, generator)), y)
        loss.backward()
        optimizer.step()

    update.model, update.test = model, pools.test
    return update


def _task(flags: list[str]):
    from ssl_bench import catalog, launch, zoo
    from ssl_bench.pools import make_pools

    erm = catalog.load_method("erm")
    args, _ = launch.resolve(erm, flags)
    return erm, args, make_pools(zoo.load("Digits", None), 4, 0)


def step(rounds: int = 31, steps: int = 8) -> dict:
    """Median over rounds of (suite seconds / bare seconds), the two in turn."""
    figures = {}
    for name, flags in FLAGS.items():
        suite, bare = suite_loop(flags), bare_loop(flags)
        for warm in (suite, bare) * 3:
            warm()
        pairs = [(_seconds(suite, steps), _seconds(bare, steps)) for _ in range(rounds)]
        ratios = sorted(a / b for a, b in pairs)
        quarter = len(ratios) // 4
        figures[name] = {
            "suite_ms": 1e3 * statistics.median(a for a, _ in pairs) / steps,
            "bare_ms": 1e3 * statistics.median(b for _, b in pairs) / steps,
            "ratio": statistics.median(ratios), "quartiles": [ratios[quarter], ratios[-1 - quarter]],
        }  # fmt: skip
    return figures


def _seconds(function: Callable[[], None], steps: int) -> float:
    begun = time.perf_counter()
    for _ in range(steps):
        function()
    return time.perf_counter() - begun


def memory() -> dict:
    """Peak resident memory, MiB: a whole suite run (with evaluation and checkpoints) and a bare loop that also evaluates, each
    in a process of its own; medians of three."""
    head = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nimport bench_loop\n"
    codes = {"suite": head + "bench_loop.whole_run()", "bare": head + "bench_loop.bare_run()"}
    figures = {}
    for which, code in codes.items():
        outputs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(3)]
        figures[f"{which}_mib"] = statistics.median(float(output.split()[-1]) for output in outputs)
    return {**figures, "ratio": figures["suite_mib"] / figures["bare_mib"]}


def whole_run() -> None:
    """`ssl-bench erm` on digits with a ResNet-18, and this process's peak memory."""
    import tempfile

    from ssl_bench import catalog, launch

    with tempfile.TemporaryDirectory() as log:
        flags = [*FLAGS["wide"], "--epochs", "1", "--iters-per-epoch", "30", "--log", log]
        assert launch.run_command(catalog.load_method("erm"), flags) == 0
    print(peak())


def bare_run() -> None:
    """The same by hand: 30 updates, then the test set in batches of 256."""
    import torch

    from ssl_bench.trainer import test_view

    update = bare_loop(FLAGS["wide"])
    for _ in range(30):
        update()
    view = test_view(_task(FLAGS["wide"])[1])
    update.model.eval()
    with torch.no_grad():
        for first in range(0, len(update.test), 256):
            x = update.test.pixels[first : first + 256].expand(-1, 3, -1, -1)
            update.model(view(x, torch.Generator()))
    print(peak())


def peak() -> float:
    """Peak resident memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def startup() -> dict:
    """Medians of five fresh processes, seconds."""
    help_ = "from ssl_bench.cli import run; run(['--help'])"
    first = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import ssl_bench, bench_loop\nbench_loop.suite_loop([])()"
    )
    result = {}
    for name, code in (("help_s", help_), ("first_step_s", first)):
        seconds = []
        for _ in range(5):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            seconds.append(time.perf_counter() - begun)
        result[name] = statistics.median(seconds)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "memory", "startup"))
    parser.add_argument("--threads", type=int, default=1, help="torch threads [default 1]")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    figures = {"step": step, "memory": memory, "startup": startup}[options.what]()
    body = {"what": options.what, "torch": torch.__version__, "threads": options.threads, "machine": platform.machine(), **figures}
    print(json.dumps(body, indent=1))
    if options.json:
        options.json.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
