"""contact_sheet.py: pictures stand where they should, pixel for pixel."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_bench.contact_sheet import FORMATS, SIDE, Cell, Section, check_format, encoded, enlarged, sheet


def test_a_pixel_becomes_a_square():
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    large = enlarged(pixels, 6)
    assert large.shape == (6, 6, 3) and (large[3:, :3] == pixels[1, 0]).all()
    assert enlarged(np.zeros((500, 300, 3), np.uint8)).shape == (500, 300, 3)


def test_pictures_are_on_the_sheet_as_they_are():
    random = np.random.default_rng(0)
    first, second = random.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    picture = sheet(["caption"], [Section("title", ("a", "b"), ((Cell(first, ("a name that is far too long for its picture",)), Cell(second)),))])
    found = np.asarray(picture)
    places = np.lib.stride_tricks.sliding_window_view(found, (SIDE, SIDE, 3))[:, :, 0]
    for pixels in (first, second):
        assert (places == enlarged(pixels)).all(axis=(2, 3, 4)).sum() == 1
    assert (found[-1] == 255).all() and (found[:, -1] == 255).all()


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_is_written(ending):
    body = encoded(sheet([], [Section("", ("a",), ((Cell(np.zeros((8, 8, 3), np.uint8)),),))]), check_format(Path("a" + ending.upper())))
    assert body.startswith(b"%PDF") if ending == ".pdf" else Image.open(io.BytesIO(body)).size[0] > SIDE


def test_an_unknown_ending_is_refused():
    with pytest.raises(ValueError, match="ends in .png"):
        check_format(Path("a.bmp"))
