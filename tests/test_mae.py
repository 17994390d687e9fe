"""Masked auto-encoding: the loss against one written image by image, what may and may not influence it, which networks it takes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from conftest import BN_FREE, LIVE, TINY
from torch import nn

from ssl_bench import catalog, launch
from ssl_bench.feed import training_batches
from ssl_bench.models import build_classifier
from ssl_bench.nets.mae import Decoder, check_plain_vit, encode, grid_of, is_plain_vit, keep, patches
from ssl_bench.nets.positions import fix_positions, sincos_positions
from ssl_bench.weights import read_weights

KINDS = {  # arch, arguments of timm: prefix tokens, norms and positions in every place
    "class token": ("vit_tiny_patch16_224", ["depth=2", "patch_size=4"]),
    "mean tokens": ("vit_tiny_patch16_224", ["depth=2", "patch_size=4", "global_pool=avg"]),
    "any size": ("test_vit", ["patch_size=4"]),
    "registers, any size": ("test_vit2", ["patch_size=4"]),
    "attention pooling": ("test_vit3", ["patch_size=4"]),
    "registers without positions": ("vit_tiny_patch16_224", ["depth=1", "patch_size=4", "reg_tokens=2", "no_embed_class=True"]),
    "norm before": ("vit_tiny_patch16_224", ["depth=1", "patch_size=4", "pre_norm=True"]),
    "two class tokens": ("deit_tiny_distilled_patch16_224", ["depth=1", "patch_size=4"]),
    "no class token": ("vit_tiny_patch16_224", ["depth=1", "patch_size=4", "class_token=False", "global_pool=avg"]),
    "rectangles": ("vit_tiny_patch16_224", ["depth=1", "patch_size=(4,8)"]),
}


def vit(kind: str = "any size", image_size: int = 16) -> nn.Module:
    arch, kwargs = KINDS[kind]
    torch.manual_seed(0)
    return build_classifier(arch, 10, image_size, bottleneck_dim=0, model_kwargs=kwargs).backbone


def of_image(network: nn.Module, decoder: Decoder, image: torch.Tensor, noise: torch.Tensor, ratio: float) -> torch.Tensor:
    """The loss of one image (3, S, S), from the definition: patches one at a time, in the order of their places."""
    rows, columns = decoder.grid
    p, q = decoder.size
    count = rows * columns
    seen = sorted(noise.argsort()[: round(count * (1 - ratio))].tolist())
    embedded = network._pos_embed(network.patch_embed(image[None]))[0]
    first = network.num_prefix_tokens
    tokens = network.norm(network.blocks(network.norm_pre(torch.stack([*embedded[:first], *(embedded[first + i] for i in seen)])[None])))
    tokens = decoder.embed(decoder.norm_tokens(tokens))[0]
    positions = sincos_positions(rows, columns, tokens.shape[1])[0]
    full = [*tokens[:first]]
    for i in range(count):
        full.append((tokens[first + seen.index(i)] if i in seen else decoder.mask_token[0, 0]) + positions[i])
    predicted = decoder.pixels(decoder.norm(decoder.blocks(torch.stack(full)[None])))[0, first:]
    errors = []
    for i in set(range(count)) - set(seen):
        row, column = divmod(i, columns)
        patch = image[:, row * p : (row + 1) * p, column * q : (column + 1) * q]
        patch = (patch - patch.mean()) / (patch.var(unbiased=True) + 1e-6).sqrt() if decoder.norm_pixels else patch
        for c in range(3):
            for y in range(p):
                errors += [(predicted[i, (y * q + x) * 3 + c] - patch[c, y, x]) ** 2 for x in range(q)]
    return torch.stack(errors).mean()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_loss_is_that_of_each_image_alone(kind):
    network = vit(kind)
    decoder = Decoder(network, 16, 16, 2, 4, norm_pixels=kind != "norm before")
    x, noise = torch.randn(3, 3, 16, 16), torch.rand(3, decoder.patches)
    kept = keep(noise, 0.7)
    loss = decoder(encode(network, x, kept), x, kept)
    expected = torch.stack([of_image(network, decoder, image, values, 0.7) for image, values in zip(x, noise, strict=True)])
    assert loss.shape == (3,) and kept.shape == (3, round(0.3 * decoder.patches))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_with_every_patch_the_encoder_is_the_network(kind):
    network = vit(kind).eval()
    assert is_plain_vit(network)
    x = torch.randn(2, 3, 16, 16)
    rows, columns = grid_of(network, 16)
    everything = torch.arange(rows * columns).expand(2, -1)
    torch.testing.assert_close(encode(network, x, everything), network.forward_features(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", ["test_resnet", "wrn_10_1", "test_convnext", "swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224",
                                  "vit_tiny_r_s16_p8_224", "vit_relpos_small_patch16_224"])  # fmt: skip
def test_other_networks_are_refused_in_one_line(arch):
    if arch.startswith("wrn"):
        network = build_classifier(arch, 10, 16, bottleneck_dim=0).backbone
    else:
        import timm

        network = timm.create_model(arch, num_classes=0)
    assert not is_plain_vit(network)
    with pytest.raises(ValueError, match=f"^--arch {arch} is no plain ViT: [^\n]*vit_small_patch16_224"):
        check_plain_vit(network, arch)


def test_a_hidden_patch_influences_the_target_only_and_a_seen_one_the_input_only():
    network = vit()
    decoder = Decoder(network, 16, 16, 1, 4)
    x = torch.randn(1, 3, 16, 16)
    kept = torch.tensor([[2, 5, 11]])
    target = decoder.target(x)
    for place, seen in ((5, True), (6, False)):
        row, column = divmod(place, 4)
        changed = x.clone()
        changed[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += torch.randn(1, 3, 4, 4)
        moved = (decoder.target(changed) != target).any(dim=2)[0].nonzero().flatten().tolist()
        assert moved == [place]
        predicted, again = (decoder.predict(encode(network, images, kept), kept) for images in (x, changed))
        assert torch.equal(predicted, again) != seen
        # What is compared: a seen patch's own pixels are no part of the loss.
        tokens = encode(network, x, kept)
        assert torch.equal(decoder(tokens, x, kept), decoder(tokens, changed, kept)) == seen


def test_patches_are_row_by_row():
    x = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6).float()
    cut = patches(x, (2, 2), (2, 3))
    assert cut.shape == (2, 4, 18)
    for i, (row, column) in enumerate([(0, 0), (0, 3), (2, 0), (2, 3)]):
        assert torch.equal(cut[:, i].reshape(2, 2, 3, 3), x[:, :, row : row + 2, column : column + 3].permute(0, 2, 3, 1))
    assert torch.equal(patches(x, (1, 1), (2, 3)), cut[:, :1])  # pixels beyond the grid, which the network does not see either


def test_the_smallest_numbers_are_kept():
    kept = keep(torch.tensor([[0.3, 0.1, 0.2, 0.9], [0.0, 0.0, 0.0, 0.0]]), 0.5)
    assert kept.tolist() == [[1, 2], [0, 1]]


@pytest.mark.parametrize(("ratio", "count"), [(0.9, 4), (0.1, 4)])
def test_a_ratio_that_shows_or_hides_everything_is_refused(ratio, count):
    with pytest.raises(ValueError, match=f"--mask-ratio {ratio} keeps . of 4 patches"):
        keep(torch.rand(2, count), ratio)


def test_fixed_positions_stay_and_learned_ones_move(tiny):
    for flag, fixed in (("--fixed-positions", True), ("--no-fixed-positions", False)):
        run = tiny("mae", flag)
        before = run.method.model.backbone.pos_embed.clone()
        run.steps(2)
        after = run.method.model.backbone.pos_embed
        assert torch.equal(before, after) == fixed and after.requires_grad != fixed
    network = vit("registers, any size")
    fix_positions(network)
    assert not network.pos_embed[:, 0].any() and torch.equal(network.pos_embed[:, 1:], sincos_positions(*network.patch_embed.grid_size, network.embed_dim))


def check_the_probe_moves_its_head_only(tiny) -> None:
    run = tiny("mae")
    batch = next(training_batches(run.method, run.pools, run.args, torch.device("cpu"), 0))
    nn.functional.cross_entropy(run.method.model(batch.x_l[0]), batch.y_l).backward()
    moved = {name for name, weight in run.method.named_parameters() if weight.grad is not None}
    assert moved == {"model.head.weight", "model.head.bias"}


def test_the_probe_moves_its_head_only(tiny):
    check_the_probe_moves_its_head_only(tiny)


def test_a_bottleneck_is_a_part_of_the_probe(tiny):
    run = tiny("mae", "--bottleneck-dim", "8")
    batch = next(training_batches(run.method, run.pools, run.args, torch.device("cpu"), 0))
    run.method.model(batch.x_l[0]).sum().backward()
    moved = {name.split(".")[1] for name, weight in run.method.named_parameters() if weight.grad is not None}
    assert moved == {"head", "bottleneck"}


class Loop:
    step = epoch = 0


def check_each_step_and_image_has_a_mask_of_its_own(tiny) -> None:
    run = tiny("mae", "--mu", "2")
    batch, loop = next(training_batches(run.method, run.pools, run.args, torch.device("cpu"), 0)), Loop()
    first, _ = run.method.before_step(batch, loop)
    assert first.noise_l.shape == (8, 16) and first.noise_u.shape == (16, 16) and first.x_u is batch.x_u
    again, _ = run.method.before_step(batch, loop)
    loop.step = 1
    later, _ = run.method.before_step(batch, loop)
    assert torch.equal(first.noise_u, again.noise_u)
    every = torch.cat([first.noise_l, first.noise_u, later.noise_l, later.noise_u])
    assert len(every.unique(dim=0)) == 48
    seen = keep(every, 0.75).flatten().bincount(minlength=16)
    assert (seen > 0).all()
    halves = first.chunks(2)
    assert type(halves[1]) is type(first) and torch.equal(halves[1].noise_u, first.noise_u[8:])


def test_each_step_and_image_has_a_mask_of_its_own(tiny):
    check_each_step_and_image_has_a_mask_of_its_own(tiny)


def test_without_unlabelled_images_it_trains_on_the_labelled_ones(tmp_path):
    argv = [*TINY, *LIVE["mae"], "--all-labeled", "--log", str(tmp_path)]
    assert launch.run_command(catalog.load_method("mae"), argv) == 0


def test_every_image_weighs_the_same(tiny):
    """Three unlabelled images a labelled one: the mean of all, not of two means."""
    run = tiny("mae", "--mu", "3")
    batch, _ = run.method.before_step(next(training_batches(run.method, run.pools, run.args, torch.device("cpu"), 0)), Loop())
    parts = []
    for x, noise in ((batch.x_l[0], batch.noise_l), (batch.x_u[0], batch.noise_u)):
        kept = keep(noise, 0.75)
        parts.append(run.method.decoder(run.method.model(x, kept), x, kept))
    terms = {}
    loop = Loop()
    loop.backward = lambda loss, term: terms.update({term: loss.item()})
    run.method.train_step(batch, loop)
    assert terms["reconstruction_loss"] == pytest.approx(torch.cat(parts).mean().item(), rel=1e-6)


def test_vectors_are_not_decayed_and_every_weight_has_a_group(tiny):
    run = tiny("mae")
    (optimizer,) = run.trainer.optimizers
    decayed = {id(p): group["weight_decay"] > 0 for group in optimizer.param_groups for p in group["params"]}
    for name, weight in run.method.named_parameters():
        if weight.requires_grad:
            token = name.endswith(("cls_token", "mask_token"))
            assert decayed[id(weight)] == (weight.ndim > 1 and not token), name
    assert {group.get("lr_scale", 1.0) for group in optimizer.param_groups} == {1.0}


def test_what_it_saves_is_a_backbone_and_a_head_that_others_load(tmp_path):
    method = catalog.load_method("mae")
    argv = [*TINY, *LIVE["mae"], "--log", str(tmp_path / "mae")]
    assert launch.run_command(method, argv) == 0
    (file,) = tmp_path.rglob("latest.pth")
    assert {key.split(".")[0] for key in read_weights(file)} == {"backbone", "head"}
    assert launch.run_command(method, [*argv, "--phase", "test"]) == 0
    erm = [*TINY, *BN_FREE, "--pretrained-backbone", str(file), "--log", str(tmp_path / "erm")]
    assert launch.run_command(catalog.load_method("erm"), erm) == 0


@pytest.mark.parametrize(("flags", "message"), [
    (["--arch", "test_resnet", "--model-kwargs", "global_pool=avg"], "--arch test_resnet is no plain ViT"),
    (["--mask-ratio", "0.99"], "--mask-ratio 0.99 keeps 0 of 16 patches"),
    (["--decoder-heads", "3"], "--decoder-heads 3 do not divide --decoder-dim 16"),
    (["--decoder-dim", "18", "--decoder-heads", "2"], "a multiple of 4, not 18"),
])  # fmt: skip
def test_bad_input_is_one_line(flags, message, tmp_path, capsys):
    assert launch.run_command(catalog.load_method("mae"), [*TINY, *LIVE["mae"], *flags, "--log", str(tmp_path)]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and message in error[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_under_autocast_the_loss_is_float32_and_close(dtype):
    network = vit("mean tokens")
    decoder = Decoder(network, 16, 16, 2, 4)
    x = torch.randn(4, 3, 16, 16)
    kept = keep(torch.rand(4, 16), 0.75)
    exact = decoder(encode(network, x, kept), x, kept)
    with torch.autocast("cpu", dtype):
        coarse = decoder(encode(network, x, kept), x, kept)
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, exact, rtol=0.02, atol=0.02)


def test_a_catalog_without_it_is_what_is_compared():
    assert catalog.pretraining_names() == [name for name in catalog.method_names() if catalog.load_method(name).pretrains] == ["mae"]
    assert dataclasses.replace(catalog.load_method("mae").Args()).scratch
