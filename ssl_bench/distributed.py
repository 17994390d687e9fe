"""More than one process (torchrun): which one am I, reductions over all of them, and what the loss of one looks like.

With one process every function here returns at once.  Reductions are collective: each process must call them, in the same
order.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = datetime.timedelta(minutes=15)  # of a step's collectives: evaluations and checkpoints lie between them
PATIENCE_LOADING = datetime.timedelta(days=2)  # one process may fetch and decode a data set while the others wait
T = TypeVar("T")


class LostProcess(RuntimeError):
    """Another process of the run died or no longer answers."""


def rank() -> int:
    """0..world_size() - 1; process 0 writes the records."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes that train this run together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def announced_size() -> int:
    """The number of processes torchrun has started, known before they have met."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_ADDR" in os.environ else 1


def announced_rank() -> int:
    """This process's number, known before they have met."""
    return int(os.environ.get("RANK", "0")) if announced_size() > 1 else 0


def local_rank() -> int:
    """Number of this process on its machine, and of its GPU there."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_size() -> int:
    """Number of the run's processes on this machine; where the launcher does not say, all."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", announced_size())) if announced_size() > 1 else 1


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Meet the processes torchrun started; nothing without torchrun, or when they have met.

    LostProcess: one did not come.  After an error the group is left as it is (see `leave`).
    """
    if announced_size() == 1 or dist.is_initialized():
        yield
        return
    with _collective():
        store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
        # The store outlives a restart by torchrun, and with it the addresses of processes that are gone.
        store = dist.PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    yield
    dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process.  After an error on a GPU at once: NCCL would first wait for what its peers no longer send."""
    if code and dist.is_initialized() and "nccl" in str(dist.get_backend_config()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """Process 0 passes alone, then the first of every other machine, then the rest: what one fetched, the others find."""
    if world_size() == 1:
        yield
        return
    with _collective():
        group = dist.new_group(backend="gloo", timeout=PATIENCE_LOADING)
    assert isinstance(group, dist.ProcessGroup), "every process is in it"
    turn = 0 if rank() == 0 else 1 if local_rank() == 0 else 2
    for _ in range(turn):
        barrier(group)
    yield
    for _ in range(turn, 3):
        barrier(group)
    dist.destroy_process_group(group)


def barrier(group: dist.ProcessGroup | None = None) -> None:
    """Wait until every process is here; group: one of other patience than the run's."""
    _reduce(torch.zeros(1), dist.ReduceOp.SUM, group)  # over gloo: NCCL's own barrier would wait for the GPU


def sum_(tensor: Tensor) -> Tensor:
    """The sum over processes, in place."""
    return _reduce(tensor, dist.ReduceOp.SUM)


def mean_(tensor: Tensor) -> Tensor:
    """The mean over processes, in place: for statistics a method keeps (thresholds, class priors), before it uses them."""
    return sum_(tensor).div_(world_size())


def minimum_(tensor: Tensor) -> Tensor:
    """The smallest value over processes, in place."""
    return _reduce(tensor, dist.ReduceOp.MIN)


def gather_rows(part: Tensor) -> Tensor:
    """The rows of all processes in the order of the global batch, of which each holds every world-th row."""
    if world_size() == 1:
        return part
    parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(world_size())]
    with _collective():
        dist.all_gather(parts, part.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)


def take_rows(part: Tensor, source: Tensor) -> Tensor:
    """Row i of the global batch becomes row source[i] of it, whoever holds that; of both each process has every world-th row.

    part: this process's rows; source: (N,) int64 on the CPU, the same on every process, N the size of the global batch.
    """
    world, own = world_size(), rank()
    if world == 1:
        return part.index_select(0, source.to(part.device, non_blocking=True))
    wanted = [source[process::world] for process in range(world)]  # by each process
    given = [rows[rows % world == own] // world for rows in wanted]  # by this one to each
    taken = [(wanted[own] % world == process).nonzero()[:, 0] for process in range(world)]  # from each by this one: where they go
    sent = part.index_select(0, torch.cat(given).to(part.device, non_blocking=True))
    received = sent.new_empty(len(wanted[own]), *part.shape[1:])
    with _collective():
        dist.all_to_all_single(received, sent.contiguous(), [len(rows) for rows in taken], [len(rows) for rows in given])
    return received.index_select(0, torch.cat(taken).argsort().to(part.device, non_blocking=True))


def agree(value: T) -> T:
    """What process 0 says; for decisions that depend on files."""
    if world_size() == 1:
        return value
    said: list[Any] = [value]
    with _collective():
        dist.broadcast_object_list(said, src=0, device=torch.device("cpu"))
    return said[0]


def _reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None = None) -> Tensor:
    if world_size() > 1:
        with _collective():
            dist.all_reduce(tensor, operation, group=group)
    return tensor


def start_sum(tensor: Tensor) -> dist.Work:
    """Begin the sum over processes of `tensor`, in place; `finish` waits for it."""
    with _collective():
        return dist.all_reduce(tensor, async_op=True)


def finish(work: dist.Work) -> None:
    """Wait for a sum that was started (on a GPU: make its stream wait)."""
    with _collective():
        work.wait()


class Vote:
    """Lets all processes stop at the same step, though a signal reaches them at different ones, without waiting for a device.

    A vote is begun after one step and read after the next, so it travels while the step computes.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, dist.Work] | None = None

    def cast(self, signum: int) -> int:
        """Give this process's signal number (0: none); the largest that any process gave one step ago (alone: this one)."""
        if world_size() == 1:
            return signum
        decided = self._read()
        ballot = torch.tensor([signum])
        with _collective():
            self._pending = ballot, dist.all_reduce(ballot, dist.ReduceOp.MAX, async_op=True)
        return decided

    def _read(self) -> int:
        if self._pending is None:
            return 0
        ballot, work = self._pending
        finish(work)
        return int(ballot)

    def close(self) -> None:
        """Wait for the last vote, which nobody needs any more."""
        self._read()
        self._pending = None


@contextlib.contextmanager
def _collective() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo raises bare ones
        text = " ".join(str(error).split())
        reason = _LOST.search(text)
        theirs = isinstance(error, dist.DistError) or reason is not None or "gloo" in text or "NCCL" in text
        if isinstance(error, torch.OutOfMemoryError) or not theirs:
            raise
        raise LostProcess(f"another process of this run is gone or does not answer ({reason[0] if reason else text[:160]}); "
                          "the same command continues from the last checkpoint") from error  # fmt: skip


_LOST = re.compile(r"[Cc]onnection (closed|reset|refused)|[Tt]imed? ?out|[Bb]roken pipe|connectFullMesh failed|Socket closed|unhandled system error")
