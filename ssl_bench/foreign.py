"""The network inside somebody else's checkpoint, under the plain names of timm and torchvision.

Self-supervised training wraps its network: MoCo v1/v2 keep it at ``state_dict/module.encoder_q.*`` beside a momentum copy,
MoCo v3 at ``module.base_encoder.*``, DINO at ``teacher/backbone.*`` and ``student/module.backbone.*``, MAE at ``model/*``
beside a decoder, BYOL at ``online_network_state_dict/*``, SimCLR at ``backbone.*`` or ``encoder.*`` beside a projector, SwAV at
``module.*`` beside prototypes.  What they have in common is read here: wrappers before the names, heads that are no part of
the network, and at most one pair of student and teacher.  Pure functions: trees of tensors in, trees of tensors out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

STUDENTS = frozenset(
    "encoder_q base_encoder query_encoder student student_backbone online online_network online_network_state_dict "
    "online_encoder online_backbone".split()
)
TEACHERS = frozenset(
    "encoder_k momentum_encoder key_encoder momentum_backbone backbone_momentum teacher teacher_backbone target target_network "
    "target_network_state_dict target_encoder target_backbone ema ema_model model_ema state_dict_ema".split()
)
# Parts of a dotted name that are wrappers; a dict inside a dict always is one.
WRAPPERS = STUDENTS | TEACHERS | frozenset("module _orig_mod model backbone encoder net resnet trunk _feature_blocks".split())
NO_NETWORK = frozenset("optimizer optimizer_state_dict opt scheduler lr_scheduler scaler fp16_scaler loss_scaler amp".split())
# What is no part of the backbone, by the first part of its plain name.  "proje": one published BYOL calls it a projetion.
HEAD = re.compile(
    "fc|heads|head_dist|linear|last_linear|center|(online_|momentum_)?classifier|(cls|mlp|dino|ibot|student|teacher)_head|"
    "To2D|head_coordinate|"  # PositionalLabel's classifier of places
    "mask_token|masked_embed|.*(proje|predict|prototype|queue|decoder|contrastive|loss|criterion).*"
)
# `head` is looked at more closely: the features of ConvNeXt, Swin and others end in a head.norm.
HEAD_PARTS = re.compile(r"head\.(weight|bias|fc|l|mlp|linear|last_layer|prototypes|\d+)([._]|$)")
# of an nn.Sequential(*resnet.children())
RESNET_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


@dataclass(frozen=True)
class Found:
    """A network in a checkpoint.

    Attributes:
        prefix: what stood before its names, as in ``state_dict/module.encoder_q.``
        role: "student", "teacher" or "" (it is neither).
        tensors: plain names -> the backbone.
        heads: plain names -> what stood beside them under that prefix: classifier, projector, queue, decoder.
    """

    prefix: str
    role: str
    tensors: dict[str, Tensor]
    heads: dict[str, Tensor]

    @property
    def name(self) -> str:
        """For people: the prefix and whose it is."""
        return (self.prefix or "plain names") + (f" (the {self.role})" if self.role else "")


def find_networks(tree: Any) -> list[Found]:
    """Every network in a checkpoint's tree of dicts, in its order; what lies beside the networks is passed over."""
    groups: dict[tuple[tuple[str, ...], str], dict[str, Tensor]] = {}
    for path, name, tensor in _leaves(tree):
        parts = name.split(".")
        depth = next((i for i, part in enumerate(parts[:-1]) if part not in WRAPPERS), len(parts) - 1)
        prefix = "".join(f"{part}/" for part in path) + "".join(f"{part}." for part in parts[:depth])
        groups.setdefault(((*path, *parts[:depth]), prefix), {})[".".join(parts[depth:])] = tensor
    found = []
    for (words, prefix), tensors in groups.items():
        backbone = {name: value for name, value in tensors.items() if not is_head(name)}
        if any(value.ndim > 1 for value in backbone.values()) and not any(HEAD.fullmatch(word) for word in words):
            heads = {name: value for name, value in tensors.items() if name not in backbone}
            found.append(Found(prefix, _role(words), _resnet_names(backbone), heads))
    if any(network.role == "teacher" for network in found):
        found = [dataclasses.replace(network, role=network.role or "student") for network in found]
    return found


