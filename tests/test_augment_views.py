"""Views as a whole: equal to torchvision + Pillow under the same draws, and the promises the streams rely on."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from scipy import stats
from test_augment_ops import one_thread  # noqa: F401
from test_augment_policy import pillow_chain
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import functional as tv

from ssl_bench.augment import erasing
from ssl_bench.augment.draws import Draws
from ssl_bench.augment.randaugment import OPS
from ssl_bench.augment.views import build_view

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, height: int = 32, width: int = 32, channels: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:height, :width]
    waves = 127 + 120 * np.sin(x / 4 + rng.uniform(0, 6, (n, channels, 1, 1))) * np.cos(
        y / 5 + rng.uniform(0, 6, (n, channels, 1, 1))
    )
    return torch.from_numpy((waves + rng.integers(0, 8, waves.shape)).astype(np.uint8))


def view(name="strong", image_size=32, resizing="cifar", **changes):
    options = {"mean": MEAN, "std": STD, "policy": "rand-m10-n2-mstd2"}
    return build_view(name, image_size=image_size, resizing=resizing, **{**options, **changes})


def reference(v, image: torch.Tensor, draws: Draws, i: int) -> torch.Tensor:
    """The same view through torchvision on one Pillow image, from row i of the draws."""
    pil = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    size = [v.image_size, v.image_size]
    bicubic = Image.Resampling.BICUBIC
    if v.crop_mode == "resized":
        pil = tv.resized_crop(pil, *draws.box[i].tolist(), size, tv.InterpolationMode.BILINEAR)
    elif v.crop_mode == "padded":
        py, px = (max(1, side // 8) for side in image.shape[-2:])
        top, left, h, w = draws.box[i].tolist()
        pil = tv.crop(tv.pad(pil, [px, py], padding_mode="reflect"), top + py, left + px, h, w).resize(size, bicubic)
    elif v.crop_mode == "center":
        full = round(v.image_size * 256 / 224)
        pil = tv.center_crop(pil.resize((full, full), bicubic), size)
    elif v.crop_mode == "short":
        pad = max(1, round(v.image_size / 56))
        top, left, h, w = draws.box[i].tolist()
        pil = tv.pad(tv.resize(pil, round(v.image_size * 256 / 224), tv.InterpolationMode.BICUBIC), pad, padding_mode="reflect")
        pil = tv.crop(pil, top + pad, left + pad, h, w)
    elif v.crop_mode == "short_center":
        pil = tv.center_crop(tv.resize(pil, round(v.image_size * 256 / 224), tv.InterpolationMode.BICUBIC), size)
    else:
        pil = pil.resize(size, bicubic)
    if draws.flip is not None and draws.flip[i]:
        pil = tv.hflip(pil)
    if draws.jitter_op is not None:
        for op, value in zip(draws.jitter_op[i].tolist(), draws.jitter_value[i].tolist(), strict=True):
            if op >= 0:
                pil = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)[op](pil, value)
    if draws.policy_op is not None:
        pil = Image.fromarray(
            pillow_chain(np.asarray(pil), draws.policy_op[i].tolist(), draws.policy_value[i].tolist())
        )
    return tv.normalize(tv.to_tensor(pil), MEAN, STD)


@pytest.mark.parametrize("name", ["weak", "strong", "test"])
@pytest.mark.parametrize("resizing", ["default", "cifar"])
@pytest.mark.parametrize("source, size", [((32, 32), 32), ((32, 32), 56), ((8, 8), 8), ((64, 48), 32), ((40, 64), 28)])
def test_views_equal_torchvision(name, resizing, source, size):
    """uint8 arithmetic agrees to the byte; the float normalisation is torchvision's own order of operations: equal
    too.
    """
    check_against_torchvision(view(name, size, resizing, color_jitter=(0.4, 0.4, 0.4, 0.1)), source, size)


@pytest.mark.parametrize("name, resizing", [("weak_short", "default"), ("test", "short")])
@pytest.mark.parametrize("source, size", [((32, 32), 32), ((8, 8), 8), ((64, 48), 32), ((40, 64), 28), ((150, 90), 56)])
def test_views_that_keep_the_aspect_equal_torchvision(name, resizing, source, size):
    v = view(name, size, resizing)
    assert v.crop_mode == ("short" if name == "weak_short" else "short_center")
    check_against_torchvision(v, source, size)


def check_against_torchvision(v, source: tuple[int, int], size: int) -> None:
    x = images(40, *source)
    before = x.clone()
    draws = v.draw(40, source, generator())
    cropped = v.crop(x, draws)
    assert cropped.dtype == torch.uint8 and cropped.shape == (40, 3, size, size)
    kept = cropped.clone()
    got = v.finish(cropped, draws)
    assert got.dtype == torch.float32 and got.is_contiguous()
    assert torch.equal(x, before) and torch.equal(cropped, kept)
    for i in range(40):
        assert torch.equal(got[i], reference(v, x[i], draws, i)), f"sample {i}"


@pytest.mark.parametrize("resizing", ["default", "cifar"])
@pytest.mark.parametrize("rows", [slice(1, None, 3), [4, 0, 11], torch.tensor([7])])
def test_rows_of_a_global_draw(resizing, rows):
    v = view(resizing=resizing, color_jitter=0.4, erasing=0.5, cutout=0.3)
    x = images(12)
    draws = v.draw(12, (32, 32), generator())
    whole = v.finish(v.crop(x, draws), draws)
    part = v.finish(v.crop(x[rows], draws[rows]), draws[rows])
    assert torch.equal(part, whole[rows])


def test_halves_draw_separately_and_seeds_decide():
    v = view(resizing="default", erasing=0.5)
    x = images(20)
    runs = []
    for seed in (0, 0, 1):
        crop, finish = v.draw_crop(20, (32, 32), generator(seed)), v.draw_finish(20, generator(seed + 10))
        runs.append(v.finish(v.crop(x, crop), finish))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(v(x, generator(4)), v(x, generator(4)))


VIEWS = [(name, resizing) for name in ("weak", "test") for resizing in ("default", "cifar")] + [("weak_short", "default"), ("test", "short")]


@pytest.mark.parametrize("name, resizing", VIEWS)
@pytest.mark.parametrize("shape", [(3, 50, 37), (1, 28, 28), (3, 8, 8), (3, 300, 224)])
def test_crops_of_single_images_equal_those_of_a_batch(name, resizing, shape):
    v = view(name, 32, resizing)
    x = images(4, *shape[1:], channels=shape[0])
    for seed in range(5):
        draws = v.draw_crop(4, shape[1:], generator(seed))
        gap = (v.crop_each(list(x), draws).int() - v.crop(x, draws).int()).abs()
        exact = v.crop_mode != "resized" and int(PIL.__version__.split(".")[0]) >= 13  # before, another order of two passes
        assert gap.shape == (4, shape[0], 32, 32) and gap.max() <= (0 if exact else 1)


def test_images_of_different_sizes_are_cropped_together():
    v = view("weak", 16, "default")
    different = [images(1, 20 + i, 30 - i)[0] for i in range(5)]
    draws = v.draw_crop(5, torch.tensor([image.shape[1:] for image in different]), generator(1))
    for i, image in enumerate(different):
        assert torch.equal(v.crop_each([image], draws[i : i + 1])[0], v.crop_each(different, draws)[i])
    with pytest.raises(ValueError, match="draws are for 5 images"):
        v.crop_each(different[:4], draws)


def test_short_crops_of_different_sizes_and_a_rank_s_rows_of_them():
    """A worker knows the sizes of its own rows only, and a rank draws for the whole batch: neither may show."""
    v = view("weak_short", 16, "default")
    different = [images(1, 20 + 3 * i, 40 - 4 * i)[0] for i in range(6)]
    size = torch.tensor([image.shape[1:] for image in different])
    whole = v.crop_each(different, v.draw_crop(6, size, generator(1)))
    for rows in ([0, 2, 4], [5, 1]):
        known = torch.ones_like(size)
        known[rows] = size[rows]
        assert torch.equal(v.crop_each([different[i] for i in rows], v.draw_crop(6, known, generator(1))[rows]), whole[rows])
    assert torch.equal(view("weak_short", 16, "cifar").crop_each(different, v.draw_crop(6, size, generator(1))), whole)
    assert not torch.equal(v.crop_each(different, v.draw_crop(6, size, generator(2))), whole)
    x = images(6, 24, 31)
    draws = v.draw_crop(6, (24, 31), generator(3))
    assert torch.equal(v.crop(x[1::2], draws[1::2]), v.crop(x, draws)[1::2])
    centred = view("test", 16, "short")
    together = centred.crop_each(different, centred.draw_crop(6, size, generator()))
    for i, image in enumerate(different):
        assert torch.equal(centred.crop(image[None], centred.draw_crop(1, tuple(image.shape[1:]), generator()))[0], together[i])


def test_short_keeps_the_aspect_and_is_for_evaluation_only():
    """A wide image whose left and right fifths are white: whatever shows a white column has squeezed it, or not cut it."""
    x = torch.zeros(1, 3, 40, 100, dtype=torch.uint8)
    x[..., :20] = x[..., 80:] = 255
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    assert view("test", 35, "short", **plain)(x, generator()).max() == 0 < view("test", 35, "default", **plain)(x, generator()).max()
    for name in ("weak", "weak_short", "strong", "strong_whole"):
        with pytest.raises(ValueError, match="unknown resizing 'short' of the .* view: use default or cifar"):
            view(name, resizing="short")
    weak = view("weak_short", 224, "default", color_jitter=0.9, weak_color_jitter=0.2, hflip=0.3)
    assert weak.jitter == (0.2, 0.2, 0.2, 0.0) and weak.hflip == 0.3 and weak.policy is None
    box = weak.draw_crop(4000, (256, 256), generator()).box
    assert box[:, :2].min() == -4 and box[:, :2].max() == 256 + 4 - 224


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resizing", ["default", "cifar"])
def test_small_batches_and_grey_images(n, channels, resizing):
    v = view("strong", 16, resizing, color_jitter=0.2, erasing=1.0, cutout=0.5, policy="rand-m9-n4-p1-mstd0.5-inc1")
    x = images(n, 20, 12, channels) if n else torch.zeros(0, channels, 20, 12, dtype=torch.uint8)
    out = v(x, generator())
    assert out.shape == (n, 3, 16, 16) and out.isfinite().all()


def test_grey_equals_its_three_channel_copy():
    v = view("strong", 32, "cifar")
    x = images(6, channels=1)
    assert torch.equal(v(x, generator()), v(x.expand(-1, 3, -1, -1), generator()))


def test_flip_probability():
    for p in (0.0, 0.3, 1.0):
        flip = view("weak", hflip=p).draw_finish(5000, generator()).flip
        share = 0.0 if flip is None else flip.double().mean().item()
        assert abs(share - p) < 0.03 and (p not in (0.0, 1.0) or share == p)


def test_weak_and_test_ignore_what_is_strong():
    x = images(4)
    for name in ("weak", "test"):
        plain = view(name, policy="")
        loaded = view(name, color_jitter=0.4, erasing=1.0, cutout=0.5)
        assert torch.equal(plain(x, generator()), loaded(x, generator()))


def test_fill_is_the_mean_in_levels():
    assert view().fill == (124, 116, 104)


def test_erasing_is_distributed_as_timm_s():
    n, size = 3000, 32
    theirs = []
    eraser = RandomErasing(probability=0.7, mode="const", device="cpu")
    torch.manual_seed(0), __import__("random").seed(0)
    for image in eraser(torch.ones(n, 1, size, size)):
        hole = (image[0] == 0).nonzero()
        low, high = (hole.amin(0), hole.amax(0) + 1) if len(hole) else (torch.zeros(2), torch.zeros(2))
        theirs.append([*low.tolist(), *(high - low).tolist()])
    theirs = np.array(theirs)
    ours = erasing.draw_erasing(n, size, 0.7, generator())[0].numpy()
    for box in (ours, theirs):
        assert abs((box[:, 2] > 0).mean() - 0.7) < 0.04
    ours, theirs = (box[box[:, 2] > 0] for box in (ours, theirs))
    for f in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 2] / b[:, 3], lambda b: b[:, 0], lambda b: b[:, 1]):
        assert stats.ks_2samp(f(ours), f(theirs)).pvalue > 1e-4
    assert ours[:, 2].max() < size and (ours[:, :2] + ours[:, 2:] <= size).all()


def test_erasing_const_and_cutout_blank_exactly_their_boxes():
    x = torch.ones(3, 2, 8, 8)
    box = torch.tensor([[1, 2, 3, 4], [0, 0, 0, 0], [-2, 5, 4, 6]])
    got = erasing.blank(x.clone(), box)
    want = x.clone()
    want[0, :, 1:4, 2:6] = 0
    want[2, :, 0:2, 5:8] = 0
    assert torch.equal(got, want)
    side = erasing.draw_cutout(2000, 32, 0.5, generator())
    assert side[:, 2:].eq(16).all() and side[:, 0].min() == -8 and side[:, 0].max() == 23


def test_erasing_noise_is_normal_and_belongs_to_the_seed():
    x = torch.full((3, 3, 64, 64), 7.0)
    box = torch.tensor([[0, 0, 64, 64], [0, 0, 0, 0], [8, 8, 32, 40]])
    seed = torch.tensor([11, 12, 2**61])
    got = erasing.fill_noise(x.clone(), box, seed)
    assert (got[1] == 7).all() and (got[2] == 7).sum() == 3 * (64 * 64 - 32 * 40)
    assert stats.kstest(got[0].flatten().numpy(), "norm").pvalue > 1e-3
    noise = got[0].flatten()
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.04
    alone = erasing.fill_noise(x[2:].clone(), box[2:], seed[2:])
    assert torch.equal(alone[0], got[2])
    other = erasing.fill_noise(x[:1].clone(), box[:1], seed[1:2])
    assert abs(np.corrcoef(other.flatten(), noise)[0, 1]) < 0.04
    assert math.isfinite(float(noise.abs().max()))


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"name": "medium"}, "weak, weak_short, strong, strong_whole or test"),
        ({"resizing": "res."}, "default or cifar"),
        ({"name": "test", "resizing": "res."}, "default, cifar or short"),
        ({"policy": "augmix-m3"}, "AugMix"),
        ({"std": (0.2, 0.0, 0.2)}, "std"),
        ({"mean": (0.5,)}, "three numbers"),
        ({"hflip": 1.5}, "hflip"),
        ({"erasing": -0.1}, "erasing"),
        ({"color_jitter": (0.1, 0.1, 0.1, 0.9)}, "hue"),
        ({"image_size": 0}, "image_size"),
        ({"erasing_mode": "rand"}, "pixel or const"),
    ],
)
def test_bad_options(changes, word):
    with pytest.raises(ValueError, match=word):
        view(**changes)


def test_mismatched_draws_and_images():
    v, x = view(), images(4)
    with pytest.raises(ValueError, match="draws are for 3"):
        v.crop(x, v.draw_crop(3, (32, 32), generator()))
    with pytest.raises(ValueError, match="box"):
        v.crop(x, v.draw_finish(4, generator()))
    with pytest.raises(ValueError, match="uint8"):
        v.crop(x.float(), v.draw_crop(4, (32, 32), generator()))
    with pytest.raises(TypeError, match="sample dimension"):
        v.draw_finish(4, generator())[1]


def test_posterize_to_no_bits_does_not_raise():
    """timm's posterize at magnitude 0 keeps 0 bits, at which Pillow 13 raises; here such an image is black."""
    v = view("strong", policy="rand-m0-n2")
    x = images(64)
    draws = v.draw(64, (32, 32), generator())
    posterized = (draws.policy_op == OPS.index("posterize")) & (draws.policy_value == 0)
    assert posterized.any()
    assert v.finish(v.crop(x, draws), draws).isfinite().all()


