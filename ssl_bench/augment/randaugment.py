"""RandAugment and AutoAugment by timm's policy strings, drawn per sample.

timm parses the string; the draws below follow its `AugmentOp`, `RandAugment` and `AutoAugment` in distribution (not in
the stream of random numbers: timm mixes Python's and numpy's global generators).  The operations are `colour`,
`affine` and `blur`.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from ssl_bench.augment import affine, blur, colour
from ssl_bench.augment.draws import send, uniform
from ssl_bench.augment.layers import apply_layers

OPS = (
    "autocontrast", "equalize", "invert", "posterize", "solarize", "solarize_add",
    "color", "contrast", "brightness", "sharpness", "gaussian_blur",
    "rotate", "shear_x", "shear_y", "translate_x", "translate_y", "translate_x_rel", "translate_y_rel",
)  # fmt: skip
_SECTION = re.compile(r"(m|n|inc|mmax)\d+|(p|mstd)\d+(\.\d*)?|t(weights|3a|3aw)")
_HELP = (
    "use timm's rand-* (such as rand-m10-n2-mstd2; sections m, n, p, mstd, mmax, inc, tweights, t3a, t3aw), "
    "original, originalr, v0, v0r or 3a (with -mstd), or '' for none"
)


@dataclass(frozen=True)
class Policy:
    """What timm's transform object says.  Entries are timm's AugmentOps; a path is a tuple of entries applied in
    order.
    """

    names: tuple[str, ...]  # timm's name of each entry
    prob: tuple[float, ...]
    magnitude: tuple[float, ...]
    std: float  # of the magnitude; inf draws it uniformly from 0..magnitude
    upper: float  # magnitudes are clipped to 0..upper
    translate_const: float  # pixels
    translate_pct: float  # share of the side
    layers: int
    paths: tuple[tuple[int, ...], ...] | None = None  # AutoAugment: one is chosen, uniformly
    weights: tuple[float, ...] | None = (
        None  # RandAugment: chosen with these odds, without replacement; None: uniformly, with
    )


def parse_policy(text: str, translate_const: float = 100.0) -> Policy | None:
    """Read a timm policy string; '' gives None.

    translate_const: largest absolute translation in pixels (unused by the default set of operations, whose is
    relative).
    Raises ValueError for strings that timm does not know, silently ignores, or that name AugMix.
    """
    if text == "":
        return None
    head, *sections = text.split("-")
    if head == "augmix":
        raise ValueError(f"policy {text!r}: AugMix is not supported; {_HELP}")
    known = head == "rand" or head in ("original", "originalr", "v0", "v0r", "3a")
    odd = [s for s in sections if not _SECTION.fullmatch(s) or (head != "rand" and not s.startswith("mstd"))]
    if not known or odd:
        raise ValueError(f"policy {text!r}: unknown {'section ' + repr(odd[0]) if known else repr(head)}; {_HELP}")
    timm = _auto_augment()
    hparams = {"translate_const": translate_const, "img_mean": (128, 128, 128)}
    if head == "rand":
        parsed = timm.rand_augment_transform(text, hparams)
        ops, layers, paths = list(parsed.ops), parsed.num_layers, None
        weights = None if parsed.choice_weights is None else tuple(float(w) for w in parsed.choice_weights)
    else:
        subs = timm.auto_augment_transform(text, hparams).policy
        ops, layers, weights = [op for sub in subs for op in sub], max(len(sub) for sub in subs), None
        ends = torch.tensor([len(sub) for sub in subs]).cumsum(0).tolist()
        paths = tuple(tuple(range(end - len(sub), end)) for sub, end in zip(subs, ends, strict=True))
    if weights is not None and layers > len(ops):
        raise ValueError(
            f"policy {text!r}: {layers} layers, drawn without replacement from {len(ops)} operations; lower n"
        )
    for op in ops:
        if op.name not in _LEVELS:
            raise ValueError(
                f"policy {text!r}: operation {op.name} of this timm is unknown here; choose another policy"
            )
    return Policy(
        names=tuple(op.name for op in ops),
        prob=tuple(float(op.prob) for op in ops),
        magnitude=tuple(float(op.magnitude) for op in ops),
        std=float(ops[0].magnitude_std),
        upper=float(ops[0].magnitude_max or 10),
        translate_const=float(ops[0].hparams["translate_const"]),
        translate_pct=float(ops[0].hparams.get("translate_pct", 0.45)),
        layers=layers,
        paths=paths,
        weights=weights,
    )


@lru_cache(maxsize=1)
def _auto_augment() -> ModuleType:
    """timm.data.auto_augment from its file: it needs Pillow only, while the package around it takes seconds to import."""
    package = importlib.util.find_spec("timm")
    folder = Path((package and package.origin) or "").parent
    spec = importlib.util.spec_from_file_location("_timm_auto_augment", folder / "data" / "auto_augment.py")
    try:
        if spec is None or spec.loader is None:
            raise ImportError
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError):  # a timm that keeps it elsewhere, or lets it import its neighbours
        from timm.data import auto_augment as module
    return module


def draw_policy(policy: Policy, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Operations and arguments for n samples: op (n, layers) int64, index into OPS or -1, and value (n, layers)
    float64.
    """
    shape = (n, policy.layers)
    entry = _choose(policy, n, generator)
    coin, sign, extra = (uniform(*shape, generator) for _ in range(3))
    noise = torch.randn(*shape, generator=generator, dtype=torch.float64)
    used = entry >= 0
    entry = entry.clamp(min=0)
    magnitude = torch.tensor(policy.magnitude, dtype=torch.float64)[entry]
    if policy.std == float("inf"):
        magnitude = magnitude * extra
    elif policy.std > 0:
        magnitude = magnitude + policy.std * noise
    level = magnitude.clamp(0.0, policy.upper) / 10.0
    used &= coin <= torch.tensor(policy.prob, dtype=torch.float64)[entry]
    op = torch.tensor([OPS.index(_LEVELS[name][0]) for name in policy.names])[entry]
    levels = level, torch.where(sign > 0.5, -1.0, 1.0).double(), extra, policy
    value = torch.stack([_LEVELS[name][1](*levels) for name in dict.fromkeys(policy.names)])
    which = torch.tensor([list(dict.fromkeys(policy.names)).index(name) for name in policy.names])[entry]
    return torch.where(used, op, -1), value.gather(0, which[None])[0]


