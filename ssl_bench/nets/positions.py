"""Fixed sine-cosine position embeddings, as MAE's encoder and decoder have them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sin_cos(rows: int, columns: int, dim: int) -> Tensor:
    """(rows * columns, dim) float32, row by row: half of the channels tell the column, half the row; of each half the sines come
    first, then the cosines of place / 10000^(4 i / dim), i = 0 .. dim/4 - 1.

    Source: MAE's code (arXiv:2111.06377), the two-dimensional form of "Attention is all you need".  ValueError: dim % 4.
    """
    if dim % 4:
        raise ValueError(f"a width of {dim} has no sine-cosine positions in two dimensions: use a multiple of 4")
    frequency = 10000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))  # (dim / 4,)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * frequency for place in (column, row)]            # (rows * columns, dim / 4) each
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1).float()


@torch.no_grad()
def fix_positions(vit: nn.Module) -> None:
    """Lay `sin_cos` over a timm ViT's ``pos_embed``, zero for its class and register tokens, and train it no more."""
    patches = sin_cos(*vit.patch_embed.grid_size, vit.pos_embed.shape[2])
    vit.pos_embed.zero_()
    vit.pos_embed[:, -len(patches) :] = patches
    vit.pos_embed.requires_grad_(False)
