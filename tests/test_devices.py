"""The device's name on the command line; what only shows where there is one is asked of a stand-in."""

from __future__ import annotations

import pytest
import torch

from ssl_bench.devices import describe_device, pick_device


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_lone_gpu_is_set_by_its_number(monkeypatch, name):
    """torch.cuda.set_device refuses a device without one: --device auto then failed on every machine with a GPU."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)
    assert pick_device(name) == torch.device("cuda:0")
    assert chosen == [torch.device("cuda", 0)]


def test_without_an_accelerator_auto_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    assert describe_device(torch.device("cpu")) == f"cpu ({torch.get_num_threads()} threads)"


@pytest.mark.parametrize("name", ["tpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=f"--device {name} is not to be had here"):
        pick_device(name)
