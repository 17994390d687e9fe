"""Gradients over processes, gathering and placing of sharded tensors."""

from __future__ import annotations

import json

import pytest
import ranks
import torch
from torch import nn

from ssl_bench import parallel

# A step's backwards: as the step before; one fewer; one more; one that leaves the first weight out; none for it at all.
CALLS = [[0], [0], [0, 0], [0, 0], [0], [0, 1], [1, 0], [1], [0, 0, 0]]
BUCKETS = (1, 10**6)  # bytes


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> list[tuple[dict, dict]]:
    """What each of two processes prints: the gradients with each size of buckets, and BatchNorm's statistics."""
    jobs = [*(["gradients", [CALLS, size]] for size in BUCKETS), ["batch_norm", []]]
    first, second = ranks.run(2, jobs, tmp_path_factory.mktemp("ranks"))
    return [(json.loads(a), json.loads(b)) for a, b in zip(first.splitlines(), second.splitlines(), strict=True)]


@pytest.mark.parametrize("size", BUCKETS)
def test_gradients_are_means_however_many_terms_a_step_has(said, size):
    first, second = said[BUCKETS.index(size)]
    assert first == second
    assert first["buckets"] == ([1, 1, 1] if size == 1 else [3])
    for step, terms in enumerate(CALLS):
        expected = []
        for i in range(3):
            times = sum(i >= left_out for left_out in terms)
            expected.append([1.5 * (step + 1) * (i + 1) * times] if times else None)
        assert first["gradients"][step] == expected, step


def test_statistics_of_batchnorm_become_the_mean_and_other_buffers_stay(said):
    first, second = said[-1]
    assert (first.pop("queue"), second.pop("queue")) == ([0.0], [1.0])
    assert first == second == {
        "0.running_mean": [0.5, 0.5], "0.running_var": [2.0, 2.0], "1.running_mean": [1.5], "1.running_var": [2.0],
    }  # fmt: skip


def test_frozen_weights_and_weights_named_twice_are_hooked_once(monkeypatch):
    monkeypatch.setattr(parallel.distributed, "world_size", lambda: 2)
    monkeypatch.setattr(parallel, "is_sharded", lambda _: False)
    weight, frozen = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3), requires_grad=False)
    mean = parallel.GradientMean([torch.optim.SGD([weight, frozen], lr=1.0), torch.optim.SGD([weight], lr=1.0)])
    assert mean.buckets == [[weight]] and len(weight._post_accumulate_grad_hooks) == 1


def test_alone_nothing_is_hooked():
    weight = nn.Parameter(torch.ones(3))
    mean = parallel.GradientMean([torch.optim.SGD([weight], lr=1.0)])
    mean.before_backward()
    weight.sum().backward()
    mean.finish()
    assert not mean.buckets and not weight._post_accumulate_grad_hooks and weight.grad.tolist() == [1, 1, 1]


def test_the_blocks_of_a_transformer_and_of_a_cnn_are_found():
    import timm

    vit, resnet = timm.create_model("test_vit", num_classes=0), timm.create_model("resnet18", num_classes=0)
    assert set(vit.blocks) <= set(parallel.repeated_blocks(vit))
    assert set(resnet.layer1) <= set(parallel.repeated_blocks(resnet))
    assert not list(parallel.repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU())))
