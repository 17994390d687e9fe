"""Colour operations of Pillow (ImageEnhance, ImageOps) and torchvision's hue shift, on batches, with one argument a
sample.

Every function takes x (B, 3, H, W) uint8 and, where it has one, an argument (B,) on the same device; it returns a new
(B, 3, H, W) uint8 equal to Pillow's result byte for byte, and never changes x.  A factor of 1 changes nothing; factors
may exceed 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_bench.augment.draws import uniform, working_dtype


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with black: factor 0 is black, 2 twice as bright."""
    return _levels(x.to(torch.float32).mul_(_per_image(factor)))


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean grey level."""
    level = grey(x).sum((1, 2, 3))
    pixels = x.shape[2] * x.shape[3]
    mean = (2 * level + pixels) // (2 * pixels)  # rounds half up, in integers
    return _blend(_per_image(mean.to(torch.int32)), x, factor)


def color(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image: factor 0 is grey."""
    return _blend(grey(x), x, factor)


def sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image smoothed by (1 1 1, 1 5 1, 1 1 1) / 13; the outermost pixels keep their value."""
    return _blend(_smooth(x), x, factor)


def _smooth(x: Tensor) -> Tensor:
    wide = x.to(torch.int32)
    if min(x.shape[2:]) < 3:
        return wide
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    total.add_(wide[:, :, 1:-1, 1:-1], alpha=4)
    # Rounded; no sum lies half-way, as 13 is odd, and none within float32's error of it.
    wide[:, :, 1:-1, 1:-1] = ((total.to(torch.float32) + 6.5) * (1 / 13)).to(torch.int32)
    return wide


def grey(x: Tensor) -> Tensor:
    """Luma as Pillow's mode L: (B, 1, H, W) int32."""
    r, g, b = x.to(torch.int32).unbind(1)
    return ((r * 19595).add_(g, alpha=38470).add_(b, alpha=7471).add_(0x8000) >> 16)[:, None]


def _per_image(value: Tensor) -> Tensor:
    return value[:, None, None, None]


