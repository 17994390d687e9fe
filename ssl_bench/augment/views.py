"""One recipe for turning uint8 images into network inputs: crop, flip, colour, policy, normalise, erase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from ssl_bench.augment import erasing, geometry
from ssl_bench.augment.colour import JITTER, draw_jitter
from ssl_bench.augment.draws import Draws, send, uniform
from ssl_bench.augment.geometry import Size
from ssl_bench.augment.layers import apply_layers
from ssl_bench.augment.randaugment import Policy, apply_policy, draw_policy, parse_policy

Crop = Literal["resized", "padded", "center", "resize", "short", "short_center"]


@dataclass(frozen=True)
class View:
    """A view is drawn for n samples, then applied in two halves: `crop` needs the original size, `finish` does not.

    crop_mode: "resized" random resized crop (bilinear); "padded" random crop of a reflected border, then resize;
    "center" resize to 8/7 of image_size and centre crop; "resize" resize only; "short" short side to 8/7 of image_size, then
    a random crop with a reflected border of image_size / 56, rounded, at least 1 (4 at 224: a small image's border is the same
    share of it); "short_center" the same resize and a centre crop (all but the first bicubic).
    Draws are made on the host and are the same whatever the device.  Build one with `build_view`.
    """

    image_size: int
    crop_mode: Crop
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    hflip: float = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # brightness, contrast, saturation, hue
    policy: Policy | None = None
    erasing: float = 0.0
    erasing_mode: Literal["pixel", "const"] = "pixel"
    cutout: float = 0.0
    crop_scale: float = 0.2  # least share of the image's area in a "resized" crop

    @property
    def fill(self) -> tuple[int, ...]:
        """Colour of what affine operations uncover: the mean, in levels."""
        return tuple(round(255 * m) for m in self.mean)

    def draw(self, n: int, size: Size, generator: torch.Generator) -> Draws:
        """Draw both halves for n images.  size: (height, width), or (n, 2) int64; generator: on the CPU."""
        box = self.draw_crop(n, size, generator).box
        return self._draw_finish(n, generator, box)

    def draw_crop(self, n: int, size: Size, generator: torch.Generator) -> Draws:
        """Draw what `crop` needs."""
        if self.crop_mode == "resized":
            return Draws(n, box=geometry.draw_resized_boxes(n, size, generator, (self.crop_scale, 1.0)))
        if self.crop_mode == "padded":
            return Draws(n, box=geometry.draw_padded_boxes(n, size, generator))
        if self.crop_mode == "short":
            pad = max(1, round(self.image_size / 56))
            return Draws(n, box=geometry.draw_short_boxes(n, size, self._full, self.image_size, pad, generator))
        return Draws(n)

    def draw_finish(self, n: int, generator: torch.Generator) -> Draws:
        """Draw what `finish` needs."""
        return self._draw_finish(n, generator, None)

    def _draw_finish(self, n: int, generator: torch.Generator, box: Tensor | None) -> Draws:
        flip = uniform(n, 1, generator)[:, 0] < self.hflip if self.hflip > 0 else None
        jitter = draw_jitter(n, self.jitter, generator) if any(self.jitter) else (None, None)
        policy = draw_policy(self.policy, n, generator) if self.policy is not None else (None, None)
        erase = erasing.draw_erasing(n, self.image_size, self.erasing, generator) if self.erasing > 0 else (None, None)
        cutout = erasing.draw_cutout(n, self.image_size, self.cutout, generator) if self.cutout > 0 else None
        return Draws(n, box, flip, jitter[0], jitter[1], policy[0], policy[1], erase[0], erase[1], cutout)

    def crop(self, x: Tensor, draws: Draws) -> Tensor:
        """x: (B, C, H, W) uint8, C = 1 or 3.  Returns (B, C, S, S) uint8, S = image_size."""
        _check(x, draws)
        if self.crop_mode == "resized":
            return geometry.crop_resize(x, _drawn(draws.box, "box"), self.image_size)
        if self.crop_mode == "padded":
            return geometry.resize(geometry.crop_reflect(x, _drawn(draws.box, "box")), self.image_size)
        if self.crop_mode == "short":
            return geometry.crop_short(x, _drawn(draws.box, "box"), self._full, self.image_size)
        if self.crop_mode == "short_center":
            box = geometry.central_short_box(tuple(x.shape[-2:]), self._full, self.image_size)
            return geometry.crop_short(x, box, self._full, self.image_size)
        return geometry.resize_center(x, self._full, self.image_size)

    def crop_each(self, images: Sequence[Tensor], draws: Draws) -> Tensor:
        """`crop` of images (C, H, W) uint8 of different sizes on the CPU -> (B, C, S, S) uint8.

        Equal to it byte for byte, but for random resized crops, which differ by one level at most.
        """
        draws.expect(len(images))
        for image in images:
            _check_pixels(image[None])
        if self.crop_mode == "resized":
            return geometry.crop_resize_each(images, _drawn(draws.box, "box"), self.image_size)
        if self.crop_mode in ("short", "short_center"):
            if self.crop_mode == "short":
                boxes = _drawn(draws.box, "box").split(1)
            else:
                boxes = [geometry.central_short_box(tuple(image.shape[-2:]), self._full, self.image_size) for image in images]
            pairs = zip(images, boxes, strict=True)
            return torch.stack([geometry.crop_short_image(image, box, self._full, self.image_size) for image, box in pairs])
        if self.crop_mode == "padded":
            boxes = _drawn(draws.box, "box").split(1)
            images = [geometry.crop_reflect(image[None], box)[0] for image, box in zip(images, boxes, strict=True)]
        return torch.stack([geometry.resize_center_image(image, self._full, self.image_size) for image in images])

    @property
    def _full(self) -> int:
        return self.image_size if self.crop_mode in ("padded", "resize") else round(self.image_size * 256 / 224)

    def finish(self, x: Tensor, draws: Draws) -> Tensor:
        """x: (B, 3 or 1, S, S) uint8, unchanged.  Returns (B, 3, S, S) float32, normalised by (x / 255 - mean) /
        std.

        Under torch.compile it runs as it is: Inductor's fused code changes bytes (up to 15 levels in some operations) and
        cannot express the hash behind the erasing noise.
        """
        if torch.compiler.is_compiling():
            return torch.compiler.disable(self._finish)(x, draws)
        return self._finish(x, draws)

    def _finish(self, x: Tensor, draws: Draws) -> Tensor:
        _check(x, draws)
        x = x.expand(-1, 3, -1, -1)
        if self.hflip > 0:
            x = geometry.flip_some(x, _drawn(draws.flip, "flip"))
        if any(self.jitter):
            x = apply_layers(x, _drawn(draws.jitter_op, "jitter"), _drawn(draws.jitter_value, "jitter"), JITTER)
        if self.policy is not None:
            x = apply_policy(x, _drawn(draws.policy_op, "policy"), _drawn(draws.policy_value, "policy"), self.fill)
        out = self.normalise(x)
        if self.erasing > 0 and self.erasing_mode == "pixel":
            erasing.fill_noise(out, _drawn(draws.erase, "erase"), _drawn(draws.erase_seed, "erase"))
        elif self.erasing > 0:
            erasing.blank(out, _drawn(draws.erase, "erase"))
        if self.cutout > 0:
            erasing.blank(out, _drawn(draws.cutout, "cutout"))
        return out

    def normalise(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> float32, in torchvision's order of operations (ToTensor, Normalize), hence equal to
        it.
        """
        mean, std = _constants(self.mean, self.std, x.device)
        return x.to(torch.float32, memory_format=torch.contiguous_format).div_(255).sub_(mean).div_(std)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw for and apply to a batch: (B, C, H, W) uint8 -> (B, 3, S, S) float32."""
        draws = self.draw(len(x), tuple(x.shape[-2:]), generator)
        return self.finish(self.crop(x, draws), draws)


def build_view(
    name: str,
    *,
    image_size: int,
    resizing: str,
    mean: Sequence[float],
    std: Sequence[float],
    policy: str = "",
    hflip: float = 0.5,
    color_jitter: float | Sequence[float] = 0.0,
    weak_color_jitter: float | Sequence[float] = 0.0,
    erasing: float = 0.0,
    erasing_mode: Literal["pixel", "const"] = "pixel",
    cutout: float = 0.0,
    crop_scale: float = 0.2,
) -> View:
    """A view of TLlib's presets at any size.

    resizing: "default" random resized crop, at test time resize to 256/224 of image_size and centre crop; "cifar"
    padded random crop, at test time resize only; "short" at test time only: short side to 256/224 of image_size, the aspect
    kept, and centre crop.  weak = crop, flip, weak colour jitter; weak_short = the same of Semiformer's crop whatever the
    resizing: short side to 256/224 of image_size, random crop with a border, no other scale (Semiformer flips first; the
    images are the same); strong = crop, flip, colour jitter, policy, erasing, Cutout; strong_whole = the same without the
    last two.
    mean, std: of levels scaled to 0..1, per channel; policy: timm's string; hflip, erasing: probabilities;
    color_jitter: s for factors in 1 - s..1 + s of brightness, contrast and saturation, or three or four strengths (the
    fourth is hue, at most 0.5); cutout: side as a share of the image's; crop_scale: least
    share of the image's area in a random resized crop, above 0.  What is not of a view is ignored.
    Raises ValueError for an unknown name, preset or policy and values out of range.
    """
    modes: dict[tuple[str, bool], Crop] = {
        ("default", True): "resized",
        ("default", False): "center",
        ("cifar", True): "padded",
        ("cifar", False): "resize",
        ("short", False): "short_center",
    }
    if name not in ("weak", "weak_short", "strong", "strong_whole", "test"):
        raise ValueError(f"unknown view {name!r}: use weak, weak_short, strong, strong_whole or test")
    if (resizing, name != "test") not in modes:
        choices = "default, cifar or short" if name == "test" else "default or cifar"
        raise ValueError(f"unknown resizing {resizing!r} of the {name} view: use {choices}")
    if erasing_mode not in ("pixel", "const"):
        raise ValueError(f"unknown erasing mode {erasing_mode!r}: use pixel or const")
    if image_size < 1:
        raise ValueError(f"image_size is {image_size}: use 1 or more")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean {tuple(mean)}, std {tuple(std)}: give three numbers each, std above 0")
    for label, share in (("hflip", hflip), ("erasing", erasing), ("cutout", cutout)):
        if not 0 <= share <= 1:
            raise ValueError(f"{label} is {share}: use 0..1")
    common: dict[str, Any] = {"image_size": image_size, "mean": tuple(map(float, mean)), "std": tuple(map(float, std))}
    if name == "test":
        return View(crop_mode=modes[resizing, False], **common)
    common["crop_scale"] = crop_scale
    if name in ("weak", "weak_short"):
        mode = modes[resizing, True] if name == "weak" else "short"
        return View(crop_mode=mode, hflip=hflip, jitter=_strengths(weak_color_jitter), **common)
    if name == "strong_whole":
        erasing = cutout = 0.0
    return View(
        crop_mode=modes[resizing, True],
        hflip=hflip,
        jitter=_strengths(color_jitter),
        policy=parse_policy(policy),
        erasing=erasing,
        erasing_mode=erasing_mode,
        cutout=cutout,
        **common,
    )


def _strengths(jitter: float | Sequence[float]) -> tuple[float, float, float, float]:
    parts = [float(jitter)] * 3 if isinstance(jitter, (int, float)) else [float(s) for s in jitter]
    if len(parts) not in (3, 4) or min(parts) < 0 or max(parts[3:], default=0) > 0.5:
        raise ValueError(f"color_jitter is {jitter}: give one, three or four strengths >= 0, the fourth (hue) <= 0.5")
    brightness, contrast, saturation, hue = parts + [0.0] * (4 - len(parts))
    return brightness, contrast, saturation, hue


def _check(x: Tensor, draws: Draws) -> None:
    _check_pixels(x)
    draws.expect(len(x))


def _check_pixels(x: Tensor) -> None:
    if x.dtype != torch.uint8 or x.dim() != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"images are {x.dtype} of shape {tuple(x.shape)}: give uint8 (B, 3 or 1, H, W)")


def _drawn(part: Tensor | None, what: str) -> Tensor:
    if part is None:
        raise ValueError(f"the draws hold no {what}: draw them with this view (draw, or draw_crop / draw_finish)")
    return part


@lru_cache(maxsize=16)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    return send(torch.tensor(mean)[:, None, None], device), send(torch.tensor(std)[:, None, None], device)
