"""A backbone from a file: official self-supervised formats in miniature, what is resampled, left aside and refused."""

from __future__ import annotations

import argparse

import pytest
import timm
import torch
from test_weights import Backbone, equal, network, one_line
from torch import Tensor, nn

from ssl_bench.models import build_classifier
from ssl_bench.nets.positions import fix_positions
from ssl_bench.pretrained import load_backbone


def seen_labels(classes: int, name: str = "head") -> str:
    return (
        f"; the file holds a classifier of {classes} classes ({name}.*, left aside): it was trained with labels, "
        "unless that was a probe of self-supervised weights"
    )


# ---- flat files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classifier", ["", "fc", "head", "classifier"])
def test_backbone_file_with_or_without_a_classifier(tmp_path, classifier):
    path = str(tmp_path / "backbone.pth")
    state = dict(network(1).backbone.state_dict())
    if classifier:
        state |= {f"{classifier}.weight": torch.zeros(1000, 6), f"{classifier}.bias": torch.zeros(1000)}
    torch.save(state, path)
    model = network(2)
    report = load_backbone(model.backbone, path)
    assert equal(model.backbone, state)
    total = len(model.backbone.state_dict())
    left = f"; left aside: {classifier}.* (2){seen_labels(1000, classifier)}" if classifier else ""
    assert report == f"{total} of {total} backbone tensors loaded{left}"


@pytest.mark.parametrize("theirs", [False, True])
def test_the_backbone_of_a_whole_checkpoint_is_taken(tmp_path, theirs):
    """latest.pth of this suite, and TLlib's with its backbone.fc and a second head: what is not the backbone is named."""
    path = str(tmp_path / "latest.pth")
    state = dict(network(1).state_dict())
    if theirs:
        state |= {"backbone.fc.weight": torch.zeros(1000, 6), "pseudo_head.0.weight": torch.zeros(5, 8)}
    torch.save(state, path)
    model = network(2)
    report = load_backbone(model.backbone, path)
    assert equal(model.backbone, network(1).backbone.state_dict()) and torch.equal(model.head.weight, network(2).head.weight)
    count = len(model.backbone.state_dict())
    assert report.startswith(f"{count} of {count} backbone tensors loaded; left aside: ")
    names = ["bottleneck.* (7)", "head.* (2)", *(["backbone.* (1)", "pseudo_head.* (1)"] if theirs else [])]
    assert all(name in report for name in names)


def test_a_classifier_by_another_name_is_left_aside_where_the_network_says_so(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({**network(1).backbone.state_dict(), "classif.weight": torch.zeros(2, 2)}, path)
    assert "'classif.weight'" in one_line(ValueError, path, lambda: load_backbone(Backbone(), str(path)))
    assert load_backbone(Backbone(), str(path), ("classif",)).endswith("; left aside: classif.* (1)" + seen_labels(2, "classif"))


def test_a_whole_timm_file_fits_whatever_its_classifier_is_called(tmp_path, capsys):
    for arch, name in {"test_efficientnet": "classifier", "test_vit": "head", "test_resnet": "fc", "test_convnext": "head"}.items():
        path = str(tmp_path / f"{arch}.pth")
        torch.save(timm.create_model(arch, num_classes=4, **({"img_size": 32} if arch == "test_vit" else {})).state_dict(), path)
        build_classifier(arch, 3, 32, bottleneck_dim=0, pretrained_backbone=path)
        assert f"left aside: {name}.* (2)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arch", "size", "words"), [("test_vit", 32, "10x10 to 2x2"), ("deit_tiny_distilled_patch16_224", 48, "14x14 to 3x3")]
)
def test_a_position_embedding_is_resampled_to_the_images_asked_for(tmp_path, capsys, arch, size, words):
    path = str(tmp_path / "vit.pth")
    torch.manual_seed(3)
    there = timm.create_model(arch, num_classes=0, depth=1).state_dict()
    torch.save(there, path)
    built = build_classifier(arch, 3, size, bottleneck_dim=0, model_kwargs=["depth=1"], pretrained_backbone=path).backbone
    assert f"tensors loaded, position embedding resampled from {words} patches" in capsys.readouterr().out
    first = built.num_prefix_tokens
    assert torch.equal(built.pos_embed[:, :first], there["pos_embed"][:, :first])
    assert torch.equal(built.cls_token, there["cls_token"])
    assert not torch.equal(built.pos_embed[:, first:], there["pos_embed"][:, first : built.pos_embed.shape[1]])


