"""Endless, seeded streams of augmented batches: batch k is a function of (seed, stream, k), whoever asks and however often."""

from __future__ import annotations

import atexit
import gc
import math
import os
import signal
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_bench.augment.draws import send
from ssl_bench.augment.views import View
from ssl_bench.datasets.images import Images

_AT_ONCE = 32  # decoded images that a worker holds: enough to share the draws' cost, few enough for its memory
_BATCHES_AHEAD = 2  # of each worker; more only costs memory, since a stream never starts again

LABELED, UNLABELED, INITIAL, STEP, PREDICTED, MASK, MIX, PAIRS = range(8)  # what a random stream is for, so that no two share their numbers


def seed_of(*key: int) -> int:
    """A 63-bit seed for the random stream named by `key`; near keys give unrelated streams."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1


def generator_of(*key: int) -> torch.Generator:
    """A CPU generator for the random stream named by `key`."""
    return torch.Generator().manual_seed(seed_of(*key))


def random_of(*key: int) -> np.random.Generator:
    """NumPy's generator for the random stream named by `key`."""
    return np.random.Generator(np.random.PCG64(seed_of(*key)))


class EndlessOrder:
    """Permutation after permutation of range(n); a batch may span two, so n may be smaller than a batch."""

    def __init__(self, n: int, batch_size: int, *key: int) -> None:
        if n < 1:
            raise ValueError("an empty set has no batches")
        self.n, self.batch_size, self.key = n, batch_size, key
        self._cached: dict[int, np.ndarray] = {}

    def batch(self, k: int) -> np.ndarray:
        """Positions of batch k >= 0: (batch_size,) int64.  Any k, in any order."""
        place = np.arange(k * self.batch_size, (k + 1) * self.batch_size)
        rounds = range(place[0] // self.n, place[-1] // self.n + 1)
        self._cached = {r: self._permutation(r) for r in rounds}
        return np.concatenate([self._cached[r] for r in rounds])[place - rounds[0] * self.n]

    def _permutation(self, r: int) -> np.ndarray:
        if r in self._cached:
            return self._cached[r]
        return random_of(*self.key, r).permutation(self.n)


@dataclass(frozen=True)
class Plan:
    """One batch to make: its number k, the positions of its rows, and the rows (of the global batch) this process makes."""

    k: int
    positions: np.ndarray
    rows: slice = field(default_factory=lambda: slice(None))


def endless_plans(order: EndlessOrder, start: int, rank: int = 0, world: int = 1) -> Iterator[Plan]:
    """Plans start, start + 1, ...; process `rank` of `world` makes every world-th row of the same global batch."""
    k = start
    while True:
        yield Plan(k, order.batch(k), slice(rank, None, world))
        k += 1


def sequential_plans(n: int, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Plan]:
    """Each of 0..n-1 once, in order, in as few batches of at most `batch_size` as it takes; their sizes differ by 1 at most.

    Process `rank` of `world` (at most n) makes every world-th row of each: as many batches on every process, which a sharded
    network needs, and none of them empty, for which a batch may grow to 2 world - 1.
    """
    for k, positions in enumerate(np.array_split(np.arange(n), min(-(-n // batch_size), n // world))):
        yield Plan(k, positions, slice(rank, None, world))


class Stream:
    """Batches of `images`, one for each plan; may be iterated again and again, one iteration at a time.

    A batch is ((B, 3, S, S) float per view, targets (B,) int64, positions (B,) int64), on `device`.  The numbers drawn for
    view v of batch k are a function of (*key, k, v) and the row in the global batch alone.  Between iterations the worker
    processes live on, and images held in memory stay on the device.

    plans: iterated anew each time, so give a list to repeat them.
    workers: processes that decode and crop files; images held in memory need none.
    device_limit: bytes; a set in memory above it stays in the host's, and each batch of it is copied.
    """

    def __init__(
        self, images: Images, views: Sequence[View], plans: Iterable[Plan], key: tuple[int, ...], device: torch.device,
        workers: int = 0, device_limit: float = math.inf,
    ) -> None:  # fmt: skip
        self.images, self.views, self.plans, self.key, self.device = images, tuple(views), plans, key, device
        self._targets = torch.from_numpy(np.asarray(images.targets, dtype=np.int64))
        self._pixels: Tensor | None = None
        self._loader: Iterable[tuple[Plan, list[Tensor]]] = ()
        if images.pixels is not None:
            self._pixels = images.pixels.to(device) if images.pixels.nbytes <= device_limit else images.pixels
        else:
            self._loader = loader = _loader(Cropper(images, self.views, key), plans, workers, device)
            # Before multiprocessing's own exit, which would wait for ever for workers that leave signals to the trainer.
            atexit.register(lambda reference: _stop_workers(reference()), weakref.ref(loader))

    def close(self) -> None:
        """End the worker processes; the next iteration starts new ones.

        Left to the garbage collector after an error, their queues would be closed before they are told: each would be waited for
        in vain, and stay.
        """
        _stop_workers(self._loader)

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Tensor]]:
        for plan, crops in self._from_files() if self._pixels is None else self._from_memory(self._pixels):
            positions = torch.from_numpy(plan.positions[plan.rows])
            outputs = []
            for v, (view, crop) in enumerate(zip(self.views, crops, strict=True)):
                draws = view.draw_finish(len(plan.positions), generator_of(*self.key, plan.k, v, 1))[plan.rows]
                outputs.append(view.finish(crop.expand(-1, 3, -1, -1), draws))
            yield tuple(outputs), send(self._targets[positions], self.device), send(positions, self.device)

    def _from_memory(self, pixels: Tensor) -> Iterator[tuple[Plan, list[Tensor]]]:
        for plan in self.plans:
            rows = torch.from_numpy(plan.positions[plan.rows])
            if pixels.device.type == self.device.type:
                x = pixels.index_select(0, send(rows, self.device))
            else:
                x = send(pixels.index_select(0, rows), self.device)
            crops = []
            for v, view in enumerate(self.views):
                draws = view.draw_crop(len(plan.positions), tuple(x.shape[-2:]), generator_of(*self.key, plan.k, v, 0))
                crops.append(view.crop(x, draws[plan.rows]))
            yield plan, crops

    def _from_files(self) -> Iterator[tuple[Plan, list[Tensor]]]:
        try:
            for plan, crops in self._loader:
                yield plan, [crop.to(self.device, non_blocking=True) for crop in crops]
        except BaseException:  # an iteration that is given up too; after a whole one the processes live on
            self.close()
            raise


class Cropper(torch.utils.data.Dataset):
    """plan -> (plan, one uint8 crop batch a view), in a worker process."""

    def __init__(self, images: Images, views: Sequence[View], key: tuple[int, ...]) -> None:
        self.images, self.views, self.key = images, views, key

    def __getitem__(self, plan: Plan) -> tuple[Plan, list[Tensor]]:
        n, rows = len(plan.positions), np.arange(len(plan.positions))[plan.rows]
        crops: list[list[Tensor]] = [[] for _ in self.views]
        for some in (rows[i : i + _AT_ONCE] for i in range(0, len(rows), _AT_ONCE)):
            decoded = [self.images.load(position) for position in plan.positions[some].tolist()]
            size = torch.ones(n, 2, dtype=torch.int64)  # of the other rows none is known, and none is asked for
            size[some] = torch.tensor([image.shape[-2:] for image in decoded])
            for v, view in enumerate(self.views):
                draws = view.draw_crop(n, size, generator_of(*self.key, plan.k, v, 0))[some]
                crops[v].append(view.crop_each(decoded, draws))
        return plan, [torch.cat(parts) for parts in crops]


def _loader(cropper: Cropper, plans: Iterable[Plan], workers: int, device: torch.device) -> torch.utils.data.DataLoader:
    workers = min(workers, os.cpu_count() or 1)
    return torch.utils.data.DataLoader(
        cropper, sampler=plans, batch_size=None, num_workers=workers, pin_memory=device.type == "cuda",
        persistent_workers=workers > 0, prefetch_factor=_BATCHES_AHEAD if workers else None,
        worker_init_fn=_prepare_worker,
    )  # fmt: skip


def _stop_workers(loader: Any) -> None:
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()
        loader._iterator = None


def _prepare_worker(_: int) -> None:
    # A signal to the whole process group would else kill the workers before the trainer has saved.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    gc.freeze()  # a collection would write to every object shared with the trainer, and so copy its memory