def test_drawing_and_finishing_read_no_element_of_a_tensor():
    """`.item()`, `bool(tensor)` and their like make a GPU wait."""
    x = images(24)
    for policy in ("rand-m10-n2-mstd2", "rand-m9-n3-mstd0.5-inc1", "original-mstd0.5", "3a"):
        v = view("strong", policy=policy, color_jitter=(0.4, 0.4, 0.4, 0.1), erasing=0.5, cutout=0.5)
        v(x, generator())
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
            v.finish(x, v.draw_finish(24, generator()))
        read = [event.key for event in profiled.key_averages() if "_local_scalar_dense" in event.key or event.key == "aten::item"]
        assert not read, policy


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weak", "strong"])
def test_a_compiled_view_equals_the_eager_one(name):
    v = view(name, color_jitter=0.4, erasing=0.5, cutout=0.3)
    x = images(12)
    compiled = torch.compile(lambda x, draws: v.finish(v.crop(x, draws), draws))
    for seed in range(3):
        draws = v.draw(12, (32, 32), generator(seed))
        assert torch.equal(compiled(x, draws), v.finish(v.crop(x, draws), draws))


def test_strong_whole_is_strong_without_holes_and_the_weak_view_may_have_colour():
    common = dict(image_size=8, resizing="cifar", mean=(0.5,) * 3, std=(0.5,) * 3, policy="rand-m9-n2-mstd0.5", erasing=1.0, cutout=0.5)
    strong, whole = build_view("strong", **common), build_view("strong_whole", **common)
    assert whole == dataclasses.replace(strong, erasing=0.0, cutout=0.0)
    weak = build_view("weak", color_jitter=0.9, weak_color_jitter=0.4, **common)
    assert weak.jitter == (0.4, 0.4, 0.4, 0.0) and weak.policy is None and not weak.erasing
    assert not any(build_view("weak", color_jitter=0.9, **common).jitter)


@pytest.mark.parametrize("least", [0.08, 0.2, 0.9])
def test_crops_have_the_least_area_asked_for(least):
    view = build_view("weak", image_size=64, resizing="default", mean=(0.5,) * 3, std=(0.5,) * 3, crop_scale=least)
    box = view.draw_crop(4000, (100, 100), torch.Generator().manual_seed(0)).box
    share = box[:, 2] * box[:, 3] / 10_000
    assert least - 0.02 < share.min() < least + 0.03 and share.max() > 0.95
