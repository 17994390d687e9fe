"""Networks: a backbone of timm or of `nets`, TLlib's bottleneck, a linear head; and their parameter groups."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssl_bench import timm_weights
from ssl_bench.flags import nearest
from ssl_bench.messages import one_line
from ssl_bench.nets import two_streams, wide_resnet
from ssl_bench.nets.positional import change_positions
from ssl_bench.nets.recompute import checkpoint_activations
from ssl_bench.nets.tokens import TimmNetwork, features_and_tokens
from ssl_bench.pretrained import load_backbone

# TLlib loads torchvision's first ImageNet weights for these names; timm's default for the same name is another training.
TORCHVISION_V1 = frozenset(
    "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d wide_resnet50_2 wide_resnet101_2".split()
)


class Classifier(nn.Module):
    """backbone -> pool (no parameters) -> bottleneck -> head.

    State-dict names are TLlib's: ``backbone.* bottleneck.{0,1}.* head.*``.
    """

    slow: tuple[str, ...] = ("backbone",)  # the parts that --finetune trains with a tenth of the learning rate
    backbone: TimmNetwork
    head: nn.Linear
    probed = False  # what is behind the backbone learns, and the backbone not from it

    def __init__(self, backbone: TimmNetwork, pool: nn.Module, bottleneck: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.pool, self.bottleneck, self.head = backbone, pool, bottleneck, head

    def forward(self, x: Tensor, tokens: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """x: (B, 3, S, S) normalised float -> logits (B, C); with `tokens` also the backbone's patch tokens (B, N, D)."""
        features, patches = features_and_tokens(self.backbone, x) if tokens else (self.backbone(x), None)
        features = self.pool(features.detach() if self.probed else features)
        y = self.logits(self.bottleneck(features))
        return y if patches is None else (y, patches)

    def logits(self, features: Tensor) -> Tensor:
        """What the head sees, (B, bottleneck_dim or feature_dim) -> (B, C); a subclass may give more in training."""
        return self.head(features)


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
    pos_embed: bool = True,
    conditional_positions: bool = False,
) -> Classifier:
    """A fresh classifier for (B, 3, image_size, image_size) inputs.

    arch: a timm name, or a WRN's (wrn_28_2).  pool: True pools as timm does for that network; False gives the class token, or
    the flattened map of a network that has none, as TLlib's ``--no-pool``.  model_kwargs: ``key=value`` for timm.create_model
    (or WideResNet).  pretrained: ImageNet weights through timm (network needed once).
    grad_checkpointing: activations are computed again in the backward pass.  pos_embed, conditional_positions: see `change_positions`.
    Raises ValueError (unknown arch, kwargs the network refuses, wrong image size), OSError (weights not to be had).
    """
    backbone, features = _backbone(arch, image_size, pool, parse_model_kwargs(model_kwargs), pretrained)
    change_positions(backbone, arch, pos_embed, conditional_positions)  # before a file that was made with the same
    if pretrained_backbone is not None:
        report = load_backbone(backbone, pretrained_backbone, _classifier_names(backbone))
        print(f"{pretrained_backbone}: {report}")
    if not pool:
        _remove_pooling(backbone, arch)
        features = _features_of_zeros(backbone, image_size)
        features = Unpooled(*_first_tokens(backbone))(features) if isinstance(features, Tensor) else features
    if not isinstance(features, Tensor) or features.ndim != 2:
        how = "with its pooling: change --model-kwargs, or add --no-pool" if pool else "without its pooling: leave --no-pool out"
        raise ValueError(f"--arch {arch} gives no vector of features {how}")
    if grad_checkpointing:
        checkpoint_activations(backbone, arch)
    return Classifier(
        backbone.train(),
        nn.Identity() if pool else Unpooled(*_first_tokens(backbone)),  # outside the backbone, whose state-dict names it would change
        bottleneck(features.shape[1], bottleneck_dim) if bottleneck_dim else nn.Identity(),
        nn.Linear(bottleneck_dim or features.shape[1], num_classes),
    )


def check_separable(network: nn.Module, arch: str) -> None:
    """ValueError if the images of a batch influence each other's logits: joined batches would not be the same."""
    for name, module in network.named_modules():
        if _mixes_images(module):
            remedy = "use --bottleneck-dim 0" if name.startswith("bottleneck") else "use a network with LayerNorm, such as a ViT"
            raise ValueError(f"--concat would mix the BatchNorm statistics of labelled and unlabelled images ({name} of {arch}): {remedy}")


