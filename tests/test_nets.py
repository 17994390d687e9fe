"""Wide ResNets: the field's parameter count, shapes, initial weights, statistics, and messages."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ssl_bench import launch
from ssl_bench.catalog import load_method
from ssl_bench.models import build_classifier, check_arch
from ssl_bench.nets.recompute import checkpoint_activations
from ssl_bench.nets.wide_resnet import Block, depth_and_width, wide_resnet


def count_by_hand(depth: int, width: int, classes: int) -> int:
    """Weights of 3x3 and 1x1 convolutions, two numbers a BatchNorm channel, a linear head with bias."""
    widths = [16, 16 * width, 32 * width, 64 * width]
    total = 3 * 16 * 9
    for c_in, c_out in itertools.pairwise(widths):
        per_block = 2 * 2 * c_out + 2 * 9 * c_out * c_out
        total += (depth - 4) // 6 * per_block
        total += 2 * c_in + 9 * c_in * c_out - (2 * c_out + 9 * c_out * c_out)  # the first block starts at c_in
        total += c_in * c_out if c_in != c_out else 0
    return total + 2 * widths[3] + (widths[3] + 1) * classes


@pytest.mark.parametrize(
    ("name", "classes", "published"), [("wrn_28_2", 10, 1_467_610), ("wrn_28_8", 100, None), ("wrn_16_1", 3, None)]
)
def test_parameter_count(name, classes, published):
    parameters = sum(parameter.numel() for parameter in wide_resnet(name, classes).parameters())
    assert parameters == count_by_hand(*depth_and_width(name), classes) == (published or parameters)
    classifier = build_classifier(name, classes, 32, bottleneck_dim=0)
    assert sum(parameter.numel() for parameter in classifier.parameters()) == parameters


@pytest.mark.parametrize("size", [1, 8, 31, 32])
@pytest.mark.parametrize("pool", [True, False])
def test_shapes_with_and_without_pooling(size, pool):
    model = build_classifier("wrn_10_1", 5, size, bottleneck_dim=8, pool=pool)
    side = -(-size // 4)
    assert model.bottleneck[0].in_features == (64 if pool else 64 * side * side)
    y = model(torch.randn(2, 3, size, size))
    assert y.shape == (2, 5) and y.isfinite().all()
    y.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_statistics_move_by_a_thousandth_and_as_asked():
    x = 3 + torch.randn(8, 3, 16, 16)
    for kwargs, momentum in (((), 0.001), (("bn_momentum=0.1",), 0.1)):
        backbone = build_classifier("wrn_10_1", 5, 16, model_kwargs=kwargs).backbone
        norm = backbone.blocks[0].norm1
        seen = backbone.stem(x).mean((0, 2, 3))
        backbone(x)
        torch.testing.assert_close(norm.running_mean, momentum * seen, rtol=1e-4, atol=1e-6)


def test_he_weights_and_only_the_first_block_activates_its_shortcut():
    torch.manual_seed(0)
    network = wide_resnet("wrn_28_2")
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            assert module.bias is None
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
    assert [block.activate_first for block in network.blocks] == [True] + [False] * 11
    strides = [block.conv1.stride[0] for block in network.blocks]
    assert strides == [1, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1]


def test_a_block_is_its_formula():
    torch.manual_seed(0)
    x = torch.randn(4, 6, 8, 8)
    for first in (True, False):
        block = Block(6, 10, 2, first, 0.001, 0.1)
        kept = x.clone()
        got = block(x)
        assert torch.equal(x, kept), "the in-place activation must not write into the block's input"
        a = nn.functional.leaky_relu(nn.functional.batch_norm(x, None, None, training=True, eps=1e-3), 0.1)
        b = nn.functional.conv2d(a, block.conv1.weight, stride=2, padding=1)
        b = nn.functional.leaky_relu(nn.functional.batch_norm(b, None, None, training=True, eps=1e-3), 0.1)
        want = nn.functional.conv2d(a if first else x, block.shortcut.weight, stride=2)
        torch.testing.assert_close(got, want + nn.functional.conv2d(b, block.conv2.weight, padding=1))


@pytest.mark.parametrize("name", ["wrn_28_2", "wrn_28_10", "wrn_10_1"])
def test_names_that_are(name):
    assert depth_and_width(name) is not None and check_arch(name) is None


@pytest.mark.parametrize(
    ("name", "word"),
    [("wrn_27_2", "6n \\+ 4"), ("wrn_4_2", "6n \\+ 4"), ("wrn_28_0", "width"), ("wrn_28_x", "wrn_28_2"), ("wnr_28_2", "wrn_28_2")],
)
def test_names_that_are_not(name, word):
    with pytest.raises(ValueError, match=word) as caught:
        check_arch(name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_no_imagenet_weights_and_unknown_arguments_are_one_line():
    with pytest.raises(ValueError, match="no ImageNet weights of wrn_28_2: add --scratch"):
        build_classifier("wrn_28_2", 10, 32, pretrained=True)
    with pytest.raises(ValueError, match="refuses its arguments .*no_such_thing"):
        build_classifier("wrn_28_2", 10, 32, model_kwargs=("no_such_thing=1",))
    with pytest.raises(ValueError, match="global_pool"):
        build_classifier("wrn_28_2", 10, 32, model_kwargs=("global_pool=max",))


def test_a_run_trains_one(tmp_path):
    flags = "--arch wrn_10_1 --scratch --image-size 8 --bottleneck-dim 0 --epochs 1 --iters-per-epoch 2 --batch-size 4".split()
    assert launch.run_command(load_method("fixmatch"), [*flags, "--device", "cpu", "--log", str(tmp_path)]) == 0
    assert list(tmp_path.rglob("result.json"))


def test_activations_of_a_norm_without_running_statistics_are_computed_again_too():
    class Block(nn.Sequential):
        def set_grad_checkpointing(self, enable: bool) -> None:
            self.checkpoints = enable

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(super().forward, x, use_reentrant=False)

    network = Block(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    checkpoint_activations(network, "block")
    network(torch.rand(2, 3, 8, 8)).square().sum().backward()
    assert network.checkpoints and network[0].weight.grad is not None and network[1].momentum == 0.1
