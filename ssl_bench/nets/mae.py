"""The two halves of a masked auto-encoder: a ViT's forward on some of an image's patches, and a decoder for the others.

Kaiming He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv:2111.06377.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ssl_bench.nets.positions import sincos_positions

if TYPE_CHECKING:  # it takes seconds
    from timm.models.vision_transformer import VisionTransformer

_norm: Any = functools.partial(nn.LayerNorm, eps=1e-6)  # timm says type[Module], and gives its blocks a partial itself


def is_plain_vit(network: nn.Module) -> bool:
    """Whether `network` is a VisionTransformer of timm (or a subclass with its order of layers) that makes a token of each of the
    image's equal patches and adds positions once, before its blocks."""
    from timm.layers import PatchEmbed  # takes seconds
    from timm.models.vision_transformer import VisionTransformer

    return (
        isinstance(network, VisionTransformer) and type(network).forward_features is VisionTransformer.forward_features
        and type(network.patch_embed) is PatchEmbed and not network.patch_embed.dynamic_img_pad
        and network.pos_embed is not None and isinstance(network.patch_drop, nn.Identity)
    )  # fmt: skip


def check_plain_vit(network: nn.Module, arch: str) -> None:
    """ValueError unless `network` can be given some of an image's patches."""
    if not is_plain_vit(network):
        raise ValueError(
            f"--arch {arch} is no plain ViT: patches can only be left out where each is a token and positions are added before the "
            "blocks, as in vit_small_patch16_224 or vit_base_patch16_224"
        )


def keep(noise: Tensor, mask_ratio: float) -> Tensor:
    """noise (B, N) -> (B, K) int64, the places of each row's K = round(N (1 - mask_ratio)) smallest values.

    ValueError: K is 0 or N, so that nothing is seen or nothing is left to predict.
    """
    count = noise.shape[1]
    kept = round(count * (1 - mask_ratio))
    if not 0 < kept < count:
        raise ValueError(f"--mask-ratio {mask_ratio} keeps {kept} of {count} patches: change it, or --image-size, or the patch size")
    return noise.argsort(dim=1, stable=True)[:, :kept]  # stable: equal values fall alike on every device


def grid_of(vit: VisionTransformer, image_size: int) -> tuple[int, int]:
    """Rows and columns of the patches that a plain ViT makes of (image_size, image_size) images."""
    embed = vit.patch_embed
    return embed.dynamic_feat_size((image_size, image_size)) if vit.dynamic_img_size else embed.grid_size


def encode(vit: VisionTransformer, x: Tensor, kept: Tensor) -> Tensor:
    """x (B, 3, S, S), kept (B, K) places of patches -> (B, P + K, D): the tokens that `vit`, a plain one, makes of its P class and
    register tokens and of these patches alone, in the order of `kept`; after its last norm where that comes before the pooling."""
    from timm.models import checkpoint_seq

    x = vit._pos_embed(vit.patch_embed(x))                                     # (B, P + N, D)
    first, x = x.split([vit.num_prefix_tokens, x.shape[1] - vit.num_prefix_tokens], dim=1)
    x = x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))               # (B, K, D)
    x = vit.norm_pre(torch.cat([first, x], dim=1))                             # (B, P + K, D)
    x = checkpoint_seq(vit.blocks, x) if vit.grad_checkpointing else vit.blocks(x)
    return vit.norm(x)


def patches(x: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """x (B, C, H, W) -> (B, N, p q C): the pixels of the grid's N patches of p x q, row by row; what is beyond the grid is left out."""
    (rows, columns), (p, q) = grid, size
    x = x[:, :, : rows * p, : columns * q].reshape(len(x), -1, rows, p, columns, q)  # (B, C, rows, p, columns, q)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


class Decoder(nn.Module):
    """Predicts the pixels of the patches that `encode` did not see, and is as wrong as it says.

    vit: the plain ViT it belongs to, of which it takes shapes only.  norm_pixels: each patch's pixels less their mean, divided by
    their deviation (var + 1e-6, unbiased), are the target.  ValueError: a width that its heads, or positions, do not divide.
    """

    positions: Tensor  # (1, N, dim)

    def __init__(self, vit: VisionTransformer, image_size: int, dim: int, depth: int, heads: int, norm_pixels: bool = True) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        if dim % heads:
            raise ValueError(f"--decoder-heads {heads} do not divide --decoder-dim {dim}")
        self.norm_pixels, self.checkpoints = norm_pixels, vit.grad_checkpointing
        self.grid, self.size, self.first = grid_of(vit, image_size), vit.patch_embed.patch_size, vit.num_prefix_tokens
        self.patches = self.grid[0] * self.grid[1]
        width, pixels = vit.embed_dim, 3 * self.size[0] * self.size[1]
        # A ViT that pools before its norm has none to give; the decoder needs one all the same.
        self.norm_tokens = _norm(width) if isinstance(vit.norm, nn.Identity) else nn.Identity()
        self.embed = nn.Linear(width, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02))
        self.blocks = nn.Sequential(*(Block(dim, heads, qkv_bias=True, norm_layer=_norm) for _ in range(depth)))
        self.norm = _norm(dim)
        self.pixels = nn.Linear(dim, pixels)
        self.register_buffer("positions", sincos_positions(*self.grid, dim), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """As timm's networks name them."""
        return {"mask_token"}

    def predict(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """tokens (B, P + K, D) of `encode`, kept (B, K) -> (B, N, p q 3) pixels of every patch, float32."""
        from timm.models import checkpoint_seq

        tokens = self.embed(self.norm_tokens(tokens))                                           # (B, P + K, dim)
        places = kept[:, :, None].expand(-1, -1, tokens.shape[2])
        masked = self.mask_token.to(tokens.dtype).expand(len(kept), self.patches, -1)
        x = masked.scatter(1, places, tokens[:, self.first :]) + self.positions                 # (B, N, dim)
        x = torch.cat([tokens[:, : self.first].to(x.dtype), x], dim=1)                          # (B, P + N, dim)
        x = checkpoint_seq(self.blocks, x) if self.checkpoints else self.blocks(x)
        return self.pixels(self.norm(x[:, self.first :])).float()

    def target(self, x: Tensor) -> Tensor:
        """x (B, 3, S, S) -> (B, N, p q 3): what `predict` should give, float32."""
        pixels = patches(x.float(), self.grid, self.size)
        if not self.norm_pixels:
            return pixels
        variance, mean = torch.var_mean(pixels, dim=2, keepdim=True)
        return (pixels - mean) / (variance + 1e-6).sqrt()

    def forward(self, tokens: Tensor, x: Tensor, kept: Tensor) -> Tensor:
        """tokens (B, P + K, D), x (B, 3, S, S), kept (B, K) -> (B,) mean squared error over the pixels of the masked patches."""
        error = (self.predict(tokens, kept) - self.target(x)).square().mean(dim=2)  # (B, N)
        masked = torch.ones_like(error).scatter(1, kept, 0.0)
        return (error * masked).sum(dim=1) / (error.shape[1] - kept.shape[1])
