"""A small member of each of timm's families: features, gradients, --no-pool, --grad-checkpointing, --concat, image sizes."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from ssl_bench import models
from ssl_bench.models import build_classifier, check_separable

# The smallest network of each module of timm 1.0.31, and a size of images it takes.  The first table takes about 0.2 s a row.
QUICK = {
    "byobnet": ("test_byobnet", 32), "convit": ("convit_tiny", 32), "convnext": ("test_convnext", 32),
    "cspnet": ("cs3darknet_focus_s", 32), "deit": ("deit_tiny_distilled_patch16_224", 32), "densenet": ("densenet121", 32),
    "dla": ("dla46x_c", 32), "edgenext": ("edgenext_xx_small", 32), "efficientnet": ("test_efficientnet", 32),
    "efficientvim": ("efficientvim_m1", 32), "efficientvit_mit": ("efficientvit_b0", 32),
    "eva": ("vit_tiny_patch16_dinov3_qkvb", 32), "ghostnet": ("ghostnet_050", 32),
    "inception_next": ("inception_next_atto", 32), "levit": ("levit_128s", 32), "mambaout": ("test_mambaout", 32),
    "maxxvit": ("test_coatnet", 32), "mlp_mixer": ("gmlp_ti16_224", 32), "mobilenetv3": ("lcnet_035", 32),
    "mobilevit": ("mobilevit_xxs", 32), "nest": ("nest_tiny", 32), "nfnet": ("test_nfnet", 32),
    "pit": ("pit_ti_distilled_224", 32), "pvt_v2": ("pvt_v2_b0", 32), "regnet": ("regnetx_002", 32),
    "resnet": ("test_resnet", 32), "starnet": ("starnet_s050", 32), "swiftformer": ("swiftformer_xs", 32),
    "vision_transformer": ("test_vit", 32), "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 32),
    "vision_transformer_relpos": ("test_vit_relpos", 32), "vovnet": ("ese_vovnet19b_slim_dw", 32),
    "xcit": ("xcit_nano_12_p8_224", 32),
}  # fmt: skip
LARGER = {
    "beit": ("beit_base_patch16_224", 32), "byoanet": ("halonet_h1", 256), "cait": ("cait_xxs24_224", 32),
    "coat": ("coat_tiny", 32), "convmixer": ("convmixer_768_32", 32), "cpubone": ("cpubone_nano", 32),
    "crossvit": ("crossvit_tiny_240", 32), "csatv2": ("csatv2", 64), "cspnext": ("cspnext_tiny", 32),
    "davit": ("davit_tiny", 32), "deepseek_vit": ("deepseek_vit_412m", 56), "dpn": ("dpn48b", 32),
    "efficientformer": ("efficientformer_l1", 224), "efficientformer_v2": ("efficientformerv2_s0", 32),
    "efficientvit_msra": ("efficientvit_m0", 32), "fasternet": ("fasternet_t0", 32), "fastvit": ("fastvit_t8", 32),
    "focalnet": ("focalnet_tiny_srf", 32), "gcvit": ("gcvit_xxtiny", 32), "gemma4_vit": ("gemma4_vit_167m", 32),
    "hardcorenas": ("hardcorenas_b", 32), "hgnet": ("hgnetv2_b0", 32), "hiera": ("hiera_tiny_224", 32),
    "hieradet_sam2": ("sam2_hiera_tiny", 32), "hrnet": ("hrnet_w18_small", 32), "iformer": ("iformer_t", 32),
    "inception_resnet_v2": ("inception_resnet_v2", 96), "inception_v3": ("inception_v3", 96),
    "inception_v4": ("inception_v4", 96), "lcnetv2": ("lcnetv2_small", 32), "lowformer": ("lowformer_b0", 32),
    "metaformer": ("poolformerv2_s12", 32), "mobilenetv5": ("mobilenetv5_base", 32), "mvitv2": ("mvitv2_tiny", 32),
    "naflexvit": ("naflexvit_base_patch16_parfac_gap", 32), "nasnet": ("nasnetalarge", 32), "nextvit": ("nextvit_small", 32),
    "pnasnet": ("pnasnet5large", 32), "qwen3_vit": ("qwen3_vit_88m", 32), "rdnet": ("rdnet_tiny", 32),
    "repghost": ("repghostnet_050", 32), "repvit": ("repvit_m1", 32), "res2net": ("res2next50", 32),
    "resnest": ("resnest14d", 32), "resnetv2": ("resnetv2_18", 32), "rexnet": ("rexnet_100", 32),
    "selecsls": ("selecsls42", 32), "senet": ("legacy_seresnet18", 32), "sequencer": ("sequencer2d_s", 32),
    "shvit": ("shvit_s1", 32), "sknet": ("skresnet18", 32), "swin_transformer": ("swin_tiny_patch4_window7_224", 32),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", 32), "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", 32),
    "tiny_vit": ("tiny_vit_5m_224", 32), "tnt": ("tnt_s_legacy_patch16_224", 32), "tresnet": ("tresnet_m", 32),
    "twins": ("twins_svt_small", 32), "vgg": ("vgg11", 32), "visformer": ("visformer_tiny", 32),
    "vision_transformer_sam": ("samvit_base_patch16_224", 32), "vitamin": ("vitamin_small_224", 32),
    "volo": ("volo_d1_224", 32), "xception": ("legacy_xception", 32), "xception_aligned": ("xception41p", 32),
}  # fmt: skip
UNUSED = {"backbone.weights"}  # EfficientViM's mixing of its stages' logits, which features do not have
NEEDS_POOLING = {"efficientvim", "efficientvit_mit", "inception_next"}


def rows(*tables: dict) -> list:
    return [
        pytest.param(*row, id=family, marks=[] if table is QUICK else [pytest.mark.slow])
        for table in tables
        for family, row in table.items()
    ]


def built(arch: str, size: int, **kwargs):
    if not timm.is_model(arch):
        pytest.skip(f"timm {timm.__version__} has no {arch}")
    torch.manual_seed(0)
    return build_classifier(arch, 3, size, bottleneck_dim=8, **kwargs)


def test_the_table_has_every_family():
    known = set(timm.list_modules())
    assert not set(QUICK) & set(LARGER)
    if timm.__version__ == "1.0.31":
        assert set(QUICK) | set(LARGER) == known
        belong = {family: arch for table in (QUICK, LARGER) for family, (arch, _) in table.items()}
        assert {family: arch for family, arch in belong.items() if arch not in timm.list_models(module=family)} == {}
    assert len(known & (set(QUICK) | set(LARGER))) > 60


@pytest.mark.parametrize(("arch", "size"), rows(QUICK, LARGER))
def test_a_family_gives_one_vector_of_features_and_learns(arch, size):
    model = built(arch, size)
    assert all(module.training for module in model.modules()), "handed over in training mode"
    x = torch.randn(4, 3, size, size)
    y = model(x)
    assert y.shape == (4, 3) and y.isfinite().all()
    y.square().sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} <= UNUSED
    width = model.bottleneck[0].in_features
    with torch.no_grad():
        assert model.backbone(x).shape == model.eval().backbone(x).shape == (4, width)
    assert images_are_independent(model.backbone.train(), x) == separable(model.backbone)


def separable(network: nn.Module) -> bool:
    try:
        check_separable(network, "this")
    except ValueError as error:
        assert "--concat" in str(error) and "this" in str(error)
        return False
    return True


def images_are_independent(network: nn.Module, x: torch.Tensor) -> bool:
    """Whether the features of the first two images stay when the others change."""
    features = []
    for batch in (x, torch.cat([x[:2], 3 * x[2:] + 1])):
        torch.manual_seed(1)
        with torch.no_grad():
            features.append(network(batch)[:2])
    scale = features[0].abs().max()
    return (features[0] - features[1]).abs().max() <= 1e-5 * scale


@pytest.mark.parametrize(
    "layer", ["EvoNorm2dB0", "BatchNormAct2d", "FrozenBatchNormAct2d", "GroupNormAct", "EvoNorm2dS0", "LayerNorm2d"]
)
def test_every_norm_of_timm_mixes_images_or_passes_the_check(layer):
    groups = {"EvoNorm2dS0": {"group_size": 4}, "GroupNormAct": {"num_groups": 4}}
    norm = getattr(timm.layers, layer)(16, **groups.get(layer, {}))
    assert images_are_independent(norm.train(), torch.randn(4, 16, 5, 5)) == separable(norm)


def test_instance_norm_mixes_no_images():
    norm = nn.InstanceNorm2d(16, track_running_stats=True)
    assert images_are_independent(norm, torch.randn(4, 16, 5, 5)) and separable(norm)


# ---- without pooling -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "size", "width"),
    [
        ("test_vit", 32, 64),  # the class token
        ("xcit_nano_12_p8_224", 32, 128),
        ("deit_tiny_distilled_patch16_224", 32, 192),
        ("pit_ti_distilled_224", 32, 256),
        ("vit_tiny_patch16_dinov3_qkvb", 64, 192),  # the mean of patches by itself, after class token and registers
        ("gmlp_ti16_224", 64, 128 * 16),  # no class token: all tokens
        ("levit_128s", 64, 384),
        ("test_vit_relpos", 64, 96 * 16),
        ("lcnet_035", 64, 1280 * 2 * 2),  # the map after the convolution that otherwise follows the pooling
        ("densenet121", 64, 1024 * 2 * 2),
        ("test_convnext", 64, 64 * 2 * 2),
    ],
)
def test_without_pooling_class_token_or_flattened_map(arch, size, width):
    model = built(arch, size, pool=False)
    assert model.bottleneck[0].in_features == width
    y = model(torch.randn(2, 3, size, size))
    assert y.shape == (2, 3) and y.isfinite().all()
    y.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "size"), [row for row in rows({**QUICK, **LARGER}) if row.id not in NEEDS_POOLING | {"deepseek_vit"}]
)
def test_every_family_but_three_works_without_pooling_under_the_same_names(arch, size):
    pooled, unpooled = built(arch, size), built(arch, size, pool=False)
    left = {name: value for name, value in pooled.backbone.state_dict().items() if name in unpooled.backbone.state_dict()}
    unpooled.backbone.load_state_dict(left)
    assert all(name.startswith("attn_pool") for name in pooled.backbone.state_dict().keys() - left.keys())
    assert unpooled(torch.randn(2, 3, size, size)).isfinite().all()


@pytest.mark.parametrize("arch", ["efficientvim_m1", "efficientvit_b0", "inception_next_atto"])
def test_what_cannot_do_without_pooling_says_so(arch):
    with pytest.raises(ValueError, match=f"--arch {arch} .* its pooling.*: leave --no-pool out") as caught:
        built(arch, 32, pool=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arch", "kwargs"),
    [
        ("beit_base_patch16_224", ("depth=1", "embed_dim=24", "num_heads=2")),
        ("eva02_tiny_patch14_224", ("depth=1",)),
        ("vit_base_patch16_siglip_224", ("depth=1", "embed_dim=24", "num_heads=2")),
    ],
)
def test_names_of_tensors_do_not_depend_on_pooling(arch, kwargs):
    """A pretrained file of a network that pools the mean holds fc_norm.*; without pooling it must fit all the same."""
    size = 28 if "14" in arch else 32
    pooled, unpooled = (built(arch, size, pool=pool, model_kwargs=kwargs).backbone for pool in (True, False))
    gone = pooled.state_dict().keys() - unpooled.state_dict().keys()
    assert unpooled.state_dict().keys() <= pooled.state_dict().keys() and all(name.startswith("attn_pool") for name in gone)


def test_tokens_without_a_class_token_are_flattened_after_the_registers():
    tokens = torch.arange(24.0).reshape(2, 4, 3)
    assert torch.equal(models.Unpooled(False, 1)(tokens), tokens[:, 1:].reshape(2, 9))
    assert torch.equal(models.Unpooled(True, 2)(tokens), tokens[:, 0])
    assert torch.equal(models.Unpooled(True, 1)(tokens[:, 0]), tokens[:, 0])


# ---- distilled -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize(
    ("arch", "width"), [("deit_tiny_distilled_patch16_224", 192), ("pit_ti_distilled_224", 256), ("levit_128s", None)]
)
def test_distilled_networks_give_one_vector_in_training_and_in_evaluation(arch, width, pool):
    backbone = built(arch, 32, pool=pool).backbone
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for features in (backbone.train()(x), backbone.eval()(x)):
            assert isinstance(features, torch.Tensor) and features.shape[0] == 2
            assert width is None or features.shape == (2, width)


def test_distilled_features_are_the_mean_of_class_and_distillation_token():
    backbone = built("deit_tiny_distilled_patch16_224", 32, model_kwargs=("depth=1",)).backbone.eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), backbone.forward_features(x)[:, :2].mean(1))


# ---- checkpointed activations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "size"),
    [("test_vit", 32), ("test_resnet", 32), ("test_efficientnet", 32), ("test_coatnet", 32), ("test_convnext", 32)],
)
def test_checkpointed_activations_change_neither_gradients_nor_statistics(arch, size):
    """A BatchNorm is run twice a step, and must count its batch once, also where forwards precede the first backward."""
    kept, again = built(arch, size), built(arch, size, grad_checkpointing=True)
    for model in (kept, again):
        torch.manual_seed(1)
        x = torch.randn(4, 3, size, size)
        with torch.no_grad():
            model(x + 1)
        first, second = (model(x), model(2 * x))
        first.square().sum().backward()
        second.square().sum().backward()
    for name, value in kept.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    for (name, one), two in zip(kept.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-5, atol=1e-6, msg=name)


def test_checkpointed_networks_can_be_copied():
    model = copy.deepcopy(built("test_resnet", 32, grad_checkpointing=True))
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert model.backbone.bn1.momentum == 0.1 and not hasattr(model.backbone.layer1[0].bn1, "held_momentum")


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "size"), [row for row in rows({**QUICK, **LARGER}) if row.id != "deepseek_vit"])
def test_every_family_checkpoints_or_says_that_it_cannot(arch, size):
    try:
        model = built(arch, size, grad_checkpointing=True)
    except ValueError as error:
        assert str(error) == f"--arch {arch} has no --grad-checkpointing; use --accumulate to save memory"
    else:
        model(torch.randn(2, 3, size, size)).square().sum().backward()


# ---- image sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "size"),
    [("gmlp_ti16_224", 48), ("crossvit_tiny_240", 56), ("vit_tiny_r_s16_p8_224", 64), ("test_coatnet", 96)],
)
def test_sizes_other_than_the_networks_own(arch, size):
    assert built(arch, size)(torch.randn(2, 3, size, size)).shape == (2, 3)


@pytest.mark.parametrize(
    ("arch", "size", "own"),
    [("test_vit", 33, 160), ("efficientformer_l1", 96, 224), ("inception_v3", 32, 299), ("halonet_h1", 64, 256)],
)
def test_a_size_the_network_cannot_take_is_one_line_with_its_own_size(arch, size, own):
    with pytest.raises(ValueError) as caught:
        built(arch, size)
    text = str(caught.value)
    assert f"--arch {arch} does not take {size}x{size} images" in text and f"made for {own}x{own}" in text
    assert "--image-size" in text and "\n" not in text and "()" not in text and len(text) < 400
