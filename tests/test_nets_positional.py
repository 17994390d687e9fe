"""Positional labels: the published tables, counts and losses; the fast form against pairs one by one; networks without positions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ssl_bench.nets.positional import (
    PositionHead,
    draw_pairs,
    relative_labels,
    with_conditional_positions,
    without_positions,
)


def parameters(network: torch.nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


def test_relative_labels_of_a_3_by_3_grid_are_the_papers_figure():
    assert relative_labels(3, 3)[4].tolist() == [18, 17, 16, 13, 12, 11, 8, 7, 6]


def test_relative_labels_of_a_7_by_7_grid():
    labels = relative_labels(7, 7)
    counts = labels.flatten().bincount()
    assert len(counts) == 169 and counts.min() == 1 and counts.max() == 49 and labels[0, 0] == 84
    prior = counts / counts.sum()
    assert -(prior * prior.log()).sum().item() == pytest.approx(4.858, abs=1e-3)
    offsets = [(7 - abs(dr)) * (7 - abs(dc)) for dr in range(-6, 7) for dc in range(-6, 7)]
    assert counts.tolist() == offsets


def test_relative_labels_of_a_rectangle_name_each_offset_once():
    labels = relative_labels(2, 5)
    found = {}
    for i in range(10):
        for j in range(10):
            offset = (i // 5 - j // 5, i % 5 - j % 5)
            assert found.setdefault(offset, labels[i, j].item()) == labels[i, j]
    assert sorted(found.values()) == list(range(3 * 9))


@pytest.mark.parametrize(
    ("dim", "grid", "kind", "mlp", "classifier"),
    [(768, (14, 14), "apl", 221_760, 37_828), (768, (7, 7), "rpl", 443_136, 65_065)],
)
def test_published_parameter_counts(dim, grid, kind, mlp, classifier):
    head = PositionHead(dim, grid, kind)
    assert parameters(head.fc1) + parameters(head.fc2) == mlp
    assert parameters(head.classifier) == classifier


def test_published_networks_have_the_published_numbers_of_parameters():
    import timm

    vit = timm.create_model("vit_base_patch16_224", class_token=False, global_pool="avg", fc_norm=False)
    assert parameters(vit) + parameters(PositionHead(768, (14, 14), "apl")) == 86_825_708
    swin = timm.create_model("swin_tiny_patch4_window7_224")
    without_positions(swin, "swin")
    with_conditional_positions(swin, "swin")
    assert sum(parameters(block.cpe) for block in swin.modules() if hasattr(block, "cpe")) == 44_160
    assert parameters(swin) + parameters(PositionHead(768, (7, 7), "rpl")) == 28_817_393


def naive(head: PositionHead, tokens: torch.Tensor) -> torch.Tensor:
    """Every pair's features put together, through the three layers one after the other."""
    half, n = tokens.shape[2] // 2, tokens.shape[1]
    pairs = torch.stack([torch.cat([tokens[:, i, :half], tokens[:, j, -half:]], dim=1) for i in range(n) for j in range(n)], dim=1)
    y = head.classifier(head.fc2(F.gelu(head.fc1(pairs))))
    return F.cross_entropy(y.flatten(0, 1), head.label.flatten().repeat(len(tokens)))


@pytest.mark.parametrize("grid", [(7, 7), (2, 5)])
@pytest.mark.parametrize("at_once", [2**24, 2000])
def test_the_fast_form_is_the_naive_one_and_so_is_its_gradient(monkeypatch, grid, at_once):
    monkeypatch.setattr("ssl_bench.nets.positional.AT_ONCE", at_once)
    check_the_fast_form_is_the_naive_one(grid)


