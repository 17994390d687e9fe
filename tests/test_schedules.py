"""Schedules against closed forms and TLlib's published end fractions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ssl_bench.schedules import learning_rate, sigmoid_ramp


def exp(k: int, gamma: float, decay: float = 0.75) -> float:
    return learning_rate(k, scheduler="exp", total_steps=1, gamma=gamma, decay=decay)


# Fraction of the learning rate left at the end of the default run of each script (gamma, steps), as observed in TLlib.
# The observation for Pseudo Label is rounded up: the closed form gives 9^-0.75 = 0.19245.
@pytest.mark.parametrize(
    ("gamma", "steps", "left"),
    [
        (0.0004, 20 * 500, 0.299),  # ERM
        (0.0004, 40 * 500, 0.193),  # Pseudo Label
        (0.0004, 60 * 500, 0.146),  # FixMatch
        (0.0001, 40 * 500, 0.439),  # Mean Teacher
        (0.0004, 80 * 500, 0.119),  # ERM, oracle
    ],
)
def test_exp_ends_where_tllib_ends(gamma, steps, left):
    assert exp(steps, gamma) == pytest.approx(left, abs=6e-4)


def test_cos_ends_where_tllib_ends():
    assert round(learning_rate(20_000, scheduler="cos", total_steps=20_000), 3) == 0.195


@pytest.mark.parametrize("k", [0, 1, 499, 500, 9_999, 30_000])
def test_exp_is_its_closed_form(k):
    for gamma, decay in ((0.0004, 0.75), (0.0001, 0.75), (0.1, 2.0), (0.0, 0.75), (0.1, 0.0)):
        expected = np.exp(-np.float64(decay) * np.log1p(np.float64(gamma) * k))
        assert exp(k, gamma, decay) == pytest.approx(float(expected), rel=1e-12, abs=0)
    assert exp(0, 0.0004) == 1


@pytest.mark.parametrize("total", [1, 7, 10_000])
def test_cos_is_its_closed_form(total):
    for k in {0, total // 2, total - 1, total}:
        angle = np.deg2rad(78.75) * k / total  # 7 pi / 16 = 78.75 degrees
        expected = np.sin(np.pi / 2 - angle)
        assert learning_rate(k, scheduler="cos", total_steps=total) == pytest.approx(float(expected), abs=1e-12)


def test_cos_never_goes_below_zero():
    assert learning_rate(3000, scheduler="cos", total_steps=1000) == 0


@pytest.mark.parametrize("warmup", [1, 5, 100])
@pytest.mark.parametrize("scheduler", ["exp", "cos", "constant"])
def test_warm_up_first_end_last(scheduler, warmup):
    total = 1000

    def base(k: int) -> float:
        return {"exp": (1 + 0.01 * k) ** -0.5, "cos": math.cos(7 * math.pi * k / (16 * total)), "constant": 1.0}[
            scheduler
        ]

    def lr(k: int) -> float:
        return learning_rate(k, scheduler=scheduler, total_steps=total, gamma=0.01, decay=0.5, warmup_steps=warmup)

    assert lr(0) == pytest.approx(1 / (warmup + 1), abs=1e-12)
    for k in range(warmup):
        assert lr(k) == pytest.approx(base(k) * (k + 1) / (warmup + 1), abs=1e-12)
        assert lr(k) < base(k)
    for k in (warmup, warmup + 1, total - 1):
        assert lr(k) == pytest.approx(base(k), abs=1e-12)


def test_warm_up_may_be_a_fraction_of_a_step_and_none_changes_nothing():
    for k in (0, 1, 10):
        assert learning_rate(k, scheduler="constant", total_steps=10, warmup_steps=0) == 1
    assert learning_rate(0, scheduler="constant", total_steps=10, warmup_steps=0.5) == pytest.approx(1 / 1.5, abs=1e-12)
    assert learning_rate(1, scheduler="constant", total_steps=10, warmup_steps=0.5) == 1


def test_unknown_scheduler_is_named():
    with pytest.raises(ValueError, match="'linear'.*exp, cos, step, constant or half_cos"):
        learning_rate(0, scheduler="linear", total_steps=1)


def test_the_step_schedule_is_multiplied_at_each_milestone():
    """Self-Tuning's: gamma 0.1 at epochs 12, 24, 36 and 48 of 60."""
    steps = [500 * epoch for epoch in (12, 24, 36, 48)]
    settings = dict(scheduler="step", total_steps=30_000, gamma=0.1, milestones=steps)
    edges = {0: 0, 5_999: 0, 6_000: 1, 11_999: 1, 12_000: 2, 18_000: 3, 23_999: 3, 24_000: 4, 29_999: 4}
    for k, times in edges.items():
        assert learning_rate(k, **settings) == pytest.approx(0.1**times, abs=1e-12)


def test_ramp_has_tllibs_values():
    published = [0.0067, 0.0174, 0.0408, 0.0863, 0.165, 0.287, 0.449, 0.638, 0.819, 0.951, 1]
    digits = [4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3]
    assert [round(sigmoid_ramp(epoch, 10), places) for epoch, places in enumerate(digits)] == published
    assert sigmoid_ramp(0, 10) == pytest.approx(math.e**-5, abs=1e-15)


def test_ramp_limits():
    assert sigmoid_ramp(0, 0) == sigmoid_ramp(7, 0) == 1
    assert sigmoid_ramp(10, 10) == sigmoid_ramp(1000, 10) == 1
    assert sigmoid_ramp(-3, 10) == sigmoid_ramp(0, 10)
    values = [sigmoid_ramp(epoch / 7, 10) for epoch in range(80)]
    assert values == sorted(values) and values[0] < values[1]


def test_half_a_cosine_after_a_warm_up_from_nothing():
    """Semi-ViT's: lr t / w, then min + (lr - min)(1 + cos(pi (t - w) / (E - w))) / 2."""
    lr, least, warm, epochs, steps = 5e-4, 1e-6, 5, 100, 40

    def ours(k: int) -> float:
        return lr * learning_rate(k, scheduler="half_cos", total_steps=epochs * steps, warmup_steps=warm * steps, floor=least / lr)

    for k in (0, 1, 199, 200, 201, 2100, 3999):
        t = k / steps
        expected = lr * t / warm if t < warm else least + (lr - least) * (1 + math.cos(math.pi * (t - warm) / (epochs - warm))) / 2
        assert ours(k) == pytest.approx(expected, rel=1e-12, abs=1e-18), k
    assert ours(0) == 0 and ours(200) == pytest.approx(lr) and ours(3999) == pytest.approx(least, rel=0.1)
