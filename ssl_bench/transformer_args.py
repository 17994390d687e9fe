"""Flags of the recipe that ViTs and ConvNeXts are trained by since DeiT."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssl_bench.args import Args
from ssl_bench.flags import FlagError, flag
from ssl_bench.mixup import Mix, draw_mixup, draw_pseudo_mixup


@dataclass
class DeiTArgs(Args):
    """AdamW, warm-up and half a cosine, strong augmentation; stochastic depth, label smoothing."""

    bottleneck_dim: int = 0
    optimizer: str = "adamw"
    lr_scheduler: str = "half_cos"
    lr_warmup_epochs: float = 5
    min_lr: float = 1e-6
    layer_decay: float | None = 1.0
    wd: float = 0.05
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    erasing: float = 0.25
    crop_scale: float = 0.08
    drop_path: float = flag(0.0, "stochastic depth: probability at the last block, falling to 0 at the first", ge=0, lt=1)
    label_smoothing: float = flag(0.1, "share of a labelled target that is spread over all classes", ge=0, lt=1)

    def __post_init__(self) -> None:
        if self.min_lr > self.lr:
            raise FlagError(f"--min-lr {self.min_lr:g} is above --lr {self.lr:g}, where the schedule should end below")


@dataclass
class TransformerArgs(DeiTArgs):
    """Adds what timm's ViTs take: layer decay, mixup and CutMix."""

    arch: str = "vit_base_patch16_224"
    layer_decay: float | None = 0.75
    epochs: int = 100
    fixed_positions: bool = flag(False, "fixed sine-cosine position embedding of a ViT")
    head_init_std: float = flag(2e-5, "deviation of the new head's weights", gt=0)
    mixup: float = flag(0.8, "mixup's alpha; 0: no mixup", ge=0)
    cutmix: float = flag(1.0, "CutMix's alpha; 0: no CutMix", ge=0)
    mixup_prob: float = flag(1.0, "probability that labelled images are mixed", ge=0, le=1)
    switch_prob: float = flag(0.5, "probability of CutMix, where mixup is on too", ge=0, le=1)
    mixup_mode: str = flag("batch", "one share and box for a batch, a pair, or each image", choices=("batch", "pair", "elem"))
    disable_x_mixup: bool = flag(False, "labelled images are not mixed")
    disable_x_drop_path: bool = flag(False, "no stochastic depth for labelled images")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fixed_positions and not self.pos_embed:
            raise FlagError("--fixed-positions and --no-pos-embed say two different things of one embedding: give one of them")
        if self.concat and self.disable_x_drop_path:
            raise FlagError("--disable-x-drop-path needs a forward of its own for the labelled images: leave --concat out")

    @property
    def more_model_kwargs(self) -> tuple[str, ...]:
        return (f"drop_path_rate={self.drop_path}",) if self.drop_path else ()


def check_even(args: TransformerArgs, option: str) -> None:
    """FlagError if the labelled images are mixed and their number, which `option` gives, is odd."""
    if args.batch_size % 2 and not args.disable_x_mixup and (args.mixup or args.cutmix):
        raise FlagError(f"{option} {args.batch_size} is odd, and mixup pairs the images of a batch: use an even one")


def draw_mix(kind: str, n: int, args: TransformerArgs, random: np.random.Generator) -> Mix | None:
    """How the n images of the batch of all processes are mixed.  kind: "none" (as without both --mixup and --cutmix) -> None,
    "mixup", or "prob" for Semi-ViT's probabilistic pseudo mixup, of which the alphas are switches only."""
    if kind == "none" or not (args.mixup or args.cutmix):
        return None
    if kind == "prob":
        return draw_pseudo_mixup(n, mixup=args.mixup, cutmix=args.cutmix, switch_prob=args.switch_prob, random=random)
    return draw_mixup(
        n, mixup=args.mixup, cutmix=args.cutmix, mode=args.mixup_mode, prob=args.mixup_prob, switch_prob=args.switch_prob, random=random,
    )  # fmt: skip
