"""Patch tokens of each family of networks: their number, grid and order, without a class token, normalised."""

from __future__ import annotations

import pytest
import torch

from ssl_bench.models import build_classifier
from ssl_bench.nets.tokens import features_and_tokens, token_shape

SWIN = ["window_size=4", "patch_size=2", "embed_dim=8", "depths=(2,2)", "num_heads=(2,2)"]
NETWORKS = {
    "a ViT": ("test_vit", 16, ["patch_size=4"], (64, (4, 4))),
    "a ViT that pools the mean": ("test_vit", 16, ["patch_size=4", "global_pool=avg"], (64, (4, 4))),
    "a ViT without a class token": ("test_vit", 16, ["patch_size=4", "class_token=False", "global_pool=avg", "fc_norm=False"], (64, (4, 4))),
    "a ViT of any size": ("test_vit", 24, ["patch_size=4", "dynamic_img_size=True"], (64, (6, 6))),
    "a ViT of oblong patches": ("test_vit", 16, ["patch_size=(2,4)"], (64, (8, 4))),
    "a ViT with registers": ("test_vit4", 16, ["patch_size=4"], None),
    "a distilled DeiT": ("deit_tiny_distilled_patch16_224", 32, ["depth=1"], (192, (2, 2))),
    "a Swin": ("swin_tiny_patch4_window7_224", 32, SWIN, (16, (8, 8))),
    "a NesT": ("nest_tiny", 64, [], (384, (4, 4))),
    "a CNN": ("resnet10t", 64, [], (512, (2, 2))),
}


def build(case: str):
    arch, size, kwargs, shape = NETWORKS[case]
    return build_classifier(arch, 3, size, bottleneck_dim=0, model_kwargs=kwargs), arch, size, shape


@pytest.mark.parametrize("case", NETWORKS)
def test_shape_and_grid(case):
    model, arch, size, shape = build(case)
    dim, grid = token_shape(model.backbone, arch, size)
    assert shape is None or (dim, grid) == shape
    model.eval()
    y, tokens = model(torch.randn(2, 3, size, size), tokens=True)
    assert y.shape == (2, 3) and tokens.shape == (2, grid[0] * grid[1], dim)
    assert model.backbone.training is False


@pytest.mark.parametrize("case", NETWORKS)
def test_the_logits_are_those_without_tokens(case):
    model, _, size, _ = build(case)
    x = torch.randn(2, 3, size, size)
    model.eval()
    torch.testing.assert_close(model(x, tokens=True)[0], model(x))


@pytest.mark.parametrize("case", ["a ViT", "a ViT of oblong patches", "a Swin"])
def test_a_pixel_moves_the_token_of_its_cell_most(case):
    """Rows before columns, nothing shifted by a class token."""
    torch.manual_seed(0)
    model, arch, size, (_, (rows, columns)) = build(case)
    model.eval()
    for row, column in ((0, 0), (rows - 1, 0), (0, columns - 1), (rows // 2, columns // 2)):
        x = torch.zeros(1, 3, size, size, requires_grad=True)
        _, tokens = features_and_tokens(model.backbone, x)
        tokens[0, row * columns + column].square().sum().backward()
        blame = x.grad.abs().sum(dim=(0, 1)).reshape(rows, size // rows, columns, size // columns).sum(dim=(1, 3))
        assert blame.argmax() == row * columns + column, arch


@pytest.mark.parametrize("case", ["a ViT", "a ViT that pools the mean", "a ViT without a class token"])
def test_tokens_are_normalised(case):
    model, _, size, _ = build(case)
    _, tokens = features_and_tokens(model.backbone.eval(), 5 * torch.randn(2, 3, size, size))
    torch.testing.assert_close(tokens.mean(dim=2), torch.zeros(tokens.shape[:2]), rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.var(dim=2, unbiased=False), torch.ones(tokens.shape[:2]), rtol=0, atol=1e-2)


@pytest.mark.parametrize(("arch", "size", "text"), [
    ("wrn_10_1", 16, "has no patch tokens to place"), ("resnet10t", 32, "has 1 tokens for 32 px, no grid of several"),
])  # fmt: skip
def test_networks_without_a_grid_are_refused(arch, size, text):
    network = build_classifier(arch, 3, size, bottleneck_dim=0).backbone
    with pytest.raises(ValueError, match=text):
        token_shape(network, arch, size)
