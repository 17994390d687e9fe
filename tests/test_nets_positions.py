"""Fixed sine-cosine positions: MAE's formula written again, rectangular grids, prefix tokens, networks without a grid."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from ssl_bench.nets.positions import fix_positions, sincos_positions


def by_hand(height: int, width: int, dim: int) -> np.ndarray:
    """One patch and one channel at a time, in double precision."""
    table = np.empty((height * width, dim))
    quarter = dim // 4
    for patch in range(height * width):
        row, column = divmod(patch, width)
        for channel in range(dim):
            coordinate = column if channel < dim // 2 else row
            part, k = divmod(channel % (dim // 2), quarter)
            table[patch, channel] = (np.sin, np.cos)[part](coordinate / 10000 ** (k / quarter))
    return table


@pytest.mark.parametrize(("height", "width", "dim"), [(1, 1, 4), (3, 3, 8), (2, 5, 16), (5, 2, 12), (14, 14, 64)])
def test_the_embedding_is_maes_formula(height, width, dim):
    table = sincos_positions(height, width, dim, prefix=2)
    assert table.shape == (1, 2 + height * width, dim) and table.dtype == torch.float32
    assert (table[:, :2] == 0).all()
    np.testing.assert_allclose(table[0, 2:].numpy(), by_hand(height, width, dim), atol=2e-6)
    # every patch is somewhere else, and a swap of the axes would be seen
    assert len(torch.unique(table[0, 2:].round(decimals=4), dim=0)) == height * width
    assert height == width or not torch.equal(table, sincos_positions(width, height, dim, prefix=2))


@pytest.mark.parametrize(
    ("size", "arguments", "prefix"),
    [
        ((32, 32), {}, 1),
        ((32, 64), {}, 1),
        ((32, 32), {"class_token": False, "global_pool": "avg"}, 0),
        ((32, 32), {"reg_tokens": 4}, 5),
        ((32, 32), {"reg_tokens": 4, "no_embed_class": True}, 0),  # tokens are then prepended after the positions are added
    ],
)
def test_a_networks_positions_become_fixed(size, arguments, prefix):
    vit = timm.create_model("test_vit", img_size=size, num_classes=0, depth=1, **arguments)
    before = {name: value.shape for name, value in vit.state_dict().items()}
    fix_positions(vit)
    assert {name: value.shape for name, value in vit.state_dict().items()} == before, "checkpoints fit either way"
    height, width = size[0] // 16, size[1] // 16
    assert torch.equal(vit.pos_embed, sincos_positions(height, width, 64, prefix)) and not vit.pos_embed.requires_grad
    vit(torch.randn(2, 3, *size)).square().sum().backward()
    assert vit.pos_embed.grad is None and all(p.grad is not None for p in vit.parameters() if p.requires_grad)


def test_type_and_training_stay():
    vit = timm.create_model("test_vit", img_size=32, num_classes=0, depth=1).to(torch.bfloat16)
    fix_positions(vit)
    assert vit.pos_embed.dtype == torch.bfloat16 and isinstance(vit.pos_embed, nn.Parameter)


@pytest.mark.parametrize("network", [nn.Linear(2, 2), timm.create_model("test_resnet"), timm.create_model("test_convnext")])
def test_a_network_without_a_grid_of_positions_is_one_line(network):
    with pytest.raises(ValueError, match="has no embedding of the positions") as caught:
        fix_positions(network)
    assert "\n" not in str(caught.value) and type(network).__name__ in str(caught.value)


def test_a_width_that_is_no_multiple_of_four():
    with pytest.raises(ValueError, match="multiple of 4, not 6"):
        sincos_positions(2, 2, 6)
