"""Crops and resizes against Pillow (byte for byte) and torchvision (distribution of boxes)."""

from __future__ import annotations

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from scipy import stats
from test_augment_ops import one_thread  # noqa: F401
from torchvision import transforms
from torchvision.transforms import functional as tv

from ssl_bench.augment import geometry
from ssl_bench.augment.resample import vertical_first

FILTER = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def same_order(height: int, width: int, size: int) -> bool:
    """Pillow before 13 always resizes columns first, ours follows 13: skip what is not comparable there."""
    return int(PIL.__version__.split(".")[0]) >= 13 or not vertical_first(height, width, size, size)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, height: int, width: int) -> torch.Tensor:
    """Noise and smooth waves, alternating: (n, 3, H, W) uint8."""
    rng = np.random.default_rng(n + height)
    y, x = np.mgrid[:height, :width]
    waves = [127 + 127 * np.sin(x / 5 + k + c) * np.cos(y / (3 + k)) for k in range(n) for c in range(3)]
    out = np.stack(waves).reshape(n, 3, height, width).astype(np.uint8)
    out[::2] = rng.integers(0, 256, out[::2].shape)
    return torch.from_numpy(out)


def pil(x: torch.Tensor) -> Image.Image:
    return Image.fromarray(x.permute(1, 2, 0).contiguous().numpy())


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "source, size", [((32, 32), 32), ((8, 8), 32), ((64, 48), 32), ((200, 300), 64), ((28, 28), 8), ((33, 91), 47)]
)
def test_crop_and_resize_equal_pillow(source, size, kernel):
    x = images(24, *source)
    box = geometry.draw_resized_boxes(24, source, generator())
    got = geometry.crop_resize(x, box, size, kernel)
    for i in [i for i in range(24) if same_order(*box[i, 2:].tolist(), size)]:
        want = tensor(tv.resized_crop(pil(x[i]), *box[i].tolist(), [size, size], tv.InterpolationMode(kernel)))
        assert torch.equal(got[i], want), f"sample {i}, box {box[i].tolist()}"


@pytest.mark.parametrize("source, size", [((32, 32), 32), ((8, 8), 32), ((64, 48), 32), ((375, 500), 224), ((33, 91), 47)])
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_of_files_are_within_one_level_of_the_batched_ones(source, size, channels):
    x = images(12, *source)[:, :channels]
    box = geometry.draw_resized_boxes(12, source, generator())
    gap = (geometry.crop_resize_each(list(x), box, size).int() - geometry.crop_resize(x, box, size).int()).abs()
    assert gap.max() <= 1 and gap.float().mean() < 0.12  # half of it is noise, the worst there is
    interleaved = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in x]
    assert torch.equal(geometry.crop_resize_each(interleaved, box, size), geometry.crop_resize_each(list(x), box, size))


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
@pytest.mark.parametrize("source", [(32, 32), (8, 8), (50, 37), (224, 150)])
def test_resize_and_centre_crop_equal_pillow(source, kernel):
    x = images(3, *source)
    for size, full in ((32, 32), (48, 48), (32, 37), (49, 56), (64, 73)):
        got = geometry.resize_center(x, full, size, kernel)
        for i in range(3 if same_order(*source, full) else 0):
            want = tensor(tv.center_crop(pil(x[i]).resize((full, full), FILTER[kernel]), [size, size]))
            assert torch.equal(got[i], want)
            if kernel == "bicubic":
                assert torch.equal(geometry.resize_center_image(x[i], full, size), want)


