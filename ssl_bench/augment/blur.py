"""Pillow's GaussianBlur on batches: three extended box blurs along each axis, rounded to uint8 after each."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_bench.augment.draws import working_dtype
from ssl_bench.augment.resample import settle

LARGEST = 2.0  # standard deviations beyond need more taps than are summed here
_REACH = 2  # whole pixels a box of the largest radius touches to either side
_BITS = 24


def gaussian_blur(x: Tensor, radius: Tensor) -> Tensor:
    """x: (B, C, H, W) uint8; radius: (B,) standard deviation in pixels, 0..2.  Byte-equal to
    ImageFilter.GaussianBlur.
    """
    whole, centre, edge = _box(radius.to(torch.float32), working_dtype(x.device))
    value = x.to(working_dtype(x.device))
    for dim in (3, 2):
        for _ in range(3):
            value = _box_pass(value, dim, whole, centre, edge)
    return value.to(torch.int32).to(torch.uint8)


def _box(sigma: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Whole radius, weight of the inner pixels and of the two outer ones (24 fractional bits), (B,) each.

    Source: Gwosdek et al., SSVM 2011, eqs. 7, 11, 14; single precision where Pillow stores a float.
    """
    variance = sigma * sigma / 3
    length = (12.0 * variance.to(wide) + 1.0).sqrt().float()
    low = ((length.to(wide) - 1.0) / 2.0).floor().float()
    part = (2 * low + 1) * (low * (low + 1) - 3 * variance) / (6 * (variance - (low + 1) * (low + 1)))
    box = low + part
    whole = box.floor()
    centre = (torch.full_like(box, 2.0**_BITS) / (box * 2 + 1)).floor().to(wide)
    edge = ((2.0**_BITS - (whole.to(wide) * 2 + 1) * centre) / 2).floor()
    return whole, centre, edge


def _box_pass(value: Tensor, dim: int, whole: Tensor, centre: Tensor, edge: Tensor) -> Tensor:
    size = value.shape[dim]
    place = torch.arange(size, device=value.device)
    total = torch.zeros_like(value)
    for step in range(-_REACH, _REACH + 1):
        weight = torch.where(
            whole >= abs(step), centre, torch.where(whole + 1 == abs(step), edge, torch.zeros_like(edge))
        )
        total += value.index_select(dim, (place + step).clamp(0, size - 1)) * weight[:, None, None, None]
    return settle(total, _BITS)
