"""Every operation against Pillow's (through timm's functions), byte for byte, on noise, photographs, gradients and
flat images.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from timm.data import auto_augment as timm_ops
from torchvision.transforms import functional as tv

from ssl_bench.augment import affine, blur, colour

FILL = (124, 116, 104)
OUTSIDE = torch.tensor(FILL, dtype=torch.uint8)
TRANSFORM = {"fillcolor": FILL, "resample": Image.Resampling.BILINEAR}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small operations run faster on one thread, above all on a shared machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def photograph(height: int, width: int) -> np.ndarray:
    from sklearn.datasets import load_sample_image

    return np.asarray(
        Image.fromarray(load_sample_image("flower.jpg")).resize((width, height), Image.Resampling.BILINEAR)
    )


def pictures(height: int, width: int) -> np.ndarray:
    """(6, H, W, 3) uint8: noise, photograph, gradient, two-level, nearly flat, flat."""
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[:height, :width]
    gradient = np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x + y) % 256], -1)
    return np.stack(
        [
            rng.integers(0, 256, (height, width, 3)),
            photograph(height, width),
            gradient,
            rng.integers(0, 2, (height, width, 3)) * 255,
            100 + rng.integers(0, 3, (height, width, 3)),
            np.full((height, width, 3), 37),
        ]
    ).astype(np.uint8)


SIZES = [(32, 32), (8, 8), (17, 40), (96, 64)]


def batch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).contiguous()


def check(ours, theirs, arguments, size: tuple[int, int]) -> None:
    """Compare a batched op, a different argument per sample, with a per-image one; also that the input is left
    alone.
    """
    images = pictures(*size)
    arguments = [arguments[(i + j) % len(arguments)] for i in range(len(arguments)) for j in range(len(images))]
    images = np.concatenate([images] * (len(arguments) // len(images)))
    x = batch(images)
    before = x.clone()
    got = ours(x, torch.tensor(arguments, dtype=torch.float64))
    want = batch(np.stack([np.asarray(theirs(Image.fromarray(i), a)) for i, a in zip(images, arguments, strict=True)]))
    assert torch.equal(x, before)
    assert got.dtype == torch.uint8 and got.shape == x.shape
    bad = (got != want).flatten(1).any(1).nonzero()[:, 0].tolist()
    assert not bad, (
        f"samples {bad[:5]}, arguments {[arguments[i] for i in bad[:5]]}, worst {(got.int() - want.int()).abs().max()}"
    )


FACTORS = [0.0, 0.1, 0.3333, 0.5, 0.9, 1.0, 1.0001, 1.37, 1.9, 2.8]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["brightness", "contrast", "color", "sharpness"])
def test_enhancers(name, size):
    check(getattr(colour, name), lambda image, f: getattr(timm_ops, name)(image, f), FACTORS, size)


@pytest.mark.parametrize("size", SIZES)
def test_posterize(size):
    check(colour.posterize, lambda image, b: timm_ops.posterize(image, int(b)), [1, 2, 3, 4, 5, 6, 7, 8], size)


def test_posterize_to_no_bits_is_black():
    x = batch(pictures(8, 8))
    assert colour.posterize(x, torch.zeros(len(x), dtype=torch.float64)).eq(0).all()


@pytest.mark.parametrize("size", SIZES)
def test_point_operations(size):
    check(colour.solarize, lambda image, t: timm_ops.solarize(image, int(t)), [0, 1, 64, 128, 255, 256], size)
    check(colour.solarize_add, lambda image, a: timm_ops.solarize_add(image, int(a)), [0, 1, 64, 110, 128], size)
    check(lambda x, _: colour.invert(x), lambda image, _: timm_ops.invert(image), [0], size)
    check(lambda x, _: colour.autocontrast(x), lambda image, _: timm_ops.auto_contrast(image), [0], size)
    check(lambda x, _: colour.equalize(x), lambda image, _: timm_ops.equalize(image), [0], size)


def test_autocontrast_of_every_range():
    """All 32,640 (darkest, brightest) pairs: Pillow truncates a double that may fall just short of an integer."""
    low, high = np.triu_indices(256, 1)
    for part in np.array_split(np.arange(len(low)), 16):
        pair = np.stack([low[part], high[part]], -1)
        middle = np.linspace(pair[:, 0], pair[:, 1], 30).astype(int).T
        images = np.concatenate([pair, middle], 1).astype(np.uint8)  # (n, 32) levels
        scale = 255.0 / (pair[:, 1] - pair[:, 0])
        want = (images * scale[:, None] + -pair[:, :1] * scale[:, None]).astype(int).clip(0, 255)
        x = torch.from_numpy(images)[:, None, None].expand(-1, 3, -1, -1)
        assert np.array_equal(colour.autocontrast(x)[:, 0, 0].numpy(), want)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "name, arguments",
    [
        ("rotate", [0.0, 1.0, -7.3, 12.0, 27.637, 30.0, -30.0, 45.0, -45.0, 60.0, 90.0, 180.0]),
        ("shear_x", [0.0, 0.03, -0.1, 0.27, 0.3, -0.3]),
        ("shear_y", [0.0, 0.03, -0.1, 0.27, 0.3, -0.3]),
        ("translate_x_rel", [0.0, 0.1, -0.2, 0.4423, 0.45, -0.45]),
        ("translate_y_rel", [0.0, 0.1, -0.2, 0.4423, 0.45, -0.45]),
        ("translate_x", [0.0, 1.0, -2.5, 31.7, 100.0]),
        ("translate_y", [0.0, 1.0, -2.5, 31.7, 100.0]),
    ],
)
def test_affine(name, arguments, size):
    theirs = getattr(timm_ops, {"translate_x": "translate_x_abs", "translate_y": "translate_y_abs"}.get(name, name))
    if name == "rotate" and size[0] != size[1]:
        arguments = [a for a in arguments if a != 90.0]  # 90 degrees of an oblong image: covered by no policy
    check(
        lambda x, a: getattr(affine, name)(x, a, OUTSIDE),
        lambda image, a: theirs(image, a, **TRANSFORM),
        arguments,
        size,
    )


@pytest.mark.parametrize("name, span", [("rotate", 30), ("shear_x", 0.3), ("shear_y", 0.3), ("translate_x_rel", 0.45)])
def test_affine_at_random_arguments(name, span):
    arguments = list(np.random.default_rng(0).uniform(-span, span, 60))
    theirs = getattr(timm_ops, name)
    check(
        lambda x, a: getattr(affine, name)(x, a, OUTSIDE),
        lambda image, a: theirs(image, a, **TRANSFORM),
        arguments,
        (32, 32),
    )


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (17, 40)])
def test_gaussian_blur(size):
    check(blur.gaussian_blur, lambda image, r: image.filter(ImageFilter.GaussianBlur(r)), [0.1, 0.31, 0.5, 0.8, 1.0, 1.23, 1.6, 2.0], size)


def test_hue():
    check(colour.hue, lambda image, t: tv.adjust_hue(image, t), [0.0, 0.004, 0.1, -0.1, 0.25, 0.5, -0.5], (48, 48))


def test_hue_of_every_cube_corner_neighbourhood():
    levels = np.array([0, 1, 2, 50, 127, 128, 200, 253, 254, 255])
    image = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, 40, 25, 3).astype(np.uint8)
    for turn in (0.0, 0.07, -0.3):
        want = np.asarray(tv.adjust_hue(Image.fromarray(image[0]), turn))
        got = colour.hue(batch(image), torch.tensor([turn], dtype=torch.float64))
        assert np.array_equal(got[0].permute(1, 2, 0).numpy(), want)


def test_jitter_draws():
    op, value = colour.draw_jitter(4000, (0.4, 0.2, 0.0, 0.1), torch.Generator().manual_seed(0))
    assert (op == -1).sum(1).eq(1).all()  # saturation has strength 0
    kept = op[op >= 0].view(4000, 3)
    assert kept.sort(1).values.eq(torch.tensor([0, 1, 3])).all()
    orders, counts = torch.unique(kept, dim=0, return_counts=True)
    assert len(orders) == 6 and (counts - 4000 / 6).abs().max() < 120  # five standard deviations of a count
    for k, (low, high) in {0: (0.6, 1.4), 1: (0.8, 1.2), 3: (-0.1, 0.1)}.items():
        v = value[op == k]
        assert low <= v.min() < low + 0.01 and high - 0.01 < v.max() <= high
        assert abs(v.mean() - (low + high) / 2) < 0.03
