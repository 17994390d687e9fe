"""Image files as they come: each is the picture a person expects, or one line that names it."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing import SIZES, answer_of, fuzz, time_limit
from hypothesis import strategies as st
from PIL import Image

from ssl_bench.augment import geometry
from ssl_bench.augment.views import build_view
from ssl_bench.datasets import image_folder
from ssl_bench.datasets.cache import with_cache
from ssl_bench.datasets.decode import LARGEST, UnreadableImage, decode, stored_size

RAMP = np.random.RandomState(0).randint(0, 256, (24, 31, 3)).astype(np.uint8)
SMALL = "--arch test_resnet.r160_in1k --scratch --image-size 16 --epochs 1 --iters-per-epoch 2 -b 2 --num-samples-per-class 2 --device cpu".split()


def encoded(format: str, picture: Image.Image | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    (picture or Image.fromarray(RAMP)).save(stream, format, **options)
    return stream.getvalue()


def frames(format: str) -> bytes:
    """Red, then blue."""
    red, blue = (Image.new("RGB", (6, 4), colour) for colour in ("#ff0000", "#0000ff"))
    return encoded(format, red, save_all=True, append_images=[blue], **({"lossless": True} if format == "WEBP" else {}))


REAL = {
    "a.jpg": encoded("JPEG"), "progressive.jpg": encoded("JPEG", progressive=True), "grey.jpg": encoded("JPEG", Image.fromarray(RAMP).convert("L")),
    "cmyk.jpg": encoded("JPEG", Image.fromarray(RAMP).convert("CMYK")), "a.png": encoded("PNG"), "p.png": encoded("PNG", Image.fromarray(RAMP).quantize(9)),
    "la.png": encoded("PNG", Image.fromarray(RAMP).convert("LA")), "a.gif": frames("GIF"), "a.webp": frames("WEBP"), "apng.png": frames("PNG"),
    "a.tif": encoded("TIFF", compression="tiff_lzw"), "cmyk.tif": encoded("TIFF", Image.fromarray(RAMP).convert("CMYK")), "a.bmp": encoded("BMP"),
    "a.ppm": encoded("PPM"),
}  # fmt: skip


def shape_or_line(path: Path) -> tuple[int, ...] | str:
    """The shape of the picture, or the line it is refused in; nothing else, and not after a long time."""
    try:
        with time_limit(20):
            x = decode(str(path))
    except UnreadableImage as error:
        text = str(error)
        assert str(path) in text and "--skip-broken" in text and text.isprintable() and len(text) < len(str(path)) + 400, text
        return text
    assert x.dtype == torch.uint8 and x.ndim == 3 and x.shape[0] == 3 and x.numel() > 0
    return tuple(x.shape)


@pytest.mark.parametrize("examples", SIZES)
@pytest.mark.filterwarnings("ignore")  # Pillow's, of what it finds in broken files
def test_a_cut_or_flipped_file_is_a_picture_or_a_line(tmp_path, examples):
    """Of real files: cut anywhere, bits turned anywhere, two files joined."""

    def damaged(name: str, cut: float, flips: list[tuple[float, int]], more: bytes) -> bool:
        content = bytearray(REAL[name])
        content = content[: max(1, round(cut * len(content)))] + more
        for where, bit in flips:
            content[int(where * len(content))] ^= 1 << bit
        (tmp_path / name).write_bytes(content)
        return isinstance(shape_or_line(tmp_path / name), str)

    flips = st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 7)), max_size=8)
    fuzz(examples * 2, damaged, st.sampled_from([*REAL]), st.one_of(st.just(1.0), st.floats(0, 1)), flips, st.sampled_from([b"", *REAL.values()]))


@pytest.mark.parametrize("examples", SIZES)
@pytest.mark.filterwarnings("ignore")
def test_bytes_after_a_real_beginning_are_a_picture_or_a_line(tmp_path, examples):
    def junk(name: str, kept: int, content: bytes) -> bool:
        (tmp_path / name).write_bytes(REAL[name][:kept] + content)
        return isinstance(shape_or_line(tmp_path / name), str)

    fuzz(examples * 2, junk, st.sampled_from([*REAL]), st.integers(0, 60), st.binary(max_size=300), both=False)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "apng.png"])
def test_of_several_frames_the_first_is_seen(tmp_path, name):
    (tmp_path / name).write_bytes(REAL[name])
    assert decode(str(tmp_path / name))[:, 1, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_orientation_is_turned_upright(tmp_path, format):
    """A picture whose left upper corner is black, stored in each of the eight ways with the tag that says so."""
    upright = np.full((16, 32, 3), 255, np.uint8)
    upright[:8, :8] = 0
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.swapaxes(0, 1), 6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1], 8: upright.swapaxes(0, 1)[:, ::-1],
    }  # fmt: skip
    for orientation, pixels in stored.items():
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        exif = picture.getexif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{format.lower()}"
        picture.save(path, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
        seen = decode(str(path)).float()
        assert seen.shape == (3, 16, 32) and seen[:, :6, :6].mean() < 10 and seen[:, :, 12:].mean() > 245, orientation


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16"])
def test_every_mode_becomes_rgb_as_it_is_seen(tmp_path, mode):
    grey = Image.new("L", (8, 8), 128)
    if mode == "I;16":
        picture = Image.fromarray(np.full((8, 8), 128 * 257, np.uint16))
    else:
        picture = Image.new("LAB", (8, 8), (137, 128, 128)) if mode == "LAB" else grey.convert("RGB").convert(mode, palette=Image.Palette.ADAPTIVE)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr", "LAB", "I;16") else "a.png")
    picture.save(path)
    seen = decode(str(path)).float()
    low, high = (0, 255) if mode == "1" else (118, 138)
    assert seen.shape == (3, 8, 8) and low <= seen.min() and seen.max() <= high, (seen.min(), seen.max())


def test_what_is_no_file_is_refused_at_once(tmp_path):
    """Opening a pipe would wait for ever, and /dev/zero never ends."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "a\n\x1b[31mb.png").write_bytes(b"")
    reasons = {"pipe.png": "a pipe or a device", "folder.png": "a folder", "loop.png": "back to itself", "zero.jpg": "a pipe or a device"}
    for name, reason in reasons.items():
        assert reason in shape_or_line(tmp_path / name)
        with pytest.raises(UnreadableImage):
            stored_size(str(tmp_path / name))
    with pytest.raises(UnreadableImage, match=r"a\\n\\x1b\[31mb.png: the file is empty"):
        decode(str(tmp_path / "a\n\x1b[31mb.png"))


def png_header(width: int, height: int) -> bytes:
    """A grey PNG of that size whose pixels are a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


def test_an_image_above_the_limit_is_one_line_without_pillows_warnings(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_header(9460, 9460))
    code = f"from ssl_bench.datasets.decode import stored_size, UnreadableImage\ntry: stored_size({str(tmp_path / 'bomb.png')!r})\nexcept UnreadableImage as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stderr == "" and f"at most {LARGEST:,} are decoded" in done.stdout and done.stdout.count("\n") == 1


def test_text_and_profile_bombs_in_a_png_are_refused_or_passed_over(tmp_path):
    packed = zlib.compress(b"A" * 2**24)
    for kind, head in ((b"zTXt", b"t\0\0"), (b"iTXt", b"t\0\1\0\0\0"), (b"iCCP", b"t\0\0")):
        body = head + packed
        chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        whole = REAL["a.png"]
        (tmp_path / "a.png").write_bytes(whole[:33] + chunk + whole[33:])
        with time_limit(20):
            shape_or_line(tmp_path / "a.png")


@pytest.mark.slow
def test_an_image_just_below_the_limit_is_decoded(tmp_path):
    Image.new("1", (9459, 9459), 1).save(tmp_path / "a.png")
    assert decode(str(tmp_path / "a.png")).shape == (3, 9459, 9459)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 5000), (5000, 1), (7, 9000), (1, 65500), (1500, 1500)])
def test_every_view_of_the_oddest_sizes_takes_no_time(size):
    """Resized to a short side of 256, an image of 1 x 10,000 has 2 GB: only what is kept may be computed."""
    x = torch.full((3, *size), 77, dtype=torch.uint8)
    for name, resizing in (("weak", "default"), ("weak", "cifar"), ("weak_short", "default"), ("test", "default"), ("test", "cifar"), ("test", "short")):
        view = build_view(name, image_size=224, resizing=resizing, mean=(0.5,) * 3, std=(0.5,) * 3)
        with time_limit(10):
            crop = view.crop_each([x], view.draw_crop(1, size, torch.Generator().manual_seed(0)))
        assert crop.shape == (1, 3, 224, 224) and bool((crop == 77).all()), (name, resizing)


def test_narrow_images_have_the_bytes_that_pillow_makes(monkeypatch):
    drawn = torch.Generator().manual_seed(0)
    for height, width in ((3, 200), (200, 3), (1, 90), (90, 1), (2, 41), (7, 300)):
        x = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=drawn)
        box = geometry.draw_short_boxes(1, (height, width), 16, 14, 1, drawn)
        made = []
        for narrow in (0, 10**9):
            monkeypatch.setattr(geometry, "NARROW", narrow)
            made.append(geometry.crop_short_image(x, box, 16, 14))
        assert torch.equal(*made), (height, width)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of files of two sizes, so that they are read in training."""
    drawn = np.random.RandomState(0)
    for part, n in (("train", 6), ("test", 2)):
        for name in ("a", "b"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(drawn.randint(0, 256, (20 + i % 2, 24, 3)).astype(np.uint8)).save(tmp_path / "data" / part / name / f"{i}.png")
    return tmp_path / "data"


def run(folder: Path, *more: str) -> object:
    from ssl_bench import cli

    return answer_of(lambda: cli.main(["erm", str(folder), "-d", "ImageFolder", *SMALL, "--log", str(folder.parent / "log"), *more]))


def test_a_link_to_itself_is_named_and_can_be_skipped(folder):
    (folder / "train" / "b" / "9.png").symlink_to("9.png")
    (folder / "train" / "loop").symlink_to("loop")
    data = image_folder.load(str(folder), skip_broken=True)
    assert data.classes == ("a", "b") and data.broken == (str(folder / "train" / "b" / "9.png"),)


def test_a_cache_is_not_half_written_when_an_image_is_broken(folder):
    (folder / "train" / "b" / "5.png").write_bytes(REAL["a.png"][:200])
    data = image_folder.load(str(folder))
    with pytest.raises(UnreadableImage, match="5.png"):
        with_cache(data, "disk", 32, None, str(folder))
    assert not [path for path in folder.rglob("*") if "pixels" in path.name and not path.name.endswith(".lock")]


@pytest.mark.slow
def test_a_broken_image_met_by_a_worker_is_one_line_and_the_run_goes_on_once_it_is_mended(folder):
    """In the test part, which is met after the first epoch: what was trained until then is kept."""
    path = folder / "test" / "b" / "1.png"
    good = path.read_bytes()
    path.write_bytes(good[:150])
    answer = run(folder, "-j", "2", "--checkpoint-freq", "1")
    assert answer.code == 1 and not answer.crash and str(path) in answer.errors[-1] and len(answer.err.splitlines()) == 1, answer.err
    path.write_bytes(good)
    answer = run(folder, "-j", "2", "--checkpoint-freq", "1")
    assert answer.code == 0 and "continuing" in answer.out, answer.out + answer.err