def test_a_network_of_another_width_is_named_by_it(tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(timm.create_model("test_vit", num_classes=0, depth=1, embed_dim=32).state_dict(), path)
    text = one_line(ValueError, path, lambda: build_classifier("test_vit", 3, 160, model_kwargs=["depth=1"], pretrained_backbone=str(path)))
    assert "has 1 block of width 32, test_vit has 1 of width 64: is it another --arch" in text


def test_backbone_file_of_old_torchvision_without_counters(tmp_path):
    path = str(tmp_path / "old.pth")
    state = {
        key: value for key, value in network(1).backbone.state_dict().items() if not key.endswith("num_batches_tracked")
    }
    torch.save(state, path)
    model = network(2)
    assert load_backbone(model.backbone, path) == f"{len(state)} of {len(state) + 1} backbone tensors loaded"
    assert torch.equal(model.backbone.conv1.weight, state["conv1.weight"])


WRONG = [
    (
        lambda state: {f"module.encoder_q.{key}": value for key, value in state.items()},
        "module.encoder_q.* (9), the backbone's bn1.* (5), conv1.* (2), layer1.* (2); tools/convert_checkpoint.py",
    ),
    (
        lambda state: {key: value for key, value in state.items() if key != "layer1.0.bias"},
        "1 keys missing, the first is 'layer1.0.bias'",
    ),
    (
        lambda state: state | {"bn1.running_mean": torch.zeros(5)},
        "1 keys differently shaped, the first is 'bn1.running_mean': (5,) in the file, (4,) in the network",
    ),
    (lambda state: state | {"layer9.weight": torch.zeros(5)}, "1 keys unknown, the first is 'layer9.weight'"),
    (lambda state: {"fc.weight": torch.zeros(2, 2)}, "has nothing for this backbone: its 1 tensors are named fc.* (1)"),
    (lambda state: {".weight": torch.zeros(2, 2)}, "has nothing for this backbone: its 1 tensors are named .weight.* (1)"),
    (lambda state: {f"backbone.{key}": value for key, value in state.items()}, "named backbone.* (9)"),
]


@pytest.mark.parametrize(("change", "says"), WRONG)
def test_a_wrong_backbone_file_is_refused_and_touches_nothing(tmp_path, change, says):
    path = tmp_path / "wrong.pth"
    torch.save(change(dict(network(1).backbone.state_dict())), path)
    model = network(2)
    assert says in one_line(ValueError, path, lambda: load_backbone(model.backbone, str(path)))
    assert equal(model, network(2).state_dict())


def test_building_with_a_backbone_file_says_what_fitted(tmp_path, capsys):
    path = tmp_path / "backbone.pth"
    torch.manual_seed(5)
    source = build_classifier("test_resnet", 3, 32, bottleneck_dim=4).backbone.state_dict()
    torch.save(source, path)
    built = build_classifier("test_resnet", 9, 32, bottleneck_dim=4, pretrained_backbone=str(path))
    assert equal(built.backbone, source)
    assert f"{path}: {len(source)} of {len(source)} backbone tensors loaded" in capsys.readouterr().out


@pytest.mark.parametrize("pool", [True, False])
def test_a_backbone_file_fits_with_and_without_pooling(tmp_path, pool):
    """--no-pool changes what is done with the features, not the weights of the backbone."""
    path = tmp_path / "backbone.pth"
    torch.manual_seed(5)
    source = build_classifier("test_resnet", 3, 32, bottleneck_dim=4).backbone.state_dict()
    torch.save(source, path)
    built = build_classifier("test_resnet", 3, 32, bottleneck_dim=4, pool=pool, pretrained_backbone=str(path))
    assert sum(
        torch.equal(a, b) for a, b in zip(built.backbone.state_dict().values(), source.values(), strict=True)
    ) == len(source)


# ---- self-supervised checkpoints as they are published ----------------------------------------------------------------

VIT = ("embed_dim=32", "depth=2", "num_heads=2")
ARGS = argparse.Namespace(model="mae_vit_base_patch16", lr=1e-3)
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(7, 7)}}, "param_groups": [{"lr": 0.1}]}


