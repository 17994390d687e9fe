"""Endless, seeded streams of augmented batches: batch k is a function of (seed, stream, k), whoever asks and however often."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ssl_bench.augment.views import View
from ssl_bench.datasets.images import Images

LABELED, UNLABELED, INITIAL, STEP = range(4)  # what a random stream is for, so that no two share their numbers


def seed_of(*key: int) -> int:
    """A 63-bit seed for the random stream named by `key`; near keys give unrelated streams."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def generator_of(*key: int) -> torch.Generator:
    """A CPU generator for the random stream named by `key`."""
    return torch.Generator().manual_seed(seed_of(*key))


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
        return np.random.Generator(np.random.PCG64(seed_of(*self.key, r))).permutation(self.n)


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


def sequential_plans(n: int, batch_size: int) -> Iterator[Plan]:
    """Each of 0..n-1 once, in order, in as few batches of at most `batch_size` as it takes; their sizes differ by 1 at most."""
    for k, positions in enumerate(np.array_split(np.arange(n), -(-n // batch_size))):
        yield Plan(k, positions)


def batches(
    images: Images, views: Sequence[View], plans: Iterable[Plan], key: tuple[int, ...], device: torch.device, workers: int = 0
) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Tensor]]:
    """For each plan: ((B, 3, S, S) float per view, targets (B,) int64, positions (B,) int64), on `device`.

    The numbers drawn for view v of batch k are a function of (*key, k, v) and the row in the global batch alone.
    `workers`: processes that decode and crop files; images held in memory need none.
    """
    targets = torch.from_numpy(np.asarray(images.targets, dtype=np.int64))
    if images.pixels is not None:
        cropped = _from_memory(images, views, plans, key, device)
    else:
        cropped = _from_files(images, views, plans, key, device, workers)
    for plan, crops in cropped:
        positions = torch.from_numpy(plan.positions[plan.rows])
        outputs = []
        for v, (view, crop) in enumerate(zip(views, crops, strict=True)):
            draws = view.draw_finish(len(plan.positions), generator_of(*key, plan.k, v, 1))[plan.rows]
            outputs.append(view.finish(crop.expand(-1, 3, -1, -1), draws))
        yield tuple(outputs), targets[positions].to(device, non_blocking=True), positions.to(device, non_blocking=True)


def _from_memory(
    images: Images, views: Sequence[View], plans: Iterable[Plan], key: tuple[int, ...], device: torch.device
) -> Iterator[tuple[Plan, list[Tensor]]]:
    pixels = images.pixels.to(device)
    for plan in plans:
        x = pixels.index_select(0, torch.from_numpy(plan.positions[plan.rows]).to(device, non_blocking=True))
        crops = []
        for v, view in enumerate(views):
            draws = view.draw_crop(len(plan.positions), tuple(x.shape[-2:]), generator_of(*key, plan.k, v, 0))
            crops.append(view.crop(x, draws[plan.rows]))
        yield plan, crops


class _Decoder(torch.utils.data.Dataset):
    """plan -> (plan, one uint8 crop batch a view), in a worker process."""

    def __init__(self, images: Images, views: Sequence[View], key: tuple[int, ...]) -> None:
        self.images, self.views, self.key = images, views, key

    def __getitem__(self, plan: Plan) -> tuple[Plan, list[Tensor]]:
        rows = range(len(plan.positions))[plan.rows]
        decoded = [self.images.load(int(plan.positions[row])) for row in rows]
        crops = []
        for v, view in enumerate(self.views):
            seeds = [generator_of(*self.key, plan.k, v, 0, row) for row in rows]
            crops.append(torch.stack([view.crop_one(image, seed) for image, seed in zip(decoded, seeds, strict=True)]))
        return plan, crops


def _from_files(
    images: Images, views: Sequence[View], plans: Iterable[Plan], key: tuple[int, ...], device: torch.device, workers: int
) -> Iterator[tuple[Plan, list[Tensor]]]:
    loader = torch.utils.data.DataLoader(
        _Decoder(images, views, key), sampler=plans, batch_size=None, num_workers=min(workers, os.cpu_count() or 1),
        pin_memory=device.type == "cuda", worker_init_fn=_leave_signals_to_the_trainer,
    )  # fmt: skip
    for plan, crops in loader:
        yield plan, [crop.to(device, non_blocking=True) for crop in crops]


def _leave_signals_to_the_trainer(_: int) -> None:
    # A signal to the whole process group would else kill the workers before the trainer has saved.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
