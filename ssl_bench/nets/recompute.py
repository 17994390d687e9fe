"""Activations that are computed again in the backward pass, with BatchNorm's statistics moved once all the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ssl_bench.nets.tokens import TimmNetwork


def checkpoint_activations(network: TimmNetwork, arch: str) -> None:
    """Switch a network's own checkpointing on.  ValueError: it has none."""
    try:
        network.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError):
        raise ValueError(f"--arch {arch} has no --grad-checkpointing; use --accumulate to save memory") from None
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(_hold_statistics)
            module.register_forward_hook(_release_statistics, always_call=True)


def _hold_statistics(norm: Any, _: Any) -> None:
    # The forward that is run again inside a backward would move the running statistics a second time.  (Compiled graphs do not.)
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
        norm.held_momentum, norm.momentum = norm.momentum, 0.0


def _release_statistics(norm: Any, *_: Any) -> None:
    if hasattr(norm, "held_momentum"):
        norm.momentum = norm.held_momentum
        if norm.num_batches_tracked is not None:  # there are no statistics without track_running_stats
            norm.num_batches_tracked -= 1
        del norm.held_momentum
