"""Semiformer: names, order and shapes of the published state dict; the forward against one written from the specification."""

from __future__ import annotations

import copy
import functools
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_bench.nets.semiformer import (
    NETWORKS,
    Bottleneck,
    FCUDown,
    FCUUp,
    Semiformer,
    resize,
    semiformer_small_patch4,
    semiformer_small_patch16,
    semiformer_small_patch16_convmixer,
    semiformer_small_patch16_pe,
    semiformer_tiny_patch4,
    semiformer_tiny_patch8,
)
from ssl_bench.nets.stochastic_depth import drop_path

Shapes = dict[str, tuple[int, ...]]


# ---- the state dict, from the specification's table ----


def weights(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape}


def both(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def batch_norm(name: str, n: int) -> Shapes:
    vectors = {f"{name}.{key}": (n,) for key in ("weight", "bias", "running_mean", "running_var")}
    return vectors | {f"{name}.num_batches_tracked": ()}


def bottleneck(name: str, c_in: int, m: int, c: int, project: bool) -> Shapes:
    found = weights(f"{name}.conv1", m, c_in, 1, 1) | batch_norm(f"{name}.bn1", m)
    found |= weights(f"{name}.conv2", m, m, 3, 3) | batch_norm(f"{name}.bn2", m)
    found |= weights(f"{name}.conv3", c, m, 1, 1) | batch_norm(f"{name}.bn3", c)
    if project:
        found |= weights(f"{name}.residual_conv", c, c_in, 1, 1) | batch_norm(f"{name}.residual_bn", c)
    return found


def mixer(name: str) -> Shapes:
    found = both(f"{name}.conv1", 768, 1, 9, 9) | batch_norm(f"{name}.norm1", 768)
    return found | both(f"{name}.conv2", 768, 768, 1, 1) | batch_norm(f"{name}.norm2", 768)


def block(name: str) -> Shapes:
    found = both(f"{name}.norm1", 384) | both(f"{name}.attn.qkv", 1152, 384) | both(f"{name}.attn.proj", 384, 384)
    return found | both(f"{name}.norm2", 384) | both(f"{name}.mlp.fc1", 1536, 384) | both(f"{name}.mlp.fc2", 384, 1536)


def units(name: str, c: int) -> Shapes:
    found = both(f"{name}.squeeze_block.conv_project", 384, c, 1, 1) | both(f"{name}.squeeze_block.ln", 384)
    return found | both(f"{name}.expand_block.conv_project", c, 384, 1, 1) | batch_norm(f"{name}.expand_block.bn", c)


def published(classes: int = 1000) -> Shapes:
    found = {"cls_token": (1, 1, 384)} | both("trans_norm", 384) | both("trans_cls_head", classes, 384)
    found |= both("conv_cls_head", classes, 1024) | weights("conv1", 64, 3, 7, 7) | batch_norm("bn1", 64)
    found |= bottleneck("conv_1", 64, 64, 256, True) | both("trans_patch_conv", 384, 64, 4, 4) | block("trans_1")
    for i in range(2, 13):
        c, m = (256, 64) if i <= 4 else (512, 128) if i <= 8 else (1024, 256)
        c_in = {5: 256, 9: 512}.get(i, c)
        found |= bottleneck(f"conv_trans_{i}.cnn_block", c_in, m, c, i in (5, 9))
        found |= bottleneck(f"conv_trans_{i}.fusion_block", c, m, c, i == 12)
        found |= units(f"conv_trans_{i}", c) | block(f"conv_trans_{i}.trans_block")
    return found


def published_convmixer(classes: int = 1000) -> Shapes:
    found = {"cls_token": (1, 1, 384)} | both("trans_norm", 384) | both("trans_cls_head", classes, 384)
    found |= both("conv_cls_head", classes, 768) | weights("conv1", 64, 3, 7, 7) | batch_norm("bn1", 64)
    found |= both("convmix1_embed.0", 768, 3, 8, 8) | batch_norm("convmix1_embed.2", 768) | mixer("conv_1")
    found |= both("trans_patch_conv", 384, 64, 4, 4) | block("trans_1")
    for i in range(2, 12):
        found |= mixer(f"conv_trans_{i}.cnn_block") | mixer(f"conv_trans_{i}.fusion_block")
        found |= units(f"conv_trans_{i}", 768) | block(f"conv_trans_{i}.trans_block")
    return found


def shapes(network: nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def count(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


@pytest.fixture(scope="module")
def base() -> Semiformer:
    torch.manual_seed(0)
    return semiformer_small_patch16()


def test_the_published_state_dict(base):
    table = published()
    assert len(table) == 718
    assert list(shapes(base).items()) == list(table.items())  # names, order and shapes
    assert count(base) == 41_670_288
    parameters, buffers = list(base.parameters()), list(base.buffers())
    assert (len(parameters), len(buffers), sum(value.numel() for value in buffers)) == (463, 255, 61_909)
    for i in range(2, 13):
        stage = [name for name in table if name.startswith(f"conv_trans_{i}.")]
        assert len(stage) == (65 if i in (5, 9, 12) else 59)


def test_the_two_streams_and_the_units_have_their_share_of_the_parameters(base):
    parts = {"down": 0, "up": 0, "trans": 0, "conv": 0}
    for name, value in base.named_parameters():
        own = ("cls_token", "trans_")  # of the transformer stream, outside the stages
        kinds = {"squeeze_block": "down", "expand_block": "up", "trans_block": "trans"}
        inside = [kind for part, kind in kinds.items() if f".{part}." in name]
        parts[(inside or ["trans" if name.startswith(own) else "conv"])[0]] += value.numel()
    assert parts == {"down": 2_666_880, "up": 2_674_944, "trans": 22_073_320, "conv": 14_255_144}


@pytest.mark.parametrize(
    ("network", "classes", "parameters", "entries"),
    [
        (semiformer_small_patch16, 100, 40_401_288, 718),
        (semiformer_small_patch16, 10, 40_274_388, 718),
        (semiformer_small_patch16_pe, 1000, 41_745_552, 719),
        (semiformer_small_patch16_convmixer, 1000, 40_949_392, 558),
    ],
)
def test_parameter_counts(network, classes, parameters, entries):
    with torch.device("meta"):
        made = network(classes)
    assert (count(made), len(made.state_dict())) == (parameters, entries)


def test_the_state_dicts_of_the_variants():
    with torch.device("meta"):
        mixed, positions = semiformer_small_patch16_convmixer(), semiformer_small_patch16_pe()
    assert list(shapes(mixed).items()) == list(published_convmixer().items())
    table = published()
    assert shapes(positions) == table | {"pos_embed": (1, 196, 384)}
    assert list(positions.state_dict())[:2] == ["cls_token", "pos_embed"]  # the network's own tensors come first


def test_a_checkpoint_with_the_published_names_loads_strictly_and_decides():
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in published(10).items():
        state[name] = torch.rand(shape, generator=generator) * 0.02 + 0.5 if shape else torch.tensor(7)
    network = semiformer_small_patch16(10)
    network.load_state_dict(state, strict=True)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    for name in ("conv_trans_9.squeeze_block.ln.bias", "bn1.running_var"):
        with pytest.raises(RuntimeError, match=name):
            network.load_state_dict({key: value for key, value in state.items() if key != name})


# ---- the forward, written again from the specification, with nothing but torch's functions ----


class ByHand:
    """p: the state dict; each method is a paragraph of the specification's section 1."""

    def __init__(self, state: dict[str, Tensor], heads: int) -> None:
        self.p, self.heads = state, heads

    def bn(self, name: str, x: Tensor, eps: float) -> Tensor:
        p = self.p
        mean, var = p[f"{name}.running_mean"], p[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, p[f"{name}.weight"], p[f"{name}.bias"], False, 0.0, eps)

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        return F.conv2d(x, self.p[f"{name}.weight"], self.p.get(f"{name}.bias"), stride, padding, groups=groups)

    def ln(self, name: str, t: Tensor, eps: float = 1e-6) -> Tensor:
        return F.layer_norm(t, t.shape[-1:], self.p[f"{name}.weight"], self.p[f"{name}.bias"], eps)

    def linear(self, name: str, t: Tensor) -> Tensor:
        return t @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def bottleneck(self, name: str, x: Tensor, stride: int = 1, extra: Tensor | float = 0.0) -> Tensor:
        y = F.relu(self.bn(f"{name}.bn1", self.conv(f"{name}.conv1", x + extra), 1e-6))
        y = F.relu(self.bn(f"{name}.bn2", self.conv(f"{name}.conv2", y, stride, 1), 1e-6))
        y = self.bn(f"{name}.bn3", self.conv(f"{name}.conv3", y), 1e-6)
        if f"{name}.residual_conv.weight" in self.p:
            x = self.bn(f"{name}.residual_bn", self.conv(f"{name}.residual_conv", x, stride), 1e-6)
        return F.relu(x + y)

    def mixer(self, name: str, x: Tensor, extra: Tensor | float = 0.0) -> Tensor:
        x = x + self.bn(f"{name}.norm1", F.gelu(self.conv(f"{name}.conv1", x + extra, 1, 4, x.shape[1])), 1e-5)
        return self.bn(f"{name}.norm2", F.gelu(self.conv(f"{name}.conv2", x)), 1e-5)

    def block(self, name: str, t: Tensor) -> Tensor:
        b, n, d = t.shape
        q, k, v = self.linear(f"{name}.attn.qkv", self.ln(f"{name}.norm1", t)).chunk(3, dim=2)  # heads-major within each
        outputs = []
        for head in range(self.heads):
            own = slice(head * d // self.heads, (head + 1) * d // self.heads)
            attention = (q[..., own] @ k[..., own].transpose(1, 2) / (d // self.heads) ** 0.5).softmax(dim=2)
            outputs.append(attention @ v[..., own])
        t = t + self.linear(f"{name}.attn.proj", torch.cat(outputs, dim=2))
        inner = F.gelu(self.linear(f"{name}.mlp.fc1", self.ln(f"{name}.norm2", t)))
        return t + self.linear(f"{name}.mlp.fc2", inner)

    def down(self, name: str, x: Tensor, k: int) -> Tensor:
        x = F.avg_pool2d(self.conv(f"{name}.conv_project", x), k, k)  # convolution first, as published
        return F.gelu(self.ln(f"{name}.ln", x.flatten(2).transpose(1, 2)))

    def up(self, name: str, t: Tensor, shape: tuple[int, int], k: int) -> Tensor:
        x = t.transpose(1, 2).reshape(t.shape[0], t.shape[2], shape[0] // k, shape[1] // k)
        x = F.relu(self.bn(f"{name}.bn", self.conv(f"{name}.conv_project", x), 1e-6))
        return x.repeat_interleave(k, dim=2).repeat_interleave(k, dim=3)

    def __call__(self, image: Tensor, stem: tuple[int, int] = (2, 3), pool: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        p, mixed = self.p, "convmix1_embed.0.weight" in self.p
        base = F.relu(self.bn("bn1", self.conv("conv1", image, *stem), 1e-5))
        base = F.max_pool2d(base, 3, 2, 1) if pool else base
        t = self.conv("trans_patch_conv", base, 4).flatten(2).transpose(1, 2)
        t = t + p["pos_embed"] if "pos_embed" in p else t
        t = self.block("trans_1", torch.cat([p["cls_token"].expand(len(t), 1, -1), t], dim=1))
        if mixed:
            x = self.bn("convmix1_embed.2", F.gelu(self.conv("convmix1_embed.0", image, 8)), 1e-5)
            x = self.mixer("conv_1", x)
        else:
            x = self.bottleneck("conv_1", base)
        last = max(int(name.split(".")[0].rpartition("_")[2]) for name in p if name.startswith("conv_trans_"))
        for i in range(2, last + 1):
            at = f"conv_trans_{i}"
            if mixed:
                k, x = 2, self.mixer(f"{at}.cnn_block", x)
            else:
                k = 2 ** (2 - 3 * (i - 1) // last)
                x = self.bottleneck(f"{at}.cnn_block", x, 2 if (i - 1) % (last // 3) == 0 else 1)
            added = torch.cat([t[:, :1], self.down(f"{at}.squeeze_block", x, k)], dim=1)
            t = self.block(f"{at}.trans_block", t + added)
            extra = self.up(f"{at}.expand_block", t[:, 1:], x.shape[2:], k)
            if mixed:
                x = self.mixer(f"{at}.fusion_block", x, extra)
            else:
                x = self.bottleneck(f"{at}.fusion_block", x, 2 if i == last else 1, extra)
        t = self.ln("trans_norm", t, 1e-5)
        return self.linear("conv_cls_head", x.mean((2, 3))), self.linear("trans_cls_head", t[:, 0]), t[:, 1:]


def randomise(network: nn.Module) -> nn.Module:
    """Statistics, affine terms and biases as after training: none at a value that hides a missing term."""
    generator = torch.Generator().manual_seed(1)
    for name, value in network.state_dict().items():
        if value.ndim == 1 and value.is_floating_point():
            low, high = (0.5, 1.5) if name.endswith(("weight", "running_var")) else (-0.3, 0.3)
            value.uniform_(low, high, generator=generator)
    for module in network.modules():
        if isinstance(module, Bottleneck):
            module.bn3.weight.data.mul_(0.3)  # 23 residual sums would grow past what float64 compares well
    return network.eval()


CASES = {
    "base": (lambda: semiformer_small_patch16(7), 96, {}),
    "positions": (lambda: semiformer_small_patch16_pe(7, position_size=64), 64, {}),
    "convmixer": (lambda: semiformer_small_patch16_convmixer(7), 48, {}),
    "tiny, patch 8": (lambda: semiformer_tiny_patch8(7), 32, {"stem": (2, 1), "pool": False}),
    "tiny, patch 4": (lambda: semiformer_tiny_patch4(7), 16, {"stem": (1, 1), "pool": False}),
    "six blocks": (lambda: semiformer_tiny_patch4(7, depth=6), 16, {"stem": (1, 1), "pool": False}),
}


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow if case == "convmixer" else ()) for case in CASES])
def test_the_forward_is_the_specification(case):
    make, size, stem = CASES[case]
    torch.manual_seed(0)
    network = randomise(make().double())
    width = size if network.position_size else size + network.multiple
    x = torch.randn(1 if size > 64 else 2, 3, size, width, dtype=torch.float64)
    with torch.no_grad():
        (conv, trans), tokens = network(x, tokens=True)
        expected = ByHand(network.state_dict(), network.trans_1.attn.num_heads)(x, **stem)
    for got, wanted in zip((conv, trans, tokens), expected, strict=True):
        assert wanted.std() > 1e-3 and torch.isfinite(wanted).all()
        assert (got - wanted).abs().max() < 1e-9 * (1 + wanted.abs().max())
    assert torch.equal(network(x)[0], conv) and torch.equal(network(x)[1], trans)  # tokens are only shown


def test_single_precision_is_as_close_as_it_can_be(base):
    network = randomise(copy.deepcopy(base))
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        for got, wanted in zip(network(x), ByHand(network.state_dict(), 6)(x), strict=False):
            assert got.shape == (1, 1000) and (got - wanted).abs().max() < 1e-4


def test_the_class_token_doubles_at_each_fusion():
    network = semiformer_small_patch16(3).eval()
    for name in network.stages:
        getattr(network, name).trans_block = nn.Identity()
    network.trans_1 = nn.Identity()
    entered = []
    network.trans_norm.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    with torch.no_grad():
        network(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(entered[0][:, 0], network.cls_token[0].expand(2, -1) * 2**11)


def test_norms_have_the_published_epsilons(base):
    for name, module in base.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-5 if name == "bn1" else 1e-6, 0.1), name
        if isinstance(module, nn.LayerNorm):
            assert module.eps == (1e-5 if name == "trans_norm" else 1e-6), name
    with torch.device("meta"):
        mixed = semiformer_small_patch16_convmixer()
    stream = {m.eps for n, m in mixed.named_modules() if isinstance(m, nn.BatchNorm2d) and "expand_block" not in n}
    units = {m.eps for n, m in mixed.named_modules() if isinstance(m, nn.BatchNorm2d) and "expand_block" in n}
    assert (stream, units) == ({1e-5}, {1e-6})


def test_stochastic_depth_grows_from_nothing(base):
    rates = [0.0]
    assert not [m for m in base.trans_1.modules() if type(m).__name__ == "DropPath"]
    for name in base.stages:
        stage = getattr(base, name)
        found, among = (
            [m.drop_prob for m in part.modules() if type(m).__name__ == "DropPath"] for part in (stage, stage.trans_block)
        )
        assert found == among  # none among the convolutions
        assert len(found) == 2 and found[0] == found[1]
        rates.append(found[0])
    assert rates == pytest.approx([0.1 * (i - 1) / 11 for i in range(1, 13)])


def test_stochastic_depth_can_be_switched_off():
    network = semiformer_tiny_patch4(3, drop_path=0.9)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    network.train()
    x = torch.randn(8, 3, 8, 8)
    with torch.no_grad(), drop_path(network, on=False):
        assert torch.equal(network(x)[1], network(x)[1])
    with torch.no_grad():
        assert not torch.equal(network(x)[1], network(x)[1])


def test_initial_weights(base):
    for name, module in base.named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.03) and module.weight.abs().max() < 0.2, name
            assert (module.bias == 0).all()
        elif isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name
            assert module.bias is None or module.bias.std() > 0  # torch's own
        elif isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    assert base.cls_token.std().item() == pytest.approx(0.02, rel=0.2)


def test_weight_decay(base):
    from timm.optim import param_groups_weight_decay

    groups = param_groups_weight_decay(base, 0.05, no_weight_decay_list=base.no_weight_decay())
    assert {group["weight_decay"]: len(group["params"]) for group in groups} == {0.0: 316, 0.05: 147}
    assert base.no_weight_decay() == {"cls_token"} and base.heads == ("conv_cls_head", "trans_cls_head")
    with torch.device("meta"):
        assert semiformer_small_patch16_pe().no_weight_decay() == {"cls_token"}  # its positions are decayed


# ---- small images, streams, units ----


@pytest.mark.parametrize(("patch", "size"), [(4, 8), (4, 32), (8, 64)])
def test_small_images(patch, size):
    network = NETWORKS[f"semiformer_tiny_patch{patch}"](5)
    (conv, trans), tokens = network(torch.randn(2, 3, size, size), tokens=True)
    side = size // network.patch
    assert conv.shape == trans.shape == (2, 5) and tokens.shape == (2, side * side, network.cls_token.shape[2])
    assert network.grid(size) == (side, side)
    (conv.sum() + trans.sum()).backward()
    assert all(value.grad is not None for value in network.parameters())


def test_small_variants_keep_all_but_the_stem():
    with torch.device("meta"):
        small = shapes(semiformer_small_patch4())
    assert small == published() | {"conv1.weight": (64, 3, 3, 3)}
    network, maps = semiformer_tiny_patch4(5), []
    network.conv_1.register_forward_hook(lambda *found: maps.append(found[2].shape[-2:]))
    for name in network.stages:
        getattr(network, name).fusion_block.register_forward_hook(lambda *found: maps.append(found[2].shape[-2:]))
    network(torch.randn(1, 3, 32, 32))
    assert [tuple(size) for size in maps] == [(32, 32), (16, 16), (4, 4)]  # each third halves it, the last block once more


@pytest.mark.parametrize(
    ("network", "size", "words"),
    [
        (lambda: Semiformer(3, depth=3), 40, "semiformer_small_patch16 takes images whose side is a multiple of 32, not 40: "
         "change --image-size, or a patch8/patch4 variant"),
        (lambda: Semiformer(3, depth=3), 16, "a multiple of 32, not 16"),
        (lambda: semiformer_tiny_patch8(3), 24, "semiformer_tiny_patch8 takes images whose side is a multiple of 16, not 24"),
        (lambda: semiformer_tiny_patch4(3), 12, "takes images whose side is a multiple of 8, not 12: change --image-size$"),
        (lambda: semiformer_small_patch16_pe(3, depth=3), 96, "semiformer_small_patch16_pe takes 224x224 images, not 96x96"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit(network, size, words):
    with torch.device("meta"):
        made = network()
    with pytest.raises(ValueError, match=words):
        made(torch.zeros(1, 3, size, size, device="meta"))
    with pytest.raises(ValueError, match=words):
        made.check_size(size, size)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depth": 4}, "depth must be a multiple of 3"),
        ({"num_heads": 5}, "embed_dim of num_heads; they are 12, 384 and 5"),
        ({"patch": 7}, "patch is 4, 8 or 16, not 7"),
        ({"patch": 4, "mixer": 8}, "patch is 16 with a ConvMixer, not 4"),
        ({"streams": ()}, "streams are"),
        ({"streams": ("cnn",)}, "not .'cnn',."),
    ],
)
def test_networks_that_do_not_exist(arguments, words):
    with pytest.raises(ValueError, match=words):
        Semiformer(3, **arguments)


def moved(network: nn.Module, x: Tensor, parts: tuple[str, ...]) -> tuple[bool, bool]:
    """Whether the conv and the transformer logits change when the parameters with one of `parts` in their names do."""
    before = network(x)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if any(part in name for part in parts):
                value.add_(torch.randn_like(value))
    return tuple(not torch.equal(a, b) for a, b in zip(before, network(x), strict=True))


CONV = ("conv_1.", "cnn_block", "fusion_block")
TRANS = ("trans_1.", "trans_block", "cls_token", "trans_patch_conv")


def test_each_stream_is_heard_by_the_other_only_through_the_units():
    x = torch.randn(2, 3, 16, 16)
    for fcu, parts in itertools.product((True, False), (CONV, TRANS)):
        torch.manual_seed(0)
        network = randomise(semiformer_tiny_patch4(5, fcu=fcu))
        assert moved(network, x, parts) == ((True, True) if fcu else (parts is CONV, parts is TRANS))
        assert moved(network, x, ("squeeze_block", "expand_block")) == (fcu, fcu)
        assert moved(network, x, ("bn1.weight",))[0]  # not frozen by accident


def test_without_units_their_parameters_stay_and_need_no_gradient():
    with_units, without = semiformer_tiny_patch4(5), semiformer_tiny_patch4(5, fcu=False)
    assert shapes(with_units) == shapes(without)
    frozen = {name for name, value in without.named_parameters() if not value.requires_grad}
    assert frozen == {name for name in dict(without.named_parameters()) if "squeeze_block" in name or "expand_block" in name}
    conv, trans = without(torch.randn(2, 3, 8, 8))
    (conv.sum() + trans.sum()).backward()
    assert {name for name, value in without.named_parameters() if value.grad is None} == frozen


MIXED = functools.partial(Semiformer, mixer=8, depth=3, embed_dim=32, num_heads=2)


@pytest.mark.parametrize("make", [semiformer_tiny_patch4, MIXED])
@pytest.mark.parametrize("stream", ["conv", "trans"])
def test_a_stream_alone_is_its_part_of_the_network_without_units(make, stream):
    torch.manual_seed(0)
    whole, alone = randomise(make(fcu=False)), make(streams=(stream,)).eval()
    names = list(alone.state_dict())
    assert names == [name for name in whole.state_dict() if name in set(names)]
    absent = (*(TRANS if stream == "conv" else CONV), "squeeze", "expand")
    assert not [name for name in names if any(part in name for part in absent)]
    alone.load_state_dict({name: value for name, value in whole.state_dict().items() if name in set(names)})
    x = torch.randn(2, 3, 32, 32)
    (conv, trans), tokens = alone(x, tokens=True)
    expected, expected_tokens = whole(x, tokens=True)
    got, other = (conv, trans) if stream == "conv" else (trans, conv)
    assert other is None and torch.equal(got, expected[stream == "trans"])
    assert tokens is None if stream == "conv" else torch.equal(tokens, expected_tokens)
    assert alone.heads == (f"{stream}_cls_head",) and all(hasattr(alone, head) for head in alone.heads)
    got.sum().backward()
    assert all(value.grad is not None for value in alone.parameters())


def test_units_resize_by_means_and_by_nearest_neighbours():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert resize(x, (4, 4)) is x
    assert resize(x, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert resize(x[..., :2, :2], (4, 4))[0, 0, :, 0].tolist() == [0, 0, 4, 4]
    assert resize(x, (3, 3)).shape == (1, 1, 3, 3) and resize(x, (8, 2)).shape == (1, 1, 8, 2)
    down, up = FCUDown(3, 8).eval(), FCUUp(8, 3, nn.BatchNorm2d(3)).eval()
    assert down(torch.randn(2, 3, 2, 3), (4, 6)).shape == (2, 24, 8)  # a map that is coarser than the tokens
    assert up(torch.randn(2, 24, 8), (4, 6), (2, 3)).shape == (2, 3, 2, 3)


def test_checkpointed_gradients_are_the_same_and_copies_share_nothing():
    torch.manual_seed(0)
    network = semiformer_tiny_patch4(5, drop_path=0.0)
    network.eval()
    x, gradients = torch.randn(4, 3, 16, 16), []
    for on in (False, True):
        network.set_grad_checkpointing(on)
        network.zero_grad()
        conv, trans = network(x)
        (conv.square().sum() + trans.square().sum()).backward()
        gradients.append([value.grad.clone() for value in network.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    network.set_grad_checkpointing(False)
    twin, before = copy.deepcopy(network), network(x)
    with torch.no_grad():
        for value in twin.parameters():
            value.zero_()
    assert torch.equal(before[0], network(x)[0]) and not torch.equal(before[0], twin(x)[0])


@pytest.mark.slow
def test_one_graph_when_compiled():
    network = semiformer_tiny_patch4(5).eval()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    x = torch.randn(2, 3, 8, 8)
    (conv, trans), tokens = compiled(x, tokens=True)
    expected, expected_tokens = network(x, tokens=True)
    for got, wanted in zip((conv, trans, tokens), (*expected, expected_tokens), strict=True):
        torch.testing.assert_close(got, wanted)
