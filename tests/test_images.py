"""Images and DataSet (containers), and the decoder of single files."""
from __future__ import annotations

import io
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_bench.datasets.decode import UnreadableImage, decode, stored_size
from ssl_bench.datasets.images import DataSet, Images

RAMP = np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)


def int64(*values):
    return np.array(values, dtype=np.int64)


def resident(n=6, channels=3):
    pixels = torch.arange(n * channels * 4, dtype=torch.int64).remainder(256).to(torch.uint8)
    return Images(np.arange(n, dtype=np.int64) % 2, pixels.reshape(n, channels, 2, 2))


# --- Images ---------------------------------------------------------------------------------------------------------


def test_take_keeps_order_and_repeats():
    images = resident()
    taken = images.take([4, 0, 4])
    assert taken.targets.tolist() == [0, 0, 0] and len(taken) == 3
    assert torch.equal(taken.pixels, torch.stack([images.pixels[i] for i in (4, 0, 4)]))
    assert taken.pixels.data_ptr() != images.pixels.data_ptr()


def test_take_of_a_run_shares_memory_and_of_a_reversed_run_is_right():
    images = resident()
    run = images.take(np.array([2, 3, 4]))
    assert torch.equal(run.pixels, images.pixels[2:5])
    assert run.pixels.data_ptr() == images.pixels[2].data_ptr()
    assert torch.equal(images.take([3, 2]).pixels, images.pixels[[3, 2]])


def test_take_of_files_and_of_nothing():
    images = Images(int64(0, 1, 1), paths=("a", "b", "c"))
    assert images.take([2, 0]).paths == ("c", "a") and images.take([2, 0]).targets.tolist() == [1, 0]
    assert len(images.take([])) == 0 and len(resident().take([])) == 0


@pytest.mark.parametrize("indices", [[-1], [6], [0.0], [[0]], np.ones(6, dtype=bool)])
def test_take_refuses(indices):
    with pytest.raises(ValueError, match="indices must"):
        resident().take(indices)


@pytest.mark.parametrize(
    ("targets", "pixels", "paths", "message"),
    [
        (np.zeros(2, np.int32), torch.zeros(2, 3, 2, 2, dtype=torch.uint8), None, "int64"),
        (int64(0, 1), None, None, "either pixels"),
        (int64(0), torch.zeros(1, 3, 2, 2, dtype=torch.uint8), ("a",), "either pixels"),
        (int64(0), torch.zeros(1, 3, 2, 2), None, "uint8"),
        (int64(0), torch.zeros(1, 4, 2, 2, dtype=torch.uint8), None, "1 or 3"),
        (int64(0, 1), torch.zeros(1, 3, 2, 2, dtype=torch.uint8), None, "1 images but 2 targets"),
        (int64(0, 1), None, ("a",), "1 images but 2 targets"),
    ],
)
def test_images_check_their_parts(targets, pixels, paths, message):
    with pytest.raises(ValueError, match=message):
        Images(targets, pixels, paths)


def test_images_survive_pickling():
    again = pickle.loads(pickle.dumps(resident()))  # noqa: S301 - its own bytes, as a worker process gets them
    assert torch.equal(again.pixels, resident().pixels)