def _mixes_images(module: nn.Module) -> bool:
    """BatchNorm, and timm's layers that are none by class but keep a running variance of batches (EvoNorm-B, InplaceABN)."""
    if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
        return isinstance(module, nn.modules.batchnorm._BatchNorm)
    return "running_var" in dict(module.named_buffers(recurse=False)) and not type(module).__name__.startswith("Frozen")


def check_arch(arch: str) -> None:
    """ValueError with the nearest names when neither timm nor `nets` knows `arch`."""
    if wide_resnet.depth_and_width(arch) is not None:
        return
    if two_streams.is_name(arch):
        raise ValueError(f"--arch {arch} has two streams of logits: it is for the method semiformer")
    import timm  # takes seconds, and a WRN needs none of it

    if not timm.is_model(arch):
        known = [*wide_resnet.NAMES, *timm.list_models()]
        raise ValueError(nearest(arch, known, "--arch") + " (any timm model, or a WRN)")


def _backbone(arch: str, image_size: int, pool: bool, kwargs: dict[str, Any], pretrained: bool) -> tuple[nn.Module, Any]:
    """The network without its classifier, pooling as it does by itself (so that the names of its tensors do not depend on
    `pool`; a WRN's never do), and what it gives for one image."""
    check_arch(arch)
    if wide_resnet.depth_and_width(arch) is not None:
        network = _wide_resnet(arch, kwargs if pool else {"global_pool": "", **kwargs}, pretrained)
        return network, _features_of_zeros(network, image_size)
    import timm

    published = timm.get_pretrained_cfg(arch)
    attempts = [kwargs]
    if getattr(published, "fixed_input_size", False) and "img_size" not in kwargs:
        attempts.insert(0, {**kwargs, "img_size": image_size})  # not all know it, and CrossViT scales images by itself
    reasons = []
    for attempt in attempts:
        try:
            network = _timm_network(arch, attempt, pretrained)
            return network, _features_of_zeros(network, image_size)
        except _Refused as error:
            if attempt is kwargs:
                raise ValueError(str(error)) from None
        except (RuntimeError, AssertionError, ValueError, IndexError, TypeError, ZeroDivisionError) as error:
            reasons.append(one_line(error, 160))
    why = f" ({reasons[0]})" if reasons[0] else ""
    made_for = f"; it was made for {published.input_size[-2]}x{published.input_size[-1]}" if published is not None else ""
    raise ValueError(
        f"--arch {arch} does not take {image_size}x{image_size} images{why}{made_for}: change --image-size or --model-kwargs"
    )


class _Refused(Exception):
    """A network has no such argument."""


def _timm_network(arch: str, kwargs: dict[str, Any], pretrained: bool) -> nn.Module:
    name = f"{arch}.tv_in1k" if pretrained and arch in TORCHVISION_V1 else arch
    try:
        return timm_weights.create(name, kwargs, pretrained)
    except TypeError as error:
        raise _Refused(f"--arch {arch} refuses its arguments {kwargs}: {error}") from None


def _features_of_zeros(backbone: nn.Module, image_size: int) -> Any:
    backbone.eval()
    with torch.no_grad():
        return backbone(torch.zeros(1, 3, image_size, image_size))


