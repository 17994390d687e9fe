"""Apply one operation per sample and layer to a batch, grouped by operation, without a loop over samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssl_bench.augment.draws import send

Op = Callable[[Tensor, Tensor], Tensor]  # ((b, C, H, W) uint8, argument (b,)) -> (b, C, H, W) uint8


def apply_layers(x: Tensor, op: Tensor, value: Tensor, functions: Sequence[Op]) -> Tensor:
    """For each layer in turn, functions[op[i, layer]](x[i], value[i, layer]) for every sample i; op -1 leaves it.

    x: (B, C, H, W) uint8, unchanged; op: (B, layers) int64 and value: (B, layers) float64 on the CPU.  Returns a new
    tensor.

    Each layer sorts the batch by operation, so that groups are slices.  The sorting is done on the host, where the
    draws are: group sizes are known without asking the device.
    """
    at = torch.arange(len(x))  # sample in each place of the batch as it is sorted now
    for layer in range(op.shape[1]):
        order = op[at, layer].argsort(stable=True)
        at = at[order]
        sizes = torch.bincount(op[at, layer] + 1, minlength=len(functions) + 1).tolist()
        if sizes[0] == len(x):
            continue
        x = x.index_select(0, send(order, x.device))
        argument = send(value[at, layer], x.device)
        end = sizes[0]
        for function, size in zip(functions, sizes[1:], strict=True):
            group = slice(end, end := end + size)
            if size:
                x[group] = function(x[group], argument[group])
    return x.index_select(0, send(at.argsort(), x.device))
