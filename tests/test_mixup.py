"""Mixing against golden vectors, per-image loops, timm's Mixup, and limit cases."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_bench.losses import soft_cross_entropy
from ssl_bench.mixup import Mix, blend, draw_mixup, draw_pseudo_mixup, mix_batch, smoothed, surest


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def of_torch(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def no_cut(partner: list[int]) -> Mix:
    n = len(partner)
    return Mix(torch.tensor(partner), torch.zeros(n, dtype=torch.bool), torch.zeros(n, 2, dtype=torch.float64), None)


def constant_images() -> torch.Tensor:
    return torch.tensor([1.0, 2, 4, 8])[:, None, None, None].expand(4, 3, 8, 8)


# Made by running the reference's mixing class on a CPU (the specification's golden vectors).


def test_golden_vectors_of_the_reference():
    confidence, pseudo = torch.tensor([0.9, 0.6, 0.3, 0.5]), torch.arange(4)
    mix = no_cut([1, 2, 3, 0])
    x, q = mix_batch(constant_images(), pseudo, mix, 4, 0.1, confidence)
    torch.testing.assert_close(x, torch.tensor([1.4, 8 / 3, 6.5, 3.5])[:, None, None, None].expand_as(x), rtol=0, atol=1e-5)
    expected = [[0.565, 0.385, 0.025, 0.025], [0.025, 0.625, 0.325, 0.025], [0.025, 0.025, 0.3625, 0.5875], [0.60357, 0.025, 0.025, 0.34643]]
    torch.testing.assert_close(q, torch.tensor(expected), rtol=0, atol=1e-5)
    sure = surest(confidence, mix)
    assert sure.tolist() == pytest.approx([0.9, 0.6, 0.5, 0.9])
    assert (sure >= 0.7).tolist() == [True, False, False, True]


def test_images_that_are_each_others_partner_become_the_same():
    x, q = mix_batch(constant_images(), torch.arange(4), no_cut([1, 0, 3, 2]), 4, 0.1, torch.tensor([0.9, 0.6, 0.3, 0.5]))
    torch.testing.assert_close(x[:, 0, 0, 0], torch.tensor([1.4, 1.4, 6.5, 6.5]), rtol=0, atol=1e-5)
    torch.testing.assert_close(q[0], q[1])
    torch.testing.assert_close(q[2], q[3])


def test_an_image_that_is_its_own_partner_stays():
    x, q = mix_batch(constant_images(), torch.arange(4), no_cut([0, 2, 1, 3]), 4, 0.0, torch.tensor([0.9, 0.6, 0.3, 0.5]))
    assert torch.equal(x[[0, 3]], constant_images()[[0, 3]]) and q[0].tolist() == [1, 0, 0, 0]


def looped(x: np.ndarray, label: np.ndarray, confidence: np.ndarray, mix: Mix, classes: int, smoothing: float):
    """Semi-ViT's section 3.3 image by image, as its text says it."""
    images, targets, sure = x.copy(), np.zeros((len(x), classes)), np.zeros(len(x))
    height, width = x.shape[2:]
    for i, j in enumerate(mix.partner.tolist()):
        own = confidence[i] / (confidence[i] + confidence[j])
        sure[i] = max(confidence[i], confidence[j])
        if mix.cut[i]:
            h, w = int(height * np.sqrt(1 - own)), int(width * np.sqrt(1 - own))
            y, z = int(mix.centre[i, 0] * height), int(mix.centre[i, 1] * width)
            top, bottom = np.clip([y - h // 2, y - h // 2 + h], 0, height)
            left, right = np.clip([z - w // 2, z - w // 2 + w], 0, width)
            images[i, :, top:bottom, left:right] = x[j, :, top:bottom, left:right]
            own = 1 - (bottom - top) * (right - left) / (height * width)
        else:
            images[i] = own * x[i] + (1 - own) * x[j]
        for k, share in ((i, own), (j, 1 - own)):
            targets[i] += share * smoothing / classes
            targets[i, label[k]] += share * (1 - smoothing)
    return images, targets, sure


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 17), st.sampled_from([(8, 8), (7, 12), (1, 5)]), st.sampled_from([(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)]))
def test_probabilistic_pseudo_mixup_equals_the_loop_over_images(seed, n, size, alphas):
    check_against_the_loop(seed, n, size, alphas)


def check_against_the_loop(seed, n, size, alphas) -> None:
    random = np.random.default_rng(seed)
    x, label = random.normal(size=(n, 3, *size)), random.integers(0, 6, n)
    confidence = random.uniform(1 / 6, 1, n)
    mix = draw_pseudo_mixup(n, mixup=alphas[0], cutmix=alphas[1], random=generator(seed % 1000))
    images, targets, sure = looped(x, label, confidence, mix, 6, 0.1)
    got_x, got_q = mix_batch(torch.from_numpy(x), torch.from_numpy(label), mix, 6, 0.1, torch.from_numpy(confidence))
    np.testing.assert_allclose(got_x.numpy(), images, atol=1e-12)
    np.testing.assert_allclose(got_q.numpy(), targets, atol=1e-6)
    np.testing.assert_allclose(surest(torch.from_numpy(confidence), mix).numpy(), sure)
    np.testing.assert_allclose(got_q.sum(dim=1).numpy(), 1, atol=1e-6)


@pytest.mark.parametrize("alphas,share", [((0.8, 1.0), 0.3), ((0.8, 0.0), 0.0), ((0.0, 1.0), 1.0)])
def test_the_alphas_are_switches_and_the_coin_is_per_image(alphas, share):
    mix = draw_pseudo_mixup(4000, mixup=alphas[0], cutmix=alphas[1], switch_prob=0.3, random=generator())
    assert mix.cut.double().mean().item() == pytest.approx(share, abs=0.03)


def test_partners_are_a_random_permutation():
    partner = draw_pseudo_mixup(4000, mixup=1, cutmix=1, random=generator()).partner
    assert sorted(partner.tolist()) == [*range(4000)]
    assert (partner[partner] == torch.arange(4000)).sum() < 20  # a flip would make each pair's two images the same


def test_pass_rate_of_pairs_is_one_minus_both_failing():
    confidence = torch.rand(40_000, generator=of_torch(1))
    rate = (confidence >= 0.39).double().mean().item()
    mix = draw_pseudo_mixup(40_000, mixup=1, cutmix=1, random=generator(2))
    assert (surest(confidence, mix) >= 0.39).double().mean().item() == pytest.approx(1 - (1 - rate) ** 2, abs=0.01)


def test_cutmix_at_equal_confidence_leaves_two_thirds():
    n = 4000
    mix = draw_pseudo_mixup(n, mixup=0, cutmix=1, random=generator())
    x = torch.zeros(n, 1, 64, 64)
    _, share = blend(x, x, torch.full((n,), 0.5), mix.cut, mix.centre)
    assert share.mean().item() == pytest.approx(0.67, abs=0.01) and 0.5 <= share.min() < 0.54 and share.max() > 0.8


# timm's Mixup, where it is the same algorithm


def an_odd_side_is_cut_whole() -> bool:
    """Older timm cuts one pixel less."""
    top, bottom, _, _ = timm.data.mixup.rand_bbox((1, 1, 90, 90), 0.75, count=100)
    return (bottom - top).max() == 45


@pytest.mark.skipif(not an_odd_side_is_cut_whole(), reason="this timm rounds the boxes of CutMix otherwise")
@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
@pytest.mark.parametrize("seed", range(4))
def test_batch_mode_equals_timms_mixup_under_the_same_draws(alphas, seed):
    theirs = timm.data.Mixup(*alphas, label_smoothing=0.1, num_classes=5)
    x, y = torch.randn(6, 3, 12, 10, generator=of_torch(seed)), torch.tensor([0, 1, 2, 3, 4, 0])
    np.random.seed(seed)
    weight, cut = theirs._params_per_batch()
    centre = (np.random.randint(0, 12), np.random.randint(0, 10)) if cut else (0, 0)
    np.random.seed(seed)
    mixed, target = theirs(x.clone(), y)
    mix = Mix(
        torch.arange(5, -1, -1), torch.full((6,), bool(cut)), ((torch.tensor(centre) + 0.5) / torch.tensor([12, 10])).double().expand(6, 2),
        torch.full((6,), weight, dtype=torch.float64),
    )  # fmt: skip
    got_x, got_q = mix_batch(x, y, mix, 5, 0.1)
    torch.testing.assert_close(got_x, mixed)
    torch.testing.assert_close(got_q, target)


def test_draws_have_timms_shape_in_every_mode():
    n = 8
    modes = {mode: draw_mixup(n, mixup=0.8, cutmix=1.0, mode=mode, random=generator(3)) for mode in ("batch", "pair", "elem")}
    assert all(mix.partner.tolist() == [*range(n - 1, -1, -1)] for mix in modes.values())
    assert all((mix.cut.shape, mix.centre.shape, mix.weight.shape) == ((n,), (n, 2), (n,)) for mix in modes.values())
    assert [len(set(mix.weight.tolist())) for mix in modes.values()] == [1, n // 2, n]
    pair = modes["pair"]
    assert pair.weight.tolist() == pair.weight.flip(0).tolist() and torch.equal(pair.centre, pair.centre.flip(0)) and torch.equal(pair.cut, pair.cut.flip(0))


def test_shares_are_drawn_from_beta_and_prob_leaves_images_as_they_are():
    weight = draw_mixup(20_000, mixup=0.8, cutmix=0, mode="elem", random=generator()).weight
    assert weight.mean().item() == pytest.approx(0.5, abs=0.01)
    assert weight.var().item() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.003)
    seldom = draw_mixup(20_000, mixup=0.8, cutmix=1, mode="elem", prob=0.25, random=generator()).weight
    assert (seldom == 1).double().mean().item() == pytest.approx(0.75, abs=0.01)


def test_what_cannot_be_mixed_is_refused_in_one_line():
    with pytest.raises(ValueError, match="7 is odd, use an even --batch-size"):
        draw_mixup(7, mixup=1, cutmix=0, random=generator())
    with pytest.raises(ValueError, match="--mixup or --cutmix above 0"):
        draw_mixup(8, mixup=0, cutmix=0, random=generator())
    with pytest.raises(ValueError, match="'half'"):
        draw_mixup(8, mixup=1, cutmix=0, mode="half", random=generator())


def test_nothing_to_mix_gives_images_and_smoothed_labels():
    x, label = torch.randn(3, 3, 4, 4), torch.tensor([2, 0, 1])
    same, q = mix_batch(x, label, None, 4, 0.2)
    assert same is x and torch.equal(q, smoothed(label, 4, 0.2))
    assert q[0].tolist() == pytest.approx([0.05, 0.05, 0.85, 0.05])
    assert surest(torch.tensor([0.3, 0.7, 0.5]), None).tolist() == pytest.approx([0.3, 0.7, 0.5])


def test_soft_cross_entropy_is_torchs_with_label_smoothing():
    y, label = torch.randn(6, 5, generator=of_torch()), torch.tensor([0, 1, 2, 3, 4, 0])
    ours = soft_cross_entropy(y, smoothed(label, 5, 0.1))
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(y, label, reduction="none", label_smoothing=0.1))
    assert soft_cross_entropy(y, torch.zeros(6, 5)).abs().max() == 0
