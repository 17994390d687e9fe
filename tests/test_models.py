"""Networks: TLlib's state-dict names, every family of backbone with and without pooling, parameter groups, messages."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from ssl_bench import models, timm_weights
from ssl_bench.models import Classifier, build_classifier, check_arch, parameter_groups, parse_model_kwargs

BOTTLENECK = [
    "bottleneck.0.weight", "bottleneck.0.bias",
    "bottleneck.1.weight", "bottleneck.1.bias",
    "bottleneck.1.running_mean", "bottleneck.1.running_var", "bottleneck.1.num_batches_tracked",
]  # fmt: skip
SWIN = ("swin_tiny_patch4_window7_224", ("embed_dim=8", "depths=(1,1)", "num_heads=(1,2)", "window_size=4"))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(arch: str = "test_resnet", classes: int = 5, size: int = 32, **kwargs) -> Classifier:
    torch.manual_seed(0)
    return build_classifier(arch, classes, size, **{"bottleneck_dim": 16, **kwargs})


# ---- names -----------------------------------------------------------------------------------------------------------


def test_state_dict_names_are_tllibs_for_a_resnet():
    model = build_classifier("resnet18", 7, 32)
    names = list(model.state_dict())
    backbone = [name for name in names if name.startswith("backbone.")]
    assert names == [*backbone, *BOTTLENECK, "head.weight", "head.bias"]
    torchvision = __import__("torchvision").models.resnet18(weights=None).state_dict()
    expected = {
        f"backbone.{name}": tuple(tensor.shape) for name, tensor in torchvision.items() if not name.startswith("fc.")
    }
    assert {name: tuple(model.state_dict()[name].shape) for name in backbone} == expected
    assert model.bottleneck[0].weight.shape == (1024, 512) and model.head.weight.shape == (7, 1024)


def test_bottleneck_is_tllibs():
    torch.manual_seed(0)
    net = models.bottleneck(512, 1024)
    assert [type(layer) for layer in net] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout]
    assert net[3].p == 0.5 and (net[0].bias == 0.1).all()
    weight = net[0].weight
    assert abs(weight.std().item() - 0.005) < 1e-4 and abs(weight.mean().item()) < 1e-4
    assert weight.abs().max() > 0.015, "a normal distribution has tails, a uniform one of this deviation ends at 0.0087"


def test_bottleneck_dim_zero_puts_the_head_on_the_features():
    model = small(bottleneck_dim=0)
    assert [name for name in model.state_dict() if not name.startswith("backbone.")] == ["head.weight", "head.bias"]
    assert model.head.in_features == model.backbone(torch.zeros(2, 3, 32, 32)).shape[1]
    assert model.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize("arch", sorted(models.TORCHVISION_V1))
def test_tllibs_resnets_are_timms_tv_in1k(arch):
    """The same file of weights as torchvision's first, and the same names, so that TLlib's flat files load."""
    from torchvision.models import get_model, get_model_weights

    theirs, ours = get_model_weights(arch)["IMAGENET1K_V1"].url, timm.get_pretrained_cfg(f"{arch}.tv_in1k").url
    assert theirs.rpartition("/")[2] == ours.rpartition("/")[2]  # the file; older versions write its folder otherwise
    with torch.device("meta"):
        theirs = get_model(arch, weights=None).state_dict()
        ours = timm.create_model(f"{arch}.tv_in1k", num_classes=1000).state_dict()
    assert {name: value.shape for name, value in theirs.items()} == {name: value.shape for name, value in ours.items()}
    assert list(theirs) == list(ours)


# ---- families --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bottleneck_dim", [16, 0])
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize(
    ("arch", "kwargs", "size", "pooled", "unpooled"),
    [
        ("test_resnet", (), 64, 96, 96 * 4),
        ("test_convnext", (), 32, 64, 64),
        ("test_vit", (), 32, 64, 64),
        (*SWIN, 32, 16, 16 * 16),
    ],
)
def test_every_family_works_with_and_without_pooling(arch, kwargs, size, pooled, unpooled, pool, bottleneck_dim):
    model = small(arch, 5, size, pool=pool, model_kwargs=kwargs, bottleneck_dim=bottleneck_dim)
    assert model.training and all(module.training for module in model.modules()), "handed over in training mode"
    first = model.bottleneck[0] if bottleneck_dim else model.head
    assert first.in_features == (pooled if pool else unpooled)
    y = model(torch.randn(2, 3, size, size))
    assert y.shape == (2, 5) and y.isfinite().all()
    y.square().sum().backward()
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not silent, f"no gradient reaches {silent}"


@pytest.mark.parametrize(
    ("arch", "pool", "reference"),
    [
        ("test_vit", True, dict(img_size=32)),
        ("test_vit", False, dict(img_size=32, global_pool="token")),
        ("test_resnet", True, {}),
        ("test_resnet", False, dict(global_pool="")),
    ],
)
def test_features_are_timms_pooled_or_class_token_or_flattened_map(arch, pool, reference):
    """And the names of the backbone's tensors do not depend on --no-pool."""
    model = small(arch, pool=pool, bottleneck_dim=0).eval()
    model.head = nn.Identity()
    expected = timm.create_model(arch, num_classes=0, **reference).eval()
    names = [name for name in model.state_dict() if name.startswith("backbone.")]
    assert names == [f"backbone.{name}" for name in expected.state_dict()]
    expected.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in model.state_dict().items()})
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected(x).flatten(1), rtol=1e-5, atol=1e-5)


