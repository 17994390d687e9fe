"""Stochastic depth switched off for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def drop_path(network: nn.Module, on: bool) -> Iterator[None]:
    """With `on` false, timm's DropPath layers of a network in training mode drop nothing within; all else is as before."""
    if on:
        yield
        return
    layers = [module for module in network.modules() if type(module).__name__ == "DropPath" and module.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True
