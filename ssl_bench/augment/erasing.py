"""Random erasing (timm's 'const' and 'pixel' modes) and Cutout, on normalised float images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssl_bench.augment.draws import send, uniform


def draw_erasing(
    n: int,
    size: int,
    probability: float,
    generator: torch.Generator,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> tuple[Tensor, Tensor]:
    """Rectangles to erase in size x size images, as timm's RandomErasing draws them (one a sample, ten attempts).

    Returns (n, 4) int64 top, left, height, width, height 0 where nothing is erased, and (n,) int64 seeds of the noise.
    area: share of the image, uniform; aspect: height / width, log-uniform.  Source: Zhong et al., arXiv 1708.04896.
    """
    target = size * size * (area[0] + (area[1] - area[0]) * uniform(n, 10, generator))
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = torch.exp(low + (high - low) * uniform(n, 10, generator))
    coin, y, x = uniform(n, 3, generator).unbind(1)
    seed = torch.randint(2**62, (n,), generator=generator)
    height, width = (target * ratio).sqrt().round().long(), (target / ratio).sqrt().round().long()
    fits = (height < size) & (width < size)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    height, width = height.gather(1, first)[:, 0], width.gather(1, first)[:, 0]
    box = torch.stack([(y * (size - height + 1)).long(), (x * (size - width + 1)).long(), height, width], 1)
    erase = (coin <= probability) & fits.any(1) & (probability > 0)
    return torch.where(erase[:, None], box, 0), seed


def draw_cutout(n: int, size: int, side: float, generator: torch.Generator) -> Tensor:
    """(n, 4) int64 squares of round(side * size) pixels whose centres are uniform in the image; they may reach over
    the edge.

    Source: DeVries and Taylor, arXiv 1708.04552.
    """
    length = round(side * size)
    corner = (uniform(n, 2, generator) * size).long() - length // 2
    return torch.cat([corner, torch.full((n, 2), length)], 1)


def blank(x: Tensor, box: Tensor) -> Tensor:
    """Set each image's box to 0, the data set's mean colour once normalised (timm's 'const' mode), **in place**.

    x: (B, C, H, W) float; box: (B, 4) int64 on the CPU.
    """
    return x.masked_fill_(_inside(send(box, x.device), x.shape[2], x.shape[3]), 0.0)


def fill_noise(x: Tensor, box: Tensor, seed: Tensor) -> Tensor:
    """Replace each image's box by standard normal noise, per pixel and channel (timm's 'pixel' mode), **in place**.

    x: (B, C, H, W) float; box: (B, 4), seed: (B,) int64 on the CPU.  The noise is a function of seed and pixel alone,
    so it is the same on every device to float32 rounding.
    """
    chosen = (box[:, 2] > 0).nonzero()[:, 0]
    index = send(chosen, x.device)
    some = x.index_select(0, index)
    mask = _inside(send(box[chosen], x.device), x.shape[2], x.shape[3])
    return x.index_copy_(0, index, torch.where(mask, _normal(send(seed[chosen], x.device), some.shape), some))


def _inside(box: Tensor, height: int, width: int) -> Tensor:
    top, left, h, w = (part[:, None] for part in box.unbind(1))
    row, column = torch.arange(height, device=box.device), torch.arange(width, device=box.device)
    rows, columns = (row >= top) & (row < top + h), (column >= left) & (column < left + w)
    return (rows[:, :, None] & columns[:, None])[:, None]


def _normal(seed: Tensor, shape: torch.Size) -> Tensor:
    """(B, C, H, W) float32: hashed counters (the splitmix64 finaliser) through the inverse normal distribution."""
    b, c, h, w = shape
    key = seed[:, None] + torch.arange(c * h * w, device=seed.device) * -7046029254386353131  # wraps around
    key = (key ^ _shifted(key, 30)) * -4658895280553007687
    key = (key ^ _shifted(key, 27)) * -7723592293110705685
    key = key ^ _shifted(key, 31)
    share = (_shifted(key, 40).to(torch.float32) + 0.5) * 2.0**-24  # inside (0, 1)
    return (torch.erfinv(2 * share - 1) * math.sqrt(2)).view(b, c, h, w)


def _shifted(key: Tensor, bits: int) -> Tensor:
    """Logical shift right; torch's >> keeps the sign."""
    return (key >> bits) & (2 ** (64 - bits) - 1)
