"""Networks: a backbone of timm or of `nets`, TLlib's bottleneck, a linear head; and their parameter groups."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssl_bench.flags import nearest
from ssl_bench.nets import wide_resnet
from ssl_bench.weights import load_backbone

# TLlib loads torchvision's first ImageNet weights for these names; timm's default for the same name is another training.
TORCHVISION_V1 = frozenset(
    "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d wide_resnet50_2 wide_resnet101_2".split()
)


class Classifier(nn.Module):
    """backbone -> pool (no parameters) -> bottleneck -> head.

    State-dict names are TLlib's: ``backbone.* bottleneck.{0,1}.* head.*``.
    """

    slow: tuple[str, ...] = ("backbone",)  # the parts that --finetune trains with a tenth of the learning rate

    def __init__(self, backbone: nn.Module, pool: nn.Module, bottleneck: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.pool, self.bottleneck, self.head = backbone, pool, bottleneck, head

    def features(self, x: Tensor) -> Tensor:
        """x: (B, 3, S, S) normalised float -> what the head sees: (B, bottleneck_dim or feature_dim)."""
        return self.bottleneck(self.pool(self.backbone(x)))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, S, S) normalised float -> logits (B, C)."""
        return self.head(self.features(x))


def bottleneck(feature_dim: int, width: int) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, Dropout(0.5); weights N(0, 0.005), bias 0.1, as TLlib.  Needs >= 2 images a training forward."""
    linear = nn.Linear(feature_dim, width)
    nn.init.normal_(linear.weight, 0, 0.005)
    nn.init.constant_(linear.bias, 0.1)
    return nn.Sequential(linear, nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5))


def build_classifier(
    arch: str,
    num_classes: int,
    image_size: int,
    *,
    bottleneck_dim: int = 1024,
    pool: bool = True,
    model_kwargs: Sequence[str] = (),
    pretrained: bool = False,
    pretrained_backbone: str | None = None,
    grad_checkpointing: bool = False,
) -> Classifier:
    """A fresh classifier for (B, 3, image_size, image_size) inputs.

    arch: a timm name, or a WRN's (wrn_28_2).  pool: False gives the class token (or the flattened map of a CNN), as
    TLlib's ``--no-pool``.  model_kwargs: ``key=value`` for timm.create_model (or WideResNet).  pretrained: ImageNet weights
    through timm (network needed once).
    grad_checkpointing: activations are computed again in the backward pass.
    Raises ValueError (unknown arch, kwargs the network refuses, wrong image size), OSError (weights not to be had).
    """
    backbone = _backbone(arch, image_size, pool, model_kwargs, pretrained)
    if pretrained_backbone is not None:
        report = load_backbone(backbone, pretrained_backbone)
        print(f"{pretrained_backbone}: {report}")
    if grad_checkpointing:
        _checkpoint_activations(backbone, arch)
    backbone.eval()
    with torch.no_grad():
        try:
            features = backbone(torch.zeros(1, 3, image_size, image_size))
            feature_dim = (features if pool else Unpooled()(features)).shape[1]
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            raise ValueError(
                f"--arch {arch} does not take {image_size}x{image_size} images ({' '.join(str(error).split())[:160]}); change --image-size "
                "or --model-kwargs"
            ) from None
    return Classifier(
        backbone.train(),
        nn.Identity() if pool else Unpooled(),  # outside the backbone, whose state-dict names it would change
        bottleneck(feature_dim, bottleneck_dim) if bottleneck_dim else nn.Identity(),
        nn.Linear(bottleneck_dim or feature_dim, num_classes),
    )


def _checkpoint_activations(backbone: nn.Module, arch: str) -> None:
    try:
        backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError):
        raise ValueError(f"--arch {arch} has no --grad-checkpointing; use --accumulate to save memory") from None


def check_separable(network: nn.Module, arch: str) -> None:
    """ValueError if the images of a batch influence each other's logits: joined batches would not be the same."""
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            remedy = "use --bottleneck-dim 0" if name.startswith("bottleneck") else "use a network with LayerNorm, such as a ViT"
            raise ValueError(f"--concat would mix the BatchNorm statistics of labelled and unlabelled images ({name} of {arch}): {remedy}")


def check_arch(arch: str) -> None:
    """ValueError with the nearest names when neither timm nor `nets` knows `arch`."""
    if wide_resnet.depth_and_width(arch) is not None:
        return
    import timm  # takes seconds, and a WRN needs none of it

    if not timm.is_model(arch):
        known = [*wide_resnet.NAMES, *timm.list_models()]
        raise ValueError(nearest(arch, known, "--arch") + " (any timm model, or a WRN)")


def _backbone(arch: str, image_size: int, pool: bool, model_kwargs: Sequence[str], pretrained: bool) -> nn.Module:
    check_arch(arch)
    kwargs = parse_model_kwargs(model_kwargs)
    if not pool:
        kwargs.setdefault("global_pool", "")
    if wide_resnet.depth_and_width(arch) is not None:
        return _wide_resnet(arch, kwargs, pretrained)
    import timm

    if getattr(timm.get_pretrained_cfg(arch), "fixed_input_size", False):
        kwargs.setdefault("img_size", image_size)
    name = f"{arch}.tv_in1k" if pretrained and arch in TORCHVISION_V1 else arch
    try:
        network = timm.create_model(name, pretrained=pretrained, num_classes=0, **kwargs)
    except TypeError as error:
        raise ValueError(f"--arch {arch} refuses its arguments {kwargs}: {error}") from None
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise OSError(
            f"ImageNet weights of {name} could not be loaded ({reason}); give --pretrained-backbone FILE, or --scratch for random weights"
        ) from None
    return network


def _wide_resnet(arch: str, kwargs: dict[str, Any], pretrained: bool) -> nn.Module:
    if pretrained:
        raise ValueError(f"there are no ImageNet weights of {arch}: add --scratch, or give --pretrained-backbone FILE")
    try:
        return wide_resnet.wide_resnet(arch, **kwargs)
    except TypeError as error:
        raise ValueError(f"--arch {arch} refuses its arguments {kwargs}: {error}") from None


class Unpooled(nn.Module):
    """(B, N, D) tokens -> the first (class) token (B, D); (B, C, H, W) maps -> (B, C*H*W)."""

    def forward(self, features: Tensor) -> Tensor:
        return features[:, 0] if features.ndim == 3 else features.flatten(1)


def parse_model_kwargs(pairs: Sequence[str]) -> dict[str, Any]:
    """``["patch_size=2", "act_layer=gelu"]`` -> {"patch_size": 2, "act_layer": "gelu"}; ValueError names a bad pair."""
    result = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"--model-kwargs takes key=value pairs, got {pair!r}")
        try:
            result[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            result[key] = value
    return result


def parameter_groups(model: Classifier, finetune: bool) -> list[dict[str, Any]]:
    """One group for each part that has parameters; ``lr_scale`` is 0.1 for the `slow` parts when fine-tuning, else 1."""
    return [
        {"params": list(part.parameters()), "lr_scale": 0.1 if finetune and name in model.slow else 1.0}
        for name, part in model.named_children() if any(True for _ in part.parameters())
    ]  # fmt: skip
