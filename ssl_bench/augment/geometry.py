"""Crops, resizes and flips: the part of a view that needs the original size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ssl_bench.augment.draws import send, uniform
from ssl_bench.augment.resample import Kernel, coefficients, dense, resize_batch, vertical_first

NARROW = 16
"""Aspect beyond which Pillow would make far more pixels than are kept: 2 GB of an image of 1 x 10,000."""
Size = tuple[int, ...] | Tensor  # (height, width) of all images, or (n, 2) int64, one row an image


def sizes(n: int, size: Size) -> tuple[Tensor, Tensor]:
    """Heights and widths, (n,) int64 each.  Raises ValueError when `size` is neither a pair nor (n, 2)."""
    table = torch.as_tensor(size, dtype=torch.int64)
    if table.shape not in ((2,), (n, 2)):
        raise ValueError(f"size has shape {tuple(table.shape)}: give (height, width) or a tensor of shape ({n}, 2)")
    table = table.expand(n, 2)
    return table[:, 0], table[:, 1]


def draw_resized_boxes(
    n: int,
    size: Size,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """(n, 4) int64 top, left, height, width: boxes as torchvision's RandomResizedCrop.get_params draws them.

    scale: share of the image's area, uniform; ratio: width / height, log-uniform.  Ten attempts, then the largest
    central box whose ratio lies in range.  The numbers taken from `generator` do not depend on `size`.
    """
    height, width = sizes(n, size)
    area = (height * width).to(torch.float64)[:, None] * (scale[0] + (scale[1] - scale[0]) * uniform(n, 10, generator))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * uniform(n, 10, generator))
    place = uniform(n, 2, generator)
    w, h = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
    first = fits.to(torch.uint8).argmax(1, keepdim=True)  # argmax returns the first of equal values
    w, h = w.gather(1, first)[:, 0], h.gather(1, first)[:, 0]
    top, left = (place[:, 0] * (height - h + 1)).long(), (place[:, 1] * (width - w + 1)).long()
    drawn = torch.stack([top, left, h, w], 1)
    return torch.where(fits.any(1, keepdim=True), drawn, _central_boxes(height, width, ratio))


def _central_boxes(height: Tensor, width: Tensor, ratio: tuple[float, float]) -> Tensor:
    own = width.double() / height.double()
    h = torch.where(own < ratio[0], (width.double() / ratio[0]).round().long(), height)
    w = torch.where(own > ratio[1], (height.double() * ratio[1]).round().long(), width)
    return torch.stack([(height - h) // 2, (width - w) // 2, h, w], 1)


def draw_padded_boxes(n: int, size: Size, generator: torch.Generator) -> Tensor:
    """(n, 4) int64 boxes of the image's own size, shifted by up to an eighth of its side (4 at 32, at least 1),
    uniformly.
    """
    height, width = sizes(n, size)
    margin = torch.stack([height, width], 1).div(8, rounding_mode="floor").clamp(min=1)
    shift = (uniform(n, 2, generator) * (2 * margin + 1)).long() - margin
    return torch.cat([shift, height[:, None], width[:, None]], 1)


def crop_resize(x: Tensor, box: Tensor, size: int, kernel: Kernel = "bilinear") -> Tensor:
    """Cut each image's box out and resize it to size x size: Pillow's crop, then its antialiased resize, byte for byte.

    x: (B, C, H, W) uint8; box: (B, 4) int64 on the CPU, inside the image.  Returns (B, C, size, size) uint8.
    """
    top, left, h, w = send(box, x.device).unbind(1)
    rows = dense(*coefficients(top, h, size, kernel, x.shape[2]), x.shape[2])
    columns = dense(*coefficients(left, w, size, kernel, x.shape[3]), x.shape[3])
    rows_first = vertical_first(box[:, 2], box[:, 3], size, size)
    if not any(rows_first.tolist()):
        return resize_batch(x, rows, columns)
    out = x.new_empty(*x.shape[:2], size, size)
    i, j = (send(part.nonzero()[:, 0], x.device) for part in (~rows_first, rows_first))
    out[i] = resize_batch(x[i], rows[i], columns[i])
    out[j] = resize_batch(x[j].transpose(2, 3), columns[j], rows[j]).transpose(2, 3)
    return out


def crop_resize_each(images: Sequence[Tensor], box: Tensor, size: int) -> Tensor:
    """`crop_resize` (bilinear) of images of different sizes on the CPU, in a third of its time: within one level of it.

    images: (C, H, W) uint8 each, C the same for all, fastest where the levels of a pixel lie together; box: (B, 4) int64.
    Returns (B, C, size, size) uint8.  Source: torch's antialiased resize, Pillow's with weights of 8 to 15 bits.
    """
    out = torch.empty(len(images), images[0].shape[0], size, size, dtype=torch.uint8)
    for row, image, (top, left, h, w) in zip(out, images, box.tolist(), strict=True):
        part = image[None, :, top : top + h, left : left + w]
        row.copy_(functional.interpolate(part, (size, size), mode="bilinear", antialias=True)[0])
    return out


def crop_reflect(x: Tensor, box: Tensor) -> Tensor:
    """Cut boxes of the image's own size out of the image continued by reflection (without repeating the edge).

    x: (B, C, H, W) uint8; box: (B, 4) int64 on the CPU.  Returns (B, C, H, W) uint8.
    """
    b, c, height, width = x.shape
    y = _reflect(box[:, :1] + torch.arange(height), height)
    z = _reflect(box[:, 1:2] + torch.arange(width), width)
    # Whole rows first (contiguous copies), then pixels: one gather an axis instead of one over the product.
    row = send(
        (torch.arange(b)[:, None] * c)[:, :, None] * height + torch.arange(c)[:, None] * height + y[:, None], x.device
    )
    tall = x.reshape(b * c * height, width).index_select(0, row.reshape(-1)).view(b, c, height, width)
    return tall.gather(3, send(z, x.device)[:, None, None].expand(b, c, height, width))


def _reflect(index: Tensor, size: int) -> Tensor:
    return ((size - 1) - ((size - 1) - index.abs()).abs()).clamp(min=0)  # an image of one pixel has nothing to reflect


def resize(x: Tensor, size: int, kernel: Kernel = "bicubic") -> Tensor:
    """Resize to size x size whatever the aspect, as Pillow's Image.resize; skipped when the image has that size.

    x: (B, C, H, W) uint8.  Returns (B, C, size, size) uint8.
    """
    return resize_center(x, size, size, kernel)


def _shortened(height: Tensor, width: Tensor, full: int) -> tuple[Tensor, Tensor]:
    """Both sides once the short one is `full`, the long one rounded down, as torchvision's Resize(full) has them."""
    short = torch.minimum(height, width)
    return full * height // short, full * width // short