def test_load(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    assert torch.equal(resident(channels=1).load(1), resident(channels=1).pixels[1])
    loaded = Images(int64(0), paths=(str(tmp_path / "a.png"),)).load(0)
    assert loaded.dtype == torch.uint8 and np.array_equal(loaded.numpy(), RAMP.transpose(2, 0, 1))


def test_data_set_checks_targets():
    images = resident()
    hidden = Images(np.full(6, -1, dtype=np.int64), images.pixels)
    DataSet("x", ("a", "b"), images, images, hidden)
    DataSet("x", ("a", "b"), hidden, images)
    DataSet("x", ("a", "b"), images, images, images)  # true labels, for an oracle
    with pytest.raises(ValueError, match="train targets must lie in -1..0 .*got 0..1"):
        DataSet("x", ("a",), images, images)
    with pytest.raises(ValueError, match="test targets"):
        DataSet("x", ("a", "b"), images, hidden)
    with pytest.raises(ValueError, match="unlabeled targets must lie in -1..1"):
        DataSet("x", ("a", "b"), images, images, Images(np.full(6, 2, dtype=np.int64), images.pixels))
    with pytest.raises(ValueError, match="test part has no images"):
        DataSet("x", ("a", "b"), images, images.take([]))


# --- decode ---------------------------------------------------------------------------------------------------------


def pixels_of(path):
    tensor = decode(str(path))
    assert tensor.dtype == torch.uint8 and tensor.shape[0] == 3 and tensor.stride(0) == 1  # ready for torch's fast resize
    return tensor.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif", "webp"])
def test_lossless_formats_are_exact(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RAMP).save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(pixels_of(path), RAMP)
    assert stored_size(str(path)) == (5, 7)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_bilevel_and_palette_become_rgb(tmp_path, mode):
    picture = Image.fromarray(RAMP).convert(mode)
    for suffix in ("png", "gif"):
        picture.save(tmp_path / f"a.{suffix}")
        assert np.array_equal(pixels_of(tmp_path / f"a.{suffix}"), np.asarray(picture.convert("RGB")))


def test_transparency_shows_a_white_page(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]  # 51 / 255 = 0.2
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert pixels_of(tmp_path / "a.png")[0].tolist() == [[200, 100, 0], [255, 255, 255], [244, 224, 204]]
    Image.fromarray(np.array([[[90, 255], [90, 0]]], np.uint8), "LA").save(tmp_path / "la.png")
    assert pixels_of(tmp_path / "la.png")[0].tolist() == [[90] * 3, [255] * 3]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png", transparency=1)
    assert pixels_of(tmp_path / "p.png")[0].tolist() == [[10, 20, 30], [255] * 3]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    expected = [0, 0, 1, 1, 128, 255]  # round(v / 257)
    Image.fromarray(deep).save(tmp_path / "a.png")
    Image.fromarray(deep).save(tmp_path / "a.tif")
    (tmp_path / "a.pgm").write_bytes(b"P5\n6 1\n65535\n" + deep.astype(">u2").tobytes())
    for suffix in ("png", "tif", "pgm"):
        assert pixels_of(tmp_path / f"a.{suffix}")[0, :, 1].tolist() == expected, suffix


def test_cmyk_jpeg_has_the_colours_a_person_sees(tmp_path):
    red = Image.new("RGB", (16, 16), (220, 30, 30))
    red.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(pixels_of(tmp_path / "a.jpg").astype(int) - [220, 30, 30]).max() < 12


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [(1, lambda a: a), (2, lambda a: a[:, ::-1]), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)),
     (8, lambda a: np.rot90(a))],
)  # fmt: skip
def test_exif_orientation_is_applied(tmp_path, orientation, undo):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RAMP).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(pixels_of(tmp_path / "a.png"), undo(RAMP))


def test_damaged_exif_does_not_spoil_an_image(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.jpg", exif=b"Exif\0\0garbage")
    assert pixels_of(tmp_path / "a.jpg").shape == (5, 7, 3)


def test_wrong_suffix_is_read_by_content(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(pixels_of(tmp_path / "a.jpg"), RAMP)


def jpeg_bytes():
    stream = io.BytesIO()
    Image.fromarray(np.random.RandomState(1).randint(0, 256, (64, 64, 3)).astype(np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"<html>not found</html>", "not an image"),
        ("cut.jpg", jpeg_bytes()[:700], "truncated"),
        ("cut.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 9, ""),
        ("post.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        ("float.tif", None, "32 bits"),
    ],
)
def test_unreadable_files_are_named_with_reason_and_remedy(tmp_path, name, content, reason):
    path = tmp_path / name
    if content is None:
        Image.fromarray(np.ones((2, 2), np.float32)).save(path)
    else:
        path.write_bytes(content)
    with pytest.raises(UnreadableImage) as caught:
        decode(str(path))
    message = str(caught.value)
    assert str(path) in message and reason in message and "--skip-broken" in message and "\n" not in message


def test_missing_file_and_dangling_link_are_unreadable(tmp_path):
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(UnreadableImage, match="leads nowhere"):
        decode(str(tmp_path / "link.jpg"))


def test_exhausted_file_handles_are_not_blamed_on_the_image(tmp_path, monkeypatch):
    def no_handles(*_, **__):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Image, "open", no_handles)
    with pytest.raises(OSError, match="Too many open files"):
        decode(str(tmp_path / "a.jpg"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [(10_000, 9_000), (30_000, 30_000)])
def test_decompression_bomb_is_refused_from_its_header(tmp_path, side):
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 62, 0, 0, 62, 40, *side, 1, 1, 0, 0, 0, 0, 2, 2)
    path = tmp_path / "bomb.bmp"
    path.write_bytes(header + b"\0" * 8)
    for read in (decode, stored_size):
        with pytest.raises(UnreadableImage, match="bomb.bmp: .*(pixels)"):
            read(str(path))
