"""The frame that joins a CNN and a ViT of timm: pairs, what the units carry, what cannot be joined, and networks by name."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from ssl_bench import timm_weights
from ssl_bench.nets.semiformer import Semiformer
from ssl_bench.nets.two_streams import NAMES, TwoStreams, build, check_name, is_name

# arch, image size, arguments; maps of the CNN that are finer than the tokens, as fine, and coarser are all among them
PAIRS = {
    "resnet": ("semiformer:resnet26d+vit_small_patch16_224", 64, {"vit_depth": 5, "vit_embed_dim": 48, "vit_num_heads": 3}),
    "convnext": ("semiformer:test_convnext+test_vit", 32, {"vit_patch_size": 4}),
    "efficientnet": (
        "semiformer:test_efficientnet+vit_tiny_patch16_224", 48,
        {"vit_depth": 4, "vit_class_token": False, "vit_global_pool": "avg"},
    ),
    "regnet": ("semiformer:regnetx_002+test_vit2", 64, {}),  # registers
}  # fmt: skip
SMALL = ("semiformer:test_resnet+test_vit", 32, {"vit_patch_size": 8})


def made(pair: tuple, **changes) -> TwoStreams:
    arch, size, kwargs = pair
    torch.manual_seed(0)
    return build(arch, 5, size, **{"model_kwargs": kwargs, "drop_path": 0.0, **changes})


def images(pair: tuple, count: int = 2) -> Tensor:
    return torch.randn(count, 3, pair[1], pair[1], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_pairs(pair):
    network, x = made(pair), images(pair)
    assert network.training
    (conv, trans), tokens = network(x, tokens=True)
    rows, columns = network.grid(pair[1])
    assert conv.shape == trans.shape == (2, 5) and tokens.shape == (2, rows * columns, network.vit.embed_dim)
    conv.square().sum().backward(retain_graph=True)
    unmoved = {name for name, value in network.named_parameters() if value.grad is None}
    assert all(name.startswith(("vit.norm", "vit.fc_norm", "trans_cls_head")) for name in unmoved)  # the ViT is heard
    trans.square().sum().backward()
    assert all(value.grad is not None for value in network.parameters())
    assert network.heads == ("conv_cls_head", "trans_cls_head") and network.conv_cls_head.out_features == 5


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_without_units_each_stream_is_timms_network(pair):
    arch, size, kwargs = pair
    cnn_name, vit_name = arch.removeprefix("semiformer:").split("+")
    network, x = made(pair, fcu=False), images(pair)
    for module in network.modules():  # zero-initialised branches would hide a block left out
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1)
    network.eval()
    cnn = timm.create_model(cnn_name, num_classes=5).eval()
    vit = timm.create_model(vit_name, num_classes=5, img_size=size, **{key[4:]: value for key, value in kwargs.items()}).eval()
    for ours, theirs, head in ((network.cnn, cnn, network.conv_cls_head), (network.vit, vit, network.trans_cls_head)):
        theirs.load_state_dict(ours.state_dict(), strict=False)
        theirs.get_classifier().load_state_dict(head.state_dict())
    (conv, trans), tokens = network(x, tokens=True)
    torch.testing.assert_close(conv, cnn(x))
    torch.testing.assert_close(trans, vit(x))
    torch.testing.assert_close(tokens, vit.forward_features(x)[:, vit.num_prefix_tokens :])
    with_units = made(pair).eval()
    with_units.load_state_dict(network.state_dict())  # the same names
    assert not torch.equal(with_units(x)[0], conv) and not torch.equal(with_units(x)[1], trans)


def test_the_units_of_each_stage_by_hand():
    """A CNN and a ViT in slow motion: what is added where, stage by stage."""
    network, x = made(SMALL).eval(), images(SMALL)
    cnn, vit = network.cnn, network.vit
    y, t = cnn.maxpool(cnn.act1(cnn.bn1(cnn.conv1(x)))), vit._pos_embed(vit.patch_embed(x))
    groups = [vit.blocks[:2], vit.blocks[2:3], vit.blocks[3:4], vit.blocks[4:]]  # six blocks: 1.5, 3 and 4.5 rounded to even
    for stage, layer in enumerate((cnn.layer1, cnn.layer2, cnn.layer3, cnn.layer4)):
        y, down, up = layer(y), network.squeeze[stage], network.expand[stage]
        inner = nn.functional.adaptive_avg_pool2d(down.conv_project(y), 4) if y.shape[2] > 4 else down.conv_project(y)
        inner = inner.repeat_interleave(4 // inner.shape[2], 2).repeat_interleave(4 // inner.shape[3], 3)
        t = torch.cat([t[:, :1], t[:, 1:] + nn.functional.gelu(down.ln(inner.flatten(2).transpose(1, 2)))], dim=1)
        t = groups[stage](t)
        added = up.bn(up.conv_project(t[:, 1:].transpose(1, 2).reshape(2, -1, 4, 4))).relu()
        added = added.repeat_interleave(max(y.shape[2] // 4, 1), 2).repeat_interleave(max(y.shape[3] // 4, 1), 3)
        y = y + nn.functional.adaptive_avg_pool2d(added, y.shape[2])
    conv, trans = network(x)
    torch.testing.assert_close(conv, network.conv_cls_head(y.mean((2, 3))))
    torch.testing.assert_close(trans, network.trans_cls_head(vit.norm(t)[:, 0]))
    assert {norm.eps for norm in (*(unit.ln for unit in network.squeeze), *(unit.bn for unit in network.expand))} == {1e-6}


def test_a_pair_without_batch_norm_has_no_batch_statistics():
    network = made(PAIRS["convnext"])
    assert not list(network.buffers()) and not [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    x = images(PAIRS["convnext"], 4)
    for whole, first, rest in zip(network(x), network(x[:1]), network(x[1:]), strict=True):
        torch.testing.assert_close(whole, torch.cat([first, rest]))
    assert [type(unit.bn).__name__ for unit in made(SMALL).expand] == ["BatchNorm2d"] * 4


def test_stochastic_depth_is_the_vits_alone():
    network = made(SMALL, drop_path=0.2)
    rates = [m.drop_prob for m in network.vit.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.2) and not [m for m in network.cnn.modules() if type(m).__name__ == "DropPath"]


@pytest.mark.parametrize("stream", ["conv", "trans"])
def test_a_stream_alone(stream):
    whole, alone, x = made(SMALL, fcu=False).eval(), made(SMALL, streams=(stream,)).eval(), images(SMALL)
    names = set(alone.state_dict())
    assert not [name for name in names if name.startswith(("squeeze", "expand", "vit" if stream == "conv" else "cnn"))]
    alone.load_state_dict({name: value for name, value in whole.state_dict().items() if name in names})
    (conv, trans), tokens = alone(x, tokens=True)
    got, other = (conv, trans) if stream == "conv" else (trans, conv)
    assert other is None and torch.equal(got, whole(x)[stream == "trans"]) and (tokens is None) == (stream == "conv")
    assert alone.heads == (f"{stream}_cls_head",)


def test_what_is_not_decayed_is_what_either_network_says():
    network = made(SMALL)
    assert network.no_weight_decay() == {f"vit.{name}" for name in network.vit.no_weight_decay()}
    assert {"vit.pos_embed", "vit.cls_token"} <= network.no_weight_decay() & set(network.state_dict())
    assert made(SMALL, streams=("conv",)).no_weight_decay() == set()


def test_units_that_are_skipped_are_frozen():
    network = made(SMALL, fcu=False)
    assert {name for name, value in network.named_parameters() if not value.requires_grad} == {
        name for name in dict(network.named_parameters()) if name.startswith(("squeeze", "expand"))
    }


def test_checkpointed_gradients_are_the_same_and_copies_share_nothing():
    network, x, gradients = made(SMALL).eval(), images(SMALL), []
    for on in (False, True):
        network.set_grad_checkpointing(on)
        network.zero_grad()
        sum(logits.square().sum() for logits in network(x)).backward()
        gradients.append([value.grad.clone() for value in network.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    twin, before = copy.deepcopy(network), network(x)[0]
    with torch.no_grad():
        for value in twin.parameters():
            value.zero_()
    assert torch.equal(before, network(x)[0]) and not torch.equal(before, twin(x)[0])


@pytest.mark.slow
@pytest.mark.parametrize("pair", [SMALL, PAIRS["convnext"]], ids=["resnet", "convnext"])
def test_one_graph_when_compiled(pair):
    network, x = made(pair).eval(), images(pair)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    for got, wanted in zip(compiled(x), network(x), strict=True):
        torch.testing.assert_close(got, wanted)


def test_building_a_pair_leaves_the_random_numbers_alone():
    """The check of the pieces has a generator of its own, and leaves weights and statistics as they were."""
    torch.manual_seed(0)
    cnn, vit = timm.create_model("test_resnet", num_classes=0), timm.create_model("test_vit", num_classes=0, img_size=32)
    before = copy.deepcopy(cnn.state_dict())
    state = torch.get_rng_state()
    TwoStreams(cnn, vit, 5, 32, "pair")
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    TwoStreams(copy.deepcopy(cnn), copy.deepcopy(vit), 5, 32, "pair")
    assert torch.equal(after, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in cnn.state_dict().items())


class Skipping(nn.Module):
    """A network whose layers do not run one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.net = timm.create_model("test_resnet", num_classes=0)
        self.feature_info, self.num_features = self.net.feature_info, self.net.num_features
        for name, child in self.net.named_children():
            self.add_module(name, child)
        del self.net

    def forward_features(self, x: Tensor) -> Tensor:
        y = self.layer1(self.maxpool(self.act1(self.bn1(self.conv1(x)))))
        return self.layer4(self.layer3(self.layer2(self.layer1(y) + y)))

    def forward_head(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_a_network_that_is_no_chain_is_refused():
    with pytest.raises(ValueError, match="--arch semiformer:mine: the CNN's layers do not run one after the other"):
        TwoStreams(Skipping(), None, 5, 32, "semiformer:mine")


@pytest.mark.parametrize(
    ("arch", "size", "kwargs", "words"),
    [
        ("semiformer:test_vit+test_vit", 32, {}, "the CNN has 1 strides, fewer than 4: use resnet26d"),
        ("semiformer:test_mambaout+test_vit", 32, {}, r"do not run one after the other over \(B, C, H, W\) maps"),
        ("semiformer:test_resnet+swin_tiny_patch4_window7_224", 224, {"vit_depths": (1, 1, 1, 1)}, "swin_tiny.* is no plain ViT"),
        ("semiformer:test_resnet+cait_xxs24_224", 32, {"vit_depth": 1}, "cait_xxs24_224 is no plain ViT"),
        ("semiformer:test_resnet+test_resnet", 32, {}, "test_resnet is no plain ViT"),
        ("semiformer:test_resnet+test_vit", 8, {"vit_patch_size": 4}, "leave the CNN 3 sizes of map, not 4: raise --image-size"),
        ("semiformer:test_resnet+test_vit", 40, {}, "patches of 16x16 do not divide 40x40 images"),
        ("semiformer:test_resnet+test_vit", 32, {"vit_depth": 3}, "the ViT has 3 blocks, fewer than 4 stages: raise vit_depth"),
        ("semiformer:test_resnet+test_vit", 32, {"depth": 4}, "--model-kwargs depth is of a network of one name"),
        ("semiformer:test_resnet+test_vit", 32, {"cnn_dpth": 4}, "test_resnet refuses its arguments {'dpth': 4}"),
        ("semiformer_tiny_patch4", 12, {}, "a multiple of 8, not 12"),
        ("semiformer_tiny_patch4", 8, {"dpth": 6}, "--arch semiformer_tiny_patch4 refuses its arguments {'dpth': 6}"),
        ("semiformer_small_patch16_pe", 96, {"depth": 3}, "takes 224x224 images, not 96x96"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(arch, size, kwargs, words):
    with pytest.raises(ValueError, match=words) as caught:
        build(arch, 5, size, model_kwargs=kwargs, drop_path=0.1)
    assert "\n" not in str(caught.value)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="was made for 32x32 images, not 48x48"):
        made(SMALL)(torch.randn(1, 3, 48, 48))


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("resnet50", "--arch resnet50 is no two-stream network: use semiformer_small_patch16, .* or semiformer:CNN.ViT"),
        ("semiformer_small_patch17", "is no two-stream network: use semiformer_small_patch16"),
        ("semiformer:resnet26d", "the general frame is semiformer:CNN.ViT, as in"),
        ("semiformer:a+b+c", "the general frame is"),
        ("semiformer:+test_vit", "the general frame is"),
        ("semiformer:resnet26q+test_vit", "unknown CNN .resnet26q.; did you mean .*resnet26"),
        ("semiformer:test_resnet+vit_smal_patch16_224", "unknown ViT .vit_smal_patch16_224.; did you mean vit_small_patch16"),
    ],
)
def test_unknown_names(arch, words):
    with pytest.raises(ValueError, match=words) as caught:
        check_name(arch)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=words):
        build(arch, 5, 32, model_kwargs={}, drop_path=0.1)