SHORT = [  # (height, width), full, side, pad: square, landscape, portrait; down, up, to the same size
    ((300, 300), 256, 224, 4), ((375, 500), 256, 224, 4), ((500, 333), 256, 224, 4), ((100, 151), 256, 224, 4), ((256, 280), 256, 224, 4),
    ((32, 32), 37, 32, 1), ((20, 53), 37, 32, 1), ((91, 33), 37, 32, 1), ((8, 8), 9, 8, 1), ((1, 3), 9, 8, 1), ((3, 1), 1, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("source, full, side, pad", SHORT)
def test_short_side_and_crop_equal_torchvision(source, full, side, pad, channels):
    n = 6
    x = images(n, *source)[:, :channels]
    bicubic = tv.InterpolationMode.BICUBIC
    box = geometry.draw_short_boxes(n, source, full, side, pad, generator())
    got = geometry.crop_short(x, box, full, side)
    centre = geometry.crop_short(x, geometry.central_short_box(source, full, side), full, side)
    assert got.shape == centre.shape == (n, channels, side, side)
    for i in range(n):
        image = pil(x[i]) if channels == 3 else Image.fromarray(x[i, 0].numpy())
        resized = tv.resize(image, full, bicubic)
        top, left, *_ = box[i].tolist()
        drawn = transforms.RandomCrop(side, padding=pad, padding_mode="reflect")
        drawn.get_params = lambda _image, _size, at=(top + pad, left + pad): (*at, side, side)
        want = [np.array(part).reshape(side, side, channels) for part in (drawn(resized), tv.center_crop(resized, side))]
        want = [torch.from_numpy(part).permute(2, 0, 1) for part in want]
        assert torch.equal(geometry.crop_short_image(x[i], box[i : i + 1], full, side), want[0])
        if int(PIL.__version__.split(".")[0]) >= 13 or not vertical_first(*source, resized.height, resized.width):
            assert torch.equal(got[i], want[0]) and torch.equal(centre[i], want[1])


@pytest.mark.parametrize("source, full, side, pad", SHORT[:8])
def test_mirrored_before_or_after_a_short_crop_is_the_same(source, full, side, pad):
    """Semiformer mirrors first: at the mirrored offset, which is as likely, the pixels are the same."""
    x = images(4, *source)
    box = geometry.draw_short_boxes(4, source, full, side, pad, generator())
    width = max(full, full * source[1] // source[0])
    mirrored = box.clone()
    mirrored[:, 1] = width - side - box[:, 1]
    assert torch.equal(geometry.crop_short(x.flip(-1), mirrored, full, side), geometry.crop_short(x, box, full, side).flip(-1))


def test_short_boxes_are_uniform_over_what_the_border_leaves():
    size = torch.tensor([[375, 500], [32, 32]]).repeat(6000, 1)
    box = geometry.draw_short_boxes(12_000, size, 37, 32, 2, generator())
    assert box[:, 2:].eq(32).all()
    for rows, height, width in ((box[::2], 37, 49), (box[1::2], 37, 37)):
        for column, length in ((0, height), (1, width)):
            values, counts = rows[:, column].unique(return_counts=True)
            assert values.tolist() == list(range(-2, length + 2 - 32 + 1))
            assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_resize_to_the_same_size_is_skipped():
    x = images(2, 16, 16)
    assert geometry.resize(x, 16) is x


@pytest.mark.parametrize("size", [(32, 32), (40, 90), (200, 31)])
def test_boxes_are_distributed_as_torchvision_s(size):
    n = 4000
    torch.manual_seed(1)
    blank = torch.zeros(3, *size, dtype=torch.uint8)
    theirs = np.array([transforms.RandomResizedCrop.get_params(blank, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(n)])
    ours = geometry.draw_resized_boxes(n, size, generator()).numpy()
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= size).all() and (ours[:, 2:] > 0).all()
    area = [b[:, 2] * b[:, 3] for b in (ours, theirs)]
    ratio = [b[:, 3] / b[:, 2] for b in (ours, theirs)]
    for mine, other in (area, ratio, (ours[:, 0], theirs[:, 0]), (ours[:, 1], theirs[:, 1])):
        assert stats.ks_2samp(mine, other).pvalue > 1e-3


def test_boxes_fall_back_to_the_central_part():
    for height, width in ((10, 100), (100, 10)):
        box = geometry.draw_resized_boxes(5, (height, width), generator(), scale=(0.99, 1.0))
        want = transforms.RandomResizedCrop.get_params(torch.zeros(3, height, width), [0.99, 1.0], [3 / 4, 4 / 3])
        assert box.eq(torch.tensor(want)).all()


def test_boxes_of_files_of_different_sizes():
    size = torch.tensor([[32, 32], [40, 90], [200, 31]])
    together = geometry.draw_resized_boxes(3, size, generator())
    for i in range(3):
        alone = geometry.draw_resized_boxes(3, tuple(size[i].tolist()), generator())
        assert torch.equal(alone[i], together[i])
    with pytest.raises(ValueError, match="height, width"):
        geometry.draw_resized_boxes(4, size, generator())


@pytest.mark.parametrize(
    "size, pad", [((32, 32), (4, 4)), ((8, 8), (1, 1)), ((6, 6), (1, 1)), ((28, 17), (3, 2)), ((224, 96), (28, 12))]
)
def test_padded_crop_equals_pillow(size, pad):
    n = 60
    x = images(n, *size)
    box = geometry.draw_padded_boxes(n, size, generator())
    got = geometry.crop_reflect(x, box)
    for i in range(n):
        top, left, h, w = box[i].tolist()
        padded = tv.pad(pil(x[i]), [pad[1], pad[0]], padding_mode="reflect")
        assert torch.equal(got[i], tensor(tv.crop(padded, top + pad[0], left + pad[1], h, w)))


def test_padded_boxes_are_uniform():
    box = geometry.draw_padded_boxes(9000, (32, 32), generator())
    for column in (0, 1):
        values, counts = box[:, column].unique(return_counts=True)
        assert values.tolist() == list(range(-4, 5))
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_flip():
    x = images(5, 9, 12)
    before = x.clone()
    flags = torch.tensor([True, False, False, True, True])
    got = geometry.flip_some(x, flags)
    assert torch.equal(x, before)
    for i, flag in enumerate(flags):
        assert torch.equal(got[i], tensor(pil(x[i]).transpose(Image.Transpose.FLIP_LEFT_RIGHT)) if flag else x[i])


def test_a_single_pixel_is_its_own_reflection():
    x = torch.full((2, 3, 1, 1), 7, dtype=torch.uint8)
    box = torch.tensor([[-1, 1, 1, 1], [1, -1, 1, 1]])
    assert torch.equal(geometry.crop_reflect(x, box), x)
