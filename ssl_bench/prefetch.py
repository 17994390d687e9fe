"""The next batch is copied and augmented on a CUDA stream of its own while the device still computes on the one before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


def ahead(items: Iterable[Item], device: torch.device) -> Iterator[Item]:
    """The same items in the same order; on CUDA whatever making one launches runs beside the caller's own work.

    The caller asks for item k + 1 when it has launched its work on item k, which the device has hardly begun by then: copies
    and views of k + 1 run beside it.  The caller's stream waits for them on the device; the host waits only for the
    item before last.
    items: (nested) tuples or lists; tensors in them may be on any device.  Other devices: passed through.
    """
    if device.type != "cuda":
        yield from items
        return
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))  # what exists already, such as resident pixels, was made there
    iterator = iter(items)
    before: torch.cuda.Event | None = None  # the caller's work on the item before last is done
    last: torch.cuda.Event | None = None
    while True:
        if before is not None:
            before.synchronize()  # two items ahead at most: where launches are few, the host would fill the memory with batches
        with torch.cuda.stream(side):
            try:
                item = next(iterator)
            except StopIteration:
                return
            made = side.record_event()
        caller = torch.cuda.current_stream(device)
        caller.wait_event(made)
        for tensor in tensors_in(item):
            if tensor.is_cuda:
                tensor.record_stream(caller)  # else its memory could be given to batch k + 1 while k is computed on
        yield item
        before, last = last, torch.cuda.current_stream(device).record_event()


def tensors_in(item: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples and lists."""
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, (tuple, list)):
        for part in item:
            yield from tensors_in(part)
