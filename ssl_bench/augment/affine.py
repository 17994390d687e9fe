"""Rotate, shear and translate as Pillow's Image.transform and Image.rotate: same size out, a fill colour where nothing
lands.

Coordinates and interpolation are in double precision and in Pillow's order of operations, then truncated, so that
bytes agree. Shifts along one axis read two neighbours instead of four: the other axis has fraction 0, where Pillow's
sum is exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssl_bench.augment.draws import working_dtype


def shear_x(x: Tensor, factor: Tensor, fill: Tensor) -> Tensor:
    """Row y moves left by factor * (y + 0.5) pixels.  x: (B, C, H, W) uint8; factor: (B,) float; fill: (C,) uint8."""
    return _shift_x(x, factor[:, None, None] * _centres(x, 2)[:, None], 0.0, fill)


def shear_y(x: Tensor, factor: Tensor, fill: Tensor) -> Tensor:
    """Column x moves up by factor * (x + 0.5) pixels.  Arguments as in `shear_x`."""
    return _shift_y(x, factor[:, None, None] * _centres(x, 3), 0.0, fill)


def translate_x(x: Tensor, pixels: Tensor, fill: Tensor) -> Tensor:
    """The image moves left by `pixels` (B,) float, fractions allowed.  Other arguments as in `shear_x`."""
    return _shift_x(x, 0.0, pixels[:, None, None], fill)


def translate_y(x: Tensor, pixels: Tensor, fill: Tensor) -> Tensor:
    """The image moves up by `pixels` (B,) float.  Other arguments as in `shear_x`."""
    return _shift_y(x, 0.0, pixels[:, None, None], fill)


def translate_x_rel(x: Tensor, share: Tensor, fill: Tensor) -> Tensor:
    """`translate_x` by a share (B,) of the width."""
    return translate_x(x, share * x.shape[3], fill)


def translate_y_rel(x: Tensor, share: Tensor, fill: Tensor) -> Tensor:
    """`translate_y` by a share (B,) of the height."""
    return translate_y(x, share * x.shape[2], fill)


def rotate(x: Tensor, degrees: Tensor, fill: Tensor) -> Tensor:
    """Rotate counter-clockwise by `degrees` (B,) about the centre.  Other arguments as in `shear_x`."""
    b, c, height, width = x.shape
    angle = torch.remainder(degrees, 360.0) * (-math.pi / 180.0)
    cos, sin = _round15(torch.stack([angle.cos(), angle.sin()]))[:, :, None, None]
    cx, cy = width / 2.0, height / 2.0
    dx, dy = _centres(x, 3), _centres(x, 2)[:, None]
    sx = cos * dx + sin * dy + ((cos * -cx + sin * -cy) + cx)  # (B, H, W) source coordinates
    sy = -sin * dx + cos * dy + ((-sin * -cx + cos * -cy) + cy)
    inside = (sx >= 0) & (sx < width) & (sy >= 0) & (sy < height)
    left, right, fx = _neighbours(sx, width)
    upper, lower, fy = _neighbours(sy, height)
    flat = x.reshape(b, c, height * width)
    top = _mix(_take(flat, upper * width + left), _take(flat, upper * width + right), fx[:, None])
    low = _mix(_take(flat, lower * width + left), _take(flat, lower * width + right), fx[:, None])
    return _finish(_mix(top, low, fy[:, None]), inside, fill)


def _shift_x(x: Tensor, slope: Tensor | float, offset: Tensor | float, fill: Tensor) -> Tensor:
    source = (_centres(x, 3) + slope) + offset  # (B, H or 1, W)
    left, right, fraction = _neighbours(source, x.shape[3])
    a, b = (x.gather(3, i[:, None].expand(x.shape)).to(source.dtype) for i in (left, right))
    return _finish(_mix(a, b, fraction[:, None]), (source >= 0) & (source < x.shape[3]), fill)


def _shift_y(x: Tensor, slope: Tensor | float, offset: Tensor | float, fill: Tensor) -> Tensor:
    source = (slope + _centres(x, 2)[:, None]) + offset  # (B, H, W or 1)
    upper, lower, fraction = _neighbours(source, x.shape[2])
    a, b = (x.gather(2, i[:, None].expand(x.shape)).to(source.dtype) for i in (upper, lower))
    return _finish(_mix(a, b, fraction[:, None]), (source >= 0) & (source < x.shape[2]), fill)


def _centres(x: Tensor, dim: int) -> Tensor:
    return torch.arange(x.shape[dim], device=x.device, dtype=working_dtype(x.device)) + 0.5


def _neighbours(source: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two pixel indices, held at the edges, and the weight of the second."""
    source = source - 0.5
    floor = source.floor()
    fraction = source - floor
    low = floor.to(torch.int64)
    return low.clamp(0, size - 1), (low + 1).clamp_(0, size - 1), fraction


def _take(flat: Tensor, index: Tensor) -> Tensor:
    """(B, C, HW) at (B, H, W) -> (B, C, H, W) in the dtype of coordinates."""
    b, c, _ = flat.shape
    taken = flat.gather(2, index.reshape(b, 1, -1).expand(b, c, -1))
    return taken.view(b, c, *index.shape[1:]).to(working_dtype(flat.device))


def _mix(a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    """a + (b - a) * fraction, overwriting b; three separate roundings, as in Pillow's C."""
    return b.sub_(a).mul_(fraction).add_(a)


def _finish(value: Tensor, inside: Tensor, fill: Tensor) -> Tensor:
    levels = value.to(torch.int32).to(torch.uint8)  # truncates; the detour is faster than float -> uint8 on a CPU
    return torch.where(inside[:, None], levels, fill[:, None, None])


def _round15(x: Tensor) -> Tensor:
    """Python's round(x, 15), which Image.rotate applies to its matrix; the last decimal shows at angles such as 45
    degrees.
    """
    if x.dtype == torch.float32:
        return x
    scaled = x * 1e15
    # What that product lost in rounding decides its ties: Dekker's exact product of split halves.
    shifted = x * 134217729.0
    high = shifted - (shifted - x)
    low = x - high
    lost = ((high * _HIGH - scaled) + high * _LOW + low * _HIGH) + low * _LOW
    floor = scaled.floor()
    tie = (scaled - floor == 0.5) & (lost != 0)
    rounded = torch.where(tie, floor + (lost > 0), scaled.round())
    return rounded / torch.full_like(x, 1e15)  # dividing by a Python number may multiply by its reciprocal


_HIGH = 1e15 * 134217729.0 - (1e15 * 134217729.0 - 1e15)
_LOW = 1e15 - _HIGH
