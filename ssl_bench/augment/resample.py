"""Pillow's antialiased resize as integer weights: two passes, each rounded to uint8, in Pillow 13's order.

Pillow computes filter weights in double precision, rounds them to 22 fractional bits, and sums weights x pixels in
32-bit integers. The sums stay below 2**53, so a float64 matrix product of the integer weights is exact, on a CPU and
on CUDA alike.
"""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ssl_bench.augment.draws import working_dtype

Kernel = Literal["bilinear", "bicubic"]
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
BITS = 22
_CHUNK = {"cpu": 2**19}  # elements a matrix product may touch at once: cache on a CPU, memory elsewhere
_CHUNK_ELSEWHERE = 2**25


def coefficients(
    start: Tensor, length: Tensor, out: int, kernel: Kernel, longest: int, picked: Tensor | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Weights that resize source pixels [start, start + length) to `out` pixels.

    start, length: (n,) int64; longest: a bound on `length` known on the host; picked: (k,) int64, the output pixels that are asked
    for, instead of all `out`.
    Returns first (n, out or k) int64, the first source pixel of each output pixel, and weights (n, out or k, taps), integers
    stored as float64 (float32 on MPS); taps beyond a sample's own filter weigh 0.
    Source: Pillow's ImagingResample with the bilinear and bicubic (a = -0.5) filters.
    """
    if kernel not in SUPPORT:
        raise ValueError(f"unknown kernel {kernel!r}: use bilinear or bicubic")
    dtype = working_dtype(start.device)
    taps = math.ceil(SUPPORT[kernel] * max(1.0, longest / out)) * 2 + 1
    scale = (length.to(dtype) / out)[:, None]
    stretch = scale.clamp(min=1.0)
    support = SUPPORT[kernel] * stretch
    if picked is None:
        picked = torch.arange(out, device=start.device)
    center = (picked.to(dtype) + 0.5) * scale  # (n, out)
    low = (center - support + 0.5).to(torch.int64).clamp(min=0)
    high = torch.minimum((center + support + 0.5).to(torch.int64), length[:, None])
    tap = low[..., None] + torch.arange(taps, device=start.device)  # (n, out, taps)
    weight = _filter(((tap.to(dtype) - center[..., None]) + 0.5) * (1.0 / stretch)[..., None], kernel)
    weight = weight * (tap < high[..., None])
    weight = weight / weight.sum(-1, keepdim=True)
    weight = (weight * 2**BITS + torch.copysign(torch.full_like(weight, 0.5), weight)).trunc()
    return start[:, None] + low, weight


def _filter(x: Tensor, kernel: Kernel) -> Tensor:
    x = x.abs()
    if kernel == "bilinear":
        return (1.0 - x).clamp(min=0.0)
    near = ((1.5 * x - 2.5) * x) * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, torch.zeros_like(x)))


def dense(first: Tensor, weight: Tensor, width: int) -> Tensor:
    """The weights as matrices (n, out, width) over whole source rows of `width` pixels."""
    n, out, taps = weight.shape
    matrix = torch.zeros(n, out, width + taps, dtype=weight.dtype, device=weight.device)
    columns = first[..., None] + torch.arange(taps, device=weight.device)
    return matrix.scatter_(2, columns, weight)[..., :width]


@overload
def vertical_first(height: Tensor, width: Tensor, out_height: int, out_width: int) -> Tensor: ...
@overload
def vertical_first(height: int, width: int, out_height: int, out_width: int) -> bool: ...
def vertical_first(height: Any, width: Any, out_height: int, out_width: int) -> Tensor | bool:
    """Whether Pillow resizes the rows before the columns; source sides as ints or tensors, the answer likewise.

    The order shows because the first pass is rounded.  Found by observation of Pillow 13.0 (1,465 of 1,465 random
    size pairs); versions before it start with the columns always.
    """
    return (height > out_height) & (height - out_height > 2 * (width - out_width))


def resize_batch(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Resize each image by its own matrices, columns first.

    x: (B, C, H, W) uint8; rows: (B or 1, h, H), columns: (B or 1, w, W), from `dense`.  Returns (B, C, h, w) uint8.
    To start with the rows, transpose images and result, and exchange the matrices.
    """
    b, c, height, width = x.shape
    cost = c * (height * max(width, columns.shape[1]) + rows.shape[1] * columns.shape[1])
    step = max(1, _CHUNK.get(x.device.type, _CHUNK_ELSEWHERE) // max(1, cost))
    out = x.new_empty(b, c, rows.shape[1], columns.shape[1])
    for i in range(0, b, step):
        part = slice(i, i + step)
        out[part] = _two_passes(
            x[part], rows if len(rows) == 1 else rows[part], columns if len(columns) == 1 else columns[part]
        )
    return out


def _two_passes(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    b, c, height, width = x.shape
    wide = x.to(columns.dtype).reshape(b, c * height, width) @ columns.transpose(1, 2)
    wide = settle(wide, BITS).view(b, c, height, -1)
    return settle(rows[:, None] @ wide, BITS).to(torch.int32).to(torch.uint8)


def settle(total: Tensor, bits: int) -> Tensor:
    """Integer sums with `bits` fractional bits -> whole levels 0..255, as Pillow's (sum + half) >> bits; in place."""
    return total.add_(2 ** (bits - 1)).mul_(2.0**-bits).floor_().clamp_(0, 255)
