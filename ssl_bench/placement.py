"""A method's networks on a device: memory format, precision, compilation, sharding; and what to do when memory runs out."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from ssl_bench import distributed, parallel
from ssl_bench.args import Args
from ssl_bench.ema import EMATeacher
from ssl_bench.method import Method
from ssl_bench.nets.positional import PositionHead

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The CUDA allocator has an exception type of its own; the others, and the driver below it, only a text.
_NO_MEMORY = ("can't allocate memory", "MPS backend out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class OutOfMemory(RuntimeError):
    """The device's memory is full; the message says which flag to lower, and to what."""


def autocast(args: Args, device: torch.device) -> torch.autocast:
    """The precision of every forward, in training and in evaluation."""
    # No cache: a no-grad teacher pass would cache gradient-free casts of weights that a later pass must train.
    dtype = DTYPES[args.precision]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False)


def place(method: Method, args: Args, device: torch.device) -> Method:
    """Onto the device and over the processes: the same for training and for the test phase, so that numbers agree exactly.

    ValueError: a flag that this device or network cannot follow.
    """
    if args.shard and distributed.world_size() == 1:
        raise ValueError("--shard spreads the network over processes, and there is one: start it with torchrun --nproc-per-node N")
    if args.shard and args.precision == "fp16":
        raise ValueError("--shard with --precision fp16 would scale each process's losses differently: use bf16")
    if args.cuda_graphs and device.type != "cuda":
        raise ValueError(f"--cuda-graphs needs a CUDA device, this is {device.type}")
    if args.precision == "bf16" and device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        print("note: this CPU has no bf16 arithmetic: --precision bf16 is emulated, and many times slower than fp32")
    if args.shard:  # block by block on its way to the device, which could not hold it whole
        for network in networks(method):
            parallel.shard(network, device)
    method.to(device)
    if args.channels_last and device.type in ("cuda", "cpu") and not args.shard:  # FSDP2 splits contiguous weights only
        method.to(memory_format=torch.channels_last)
    return method


def networks(method: Method) -> Iterator[torch.nn.Module]:
    """What a method evaluates images with: its child modules, a moving average's inner network."""
    for child in method.children():
        yield child.model if isinstance(child, EMATeacher) else child


def compile_networks(method: Method, args: Args) -> None:
    """In place, so that state-dict names stay.

    One graph for each shape of a batch: a run has few, and a graph for any size is slower.
    """
    if args.compile or args.cuda_graphs:
        for network in networks(method):
            if isinstance(network, PositionHead):
                continue  # its loop over parts would become one long graph
            network.compile(dynamic=False, mode="reduce-overhead" if args.cuda_graphs else None)


@contextlib.contextmanager
def explained_memory(args: Args, device: torch.device) -> Iterator[None]:
    """Turn an allocator's error into OutOfMemory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in _NO_MEMORY):
            raise OutOfMemory(f"out of memory on {device}: {remedy(args, distributed.world_size())}") from error
        raise


def remedy(args: Args, processes: int) -> str:
    """Which flag to set to what so that a step needs less memory; first those with which the same run continues."""
    own = args.batch_size // processes
    smallest = 2 if args.bottleneck_dim else 1  # BatchNorm needs two images
    more = [n for n in range(args.accumulate + 1, own + 1) if own % n == 0 and own // n >= smallest]
    same = [] if args.grad_checkpointing else ["--grad-checkpointing"]
    if more:
        same.insert(0, f"--accumulate {more[0]} ({own // more[0]} and {own // more[0] * args.mu} at a time)")
    same += ["a smaller --eval-batch-size if it was an evaluation"]
    other = [f"--batch-size {max(processes * smallest, args.batch_size // 2)}"] + ["--precision bf16"] * (args.precision == "fp32")
    now = f"{own // args.accumulate} labelled and {own // args.accumulate * args.mu} unlabelled images at a time"
    return (
        f"{now}; the run continues from its last checkpoint with {' or '.join(same)}; {' or '.join(other)} begins another run"
    )


def forget_peak_memory(device: torch.device) -> None:
    """Count `peak_memory` from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # Linux only; elsewhere the figure is the peak of the process so far
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device on CUDA, else of this process; 0 where the system does not say (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):  # getrusage's figure is inherited from the process that started this one
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
        if found:
            return 1024 * int(found[1])
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
