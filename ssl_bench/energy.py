"""What a GPU takes from the wall while it trains, as its own counter says."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch


class EnergyMeter:
    """Joules between `restart` and `joules`, of this process's GPU and of whoever else uses it; None where nothing counts them.

    NVIDIA's counter (Volta and later) is read through NVML, extra ``[energy]``; a CPU's counts the whole machine, and is left alone.
    """

    def __init__(self, device: torch.device) -> None:
        self.counter = _nvml_counter(device) if device.type == "cuda" and importlib.util.find_spec("pynvml") else None
        self.restart()

    def restart(self) -> None:
        self.begun = self.counter() if self.counter else None

    def joules(self) -> float | None:
        return self.counter() - self.begun if self.counter else None


def _nvml_counter(device: torch.device) -> Any:
    """A function without arguments, joules since the driver was loaded; None: this GPU has no counter."""
    import pynvml

    try:
        pynvml.nvmlInit()
        # NVML numbers all GPUs of the machine, CUDA those it may see: only the name is the same.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
