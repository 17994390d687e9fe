"""Images of one size that lie uncompressed in a file, one after the other: mapped into memory, read a row at a time."""
from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class MappedRows:
    """N images (H, W, 3) uint8 from byte `offset` of a file on; pickles as its name, so that worker processes share its pages.

    Args:
        path: of the file.
        offset: where the first image begins.
        shape: (N, H, W, 3).

    Raises:
        ValueError: the file ends before the last image does.
        OSError: it cannot be read.
    """

    def __init__(self, path: str, offset: int, shape: tuple[int, int, int, int]) -> None:
        self.path, self.offset, self.shape = path, offset, shape
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < offset + int(np.prod(shape)):
                raise ValueError(f"{path} is cut short")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._rows = np.frombuffer(self._map, np.uint8, int(np.prod(shape)), offset).reshape(shape)

    def __reduce__(self) -> tuple:
        return MappedRows, (self.path, self.offset, self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def load(self, i: int) -> torch.Tensor:
        """Image i: a copy, uint8 (3, H, W), in memory the three levels of a pixel together."""
        import torch

        return torch.from_numpy(self._rows[i].copy()).permute(2, 0, 1)
