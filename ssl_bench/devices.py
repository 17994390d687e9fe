"""Which device a run is on, by the name people give and the name it has."""

from __future__ import annotations

import torch

from ssl_bench import distributed


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
        raise ValueError(f"--device {name} is not to be had here: {str(error).splitlines()[0]}") from None
    return device


def describe_device(device: torch.device) -> str:
    """The device's name, for records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"
