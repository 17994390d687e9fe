"""Policies against timm's own objects: what is drawn, how often, and whole chains byte for byte."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from test_augment_ops import batch, one_thread, pictures  # noqa: F401
from timm.data import auto_augment as timm_ops

from ssl_bench.augment import randaugment
from ssl_bench.augment.layers import apply_layers
from ssl_bench.augment.randaugment import OPS, apply_policy, draw_policy, parse_policy

FILL = (124, 116, 104)
HPARAMS = {"translate_const": 100, "img_mean": FILL, "interpolation": Image.Resampling.BILINEAR}
POLICIES = [
    "rand-m10-n2-mstd2", "rand-m9-mstd0.5-inc1", "rand-m7-n3-p0.8-mstd101", "rand-m15-n1-mmax20-p1",
    "rand-n3-tweights-mstd1",
    "rand-m5-t3a", "rand-t3aw-n4-inc1", "original", "originalr-mstd0.5", "v0", "v0r-mstd1", "3a",
]  # fmt: skip


def timm_policy(text: str):
    return (timm_ops.rand_augment_transform if text.startswith("rand") else timm_ops.auto_augment_transform)(
        text, dict(HPARAMS)
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Our name of each of timm's functions, where it differs.
OURS = {
    "auto_contrast": "autocontrast", "translate_x_abs": "translate_x", "translate_y_abs": "translate_y",
    "desaturate": "color", "gaussian_blur_rand": "gaussian_blur",
}  # fmt: skip


def timm_draws(policy, n: int) -> list[list[tuple[str, float]]]:
    """Run timm's policy object with its image functions replaced by recorders: [(our op name, argument)] per sample.

    Nothing is applied, so Pillow 13's refusal to posterize to 0 bits does not matter.
    """
    ops = policy.ops if hasattr(policy, "ops") else [op for sub in policy.policy for op in sub]
    for op in ops:
        op.aug_fn = recorder(op.aug_fn)
    random.seed(0), np.random.seed(0)
    return [policy([]) for _ in range(n)]


def recorder(function):
    name = function.__name__

    def record(seen, *args, **kwargs):
        value = float(args[0]) if args else 0.0
        if name == "desaturate":
            value = min(1.0, max(0.0, 1.0 - value))
        if name == "gaussian_blur_rand":
            value = random.uniform(0.1, 2.0 * value)
        return [*seen, (OURS.get(name, name), value)]

    return record


@pytest.mark.parametrize("text", POLICIES)
def test_draws_are_distributed_as_timm_s(text):
    n = 10_000 if text == "rand-m10-n2-mstd2" else 4000
    theirs = timm_draws(timm_policy(text), n)
    op, value = draw_policy(parse_policy(text), n, generator())
    assert op.dtype == torch.int64 and value.dtype == torch.float64 and op.shape == value.shape and len(op) == n
    ours = [
        [(OPS[o], v) for o, v in zip(*row, strict=True) if o >= 0]
        for row in zip(op.tolist(), value.tolist(), strict=True)
    ]
    chains = [Counter(tuple(name for name, _ in row) for row in rows) for rows in (ours, theirs)]
    same_counts(*chains)
    same_counts(*(Counter(len(row) for row in rows) for rows in (ours, theirs)))
    for name in {name for row in theirs for name, _ in row}:
        mine, other = (np.array([v for row in rows for o, v in row if o == name]) for rows in (ours, theirs))
        same_counts(*(Counter(np.sign(v)) for v in (mine, other)))
        if len(np.unique(other)) <= 40:  # bits, whole numbers, fixed magnitudes
            same_counts(*(Counter(v.round(9)) for v in (mine, other)))
        else:
            assert len(mine) < 20 or stats.ks_2samp(mine, other).pvalue > 1e-5, name


def same_counts(mine: Counter, other: Counter) -> None:
    """Chi-square test of two tallies; rare keys are pooled."""
    keys = [k for k in set(mine) | set(other) if mine[k] + other[k] >= 20]
    rest = [sum(c.values()) - sum(c[k] for k in keys) for c in (mine, other)]
    table = np.array([[mine[k], other[k]] for k in keys] + ([rest] if sum(rest) >= 20 else []))
    if len(table) > 1:  # one row: both have that key alone, or next to nothing
        assert stats.chi2_contingency(table).pvalue > 1e-5, (mine, other)


def test_tllib_policy_in_figures():
    """specs of rand-m10-n2-mstd2: 25 % untouched; magnitude exactly 10 in half of the draws, mean 9.21."""
    op, value = draw_policy(parse_policy("rand-m10-n2-mstd2"), 20_000, generator())
    assert abs((op < 0).all(1).double().mean() - 0.25) < 0.015
    magnitude = (value[op == OPS.index("brightness")] - 0.1) / 0.18
    assert abs((magnitude > 9.9999999).double().mean() - 0.5) < 0.04
    assert abs(magnitude.mean() - 9.21) < 0.1
    assert value[op == OPS.index("rotate")].abs().max() == 30
    assert value[op == OPS.index("posterize")].unique().tolist() in ([1, 2, 3, 4], [0, 1, 2, 3, 4], [2, 3, 4])


@pytest.mark.parametrize("name", sorted(randaugment._LEVELS))
@pytest.mark.parametrize("negative", [False, True])
def test_levels_equal_timm_s(name, negative, monkeypatch):
    """Every magnitude, both signs: our argument is timm's to the last bit."""
    if name in ("GaussianBlurRand", "Desaturate"):
        pytest.skip("timm turns these levels into arguments inside the operation; compared in distribution above")
    monkeypatch.setattr(timm_ops, "_randomly_negate", lambda v: -v if negative else v)
    policy = parse_policy("rand-m9")
    magnitude = torch.cat(
        [torch.linspace(0, 10, 1001, dtype=torch.float64), torch.tensor([12.5, 15.0], dtype=torch.float64)]
    )
    sign = torch.full_like(magnitude, -1.0 if negative else 1.0)
    got = randaugment._LEVELS[name][1](magnitude / 10.0, sign, sign, policy)
    function = timm_ops.LEVEL_TO_ARG[name]
    want = [0.0 if function is None else float(function(m, {"translate_const": 100})[0]) for m in magnitude.tolist()]
    want = [max(w, 0.0) for w in want] if name == "PosterizeIncreasing" else want
    assert got.tolist() == want


