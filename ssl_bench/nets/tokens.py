"""The patch tokens a network makes of an image, beside its features: what a loss on positions is computed from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TimmNetwork = Any  # an nn.Module of timm, whose methods and attributes depend on its family: each is asked for before it is used


def features_and_tokens(network: TimmNetwork, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a network of timm gives for x (B, 3, S, S), and from the same forward its patch tokens (B, N, D), in rows, normalised.

    Tokens are what ``forward_features`` returns: those of a ViT without its class and register tokens, the cells of a map
    (B, H, W, D) of a Swin, or (B, D, H, W) of a NesT or a CNN.  A ViT that normalises the mean of its tokens (``fc_norm``) has
    them normalised by that layer here.
    """
    maps = network.forward_features(x)
    return network.forward_head(maps), patch_tokens(network, maps)


def patch_tokens(network: TimmNetwork, maps: Tensor) -> Tensor:
    """``forward_features``' result, (B, P + N, D) or a map -> (B, N, D)."""
    if maps.ndim == 4:
        return maps.flatten(1, 2) if _channels_last(network) else maps.flatten(2).transpose(1, 2)
    tokens = maps[:, getattr(network, "num_prefix_tokens", 0) :]
    norm, fc_norm = getattr(network, "norm", None), getattr(network, "fc_norm", None)
    return fc_norm(tokens) if isinstance(norm, nn.Identity) and isinstance(fc_norm, nn.LayerNorm) else tokens


def token_shape(network: TimmNetwork, arch: str, image_size: int) -> tuple[int, tuple[int, int]]:
    """(D, (rows, columns)) of `features_and_tokens` for images of that size; of a Semiformer, of its transformer stream.

    ValueError: the network has no patch tokens (`features_and_tokens` would not be what it computes), or a single one.
    """
    x = torch.zeros(1, 3, image_size, image_size)
    network.eval()
    with torch.no_grad():
        if hasattr(network, "grid"):
            if "trans" not in network.streams:
                raise ValueError("--positional: the convolutional stream alone has no patch tokens to place: use --streams both or trans")
            tokens, grid = network(x, tokens=True)[1], network.grid(image_size)
        else:
            tokens, grid = _of_timm(network, arch, x)
    network.train()
    if grid == (1, 0):
        raise ValueError(f"--positional: --arch {arch} does not say on which grid its {tokens.shape[1]} tokens lie: use a ViT, DeiT, Swin or NesT")
    if grid[0] * grid[1] != tokens.shape[1] or len(tokens[0]) < 2:
        raise ValueError(f"--positional: --arch {arch} has {tokens.shape[1]} tokens for {image_size} px, no grid of several: change --image-size or the patch size")
    return tokens.shape[2], grid


def _of_timm(network: TimmNetwork, arch: str, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    refused = f"--positional: --arch {arch} has no patch tokens to place: use a ViT, DeiT, Swin, NesT, or a Semiformer"
    if not hasattr(network, "forward_features") or not hasattr(network, "forward_head"):
        raise ValueError(refused)
    maps = network.forward_features(x)
    if not isinstance(maps, Tensor) or maps.ndim not in (3, 4) or not torch.equal(network.forward_head(maps), network(x)):
        raise ValueError(refused)
    tokens = patch_tokens(network, maps)
    if maps.ndim == 4:
        rows, columns = maps.shape[1:3] if _channels_last(network) else maps.shape[2:]
        return tokens, (rows, columns)
    embed = getattr(network, "patch_embed", None)
    if embed is not None and getattr(network, "dynamic_img_size", False):
        return tokens, embed.dynamic_feat_size(tuple(x.shape[2:]))
    return tokens, getattr(embed, "grid_size", None) or (1, 0)


def _channels_last(network: nn.Module) -> bool:
    return getattr(network, "output_fmt", "NCHW") == "NHWC"