def test_unpooled_map_is_flattened_in_full():
    features = torch.randn(2, 4, 3, 5)
    assert torch.equal(models.Unpooled(False, 0)(features), features.reshape(2, 60))


@pytest.mark.parametrize(("arch", "size"), [("test_resnet", 8), ("test_resnet", 33), ("test_convnext", 47)])
def test_convolutional_backbones_take_any_size(arch, size):
    assert small(arch, 3, size)(torch.randn(2, 3, size, size)).shape == (2, 3)


@pytest.mark.parametrize("size", [16, 48])
def test_vit_is_built_for_the_image_size_asked_for(size):
    model = small("test_vit", 3, size)
    assert model(torch.randn(2, 3, size, size)).shape == (2, 3)
    assert model.backbone.pos_embed.shape[1] == (size // 16) ** 2 + 1


def test_model_kwargs_reach_timm():
    model = small("test_vit", 3, 8, model_kwargs=("patch_size=2", "depth=1"))
    assert model.backbone.patch_embed.patch_size == (2, 2) and len(model.backbone.blocks) == 1


# ---- initial weights -------------------------------------------------------------------------------------------------


def test_initial_weights_are_a_function_of_the_seed():
    a, b = small().state_dict(), small().state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    torch.manual_seed(1)
    other = build_classifier("test_resnet", 5, 32, bottleneck_dim=16)
    assert not torch.equal(other.head.weight, a["head.weight"])


def test_measuring_the_feature_width_leaves_batch_statistics_alone():
    fresh = timm.create_model("test_resnet", num_classes=0).state_dict()
    built = small().backbone.state_dict()
    counters = [name for name in fresh if "running" in name or "num_batches" in name]
    assert counters and all(torch.equal(built[name], fresh[name]) for name in counters)


@pytest.mark.parametrize(
    ("arch", "asked"), [("resnet50", "resnet50.tv_in1k"), ("resnet26", "resnet26"), ("test_vit", "test_vit")]
)
def test_pretrained_asks_for_tllibs_weights(monkeypatch, arch, asked):
    seen = []

    def create_model(name: str, pretrained: bool, **kwargs) -> nn.Module:
        seen.append((name, pretrained))
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    monkeypatch.setattr(timm, "create_model", create_model)
    monkeypatch.setattr(timm_weights, "unreachable", lambda url: None)
    build_classifier(arch, 3, 32, pretrained=True)
    build_classifier(arch, 3, 32, pretrained=False)
    assert seen == [(asked, True), (arch, False)]


def test_weights_not_to_be_had_name_the_remedy(monkeypatch):
    def create_model(name: str, **kwargs) -> nn.Module:
        raise OSError("no network\nat all")

    monkeypatch.setattr(timm, "create_model", create_model)
    monkeypatch.setattr(timm_weights, "unreachable", lambda url: None)
    with pytest.raises(OSError) as caught:
        build_classifier("resnet50", 3, 32, pretrained=True)
    text = str(caught.value)
    assert (
        "resnet50.tv_in1k" in text and "--pretrained-backbone FILE" in text and "--scratch" in text and "\n" not in text
    )


# ---- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finetune", [False, True])
@pytest.mark.parametrize("bottleneck_dim", [16, 0])
def test_parameter_groups_hold_every_parameter_once(finetune, bottleneck_dim):
    model = small(bottleneck_dim=bottleneck_dim)
    groups = parameter_groups(model, finetune)
    assert [group["lr_scale"] for group in groups] == [
        0.1 if finetune else 1.0,
        *([1.0] if bottleneck_dim else []),
        1.0,
    ]
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())
    assert {id(p) for p in groups[0]["params"]} == {id(p) for p in model.backbone.parameters()}
    assert {id(p) for p in groups[-1]["params"]} == {id(p) for p in model.head.parameters()}