def check_the_fast_form_is_the_naive_one(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    head, tokens = PositionHead(12, grid, "rpl"), torch.randn(3, grid[0] * grid[1], 12, requires_grad=True)
    for value in head.parameters():
        torch.nn.init.normal_(value, std=0.5)
    wanted = naive(head, tokens)
    gradients = torch.autograd.grad(wanted, [tokens, *head.parameters()])
    loss, accuracy = head(tokens)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-6)
    assert 0 <= accuracy <= 1 and not accuracy.requires_grad
    for ours, theirs in zip(torch.autograd.grad(loss, [tokens, *head.parameters()]), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_drawn_pairs_are_these_pairs():
    torch.manual_seed(0)
    head, tokens = PositionHead(12, (3, 4), "rpl"), torch.randn(2, 12, 12)
    every = torch.cartesian_prod(torch.arange(12), torch.arange(12))
    torch.testing.assert_close(head(tokens, every)[0], head(tokens)[0])
    some = torch.tensor([[0, 11], [5, 5]])
    y = [head.classifier(head.fc2(F.gelu(head.fc1(torch.cat([tokens[:, i, :6], tokens[:, j, 6:]], dim=1))))) for i, j in some]
    wanted = sum(F.cross_entropy(logits, head.label[i, j].expand(2)) for logits, (i, j) in zip(y, some, strict=True)) / 2
    torch.testing.assert_close(head(tokens, some)[0], wanted)


def test_pairs_are_uniform_and_a_function_of_the_generator():
    pairs = draw_pairs(7, 70_000, torch.Generator().manual_seed(3))
    assert torch.equal(pairs, draw_pairs(7, 70_000, torch.Generator().manual_seed(3)))
    counts = (pairs[:, 0] * 7 + pairs[:, 1]).bincount(minlength=49)
    assert len(counts) == 49 and (counts - 70_000 / 49).abs().max() < 200


@pytest.mark.parametrize(("kind", "classes"), [("apl", 196), ("rpl", 27 * 27)])
def test_an_untrained_head_knows_nothing(kind, classes):
    torch.manual_seed(0)
    loss, accuracy = PositionHead(96, (14, 14), kind)(torch.randn(2, 196, 96))
    assert loss.item() == pytest.approx(math.log(classes), abs=0.05)
    assert accuracy < 0.05


def test_apl_on_tokens_that_name_their_place_reaches_zero():
    torch.manual_seed(0)
    head, tokens = PositionHead(32, (4, 4), "apl"), torch.eye(16).repeat(2, 1, 2)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        loss, accuracy = head(tokens)
        loss.backward()
        optimizer.step()
    assert loss < 0.01 and accuracy == 1


def test_apl_reads_the_first_half_of_the_channels_and_rpl_a_half_of_each():
    torch.manual_seed(0)
    for kind, place, read in (("apl", 3, False), ("apl", 0, True), ("rpl", 3, True), ("rpl", 0, True)):
        head, tokens = PositionHead(4, (2, 2), kind), torch.randn(1, 4, 4)
        for value in head.parameters():
            torch.nn.init.normal_(value)
        changed = tokens.clone()
        changed[..., place] += 1
        assert (head(tokens)[0] != head(changed)[0]) == read, (kind, place)


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(ValueError, match="apl or rpl"):
        PositionHead(4, (2, 2), "none")


TINY_SWIN = dict(img_size=32, window_size=4, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(2, 2), num_classes=0)


@pytest.mark.parametrize(("arch", "kwargs"), [
    ("test_vit", dict(img_size=16, patch_size=4, num_classes=0)), ("swin_tiny_patch4_window7_224", TINY_SWIN),
])  # fmt: skip
def test_a_network_without_positions_is_that_with_zeros_for_them(arch, kwargs):
    import timm

    torch.manual_seed(0)
    network = timm.create_model(arch, **kwargs).eval()
    x = torch.randn(2, 3, kwargs["img_size"], kwargs["img_size"])
    before = network(x)
    names = [name for name, _ in network.named_parameters() if "pos_embed" in name or "bias_table" in name]
    without_positions(network, arch)
    assert names and not {*names} & {*network.state_dict()} and not {*names} & {name for name, _ in network.named_parameters()}
    assert not torch.equal(network(x), before)
    again = timm.create_model(arch, **kwargs).eval()
    again.load_state_dict(network.state_dict(), strict=False)
    for name in names:
        again.get_parameter(name).data.zero_()
    torch.testing.assert_close(again(x), network(x))


def test_without_positions_a_vit_cannot_tell_patches_apart():
    import timm

    network = timm.create_model("test_vit", img_size=16, patch_size=4, num_classes=0, global_pool="avg").eval()
    without_positions(network, "test_vit")
    x = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(network(x.roll(4, dims=3)), network(x), rtol=1e-4, atol=1e-5)


def test_conditional_positions_are_a_depthwise_convolution_before_each_block():
    import timm

    torch.manual_seed(0)
    network = timm.create_model("swin_tiny_patch4_window7_224", **TINY_SWIN).eval()
    with_conditional_positions(network, "swin")
    block, x = network.layers[1].blocks[0], torch.randn(1, 8, 8, 16)
    seen = []
    block.norm1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block(x)
    wanted = x + F.conv2d(x.permute(0, 3, 1, 2), block.cpe.weight, block.cpe.bias, padding=1, groups=16).permute(0, 2, 3, 1)
    torch.testing.assert_close(seen[0].reshape(wanted.shape), wanted)


def test_networks_that_have_none_are_refused():
    import timm

    with pytest.raises(ValueError, match="--no-pos-embed: --arch resnet10t has no position embedding"):
        without_positions(timm.create_model("resnet10t"), "resnet10t")
    with pytest.raises(ValueError, match="--conditional-positions: --arch test_vit has no blocks of a Swin"):
        with_conditional_positions(timm.create_model("test_vit"), "test_vit")
