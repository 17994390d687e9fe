"""Two-stream networks by name: Semiformer's own, and a frame that joins any CNN of timm with any plain ViT of timm.

``semiformer:resnet26d+vit_small_patch16_224`` runs both networks side by side.  After each of the CNN's last four strides, and
each fourth of the ViT's blocks, a pair of feature coupling units (FCU, see `semiformer`) adds what one stream has made to the
other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssl_bench import timm_weights
from ssl_bench.flags import nearest
from ssl_bench.messages import reason_of
from ssl_bench.nets.mae import grid_of, is_plain_vit
from ssl_bench.nets.semiformer import HEADS, NETWORKS, STREAMS, FCUDown, FCUUp, check_streams, initialise
from ssl_bench.nets.tokens import TimmNetwork

PREFIX = "semiformer:"
NAMES = tuple(NETWORKS)
FORMS = f"{', '.join(NAMES)} or {PREFIX}CNN+ViT"
STRIDES = 4


def is_name(arch: str) -> bool:
    """Whether `arch` is meant as a two-stream network: a name of NAMES, or what begins with ``semiformer:``."""
    return arch in NAMES or arch.startswith(PREFIX)


def check_name(arch: str) -> None:
    """ValueError, with the nearest names, unless `arch` is one of NAMES, or ``semiformer:CNN+ViT`` of two names of timm."""
    if arch in NAMES:
        return
    if not arch.startswith(PREFIX):
        raise ValueError(f"--arch {arch} is no two-stream network: use {FORMS}")
    names = arch.removeprefix(PREFIX).split("+")
    if len(names) != 2 or not all(names):
        raise ValueError(f"--arch {arch}: the general frame is {PREFIX}CNN+ViT, as in {PREFIX}resnet26d+vit_small_patch16_224")
    import timm  # takes seconds

    for name, what in zip(names, ("CNN", "ViT"), strict=True):
        if not timm.is_model(name):
            raise ValueError(f"--arch {arch}: {nearest(name, timm.list_models(), what)} (any of timm's)")


def build(
    arch: str,
    num_classes: int,
    image_size: int,
    *,
    model_kwargs: dict[str, Any],
    drop_path: float,
    fcu: bool = True,
    streams: Sequence[str] = STREAMS,
    pretrained: bool = False,
) -> nn.Module:
    """A two-stream network: x (B, 3, S, S) -> (conv logits, transformer logits), see `Semiformer.forward`.

    model_kwargs: of `Semiformer`, or ``cnn_X`` and ``vit_X`` for the two networks of the frame.  drop_path: of the transformer
    blocks.  fcu: False skips the units, which keep their parameters.  streams: one alone is made without the other.  pretrained:
    ImageNet weights of both networks of the frame, through timm.
    Raises ValueError (unknown name or argument, image size, networks that cannot be joined), OSError (weights not to be had).
    """
    check_name(arch)
    check_streams(streams)
    if arch in NAMES:
        if pretrained:
            raise ValueError(f"timm has no ImageNet weights of {arch}: add --scratch")
        arguments = {"drop_path": drop_path, **model_kwargs}
        try:
            network = NETWORKS[arch](num_classes, fcu=fcu, streams=streams, **arguments)
        except TypeError as error:
            reason = str(error).replace(str(NETWORKS[arch]), arch)
            raise ValueError(f"--arch {arch} refuses its arguments {model_kwargs}: {reason}") from None
        network.check_size(image_size, image_size)
        return network
    cnn_name, vit_name = arch.removeprefix(PREFIX).split("+")
    unknown = [key for key in model_kwargs if not key.startswith(("cnn_", "vit_"))]
    if unknown:
        raise ValueError(
            f"--model-kwargs {unknown[0]} is of a network of one name (a recipe may set it): of {arch} they are cnn_X and vit_X; give "
            "--model-kwargs of your own, or --recipe none"
        )
    given = {part: {k[4:]: v for k, v in model_kwargs.items() if k.startswith(part)} for part in ("cnn_", "vit_")}
    cnn = vit = None
    if "conv" in streams:
        cnn = _create(cnn_name, given["cnn_"], pretrained)
    if "trans" in streams:
        vit = _create(vit_name, {"img_size": image_size, "drop_path_rate": drop_path, **given["vit_"]}, pretrained)
        if not is_plain_vit(vit):
            raise ValueError(
                f"--arch {arch}: {vit_name} is no plain ViT, whose blocks run one after the other over one token a patch: use "
                "vit_small_patch16_224 or the like"
            )
        if any(image_size % side for side in vit.patch_embed.patch_size):
            size = "x".join(map(str, vit.patch_embed.patch_size))
            raise ValueError(
                f"--arch {arch}: patches of {size} do not divide {image_size}x{image_size} images, and the CNN would see what the ViT does "
                "not: change --image-size, or give vit_patch_size in --model-kwargs"
            )
    return TwoStreams(cnn, vit, num_classes, image_size, arch, fcu=fcu)


def _create(name: str, kwargs: dict[str, Any], pretrained: bool) -> TimmNetwork:
    try:
        return timm_weights.create(name, kwargs, pretrained, backbone_file=False)
    except TypeError as error:
        if "img_size" in kwargs and "img_size" in str(error):
            raise ValueError(f"{name} is no plain ViT, which takes an img_size: use vit_small_patch16_224 or the like") from None
        raise ValueError(f"{name} refuses its arguments {kwargs}: {error}") from None


class TwoStreams(nn.Module):
    """A CNN and a plain ViT of timm, made without classifier, coupled by four pairs of FCUs; None leaves a stream out.

    After CNN stage s: its map, as tokens, is added to the ViT's patch tokens (not to its class token); the ViT's s-th fourth of
    blocks runs; its patch tokens, as a map, are added to the stage's output, before the next stage or the pooling.  The units
    normalise by BatchNorm if the CNN does, else by LayerNorm.
    """

    layers_unknown = True  # no layer decay
    cnn: TimmNetwork  # there are only those of `streams`
    vit: TimmNetwork

    def __init__(
        self, cnn: TimmNetwork | None, vit: TimmNetwork | None, num_classes: int, image_size: int, arch: str, *, fcu: bool = True
    ) -> None:  # fmt: skip
        super().__init__()
        self.arch, self.image_size, self.fcu, self.checkpoints = arch, image_size, fcu and None not in (cnn, vit), False
        if cnn is not None:
            # Names, not modules: a second way to the same weights would double them in the state dict.
            self.pieces, widths, features = _stages(cnn, image_size, arch)
            self.cnn, self.conv_cls_head = cnn, nn.Linear(features, num_classes)
        if vit is not None:
            self.vit, depth = vit, len(vit.blocks)
            if depth < STRIDES:
                raise ValueError(f"--arch {arch}: the ViT has {depth} blocks, fewer than {STRIDES} stages: raise vit_depth")
            self.cuts = [round(depth * s / STRIDES) for s in range(STRIDES + 1)]
            self.trans_cls_head = nn.Linear(_width(vit, image_size, arch), num_classes)
        if cnn is not None and vit is not None:
            from timm.layers import LayerNorm2d

            batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in cnn.modules())
            norm = nn.BatchNorm2d if batch_norm else LayerNorm2d
            self.squeeze = nn.ModuleList(FCUDown(width, vit.embed_dim) for width in widths)
            self.expand = nn.ModuleList(FCUUp(vit.embed_dim, width, norm(width, eps=1e-6)) for width in widths)
            for unit in (self.squeeze, self.expand):
                unit.apply(initialise).requires_grad_(fcu)
        self.streams = tuple(stream for stream, network in zip(STREAMS, (cnn, vit), strict=True) if network is not None)
        self.heads = tuple(HEADS[stream] for stream in self.streams)
        for head in self.heads:
            getattr(self, head).apply(initialise)
        self.train()

    def no_weight_decay(self) -> set[str]:
        """What either network names so, by the names here."""
        return {f"{at}.{name}" for at, network in self.named_children() for name in getattr(network, "no_weight_decay", set)()}

    def grid(self, image_size: int) -> tuple[int, int]:
        """Rows and columns of the patches of (image_size, image_size) images."""
        return grid_of(self.vit, image_size)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the activations inside the ViT's blocks, and the CNN's pieces but the first, again in the backward pass."""
        self.checkpoints = enable

    def forward(self, x: Tensor, tokens: bool = False) -> tuple:
        """x (B, 3, S, S) -> (conv logits, transformer logits), (B, C) each, None for a stream there is not.

        tokens: -> (the two, (B, N, D) patch tokens of the ViT behind its norm, row by row).
        """
        if tuple(x.shape[-2:]) != (self.image_size, self.image_size):
            height, width = x.shape[-2:]
            raise ValueError(f"{self.arch} was made for {self.image_size}x{self.image_size} images, not {height}x{width}")
        conv, trans = "conv" in self.streams, "trans" in self.streams
        y: Any = None  # a Tensor from where its stream begins
        t: Any = None
        if trans:
            grid, first = self.grid(self.image_size), self.vit.num_prefix_tokens
            t = self.vit.norm_pre(self.vit._pos_embed(self.vit.patch_embed(x)))              # (B, P + N, D)
        for stage in range(STRIDES):
            if conv:
                for name in self.pieces[stage]:
                    y = x if y is None else y
                    y = self._run(self.cnn.get_submodule(name), y)                           # (B, C_s, H_s, W_s)
            if self.fcu:
                t = torch.cat([t[:, :first], t[:, first:] + self.squeeze[stage](y, grid)], dim=1)
            if trans:
                for block in self.vit.blocks[self.cuts[stage] : self.cuts[stage + 1]]:
                    t = self._run(block, t)
            if self.fcu:
                y = y + self.expand[stage](t[:, first:], grid, y.shape[-2:])
        t = self.vit.norm(t) if trans else None
        logits = (
            self.conv_cls_head(self.cnn.forward_head(y)) if conv else None,                  # (B, C)
            self.trans_cls_head(self.vit.forward_head(t)) if trans else None,
        )
        return (logits, t[:, first:] if trans else None) if tokens else logits

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        # An input without gradient is the image; what works in place would spoil what is kept for the second forward.
        if self.checkpoints and x.requires_grad and not getattr(block, "inplace", False):
            return checkpoint(block, x, use_reentrant=False)
        return block(x)