def draw_short_boxes(n: int, size: Size, full: int, side: int, pad: int, generator: torch.Generator) -> Tensor:
    """(n, 4) int64 boxes for `crop_short`: torchvision's RandomCrop(side, padding=pad) after Resize(full), uniformly.

    The numbers taken from `generator` do not depend on `size`.
    """
    length = torch.stack(_shortened(*sizes(n, size), full), 1)
    corner = (uniform(n, 2, generator) * (length - side + 2 * pad + 1)).long() - pad
    return torch.cat([corner, torch.full((n, 2), side)], 1)


def central_short_box(size: tuple[int, ...], full: int, side: int) -> Tensor:
    """(1, 4) int64 box for `crop_short`: torchvision's CenterCrop(side) after Resize(full).  size: (height, width), side <= full."""
    length = torch.cat(_shortened(*sizes(1, size), full)).tolist()
    return torch.tensor([[*(round((part - side) / 2) for part in length), side, side]])


def crop_short(x: Tensor, box: Tensor, full: int, side: int) -> Tensor:
    """Resize the short side to `full`, the aspect kept (bicubic), then cut boxes out of the result continued by reflection.

    Equal to Pillow byte for byte; only the pixels that stay are computed.  x: (B, C, H, W) uint8; box: (B, 4) or, one for
    all, (1, 4) int64 on the CPU, in pixels of the resized image, side x side.  Returns (B, C, side, side) uint8.
    """
    height, width = torch.cat(_shortened(*sizes(1, tuple(x.shape[-2:])), full)).tolist()
    rows = _picked(box[:, :1], x.shape[2], height, side, x.device)
    columns = _picked(box[:, 1:2], x.shape[3], width, side, x.device)
    if vertical_first(x.shape[2], x.shape[3], height, width):
        return resize_batch(x.transpose(2, 3), columns, rows).transpose(2, 3).contiguous()
    return resize_batch(x, rows, columns)


