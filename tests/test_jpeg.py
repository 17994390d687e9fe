"""The fast decoder gives Pillow's bytes or nothing at all, whatever the file."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from ssl_bench.datasets import decode, jpeg
from ssl_bench.datasets.decode import LARGEST, UnreadableImage
from ssl_bench.datasets.jpeg import decode_plain

torchvision_io = pytest.importorskip("torchvision.io")
needs_decoder = pytest.mark.skipif(not hasattr(torchvision_io, "decode_jpeg"), reason="this torchvision has no JPEG decoder")


def picture(height: int = 61, width: int = 83, seed: int = 0) -> Image.Image:
    """Waves with a little noise, as sharp as a photograph."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([127 + 100 * np.sin(x / (4 + c) + y / 9) for c in range(3)], -1)
    noise = np.random.RandomState(seed).normal(0, 8, waves.shape)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def by_pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def exif(orientation: int | None) -> Image.Exif:
    found = Image.Exif()
    found[0x010F] = "Camera"
    if orientation is not None:
        found[0x0112] = orientation
    return found


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
PLAIN = {
    "4:2:0": {}, "4:2:2": {"subsampling": 1}, "4:4:4": {"subsampling": 0}, "quality 100": {"quality": 100},
    "quality 5": {"quality": 5}, "progressive": {"progressive": True}, "optimised": {"optimize": True},
    "restarts": {"restart_marker_blocks": 3},
    "RGB, not YCbCr": {"keep_rgb": True}, "comment": {"comment": b"x\xff\xd9y"}, "EXIF without rotation": {"exif": exif(None)},
    "EXIF that says upright": {"exif": exif(1)}, "colour profile": {"icc_profile": b"p" * 70_000},
}  # fmt: skip


@needs_decoder
@pytest.mark.parametrize("size", [(61, 83), (1, 1), (16, 16), (17, 8), (7, 200)])
@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_are_decoded_to_pillows_bytes(tmp_path, name, size):
    for image in (picture(*size), picture(*size).convert("L")):
        if name == "RGB, not YCbCr" and image.mode == "L":
            continue
        content = encoded(image, **PLAIN[name])
        (tmp_path / "a.jpg").write_bytes(content)
        fast = decode_plain(str(tmp_path / "a.jpg"), LARGEST)
        assert fast.dtype == torch.uint8 and fast.shape == (3, *size)
        assert np.array_equal(fast.permute(1, 2, 0).numpy(), by_pillow(content))
        assert torch.equal(decode.decode(str(tmp_path / "a.jpg")), fast)


LEFT_TO_PILLOW = {
    "CMYK": encoded(picture().convert("CMYK")),
    "PNG by content": (lambda stream: (picture().save(stream, "PNG"), stream.getvalue())[1])(io.BytesIO()),
    **{f"EXIF {turn}": encoded(picture(), exif=exif(turn)) for turn in range(2, 9)},
    "XMP": encoded(picture(), xmp=XMP),
    "bytes after the end": encoded(picture()) + b"\0\0",
}


@pytest.mark.parametrize("name", LEFT_TO_PILLOW)
def test_other_files_are_left_to_pillow(tmp_path, name):
    content = LEFT_TO_PILLOW[name]
    (tmp_path / "a.jpg").write_bytes(content)
    assert decode_plain(str(tmp_path / "a.jpg"), LARGEST) is None
    assert np.array_equal(decode.decode(str(tmp_path / "a.jpg")).permute(1, 2, 0).numpy(), by_pillow(content))


def test_too_many_pixels_and_no_file(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(picture(10, 10)))
    assert decode_plain(str(tmp_path / "a.jpg"), 99) is None
    assert decode_plain(str(tmp_path / "b.jpg"), 99) is None


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": exif(1)}])
def test_no_cut_file_is_accepted_silently(tmp_path, options):
    content = encoded(picture(), **options)
    path = tmp_path / "a.jpg"
    for length in range(0, len(content), 13):
        path.write_bytes(content[:length])
        assert decode_plain(str(path), LARGEST) is None
        with pytest.raises(UnreadableImage, match=r"a\.jpg: .*--skip-broken"):
            decode.decode(str(path))


@needs_decoder
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_read_as_pillow_reads_them(tmp_path, monkeypatch):
    random = np.random.RandomState(0)
    path, fast = tmp_path / "a.jpg", 0
    for trial in range(300):
        content = bytearray(encoded(picture(seed=trial), progressive=trial % 2 == 0, exif=exif(1)))
        for place in random.randint(2, len(content), 1 + trial % 3):
            content[place] = random.randint(256)
        path.write_bytes(content)
        fast += decode_plain(str(path), LARGEST) is not None
        assert outcome(path) == outcome(path, monkeypatch), f"trial {trial}"
    assert fast > 50


def outcome(path, monkeypatch=None) -> bytes:
    """Pixels or message; with monkeypatch: of Pillow alone."""
    context = monkeypatch.context() if monkeypatch else None
    if context is not None:
        with context as patch:
            patch.setattr(decode, "decode_plain", lambda *_: None)
            return outcome(path)
    try:
        return decode.decode(str(path)).permute(1, 2, 0).numpy().tobytes()
    except UnreadableImage as error:
        return str(error).encode()


def test_without_torchvisions_decoder_pillow_decodes(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(encoded(picture()))
    monkeypatch.delattr(torchvision_io, "decode_jpeg", raising=False)
    assert jpeg.decode_plain(str(tmp_path / "a.jpg"), LARGEST) is None
    assert np.array_equal(decode.decode(str(tmp_path / "a.jpg")).permute(1, 2, 0).numpy(), by_pillow(encoded(picture())))
