"""How far crops of cached images are from crops of the full-resolution files: python tools/cache_fidelity.py

The same draws are applied to 128 JPEGs of 500x375 (cuts of scikit-learn's two photographs) and to their cached copies.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from benchmarks.harness import versions
from benchmarks.loader import SHORT_SIDE, in_a_cache, photographs, views
from PIL import Image

from ssl_bench.datasets.images import Images


def main() -> None:
    torch.set_num_threads(1)
    print(versions())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = photographs(folder, 128)
        full = Images(np.zeros(len(paths), np.int64), paths=paths)
        few, cached, want = full.take(np.arange(16)), in_a_cache(folder, full), crops(full)
        print("crops of files / the batched, exact ones:", statistics(crops(few), exact_crops(few)))
        print(f"crops of images cached at {SHORT_SIDE} / crops of files, same draws:", statistics(crops(cached), want))
        print("the same / the very region of the file, at fractions of a pixel:", statistics(crops(cached), regions(full, cached)))
        print("for scale: files saved again at JPEG quality 75 / crops of files:", statistics(crops(saved_again(full)), want))


def crops(images: Images) -> torch.Tensor:
    """(2 N, 3, 224, 224) uint8: both views of each image, drawn from seeds 0 and 1."""
    loaded = [images.load(i) for i in range(len(images))]
    size = torch.tensor([image.shape[1:] for image in loaded])
    view = views()[0]
    draws = [view.draw_crop(len(loaded), size, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    return torch.cat([view.crop_each(loaded, draw) for draw in draws])


def exact_crops(images: Images) -> torch.Tensor:
    loaded = torch.stack([images.load(i) for i in range(len(images))])
    view = views()[0]
    draws = [view.draw_crop(len(loaded), tuple(loaded.shape[2:]), torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    return torch.cat([view.crop(loaded, draw) for draw in draws])


def regions(full: Images, cached: Images) -> torch.Tensor:
    """What the cached crops show, cut out of the files at fractions of a pixel, by Pillow."""
    view = views()[0]
    size = torch.tensor([cached.load(i).shape[1:] for i in range(len(cached))])
    found = []
    for seed in (0, 1):
        boxes = view.draw_crop(len(full), size, torch.Generator().manual_seed(seed)).box
        assert boxes is not None
        for path, (height, width), (top, left, h, w) in zip(full.files, size.tolist(), boxes.tolist(), strict=True):
            picture = Image.open(path).convert("RGB")
            x, y = picture.width / width, picture.height / height
            box = (left * x, top * y, (left + w) * x, (top + h) * y)
            cut = picture.resize((224, 224), Image.Resampling.BILINEAR, box=box)
            found.append(torch.from_numpy(np.array(cut)).permute(2, 0, 1))
    return torch.stack(found)


def saved_again(images: Images) -> Images:
    for path in images.files:
        Image.open(path).save(f"{path}.75.jpg", quality=75)
    return Images(images.targets, paths=tuple(f"{path}.75.jpg" for path in images.files))


def statistics(a: torch.Tensor, b: torch.Tensor) -> str:
    gap = (a.int() - b.int()).abs()
    per_crop = gap.flatten(1).float().mean(1)
    return (
        f"mean {gap.float().mean():.3f} levels, worst crop {per_crop.max():.2f}, largest {gap.max()}, "
        f"equal {(gap == 0).float().mean():.1%}, within 1: {(gap <= 1).float().mean():.1%}, PSNR {10 * torch.log10(255**2 / gap.float().square().mean()):.1f} dB"
    )


if __name__ == "__main__":
    main()