def _stages(cnn: nn.Module, image_size: int, arch: str) -> tuple[list[list[str]], list[int], int]:
    """The names of `cnn`'s pieces, which run one after the other, in four lists that end where a map is last of its size; the
    widths of these maps; the width of the pooled features.

    ValueError: fewer than four strides or map sizes, or the pieces in turn do not give what the network gives.
    """
    strides = {info["reduction"] for info in getattr(cnn, "feature_info", ())}
    if len(strides) < STRIDES:
        raise ValueError(f"--arch {arch}: the CNN has {len(strides)} strides, fewer than {STRIDES}: use resnet26d or the like")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, image_size, image_size, generator=generator)
    cnn = copy.deepcopy(cnn).eval()
    with torch.no_grad():
        for parameter in cnn.parameters():  # a residual branch that begins at 0 would hide whether its block was run
            if parameter.ndim < 2:
                parameter.uniform_(0.1, 0.5, generator=generator)
        features, expected = _attempt(lambda: _features(cnn, x), image_size, arch)
        names: list[str] = []
        shapes: list[tuple[int, ...]] = []
        for name in _flat(cnn):
            try:
                x = cnn.get_submodule(name)(x.clone())  # some work in place
            except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
                break
            names.append(name)
            shapes.append(getattr(x, "shape", ()))
            if len(shapes[-1]) != 4:
                break
            if x.shape == expected.shape and torch.equal(x, expected):
                break
    same = bool(names) and isinstance(x, Tensor) and x.shape == expected.shape and torch.equal(x, expected)
    if not same or x.shape[1] != cnn.num_features:
        raise ValueError(
            f"--arch {arch}: the CNN's layers do not run one after the other over (B, C, H, W) maps: use resnet26d or the like"
        )
    sizes = list(dict.fromkeys(tuple(shape[2:]) for shape in shapes))[-STRIDES:]
    ends = [max(i for i, shape in enumerate(shapes) if tuple(shape[2:]) == size) + 1 for size in sizes]
    if len(sizes) < STRIDES:
        raise ValueError(
            f"--arch {arch}: {image_size}x{image_size} images leave the CNN {len(sizes)} sizes of map, not {STRIDES}: "
            "raise --image-size"
        )
    starts = [0, *ends[:-1]]
    return [names[i:j] for i, j in zip(starts, ends, strict=True)], [shapes[end - 1][1] for end in ends], features