def _picked(start: Tensor, length: int, out: int, side: int, device: torch.device) -> Tensor:
    """Matrices (B, side, length) that resize `length` pixels to `out` and keep `side` of these from `start`, (B, 1), on."""
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    kept = send(_reflect(start + torch.arange(side), out), device)  # (B, side); of a narrow image `out` may be millions
    first, weight = coefficients(zero, zero + length, out, "bicubic", length, kept.reshape(-1))
    return dense(first.view(*kept.shape), weight.view(*kept.shape, -1), length)


def crop_short_image(x: Tensor, box: Tensor, full: int, side: int) -> Tensor:
    """`crop_short` of one image (C, H, W) on the CPU, by Pillow itself.  box: (1, 4)."""
    height, width = torch.cat(_shortened(*sizes(1, tuple(x.shape[-2:])), full)).tolist()
    if max(height, width) > NARROW * full:
        return crop_short(x[None], box, full, side)[0]
    top, left = box[0, :2].tolist()
    resized = _resized_by_pillow(x, height, width)
    rows, columns = _reflect(top + torch.arange(side), height), _reflect(left + torch.arange(side), width)
    return resized.index_select(1, rows).index_select(2, columns)


def resize_center(x: Tensor, full: int, size: int, kernel: Kernel = "bicubic") -> Tensor:
    """Resize to full x full whatever the aspect, then keep the central size x size, as torchvision's CenterCrop.

    x: (B, C, H, W) uint8, size <= full.  Returns (B, C, size, size) uint8.
    """
    if x.shape[-2:] == (full, full) and full == size:
        return x
    rows, columns = (dense(*_central(length, full, size, kernel, x.device), length) for length in x.shape[-2:])
    if _rows_first(x, full):
        return resize_batch(x.transpose(2, 3), columns, rows).transpose(2, 3).contiguous()
    return resize_batch(x, rows, columns)


def resize_center_image(x: Tensor, full: int, size: int) -> Tensor:
    """`resize_center` (bicubic) of one image (C, H, W) on the CPU, by Pillow itself."""
    if x.shape[-2:] == (full, full) and full == size:
        return x
    start = round((full - size) / 2)
    return _resized_by_pillow(x, full, full)[:, start : start + size, start : start + size]


def _resized_by_pillow(x: Tensor, height: int, width: int) -> Tensor:
    """(C, H, W) uint8 -> (C, height, width), bicubic."""
    from PIL import Image

    picture = Image.fromarray(x[0].numpy() if len(x) == 1 else x.permute(1, 2, 0).numpy())
    resized = torch.from_numpy(np.array(picture.resize((width, height), Image.Resampling.BICUBIC)))
    return resized.view(height, width, len(x)).permute(2, 0, 1)


def _rows_first(x: Tensor, full: int) -> bool:
    return bool(vertical_first(x.shape[-2], x.shape[-1], full, full))


def _central(length: int, full: int, size: int, kernel: Kernel, device: torch.device) -> tuple[Tensor, Tensor]:
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    first, weight = coefficients(zero, zero + length, full, kernel, length)
    keep = slice(round((full - size) / 2), round((full - size) / 2) + size)
    return first[:, keep], weight[:, keep]


def flip_some(x: Tensor, flip: Tensor) -> Tensor:
    """Mirror the images whose flag is set, left to right.  x: (B, C, H, W); flip: (B,) bool on the CPU.  A new
    tensor.
    """
    index = send(flip.nonzero()[:, 0], x.device)
    return x.index_copy(0, index, x.index_select(0, index).flip(-1))
