"""The fixed two-dimensional sine-cosine position embedding of MoCo v3 and MAE."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sincos_positions(height: int, width: int, dim: int, prefix: int = 0) -> Tensor:
    """(1, prefix + height * width, dim) float32: MAE's embedding of a grid of patches in rows, after `prefix` tokens of zeros.

    A patch in row h and column w is sin(w f), cos(w f), sin(h f), cos(h f), each for the dim / 4 frequencies
    f = 10000^(-k / (dim / 4)), k = 0, 1, ...  (MoCo v3 has row and column the other way round, a swap of the channels' halves.)
    Raises ValueError: dim is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"fixed sine-cosine positions need a width that is a multiple of 4, not {dim}")
    from timm.layers import build_sincos2d_pos_embed  # takes seconds

    table = build_sincos2d_pos_embed([height, width], dim)  # timm's channels: (sine, cosine) x (row, column) x frequency
    table = table.unflatten(1, (2, 2, dim // 4)).flip(2).transpose(1, 2).flatten(1)
    return torch.cat([torch.zeros(prefix, dim), table])[None]


def fix_positions(vit: nn.Module) -> None:
    """Replace the learned ``pos_embed`` of a timm VisionTransformer by `sincos_positions`; it is not trained any more.

    Its name, shape, device and type stay, so that checkpoints fit either way; class and register tokens have zeros.
    Raises ValueError: the network has no learned embedding of a grid of patches.
    """
    there, grid = getattr(vit, "pos_embed", None), getattr(getattr(vit, "patch_embed", None), "grid_size", None)
    first = there.shape[1] - grid[0] * grid[1] if isinstance(there, Tensor) and there.ndim == 3 and grid is not None else -1
    if there is None or grid is None or first not in (0, getattr(vit, "num_prefix_tokens", 0)):
        raise ValueError(
            f"{type(vit).__name__} has no embedding of the positions on a grid of patches (pos_embed), as a ViT has: "
            "leave the fixed positions out, or choose a vit_*"
        )
    table = sincos_positions(grid[0], grid[1], there.shape[2], first)
    vit.pos_embed = nn.Parameter(table.to(there.device, there.dtype), requires_grad=False)