def _classifier_names(backbone: nn.Module) -> tuple[str, ...]:
    """What timm calls this network's classifier: ("fc",), ("head", "head_dist"), ()."""
    names = (getattr(backbone, "pretrained_cfg", None) or {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _remove_pooling(backbone: TimmNetwork, arch: str) -> None:
    """Networks that pool by taking their class tokens, and know no other way (CoaT, CrossViT, distilled PiT), stay so."""
    if isinstance(backbone, wide_resnet.WideResNet):
        return
    try:
        backbone.reset_classifier(0, "")
    except (AssertionError, TypeError, ValueError):
        if getattr(backbone, "global_pool", None) != "token":
            raise ValueError(f"--arch {arch} has layers behind its pooling, which need it: leave --no-pool out") from None


def _wide_resnet(arch: str, kwargs: dict[str, Any], pretrained: bool) -> nn.Module:
    if pretrained:
        raise ValueError(f"there are no ImageNet weights of {arch}: add --scratch, or give --pretrained-backbone FILE")
    try:
        return wide_resnet.wide_resnet(arch, **kwargs)
    except TypeError as error:
        raise ValueError(f"--arch {arch} refuses its arguments {kwargs}: {error}") from None


class Unpooled(nn.Module):
    """(B, N, D) tokens -> the class token (B, D), or without one all N - skip others (B, (N - skip) D); (B, C, H, W) maps ->
    (B, C*H*W); (B, D) stays.

    skip: registers and the like that lead the tokens.
    """

    def __init__(self, class_token: bool, skip: int) -> None:
        super().__init__()
        self.class_token, self.skip = class_token, skip

    def forward(self, features: Tensor) -> Tensor:
        if features.ndim != 3:
            return features.flatten(1)
        return features[:, 0] if self.class_token else features[:, self.skip :].flatten(1)


def _first_tokens(backbone: nn.Module) -> tuple[bool, int]:
    """Whether a class token leads the tokens, and how many lead them that are no patches."""
    return getattr(backbone, "cls_token", None) is not None, int(getattr(backbone, "num_prefix_tokens", 0))


def parse_model_kwargs(pairs: Sequence[str]) -> dict[str, Any]:
    """``["patch_size=2", "act_layer=gelu"]`` -> {"patch_size": 2, "act_layer": "gelu"}; ValueError names a bad pair."""
    result = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"--model-kwargs takes key=value pairs, got {pair!r}")
        if key.startswith("pretrained") or key in ("checkpoint_path", "cache_dir"):  # a record's arguments must not open any file
            raise ValueError(f"--model-kwargs {key}: it says where weights come from; --pretrained-backbone FILE, or --scratch")
        try:
            result[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            result[key] = value
    return result


def parameter_groups(model: nn.Module, finetune: bool, layer_decay: float | None = None, wd: float = 0.0) -> list[dict[str, Any]]:
    """One group for each part that has parameters; ``lr_scale`` is 0.1 for the `slow` parts when fine-tuning, else 1.

    layer_decay: see `layer_groups`, which then splits every part further.  Weights that need no gradient are left out.
    A network that is no `Classifier` is one part.  ValueError: what it does not know is asked of it.
    """
    if not isinstance(model, Classifier):
        if finetune:
            raise ValueError("--finetune: this network has no backbone of its own; lower --lr, or leave it out")
        return layer_groups(model, 1.0 if layer_decay is None else layer_decay, wd)
    groups: list[dict[str, Any]] = []
    for name, part in model.named_children():
        scale = 0.1 if finetune and name in model.slow else 1.0
        own: list[dict[str, Any]] = [{"params": [p for p in part.parameters() if p.requires_grad]}]
        if layer_decay is not None:
            own = layer_groups(part, layer_decay, wd)
        groups += [group | {"lr_scale": scale * group.get("lr_scale", 1.0)} for group in own if group["params"]]
    return groups


def layer_groups(part: TimmNetwork, layer_decay: float, wd: float) -> list[dict[str, Any]]:
    """The groups of timm: ``lr_scale`` is layer_decay^(layers above), ``weight_decay`` 0 for vectors and what the network names.

    The classifier counts as the layer above a backbone: of a ViT of depth d the embeddings get layer_decay^(d + 1), block i (from
    0) layer_decay^(d - i), a last norm behind the pooling 1 and one before it as the last block.
    ValueError: the network does not know its layers, and layer_decay is not 1.
    """
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    spared = part.no_weight_decay() if hasattr(part, "no_weight_decay") else ()
    if not hasattr(part, "group_matcher"):
        if layer_decay != 1 and getattr(part, "layers_unknown", False):
            raise ValueError("--layer-decay: a WRN or a Semiformer does not say what its layers are; use 1, or a network of timm")
        return param_groups_weight_decay(part, wd, no_weight_decay_list=spared)
    whole, above = nn.Module(), nn.Parameter(torch.empty(0))  # the backbone, and a classifier's place
    whole.group_matcher = part.group_matcher
    for name, child in part.named_children():
        whole.add_module(name, child)
    for name, value in [*part.named_parameters(recurse=False), ("classifier_above", above)]:
        whole.register_parameter(name, value)
    groups = param_groups_layer_decay(whole, weight_decay=wd, no_weight_decay_list=spared, layer_decay=layer_decay)
    return [group | {"params": [value for value in group["params"] if value is not above]} for group in groups]
