"""The random numbers of one view of n images, one row an image, and how they reach a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """What was drawn for n samples.  Every tensor lives on the CPU and has n rows; None means that the view has no
    such part.

    `draws[rows]` keeps the rows of a slice, a list or an index tensor, so that a rank may draw for the global batch
    and keep its own part.
    """

    n: int
    box: Tensor | None = None  # (n, 4) int64: top, left, height, width of the crop, in pixels of the source ("short": resized)
    flip: Tensor | None = None  # (n,) bool
    jitter_op: Tensor | None = None  # (n, 4) int64, index into colour.JITTER or -1
    jitter_value: Tensor | None = None  # (n, 4) float64
    policy_op: Tensor | None = None  # (n, layers) int64, index into randaugment.OPS or -1
    policy_value: Tensor | None = None  # (n, layers) float64, the op's own argument, sign included
    erase: Tensor | None = None  # (n, 4) int64: top, left, height, width; height 0 erases nothing
    erase_seed: Tensor | None = None  # (n,) int64, seeds the noise of the erased pixels
    cutout: Tensor | None = None  # (n, 4) int64 as `erase`, may reach over the edge

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray | Tensor) -> Draws:
        if isinstance(rows, int):
            raise TypeError(f"draws[{rows}] would drop the sample dimension: use draws[{rows}:{rows + 1}]")
        keep = torch.arange(self.n)[rows if isinstance(rows, slice) else torch.as_tensor(rows)]
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "n"}
        return Draws(len(keep), **{name: part if part is None else part[keep] for name, part in parts.items()})

    def expect(self, n: int) -> None:
        """Raise ValueError unless these are draws for n images."""
        if self.n != n:
            raise ValueError(
                f"draws are for {self.n} images, the batch has {n}: draw for this batch, or slice draws[rows]"
            )


def uniform(n: int, columns: int, generator: torch.Generator) -> Tensor:
    """(n, columns) float64 in [0, 1) from a CPU generator."""
    return torch.rand(n, columns, generator=generator, dtype=torch.float64)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A small CPU tensor on `device`, without waiting for the device; float64 becomes float32 on devices that lack it
    (MPS).
    """
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device, working_dtype(device) if tensor.dtype == torch.float64 else tensor.dtype)


def working_dtype(device: torch.device) -> torch.dtype:
    """float64, in which Pillow's arithmetic is reproduced exactly; float32 on MPS, where results may differ by one
    level.
    """
    return torch.float32 if device.type == "mps" else torch.float64
