"""Semiformer: a convolutional and a transformer stream side by side, coupled stage by stage by feature coupling units (FCU).

Zejia Weng et al., "Semi-Supervised Vision Transformers", arXiv:2111.11067.  Names, order and shapes of the state dict are those
of the published checkpoint, which in turn are those of Conformer-S but for the units.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

STREAMS = ("conv", "trans")
HEADS = {"conv": "conv_cls_head", "trans": "trans_cls_head"}


def check_streams(streams: Sequence[str]) -> None:
    """ValueError unless `streams` are one or both of STREAMS, in their order."""
    if tuple(streams) not in (STREAMS, STREAMS[:1], STREAMS[1:]):
        raise ValueError(f"streams are ('conv', 'trans') or one of them, not {tuple(streams)!r}")


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *size): means where the map shrinks, nearest neighbours where it grows."""
    (height, width), (rows, columns) = x.shape[-2:], size
    if (height, width) == (rows, columns):
        return x
    if rows > height or columns > width:
        return F.interpolate(x, size, mode="nearest")
    if height % rows == 0 and width % columns == 0:
        return F.avg_pool2d(x, (height // rows, width // columns))
    return F.adaptive_avg_pool2d(x, size)


class FCUDown(nn.Module):
    """A map of the convolutional stream (B, C, H, W) -> tokens (B, rows * columns, D)."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.conv_project = nn.Conv2d(channels, dim, 1)
        self.ln = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        # Means and a 1x1 convolution commute; the published order (convolution, then pooling) multiplies k^2 times as often.
        if x.shape[-2] * x.shape[-1] > grid[0] * grid[1]:
            x = self.conv_project(resize(x, grid))                    # (B, D, rows, columns)
        else:
            x = resize(self.conv_project(x), grid)
        return F.gelu(self.ln(x.flatten(2).transpose(1, 2)))


class FCUUp(nn.Module):
    """Patch tokens (B, rows * columns, D) -> a map (B, C, *size) for the convolutional stream."""

    def __init__(self, dim: int, channels: int, norm: nn.Module) -> None:
        super().__init__()
        self.conv_project = nn.Conv2d(dim, channels, 1)
        self.bn = norm

    def forward(self, t: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        x = t.reshape(t.shape[0], *grid, t.shape[2]).permute(0, 3, 1, 2)  # a channels-last map without a copy
        return resize(F.relu(self.bn(self.conv_project(x)), inplace=True), size)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1, beside a shortcut, projected where `project`.  `extra` enters the first convolution alone."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1, project: bool = False) -> None:
        super().__init__()
        middle = c_out // 4
        self.conv1 = nn.Conv2d(c_in, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle, eps=1e-6)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle, eps=1e-6)
        self.conv3 = nn.Conv2d(middle, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out, eps=1e-6)
        if project:
            self.residual_conv = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
            self.residual_bn = nn.BatchNorm2d(c_out, eps=1e-6)
        self.project = project

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x if extra is None else x + extra)), inplace=True)
        inner = F.relu(self.bn2(self.conv2(inner)), inplace=True)
        shortcut = self.residual_bn(self.residual_conv(x)) if self.project else x
        return F.relu(self.bn3(self.conv3(inner)) + shortcut, inplace=True)


class Mixer(nn.Module):
    """A layer of ConvMixer: depthwise 9x9 beside a shortcut, then 1x1.  `extra` enters the depthwise convolution alone."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 9, padding=4, groups=dim)
        self.norm1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 1)
        self.norm2 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        x = x + self.norm1(F.gelu(self.conv1(x if extra is None else x + extra)))
        return self.norm2(F.gelu(self.conv2(x)))


class Stage(nn.Module):
    """One step of both streams: convolutions, FCU down, transformer block, FCU up, convolutions.

    conv: the two blocks of convolutions, trans: the transformer block; () leaves the stream out, and the FCUs with it.  channels,
    dim: widths of map and tokens.  The class token is added to itself at the entry of the transformer block, as published.
    """

    def __init__(self, conv: Sequence[nn.Module], trans: Sequence[nn.Module], channels: int, dim: int) -> None:
        super().__init__()
        self.fcu, self.checkpoints = bool(conv and trans), False
        if conv:
            self.cnn_block, self.fusion_block = conv
        if self.fcu:
            self.squeeze_block = FCUDown(channels, dim)
            self.expand_block = FCUUp(dim, channels, nn.BatchNorm2d(channels, eps=1e-6))
        if trans:
            (self.trans_block,) = trans

    def remove_fcu(self) -> None:
        """Let the streams go their own ways; the units' parameters stay, and need no gradient."""
        self.fcu = False
        self.squeeze_block.requires_grad_(False)
        self.expand_block.requires_grad_(False)

    def forward(self, x: Tensor | None, t: Tensor | None, grid: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
        extra = None
        x = None if x is None else self._run(self.cnn_block, x)                                     # (B, C, H, W)
        if self.fcu and x is not None and t is not None:
            t = t + torch.cat([t[:, :1], self.squeeze_block(x, grid)], dim=1)                       # (B, 1 + N, D)
        t = None if t is None else self._run(self.trans_block, t)
        if self.fcu and x is not None and t is not None:
            extra = self.expand_block(t[:, 1:], grid, x.shape[-2:])                                 # (B, C, H, W)
        return None if x is None else self._run(self.fusion_block, x, extra), t

    def _run(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self.checkpoints and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


class Semiformer(nn.Module):
    """x (B, 3, H, W) -> (conv logits (B, C), transformer logits (B, C)).

    patch: pixels a token covers, a side; 16, 8 or 4: all but the stem is the same.  base_channel: of the stem; the stages have
    channel_ratio times 1, 2 and 4 of it.  depth: transformer blocks, a multiple of 3.  mixer: width of a ConvMixer stream that
    takes the place of the bottlenecks (0: none), which then ends one stage before `depth`, as published.  position_size: side of
    the only images taken, whose patches get a learned position each (0: no positions).  drop_path: of the last block; the blocks
    before get less, in equal steps from 0.  fcu: False keeps all modules and skips the units, and with them the doubling of the
    class token.  streams: ("conv",) or ("trans",) makes that stream alone, without units; the other logits are None.  name: what
    errors call it.
    Raises ValueError (depth, patch, heads, streams; at forward: an image size that the network does not take).
    """

    layers_unknown = True  # no layer decay

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        patch: int = 16,
        base_channel: int = 64,
        channel_ratio: int = 4,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mixer: int = 0,
        position_size: int = 0,
        drop_path: float = 0.1,
        fcu: bool = True,
        streams: Sequence[str] = STREAMS,
        name: str = "semiformer_small_patch16",
    ) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block  # takes seconds

        check_streams(streams)
        numbers = {"base_channel": base_channel, "channel_ratio": channel_ratio, "embed_dim": embed_dim, "num_heads": num_heads}
        wrong = [name for name, number in numbers.items() if not isinstance(number, int) or number < 1]
        if wrong or base_channel * channel_ratio < 4:
            raise ValueError(f"--arch {name}: {wrong[0] if wrong else 'base_channel times channel_ratio'} must be {'1' if wrong else '4'} or more")
        if patch not in (4, 8, 16) or (mixer and patch != 16):
            raise ValueError(f"--arch {name}: patch is {'16 with a ConvMixer' if mixer else '4, 8 or 16'}, not {patch}")
        if depth % 3 or depth < 3 or embed_dim % num_heads:
            raise ValueError(
                f"--arch {name}: depth must be a multiple of 3, and embed_dim of num_heads; they are {depth}, {embed_dim} and "
                f"{num_heads}"
            )
        self.patch, self.position_size, self.name, self.streams = patch, position_size, name, tuple(streams)
        self.mixer = mixer
        self.multiple = patch if mixer else 2 * patch  # the last map of the bottlenecks is half as wide as the grid of tokens
        conv, trans = "conv" in streams, "trans" in streams
        width = mixer or base_channel * channel_ratio
        norm: Any = functools.partial(nn.LayerNorm, eps=1e-6)  # timm says type[Module], and gives its blocks a partial itself
        block = functools.partial(Block, embed_dim, num_heads, qkv_bias=True, norm_layer=norm)
        rates = [drop_path * i / (depth - 1) for i in range(depth)]

        # In the order of the published state dict.
        if trans:
            self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
            if position_size:
                self.pos_embed = nn.Parameter(torch.empty(1, (position_size // patch) ** 2, embed_dim))
            self.trans_norm = nn.LayerNorm(embed_dim)
            self.trans_cls_head = nn.Linear(embed_dim, num_classes)
        if conv:
            self.conv_cls_head = nn.Linear(mixer or 4 * width, num_classes)
        if trans or not mixer:
            stem = {16: (7, 2, 3), 8: (3, 2, 1), 4: (3, 1, 1)}[patch]
            self.conv1 = nn.Conv2d(3, base_channel, *stem, bias=False)
            self.bn1 = nn.BatchNorm2d(base_channel)
        if conv and mixer:
            self.convmix1_embed = nn.Sequential(nn.Conv2d(3, mixer, 8, 8), nn.GELU(), nn.BatchNorm2d(mixer))
        if conv:
            self.conv_1 = Mixer(mixer) if mixer else Bottleneck(base_channel, width, project=True)
        if trans:
            self.trans_patch_conv = nn.Conv2d(base_channel, embed_dim, 4, 4)
            self.trans_1 = block(drop_path=rates[0])
        self.stages: list[str] = []
        c_in, third = width, depth // 3
        for i in range(2, depth + (not mixer)):
            c_out = mixer or width * 2 ** ((i - 1) // third)
            wider = c_out != c_in
            last = i == depth
            blocks: tuple[nn.Module, ...] = ()
            if conv:
                blocks = (
                    Mixer(mixer) if mixer else Bottleneck(c_in, c_out, 1 + wider, project=wider),
                    Mixer(mixer) if mixer else Bottleneck(c_out, c_out, 1 + last, project=last),
                )
            stage = Stage(blocks, (block(drop_path=rates[i - 1]),) if trans else (), c_out, embed_dim)
            self.stages.append(f"conv_trans_{i}")
            self.add_module(self.stages[-1], stage)
            if not fcu and len(streams) == 2:
                stage.remove_fcu()
            c_in = c_out
        self.heads = tuple(HEADS[stream] for stream in streams)
        self.apply(initialise)
        for parameter in [getattr(self, name) for name in ("cls_token", "pos_embed") if hasattr(self, name)]:
            nn.init.trunc_normal_(parameter, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """As timm's networks name them.  The learned positions are not among them, as published."""
        return {"cls_token"} if hasattr(self, "cls_token") else set()

    def grid(self, image_size: int) -> tuple[int, int]:
        """Rows and columns of the patches of (image_size, image_size) images."""
        return image_size // self.patch, image_size // self.patch

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the activations inside the blocks of the stages again in the backward pass."""
        for name in self.stages:
            getattr(self, name).checkpoints = enable

    def check_size(self, height: int, width: int) -> None:
        """ValueError, with the remedy, for images that the network does not take."""
        if self.position_size and (height, width) != (self.position_size, self.position_size):
            raise ValueError(
                f"{self.name} takes {self.position_size}x{self.position_size} images, not {height}x{width}, as its positions are "
                f"learned: change --image-size, or add position_size={height} to --model-kwargs"
            )
        wrong = [side for side in (height, width) if side % self.multiple or side < self.multiple]
        if wrong:
            other = ", or a patch8/patch4 variant" if self.patch == 16 else ", or a patch4 variant" if self.patch == 8 else ""
            raise ValueError(
                f"{self.name} takes images whose side is a multiple of {self.multiple}, not {wrong[0]}: "
                f"change --image-size{other}"
            )

    def forward(self, x: Tensor, tokens: bool = False) -> tuple:
        """x (B, 3, H, W) -> (conv logits, transformer logits), (B, C) each, None for a stream there is not.

        tokens: -> (the two, (B, N, D) patch tokens of the transformer stream behind its norm, row by row).
        """
        self.check_size(*x.shape[-2:])
        conv, trans = "conv" in self.streams, "trans" in self.streams
        grid = (x.shape[-2] // self.patch, x.shape[-1] // self.patch)
        y = t = base = None
        if trans or not self.mixer:
            base = F.relu(self.bn1(self.conv1(x)), inplace=True)
            base = F.max_pool2d(base, 3, 2, 1) if self.patch == 16 else base      # (B, base_channel, 4 rows, 4 columns)
        if conv:
            y = self.conv_1(self.convmix1_embed(x) if self.mixer else base)       # (B, C, H, W)
        if trans:
            t = self.trans_patch_conv(base).flatten(2).transpose(1, 2)            # (B, N, D)
            t = t + self.pos_embed if self.position_size else t
            t = self.trans_1(torch.cat([self.cls_token.expand(t.shape[0], -1, -1), t], dim=1))
        for name in self.stages:
            y, t = getattr(self, name)(y, t, grid)
        t = None if t is None else self.trans_norm(t)
        logits = (
            None if y is None else self.conv_cls_head(y.mean(dim=(2, 3))),             # (B, C)
            None if t is None else self.trans_cls_head(t[:, 0]),
        )
        return (logits, None if t is None else t[:, 1:]) if tokens else logits


def initialise(module: nn.Module) -> None:
    """Semiformer's initial weights of one layer; what is not named keeps torch's."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# Published: 41,670,288, 41,745,552 and 40,949,392 parameters with 1000 classes.
semiformer_small_patch16 = functools.partial(Semiformer, name="semiformer_small_patch16")
semiformer_small_patch16_pe = functools.partial(Semiformer, name="semiformer_small_patch16_pe", position_size=224)
semiformer_small_patch16_convmixer = functools.partial(Semiformer, name="semiformer_small_patch16_convmixer", mixer=768)
# For small images: a 3x3 stem of stride 2 (about 64 pixels) or 1 (8 to 32), without pooling.
_tiny = functools.partial(Semiformer, base_channel=8, channel_ratio=2, embed_dim=32, depth=3, num_heads=2)
semiformer_small_patch8 = functools.partial(Semiformer, name="semiformer_small_patch8", patch=8)
semiformer_small_patch4 = functools.partial(Semiformer, name="semiformer_small_patch4", patch=4)
semiformer_tiny_patch8 = functools.partial(_tiny, name="semiformer_tiny_patch8", patch=8)
semiformer_tiny_patch4 = functools.partial(_tiny, name="semiformer_tiny_patch4", patch=4)

NETWORKS = {
    network.keywords["name"]: network
    for network in (
        semiformer_small_patch16, semiformer_small_patch16_pe, semiformer_small_patch16_convmixer, semiformer_small_patch8,
        semiformer_small_patch4, semiformer_tiny_patch8, semiformer_tiny_patch4,
    )
}  # fmt: skip