def _blend(base: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """Image.blend(base, x, factor): base + factor * (x - base) in float32, two roundings, then truncated."""
    scale = _per_image(factor.to(torch.float32))
    return _levels((x.to(torch.int32) - base).to(torch.float32).mul_(scale).add_(base))


def _levels(value: Tensor) -> Tensor:
    return value.clamp_(0, 255).to(torch.int32).to(torch.uint8)


def invert(x: Tensor) -> Tensor:
    """255 - x."""
    return 255 - x


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` (0..8) bits of each level; 0 bits give black (Pillow 13 and timm raise there)."""
    mask = 256 - torch.pow(2.0, 8 - bits.to(torch.float32)).round()
    return x & _per_image(mask.to(torch.int32).to(torch.uint8))


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """Invert the levels at or above `threshold` (0..256)."""
    return torch.where(x < _per_image(threshold.to(torch.int16)), x, 255 - x)


def solarize_add(x: Tensor, add: Tensor) -> Tensor:
    """Add `add` (whole number, 0..128) to the levels below 128; their sum cannot pass 255."""
    return torch.where(x < 128, x + _per_image(add.to(torch.int32).to(torch.uint8)), x)


def autocontrast(x: Tensor) -> Tensor:
    """Stretch each channel so that its darkest level becomes 0 and its brightest 255; flat channels stay."""
    low, high = (f(x, (2, 3)).to(torch.int32) for f in (torch.amin, torch.amax))
    dtype = working_dtype(x.device)
    span = (high - low).clamp(min=1).to(dtype)
    scale = (torch.full_like(span, 255.0) / span)[..., None]  # a scalar's division would multiply by the reciprocal
    level = torch.arange(256, device=x.device)
    stretched = (level * scale + (-low.to(dtype)[..., None] * scale)).to(torch.int32).clamp_(0, 255)
    return look_up(x, torch.where((high <= low)[..., None], level, stretched).to(torch.uint8))


def equalize(x: Tensor) -> Tensor:
    """Flatten each channel's histogram, in Pillow's integer arithmetic; channels with too few levels stay."""
    count = histogram(x)
    level = torch.arange(256, device=x.device)
    last = torch.where(count > 0, level, 0).amax(-1, keepdim=True)
    total = x.shape[2] * x.shape[3]
    step = (total - count.gather(2, last)) // 255
    before = count.cumsum(-1) - count
    flat = (before + step // 2) // step.clamp(min=1)
    return look_up(x, torch.where(step == 0, level, flat.clamp_(max=255)).to(torch.uint8))


def histogram(x: Tensor) -> Tensor:
    """(B, C, 256) int64 counts."""
    b, c, height, width = x.shape
    bins = torch.arange(b * c, device=x.device)[:, None] * 256 + x.reshape(b * c, height * width)
    if x.device.type == "cpu":
        return torch.bincount(bins.view(-1), minlength=b * c * 256).view(b, c, 256)
    count = torch.zeros(b * c * 256, dtype=torch.int64, device=x.device)  # bincount would wait for the device
    return count.scatter_add_(0, bins.view(-1), torch.ones_like(bins).view(-1)).view(b, c, 256)


def look_up(x: Tensor, table: Tensor) -> Tensor:
    """table[b, c, x[b, c, i, j]].  table: (B, C, 256)."""
    b, c, height, width = x.shape
    return table.gather(2, x.reshape(b, c, height * width).to(torch.int64)).view(b, c, height, width)


def hue(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate the hue by `turn` (-0.5..0.5) of a full circle, as torchvision's adjust_hue on a Pillow image."""
    h, s, v = _to_hsv(x)
    shift = (turn * 255).to(torch.int32)[:, None, None]
    return _from_hsv((h + shift) & 255, s, v)


def _to_hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue, saturation, value as Pillow's mode HSV: (B, H, W) int32 each."""
    r, g, b = x.to(torch.int32).unbind(1)
    high, low = x.amax(1).to(torch.int32), x.amin(1).to(torch.int32)
    span = (high - low).clamp(min=1).to(torch.float32)
    rc, gc, bc = ((high - channel).to(torch.float32) / span for channel in (r, g, b))
    wide = working_dtype(x.device)  # Pillow adds the constants in double precision and stores floats
    sector = torch.where(
        r == high, bc - gc, torch.where(g == high, (2.0 + rc.to(wide) - bc).float(), (4.0 + gc.to(wide) - rc).float())
    )
    h = torch.fmod(sector.to(wide) / 6.0 + 1.0, 1.0).float()
    s = (high - low).to(torch.float32) / high.clamp(min=1).to(torch.float32)
    flat = high == low
    h, s = ((part.to(wide) * 255.0).to(torch.int32).clamp_(0, 255).masked_fill_(flat, 0) for part in (h, s))
    return h, s, high


def _from_hsv(h: Tensor, s: Tensor, v: Tensor) -> Tensor:
    wide = working_dtype(h.device)
    angle = h.to(wide) * 6.0 / 255.0
    sector = angle.floor()
    f = (angle - sector).float().to(wide)
    share, value = (s.float().to(wide) / 255.0).float().to(wide), v.to(wide)
    p, q, t = ((value * part + 0.5).floor().to(torch.int32) for part in (1 - share, 1 - share * f, 1 - share * (1 - f)))
    choice = (sector.to(torch.int64) % 6)[:, None]
    corners = torch.stack([v, q, p, p, t, v, t, v, v, q, p, p, p, p, t, v, v, q], 1)
    rgb = torch.cat([corners.gather(1, choice + 6 * channel) for channel in range(3)], 1)
    return rgb.clamp_(0, 255).to(torch.uint8)


JITTER = (brightness, contrast, color, hue)  # `jitter_op` of a draw indexes this


def draw_jitter(
    n: int, strengths: tuple[float, float, float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Operations and factors of torchvision's ColorJitter, drawn per sample.

    strengths: brightness, contrast, saturation (factor uniform in max(0, 1 - s)..1 + s) and hue (turn in -s..s, s <=
    0.5).
    Returns op (n, 4) int64 in a random order, -1 where the strength is 0, and value (n, 4) float64.
    """
    order = uniform(n, 4, generator).argsort(1)
    strength = torch.tensor(strengths, dtype=torch.float64)
    low = torch.cat([(1 - strength[:3]).clamp(min=0), -strength[3:]])
    high = torch.cat([1 + strength[:3], strength[3:]])
    value = low + (high - low) * uniform(n, 4, generator)
    return torch.where(strength[order] > 0, order, -1), value.gather(1, order)