def test_known_names():
    for arch in (*NAMES, PAIRS["resnet"][0]):
        check_name(arch)
        assert is_name(arch)
    assert is_name("semiformer:any") and not is_name("resnet50") and not is_name("vit_small_patch16_224")
    assert {"semiformer_small_patch16", "semiformer_small_patch16_pe", "semiformer_small_patch16_convmixer"} < set(NAMES)


def test_semiformer_by_name():
    network = build("semiformer_tiny_patch4", 5, 8, model_kwargs={"depth": 6}, drop_path=0.3, fcu=False)
    assert isinstance(network, Semiformer) and len(network.stages) == 5 and network.conv_cls_head.out_features == 5
    assert network.conv_trans_6.trans_block.drop_path1.drop_prob == pytest.approx(0.3) and not network.conv_trans_6.fcu
    alone = build("semiformer_tiny_patch4", 5, 8, model_kwargs={}, drop_path=0.0, streams=("trans",))
    assert alone.heads == ("trans_cls_head",)
    with pytest.raises(ValueError, match="timm has no ImageNet weights of semiformer_tiny_patch4"):
        build("semiformer_tiny_patch4", 5, 8, model_kwargs={}, drop_path=0.0, pretrained=True)


def test_pretrained_weights_come_through_timm(monkeypatch):
    asked, create = [], timm.create_model
    monkeypatch.setattr(timm_weights, "unreachable", lambda url: None)

    def record(name, pretrained=False, **kwargs):
        asked.append((name, pretrained))
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", record)
    made(SMALL, pretrained=True)
    assert asked == [("test_resnet", True), ("test_vit", True)]

    def offline(name, **kwargs):
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(OSError, match=r"weights of test_resnet could .* loaded \(no route to host\): copy .*, or add --scratch") as caught:
        made(SMALL, pretrained=True)
    assert "\n" not in str(caught.value)