def find_under(tree: Any, prefix: str) -> Found:
    """All tensors whose names begin with `prefix`, without it.  ValueError: none do."""
    named = {"".join(f"{part}/" for part in path) + name: tensor for path, name, tensor in _leaves(tree)}
    tensors = {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}
    if not tensors:
        raise ValueError(f"nothing in it begins with {prefix!r}, but for example {next(iter(named), 'nothing')!r}")
    backbone = {name: value for name, value in tensors.items() if not is_head(name)}
    return Found(prefix, "", _resnet_names(backbone), {name: value for name, value in tensors.items() if name not in backbone})


def _role(prefix: Sequence[str]) -> str:
    """"teacher" for teacher/module.backbone.; the innermost word decides."""
    for part in reversed(prefix):
        if part in TEACHERS:
            return "teacher"
        if part in STUDENTS:
            return "student"
    return ""


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, Tensor]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if isinstance(key, str) and isinstance(value, Tensor):
                yield path, key, value
            elif isinstance(key, str) and key not in NO_NETWORK:
                yield from _leaves(value, (*path, key))


def is_head(name: str) -> bool:
    """Whether a plain name belongs to no backbone: a classifier, projector, queue, decoder, mask token."""
    return HEAD.fullmatch(name.split(".")[0]) is not None or HEAD_PARTS.match(name) is not None


def _resnet_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision's names where a ResNet was wrapped as nn.Sequential(*children): ``0.weight 1.bias 4.0.conv1.weight ...``"""
    if not {name.split(".")[0] for name in tensors} <= RESNET_CHILDREN.keys() or "4.0.conv1.weight" not in tensors:
        return tensors
    parts = {name: name.split(".", 1) for name in tensors}
    return {f"{RESNET_CHILDREN[first]}.{rest}": tensors[name] for name, (first, rest) in parts.items()}


def choose(found: Sequence[Found], role: str | None) -> Found:
    """The one network meant.  role: "student", "teacher", or None where there is only one.

    ValueError: there is none, there are several (the message has the choice), or none of that role.
    """
    if not found:
        raise ValueError("there is no network in it")
    listed = ", ".join(f"{network.name} ({len(network.tensors)} tensors)" for network in found)
    fitting = [network for network in found if role in (None, network.role)]
    if not fitting:
        raise ValueError(f"there is no {role} in it, only {listed}")
    if len(fitting) > 1:
        roles = sorted({network.role for network in fitting if network.role})
        options = roles if len(roles) == len(fitting) else [network.prefix or "''" for network in fitting]
        raise ValueError(f"it holds {len(fitting)} networks, {listed}: choose with --which {' or --which '.join(options)}")
    return fitting[0]


def recognised(tree: Any) -> str:
    """Whose format it is, for people, as far as its names tell: ``MoCo v1/v2``, ``MAE``, ..., or ``""``."""
    words = {word for path, name, _ in _leaves(tree) for word in (*path, *name.split(".")[:3])}
    for label, signs in (
        ("MoCo v1/v2", {"encoder_q"}),
        ("MoCo v3", {"base_encoder"}),
        ("MAE", {"decoder_embed", "decoder_blocks", "decoder_pred"}),
        ("SwAV", {"prototypes"}),
        ("BYOL", {"online_network", "online_network_state_dict", "online_encoder", "online_backbone"}),
        ("DINO or iBOT", {"teacher", "teacher_backbone"}),
        ("SimCLR, SimSiam or the like", {"projector", "projection_head"}),
    ):
        if words & signs:
            return label
    return ""


def renamed_in_order(weights: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights` under the names of `like`, tensor by tensor in order: for two implementations of one network.

    ValueError: another number of tensors, or one whose shape or last name (weight, running_var, ...) differs.
    """
    if len(weights) != len(like):
        raise ValueError(f"{len(weights)} tensors cannot be those of a network of {len(like)}")
    for (theirs, value), (ours, model) in zip(weights.items(), like.items(), strict=True):
        if value.shape != model.shape or theirs.split(".")[-1] != ours.split(".")[-1]:
            raise ValueError(f"{theirs} {tuple(value.shape)} cannot be {ours} {tuple(model.shape)}")
    return dict(zip(like, weights.values(), strict=True))