def pillow_chain(image: np.ndarray, op: list[int], value: list[float]) -> np.ndarray:
    kwargs = {"fillcolor": FILL, "resample": Image.Resampling.BILINEAR}
    theirs = {v: k for k, v in OURS.items() if v not in ("color", "gaussian_blur")}
    out = Image.fromarray(image)
    for o, v in zip(op, value, strict=True):
        if o < 0:
            continue
        name = OPS[o]
        if name == "posterize" and v == 0:
            out = Image.new("RGB", out.size)  # Pillow 13 refuses 0 bits
            continue
        arguments = () if name in ("autocontrast", "equalize", "invert") else (v,)
        arguments = tuple(int(a) for a in arguments) if name in ("posterize", "solarize", "solarize_add") else arguments
        out = getattr(timm_ops, theirs.get(name, name))(out, *arguments, **kwargs)
    return np.asarray(out)


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (24, 40)])
@pytest.mark.parametrize("text", POLICIES)
def test_chains_equal_pillow(text, size):
    images = np.concatenate([pictures(*size)] * 30)
    op, value = draw_policy(parse_policy(text), len(images), generator(3))
    x = batch(images)
    before = x.clone()
    got = apply_policy(x, op, value, FILL).permute(0, 2, 3, 1).numpy()
    assert torch.equal(x, before)
    for i, image in enumerate(images):
        want = pillow_chain(image, op[i].tolist(), value[i].tolist())
        assert np.array_equal(got[i], want), (
            f"sample {i}: {[(OPS[o], v) for o, v in zip(op[i], value[i].tolist(), strict=True)]}"
        )


def test_layers_keep_samples_apart_and_in_order():
    x = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 2, 2)
    functions = [
        lambda x, a: x + a.to(torch.uint8)[:, None, None, None],
        lambda x, a: x * a.to(torch.uint8)[:, None, None, None],
    ]
    op = torch.tensor([[0, 1], [1, 0], [-1, 1], [1, -1], [-1, -1], [0, 0]])
    value = torch.tensor([[1, 2], [3, 4], [9, 5], [6, 9], [9, 9], [7, 8]], dtype=torch.float64)
    assert apply_layers(x, op, value, functions)[:, 0, 0, 0].tolist() == [2, 7, 10, 18, 4, 20]


def test_empty_batch_and_empty_policy():
    assert parse_policy("") is None
    policy = parse_policy("rand-m10-n2-mstd2")
    op, value = draw_policy(policy, 0, generator())
    assert apply_policy(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), op, value, FILL).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    "text",
    [
        "augmix-m5-w4-d2",
        "randaugment",
        "rand-x3",
        "rand-m",
        "rand-m9-foo",
        "rand-tnew",
        "rand-n20-tweights",
        "v1",
        "v0-m9",
        "none",
        "-",
    ],
)
def test_bad_policies_name_the_remedy(text):
    with pytest.raises(ValueError, match="policy") as error:
        parse_policy(text)
    assert text in str(error.value) and "\n" not in str(error.value)
