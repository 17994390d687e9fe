"""Joules of a GPU by its own counter, and honestly none where nothing counts."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from ssl_bench import energy
from ssl_bench.trainer import Trainer


class NVMLError(Exception):
    pass


def nvml(millijoules: list[int], fails: bool = False) -> types.ModuleType:
    """A pynvml whose counter shows each of `millijoules` in turn, of the GPU named abc."""

    def total(handle: str) -> int:
        if fails:
            raise NVMLError("not supported")
        assert handle == "handle of GPU-abc"
        return millijoules.pop(0) if len(millijoules) > 1 else millijoules[0]

    module = types.ModuleType("pynvml")
    module.NVMLError, module.nvmlInit = NVMLError, lambda: None
    module.nvmlDeviceGetHandleByUUID = lambda name: f"handle of {name}"
    module.nvmlDeviceGetTotalEnergyConsumption = total
    module.__spec__ = types.SimpleNamespace()
    return module


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="abc"))
    return torch.device("cuda", 0)


def test_the_counter_is_read_from_restart_on(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml([1_000, 5_000, 6_500, 10_000, 12_000]))
    meter = energy.EnergyMeter(gpu)  # 1 J to see that there is a counter, then begins at 5
    assert meter.joules() == 1.5
    meter.restart()
    assert meter.joules() == 2.0


def test_without_a_counter_or_its_library_nothing_is_said(gpu, monkeypatch):
    assert energy.EnergyMeter(torch.device("cpu")).joules() is None
    monkeypatch.setitem(sys.modules, "pynvml", nvml([1], fails=True))
    assert energy.EnergyMeter(gpu).joules() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(energy.importlib.util, "find_spec", lambda name: None)
    assert energy.EnergyMeter(gpu).joules() is None


def test_a_run_measured_in_part_has_no_joules(tiny):
    run = tiny("erm")
    state = run.trainer.state_dict(run.pools.split_hash)
    for part, expected in (({"joules": 12.5}, 12.5), ({"joules": None}, None)):
        fresh = Trainer(run.method, run.args, torch.device("cpu"))
        fresh.load_state_dict(state | part, run.pools.split_hash)
        assert fresh.joules == expected
    fresh.load_state_dict({name: value for name, value in state.items() if name != "joules"}, run.pools.split_hash)
    assert fresh.joules is None, "a checkpoint of an earlier version measured nothing"
