"""Mixing the images of a batch with one another: mixup, CutMix, and Semi-ViT's probabilistic pseudo mixup.

What is random is drawn first, on the host and for the batch of all processes (`draw_mixup`, `draw_pseudo_mixup`); the rest is a
function of it, so a run does not depend on how many processes or micro-batches share a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_bench import distributed


@dataclass(frozen=True)
class Mix:
    """How the n images of a batch are mixed; every tensor on the CPU.

    partner: (n,) int64, the row that is mixed into each; cut: (n,) bool, by CutMix instead of mixup; centre: (n, 2) float64 in
    [0, 1), of CutMix's box, down and across; weight: (n,) float64 in [0, 1], share of the image itself, None where confidences
    decide.
    """

    partner: Tensor
    cut: Tensor
    centre: Tensor
    weight: Tensor | None


def draw_mixup(
    n: int, *, mixup: float, cutmix: float, random: np.random.Generator, mode: str = "batch", prob: float = 1.0, switch_prob: float = 0.5
) -> Mix:  # fmt: skip
    """Image i is mixed with image n - 1 - i, with a share from Beta(mixup, mixup), or Beta(cutmix, cutmix) for CutMix.

    mode: one share, box and coin for the ``batch``, for each ``pair`` of images, or for each image (``elem``); prob: of mixing at
    all; switch_prob: of CutMix where both `mixup` and `cutmix` are above 0, else the one that is.
    Source: mixup (arXiv:1710.09412), CutMix (arXiv:1905.04899), as timm's Mixup combines them.
    ValueError: an odd n, or nothing to draw from.
    """
    if n % 2:
        raise ValueError(f"mixup pairs the images of a batch: {n} is odd, use an even --batch-size (and --mu)")
    if mixup <= 0 and cutmix <= 0:
        raise ValueError("mixing needs --mixup or --cutmix above 0")
    if mode not in ("batch", "pair", "elem"):
        raise ValueError(f"mode must be batch, pair or elem, got {mode!r}")
    size = {"batch": 1, "pair": n // 2, "elem": n}[mode]
    coins = random.random(size) < cut_probability(mixup, cutmix, switch_prob)
    alpha = np.where(coins, cutmix or 1.0, mixup or 1.0)
    shares = np.where(random.random(size) < prob, random.beta(alpha, alpha), 1.0)
    parts = [torch.from_numpy(part) for part in (coins, random.random((size, 2)), shares)]
    if mode == "pair":
        parts = [torch.cat([part, part.flip(0)]) for part in parts]
    cut, centre, weight = (part.expand(n, *part.shape[1:]) if mode == "batch" else part for part in parts)
    return Mix(torch.arange(n - 1, -1, -1), cut, centre, weight)


def draw_pseudo_mixup(n: int, *, mixup: float, cutmix: float, random: np.random.Generator, switch_prob: float = 0.5) -> Mix:
    """A partner for each image by one random permutation, and for each its own coin between mixup and CutMix and its own box.

    mixup, cutmix: above 0 or not, as switches.  Source: Semi-ViT (arXiv:2208.05688) section 3.3; its code.
    """
    coins = random.random(n) < cut_probability(mixup, cutmix, switch_prob)
    partner, cut, centre = (torch.from_numpy(part) for part in (random.permutation(n), coins, random.random((n, 2))))
    return Mix(partner, cut, centre, None)


def cut_probability(mixup: float, cutmix: float, switch_prob: float) -> float:
    """`switch_prob` where both strengths are above 0; else 1 or 0."""
    return switch_prob if mixup > 0 and cutmix > 0 else float(cutmix > 0)


def pair_weight(confidence: Tensor, confidence_partner: Tensor) -> Tensor:
    """Probabilistic pseudo mixup: the image's own share c / (c + c'), (n,): the surer a label, the more of its image.

    Source: Semi-ViT (arXiv:2208.05688) section 3.3.
    """
    return confidence / (confidence + confidence_partner)


def blend(x: Tensor, x_partner: Tensor, weight: Tensor, cut: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """(mixed images, share of the image itself in each): weight x + (1 - weight) x', or where `cut` a box of x' in x.

    x, x_partner: (n, C, H, W) float; weight: (n,); cut: (n,) bool; centre: (n, 2).  The box has sides floor(H sqrt(1 - weight)) and
    floor(W sqrt(1 - weight)) and is clipped at the border; the share returned is what it leaves.  x_partner is overwritten.
    """
    weight = weight.to(_number(x.device))
    inside = []
    for size, middle in zip(x.shape[2:], centre.unbind(1), strict=True):
        side = (size * (1 - weight).sqrt()).floor().long()
        first = (middle * size).floor().long() - side // 2
        place = torch.arange(size, device=x.device)
        inside.append((place >= first[:, None]) & (place < (first + side)[:, None]))  # (n, size)
    # The image's own share in the box and elsewhere; the latter is never the smaller, so one pass over (n, H, W) makes the map.
    low, high = (torch.where(cut, value, weight.to(x.dtype))[:, None] for value in (0.0, 1.0))  # (n, 1)
    rows, columns = (torch.where(part, low, high) for part in inside)  # (n, H), (n, W)
    own = torch.maximum(rows[:, :, None], columns[:, None])  # (n, H, W)
    share = torch.where(cut, 1 - inside[0].sum(1) * inside[1].sum(1) / (x.shape[2] * x.shape[3]), weight)
    return x_partner.lerp_(x, own[:, None]), share.to(x.dtype)  # in place: fresh memory costs more than the arithmetic


def _number(device: torch.device) -> torch.dtype:
    """What sides of boxes are computed in, so that they are rounded as in NumPy: float64, which MPS does not have."""
    return torch.float32 if device.type == "mps" else torch.float64


def smoothed(label: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """One-hot targets (n, num_classes) of label (n,), with `smoothing` of their mass spread over all classes."""
    target = torch.full((len(label), num_classes), smoothing / num_classes, device=label.device)
    return target.scatter_(1, label[:, None], 1 - smoothing + smoothing / num_classes)


def mix_batch(
    x: Tensor, label: Tensor, mix: Mix | None, num_classes: int, smoothing: float, confidence: Tensor | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """This process's part of a batch of images x (n, C, H, W) and labels (n,), mixed: (images, soft targets (n, num_classes)).

    mix: of the batch of all processes, None leaves the images as they are; confidence: (n,) in (0, 1] of each label, where `mix`
    has no weights.  Collective.
    """
    target = smoothed(label, num_classes, smoothing)
    if mix is None:
        return x, target
    own, number = slice(distributed.rank(), None, distributed.world_size()), _number(x.device)
    cut, centre = (part[own].to(x.device, non_blocking=True) for part in (mix.cut, mix.centre.to(number)))
    if mix.weight is not None:
        weight = mix.weight[own].to(number).to(x.device, non_blocking=True)
    elif confidence is not None:
        weight = pair_weight(confidence, distributed.take_rows(confidence, mix.partner))
    else:
        raise ValueError("a mix without weights needs the confidence of each label")
    x, share = blend(x, distributed.take_rows(x, mix.partner), weight, cut, centre)
    target_partner = smoothed(distributed.take_rows(label, mix.partner), num_classes, smoothing)
    return x, share[:, None] * target + (1 - share[:, None]) * target_partner


def surest(confidence: Tensor, mix: Mix | None) -> Tensor:
    """What a mixed image's label is trusted by, (n,): max(c, c') of the pair in probabilistic pseudo mixup, else the image's own c.

    confidence: this process's part, (n,).  Source: Semi-ViT (arXiv:2208.05688) section 3.3 (timm's mixup, as pseudo mixup in its
    code, keeps the mask of the image itself).  Collective.
    """
    if mix is None or mix.weight is not None:
        return confidence
    return torch.maximum(confidence, distributed.take_rows(confidence, mix.partner))