# ---- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"), [("resnet5O", "resnet50"), ("vit_smal_patch16_224", "vit_small_patch16_224")]
)
def test_unknown_arch_offers_the_nearest(wrong, right):
    for attempt in (lambda: check_arch(wrong), lambda: build_classifier(wrong, 3, 32)):
        with pytest.raises(ValueError) as caught:
            attempt()
        text = str(caught.value)
        assert wrong in text and right in text and "--arch" in text and "\n" not in text and len(text) < 300
    check_arch(right)


def test_wrong_image_size_is_one_line_that_names_the_remedy():
    with pytest.raises(ValueError) as caught:
        small("test_vit", size=33)
    text = str(caught.value)
    assert "test_vit" in text and "33x33" in text and "--image-size" in text and "\n" not in text


@pytest.mark.parametrize("arch", ["test_vit", "test_convnext"])
def test_image_too_small_for_the_network(arch):
    with pytest.raises(ValueError, match=f"--arch {arch} does not take 3x3 images .*--image-size"):
        small(arch, size=3)


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
def test_kwargs_the_network_refuses_are_named(arch):
    with pytest.raises(ValueError, match=f"--arch {arch} refuses .*no_such_thing"):
        small(arch, model_kwargs=("no_such_thing=1",))


def test_features_that_are_no_vector_are_named():
    with pytest.raises(ValueError, match="--arch test_resnet gives no vector of features with its pooling: .*--no-pool"):
        small(model_kwargs=("global_pool=",))


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], {}),
        (["patch_size=2"], {"patch_size": 2}),
        (["a=0.5", "b=(1, 2)", "c=True", "d=None"], {"a": 0.5, "b": (1, 2), "c": True, "d": None}),
        (["act_layer=gelu"], {"act_layer": "gelu"}),
        (["x=a=b", "y="], {"x": "a=b", "y": ""}),
        (["a=1", "a=2"], {"a": 2}),
        (["x=__import__('os').getcwd()"], {"x": "__import__('os').getcwd()"}),
    ],
)
def test_model_kwargs_are_literals_never_code(pairs, expected):
    assert parse_model_kwargs(pairs) == expected


@pytest.mark.parametrize("pair", ["patch_size", "=2", "patch-size=2", "2=2", ""])
def test_bad_model_kwargs_are_named(pair):
    with pytest.raises(ValueError) as caught:
        parse_model_kwargs([pair])
    assert "--model-kwargs takes key=value pairs" in str(caught.value) and repr(pair) in str(caught.value)