def _choose(policy: Policy, n: int, generator: torch.Generator) -> Tensor:
    """Entry of each sample and layer, -1 where a path is shorter: (n, layers)."""
    if policy.paths is not None:
        table = torch.full((len(policy.paths), policy.layers), -1)
        for row, path in zip(table, policy.paths, strict=True):
            row[: len(path)] = torch.tensor(path)
        return table[(uniform(n, 1, generator)[:, 0] * len(policy.paths)).long()]
    if policy.weights is not None:
        # The order of exponential arrivals at these rates is that of weighted draws without replacement.
        arrival = -torch.log1p(-uniform(n, len(policy.weights), generator)) / torch.tensor(
            policy.weights, dtype=torch.float64
        )
        return arrival.argsort(1)[:, : policy.layers]
    return (uniform(n, policy.layers, generator) * len(policy.names)).long()


# Arguments of an operation from level = magnitude / 10, a random sign and one more uniform number: timm's
# `*_level_to_arg`.
_Level = Callable[[Tensor, Tensor, Tensor, Policy], Tensor]


def _none(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return torch.zeros_like(level)


def _factor(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return level * 1.8 + 0.1


def _factor_increasing(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return (1.0 + sign * (level * 0.9)).clamp(min=0.1)


def _bits(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return (level * 4).trunc()


def _bits_increasing(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return (4 - (level * 4).trunc()).clamp(min=0)  # timm goes below 0 for magnitudes above 10, and fails


def _bits_original(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return (level * 4).trunc() + 4


def _threshold(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return (level * 256).trunc().clamp(max=256)


def _threshold_increasing(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return 256 - _threshold(level, sign, extra, policy)


def _addend(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return (level * 110).trunc().clamp(max=128)


def _degrees(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return sign * (level * 30.0)


def _shear(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return sign * (level * 0.3)


def _pixels(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return sign * (level * policy.translate_const)


def _share(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return sign * (level * policy.translate_pct)


def _desaturation(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return (1.0 - (0.5 + 0.5 * level).clamp(0.5, 1.0)).clamp(0.0, 1.0)  # as the factor of `color`


def _radius(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return (0.1 + (2.0 - 0.1) * level).clamp(0.1, 2.0)


def _random_radius(level: Tensor, sign: Tensor, extra: Tensor, policy: Policy) -> Tensor:
    return 0.1 + (2.0 * level.clamp(0.0, 1.0) - 0.1) * extra


_LEVELS: dict[str, tuple[str, _Level]] = {
    "AutoContrast": ("autocontrast", _none),
    "Equalize": ("equalize", _none),
    "Invert": ("invert", _none),
    "Rotate": ("rotate", _degrees),
    "Posterize": ("posterize", _bits),
    "PosterizeIncreasing": ("posterize", _bits_increasing),
    "PosterizeOriginal": ("posterize", _bits_original),
    "Solarize": ("solarize", _threshold),
    "SolarizeIncreasing": ("solarize", _threshold_increasing),
    "SolarizeAdd": ("solarize_add", _addend),
    "Color": ("color", _factor),
    "ColorIncreasing": ("color", _factor_increasing),
    "Contrast": ("contrast", _factor),
    "ContrastIncreasing": ("contrast", _factor_increasing),
    "Brightness": ("brightness", _factor),
    "BrightnessIncreasing": ("brightness", _factor_increasing),
    "Sharpness": ("sharpness", _factor),
    "SharpnessIncreasing": ("sharpness", _factor_increasing),
    "ShearX": ("shear_x", _shear),
    "ShearY": ("shear_y", _shear),
    "TranslateX": ("translate_x", _pixels),
    "TranslateY": ("translate_y", _pixels),
    "TranslateXRel": ("translate_x_rel", _share),
    "TranslateYRel": ("translate_y_rel", _share),
    "Desaturate": ("color", _desaturation),
    "GaussianBlur": ("gaussian_blur", _radius),
    "GaussianBlurRand": ("gaussian_blur", _random_radius),
}


def apply_policy(x: Tensor, op: Tensor, value: Tensor, fill: Sequence[int]) -> Tensor:
    """Apply drawn operations.  x: (B, 3, H, W) uint8, unchanged; op, value: from `draw_policy`; fill: colour outside
    the image.
    """
    return apply_layers(x, op, value, _functions(tuple(fill), x.device))


@lru_cache(maxsize=16)
def _functions(fill: tuple[int, ...], device: torch.device) -> tuple[Callable[[Tensor, Tensor], Tensor], ...]:
    """One function for each of OPS."""
    outside = send(torch.tensor(fill, dtype=torch.uint8), device)
    moves = (
        affine.rotate, affine.shear_x, affine.shear_y, affine.translate_x, affine.translate_y, affine.translate_x_rel,
        affine.translate_y_rel,
    )  # fmt: skip
    return (
        lambda x, _: colour.autocontrast(x),
        lambda x, _: colour.equalize(x),
        lambda x, _: colour.invert(x),
        colour.posterize,
        colour.solarize,
        colour.solarize_add,
        colour.color,
        colour.contrast,
        colour.brightness,
        colour.sharpness,
        blur.gaussian_blur,
        *(partial(move, fill=outside) for move in moves),
    )