def _flat(cnn: nn.Module) -> list[str]:
    """The names of the children, and of the children of those that are Sequential."""
    names = []
    for name, child in cnn.named_children():
        inner = [f"{name}.{key}" for key, _ in child.named_children()] if isinstance(child, nn.Sequential) else []
        names += inner or [name]
    return names


def _features(cnn: TimmNetwork, x: Tensor) -> tuple[int, Tensor]:
    expected = cnn.forward_features(x.clone())
    features = cnn.forward_head(expected)
    if features.ndim != 2:
        raise ValueError("the CNN gives no vector of features")
    return features.shape[1], expected


def _width(vit: TimmNetwork, image_size: int, arch: str) -> int:
    vit.eval()
    with torch.no_grad():
        features = _attempt(lambda: vit(torch.zeros(1, 3, image_size, image_size)), image_size, arch)
    if features.ndim != 2:
        raise ValueError(f"--arch {arch}: the ViT gives no vector of features: leave vit_global_pool out, or give token or avg")
    return features.shape[1]


def _attempt(run: Callable[[], Any], image_size: int, arch: str) -> Any:
    try:
        return run()
    except (RuntimeError, AssertionError, ValueError, IndexError, TypeError, AttributeError) as error:
        reason = reason_of(error, 160)
        raise ValueError(
            f"--arch {arch} does not take {image_size}x{image_size} images ({reason}): change --image-size or --model-kwargs"
        ) from None