def vit(seed: int = 1, classes: int = 0, **kwargs) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64, "num_classes": classes}
    return timm.create_model("test_vit", **small | kwargs).state_dict()


def build(path, *kwargs: str, size: int = 64, **arguments) -> nn.Module:
    torch.manual_seed(9)
    return build_classifier(
        "test_vit", 3, size, bottleneck_dim=0, model_kwargs=[*VIT, *kwargs], pretrained_backbone=str(path), **arguments
    ).backbone


def decoder() -> dict[str, Tensor]:
    return {
        "mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 17, 8),
        "decoder_embed.weight": torch.ones(8, 32), "decoder_blocks.0.attn.qkv.weight": torch.ones(24, 8),
        "decoder_norm.weight": torch.ones(8), "decoder_pred.weight": torch.ones(4, 8),
    }  # fmt: skip


def dino_head() -> dict[str, Tensor]:
    return {
        "head.mlp.0.weight": torch.ones(4, 32), "head.mlp.0.bias": torch.ones(4),
        "head.last_layer.weight_g": torch.ones(9, 1), "head.last_layer.weight_v": torch.ones(9, 4),
    }  # fmt: skip


def named(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


# name of the file: (what is in it, the end of the report)
ONE_NETWORK = {
    "MAE, encoder": (lambda: {"model": vit()}, "loaded"),
    "MAE, whole": (
        lambda: {"model": vit() | decoder(), "optimizer": OPTIMIZER, "epoch": 799, "scaler": {"scale": 1.0}, "args": ARGS},
        "left aside: mask_token.* (1), decoder_pos_embed.* (1), decoder_embed.* (1), decoder_blocks.* (1), decoder_norm.* (1), "
        "decoder_pred.* (1)",
    ),
    "MAE, bare state dict": (lambda: vit() | decoder(), "decoder_pred.* (1)"),
    "DINO, backbone": (lambda: vit(), "loaded"),
    "DINO, teacher alone": (lambda: {"teacher": named("backbone.", vit()) | dino_head(), "epoch": 1}, "loaded"),
    "DINO, teacher's head beside it": (lambda: {"teacher": named("module.", vit() | dino_head())}, "left aside: head.* (4)"),
    "Semi-ViT, class token": (
        lambda: {"model": vit(classes=7), "optimizer": OPTIMIZER, "epoch": 99, "scaler": {}, "args": ARGS},
        f"left aside: head.* (2){seen_labels(7)}",
    ),
}


@pytest.mark.parametrize("name", ONE_NETWORK)
def test_an_official_file_loads_as_it_is(tmp_path, capsys, name):
    tree, end = ONE_NETWORK[name]
    path = tmp_path / "official.pth"
    torch.save(tree(), path)
    backbone = build(path)
    report = capsys.readouterr().out
    assert report.count("\n") == 1 and report.endswith(f"{end}\n")
    assert report.startswith(f"{path}: 30 of 30 backbone tensors loaded")
    source = vit(classes=7) if "Semi-ViT" in name else vit()
    assert len(backbone.state_dict()) == 30 and equal(backbone, source)


def test_an_mae_file_gives_the_features_of_its_network(tmp_path):
    torch.save({"model": vit() | decoder()}, tmp_path / "mae.pth")
    source = timm.create_model("test_vit", num_classes=0, img_size=64, embed_dim=32, depth=2, num_heads=2)
    source.load_state_dict(vit())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(build(tmp_path / "mae.pth").eval()(x), source.eval()(x))


def test_a_resnet_wrapped_as_a_sequence_gets_its_names_back(tmp_path):
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    wrapped = {f"encoder.{numbers[name.split('.')[0]]}.{name.split('.', 1)[1]}": value for name, value in state.items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "simclr.pth")
    built = build_classifier("resnet18", 3, 32, bottleneck_dim=0, pretrained_backbone=str(tmp_path / "simclr.pth"))
    assert equal(built.backbone, state)


TWO_NETWORKS = {
    "DINO, full checkpoint": lambda: {
        "student": named("module.backbone.", vit()) | named("module.", dino_head()),
        "teacher": named("backbone.", vit(2)) | dino_head(),
        "optimizer": OPTIMIZER, "epoch": 100, "args": ARGS, "fp16_scaler": {}, "dino_loss": {"center": torch.zeros(1, 9)},
    },
    "Semi-ViT with an average": lambda: {
        "model": vit(classes=7), "model_ema": vit(2, classes=7), "optimizer": OPTIMIZER, "args": ARGS
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TWO_NETWORKS)
def test_a_pair_is_refused_with_the_command_that_chooses(tmp_path, name):
    path = tmp_path / "pair.pth"
    torch.save(TWO_NETWORKS[name](), path)
    with pytest.raises(ValueError, match="holds 2 networks") as caught:
        build(path)
    text = str(caught.value)
    assert text.startswith(f"{path} gives no backbone: ") and "\n" not in text
    assert "(the student) (30 tensors)" in text and "(the teacher) (30 tensors)" in text
    assert text.endswith(
        "choose with --which student or --which teacher in "
        f"python tools/convert_checkpoint.py {path} backbone.pth --which ..., and give backbone.pth"
    )


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"epoch": 3, "args": ARGS}, "gives no backbone: there is no network in it, which holds epoch, args"),
        ({"model": decoder()}, "there is no network in it, which holds model"),
        ([vit()], "there is no network in it"),
        ("text", "there is no network in it"),
        ({}, "there is no network in it"),
        (
            {"model": {name: value for name, value in vit().items() if name != "blocks.1.attn.qkv.bias"}},
            "1 keys missing, the first is 'blocks.1.attn.qkv.bias'",
        ),
        ({"model": vit() | {"blocks.1.ls1.gamma": torch.ones(32)}}, "1 keys unknown, the first is 'blocks.1.ls1.gamma'"),
        ({"model": vit(mlp_ratio=2)}, "differently shaped, the first is 'blocks.0.mlp.fc1.weight': (64, 32) in the file"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(tmp_path, tree, says):
    path = tmp_path / "other.pth"
    torch.save(tree, path)
    assert says in one_line(ValueError, path, lambda: build(path))


# ---- pooling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [True, False])
def test_mean_tokens_keep_a_fresh_norm_and_leave_the_files_aside(tmp_path, capsys, nested):
    """What MAE's and Semi-ViT's fine-tuning do: missing are the head and fc_norm, norm is not used."""
    path = tmp_path / "mae.pth"
    state = vit() | {"norm.weight": torch.full((32,), 3.0)}
    torch.save({"model": state} if nested else state, path)
    backbone = build(path, "global_pool=avg")
    report = "28 of 30 backbone tensors loaded; not in the file, fresh values: fc_norm.* (2); left aside: norm.* (2)"
    assert capsys.readouterr().out == f"{path}: {report}\n"
    own = backbone.state_dict()
    assert "norm.weight" not in own and (own["fc_norm.weight"] == 1).all() and (own["fc_norm.bias"] == 0).all()
    assert all(torch.equal(value, state[name]) for name, value in own.items() if not name.startswith("fc_norm."))


def test_mean_tokens_missing_anything_else_is_still_an_error(tmp_path):
    path = tmp_path / "mae.pth"
    for left_out, says in (("norm.weight", "'norm.bias'"), ("cls_token", "1 keys missing, the first is 'cls_token'")):
        torch.save({"model": {name: value for name, value in vit().items() if name != left_out}}, path)
        assert says in one_line(ValueError, path, lambda: build(path, "global_pool=avg"))


def test_a_fine_tuned_mae_loads_where_the_pooling_is_its_own(tmp_path, capsys):
    path = tmp_path / "semi_vit.pth"
    state = vit(classes=5, global_pool="avg")
    torch.save({"model": state, "args": ARGS}, path)
    assert equal(build(path, "global_pool=avg"), state)
    assert capsys.readouterr().out == f"{path}: 30 of 30 backbone tensors loaded; left aside: head.* (2){seen_labels(5)}\n"
    assert "it has fc_norm.*, no norm.*): add --model-kwargs global_pool=avg" in one_line(ValueError, path, lambda: build(path))


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_patch_kernels_are_resampled_and_a_patch_and_its_enlargement_are_one_token(tmp_path, capsys):
    path = tmp_path / "mae.pth"
    state = vit()
    torch.save({"model": state}, path)
    backbone = build(path, "patch_size=32", size=128)
    assert "30 of 30 backbone tensors loaded, patch kernels resampled from 16x16 to 32x32 pixels\n" in capsys.readouterr().out
    assert torch.equal(backbone.pos_embed, state["pos_embed"])
    assert torch.equal(backbone.patch_embed.proj.bias, state["patch_embed.proj.bias"])
    x = torch.randn(2, 3, 16, 16)
    large = nn.functional.interpolate(x, (32, 32), mode="bicubic", antialias=True)
    tokens = [
        nn.functional.conv2d(images, kernels)
        for images, kernels in ((x, state["patch_embed.proj.weight"]), (large, backbone.patch_embed.proj.weight))
    ]
    torch.testing.assert_close(*tokens, atol=1e-4, rtol=1e-4)


def test_patch_kernels_and_positions_of_another_grid(tmp_path, capsys):
    path = tmp_path / "mae.pth"
    torch.save({"model": vit()}, path)
    backbone = build(path, "patch_size=8")
    words = "loaded, patch kernels resampled from 16x16 to 8x8 pixels, position embedding resampled from 4x4 to 8x8 patches\n"
    assert words in capsys.readouterr().out
    assert backbone.pos_embed.shape == (1, 65, 32) and torch.equal(backbone.pos_embed[:, :1], vit()["pos_embed"][:, :1])


def test_kernels_that_overlap_are_no_patches(tmp_path):
    path = tmp_path / "pvt.pth"
    state = timm.create_model("pvt_v2_b0", num_classes=0).state_dict()
    name = "patch_embed.proj.weight"
    torch.save({"model": state | {name: torch.zeros(*state[name].shape[:2], 5, 5)}}, path)
    text = one_line(ValueError, path, lambda: build_classifier("pvt_v2_b0", 3, 32, pretrained_backbone=str(path)))
    assert f"'{name}': (32, 3, 5, 5) in the file, (32, 3, 7, 7) in the network" in text


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"depth": 3}, "the file's network has 3 blocks of width 32, test_vit has 2 of width 32: is it another --arch"),
        ({"depth": 1}, "the file's network has 1 block of width 32, test_vit has 2 of width 32"),
        ({"embed_dim": 16, "depth": 12}, "the file's network has 12 blocks of width 16, test_vit has 2 of width 32"),
    ],
)
def test_another_depth_or_width_is_named(tmp_path, kwargs, says):
    path = tmp_path / "large.pth"
    for tree in ({"model": vit(**kwargs)}, vit(**kwargs)):
        torch.save(tree, path)
        assert says in one_line(ValueError, path, lambda: build(path))


def test_fixed_positions_load_like_learned_ones(tmp_path):
    path = tmp_path / "mae.pth"
    source = timm.create_model("test_vit", num_classes=0, img_size=64, embed_dim=32, depth=2, num_heads=2)
    fix_positions(source)
    torch.save({"model": source.state_dict()}, path)
    assert torch.equal(build(path).pos_embed, source.pos_embed)
    assert build(path, size=96).pos_embed.shape == (1, 37, 32)


def test_no_pool_keeps_the_norm_that_the_file_fits(tmp_path):
    path = tmp_path / "mae.pth"
    torch.save({"model": vit()}, path)
    assert equal(build(path, pool=False), vit())
