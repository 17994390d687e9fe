"""Which device a run is on, by the name people give and the name it has."""

from __future__ import annotations

import math
import re

import torch

from ssl_bench import distributed, host_memory


def pick_device(name: str) -> torch.device:
    """``auto``: cuda, else mps, else cpu; under torchrun each process gets the GPU of its local rank.  ValueError: no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if distributed.announced_size() > 1 and name not in ("cuda", "cpu"):
        raise ValueError(f"--device {name} cannot be shared by {distributed.announced_size()} processes: use cuda (one GPU each) or cpu")
    if name == "cuda" and distributed.announced_size() > 1:
        if distributed.local_rank() >= torch.cuda.device_count():
            raise ValueError(f"this machine has {torch.cuda.device_count()} GPUs: use --nproc-per-node {torch.cuda.device_count()} or fewer")
        name = f"cuda:{distributed.local_rank()}"
    try:
        device = torch.device(name)
        if device == torch.device("cuda"):
            device = torch.device("cuda", torch.cuda.current_device())  # set_device wants its number
        torch.empty(0, device=device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = re.split(r"\. |\.? \(|\n", str(error))[0].split(" device type at start")[0]
        if name.startswith("mps") and not torch.backends.mps.is_available():
            reason = "it is Apple's GPU, and this machine or this PyTorch has none"
        raise ValueError(f"--device {name} is not to be had here: {reason[:120]}; use --device cpu, or auto for the best there is") from None
    return device


def free_memory(device: torch.device) -> float:
    """Bytes that this process can still have on a device (a CPU's: its share of the machine's); inf where nobody says."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's own, and free
        return torch.cuda.mem_get_info(device)[0] + idle
    return host_memory.available() / distributed.local_size() if device.type == "cpu" else math.inf


def require_memory(needed: float, device: torch.device, what: str, remedy: str) -> None:
    """ValueError, before anything is allocated, if `what` needs more bytes than are free: a machine that is asked for them kills the run."""
    free = free_memory(device)
    if needed > free:
        raise ValueError(f"{what}: {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; {remedy}")


def require_device(name: str) -> None:
    """`pick_device`'s ValueError, for a process that starts others and wants no memory of a GPU itself."""
    kind, _, index = name.partition(":")
    if kind != "cuda":
        if name != "auto":
            pick_device(name)
    elif not index.isdigit() and name != "cuda" or int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name} is not to be had here: this machine has {torch.cuda.device_count()} GPUs")


def describe_device(device: torch.device) -> str:
    """The device's name, for records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"
