"""Images in rows, with words beneath, as one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".pdf": "PDF"}
SIDE, GAP, TEXT = 112, 8, 12  # pixels: of a picture at least, between two, of a letter's height
LINE = TEXT + 3


@dataclass(frozen=True)
class Cell:
    """A picture, (H, W, 3) uint8, and the lines beneath it; None for an empty place."""

    pixels: np.ndarray | None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """Rows of cells under one head; heads: what each column shows."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def check_format(file: Path) -> str:
    """Pillow's name of the format `file` ends in.  ValueError: none that is written here."""
    if file.suffix.lower() not in FORMATS:
        raise ValueError(f"--out {file}: a sheet ends in {', '.join(FORMATS)}")
    return FORMATS[file.suffix.lower()]


def enlarged(pixels: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Each pixel as a square of whole size, so that the longer side has about `side`; larger pictures as they are."""
    times = max(1, round(side / max(pixels.shape[:2])))
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def sheet(caption: Sequence[str], sections: Sequence[Section]) -> Image.Image:
    """The caption, and the sections one below the other, on white."""
    font = ImageFont.load_default(TEXT)
    cells = [cell for section in sections for row in section.rows for cell in row]
    wide, high = (max([SIDE, *(enlarged(c.pixels).shape[axis] for c in cells if c.pixels is not None)]) for axis in (1, 0))
    columns = max((len(section.heads) for section in sections), default=1)
    words = max((len(cell.lines) for cell in cells), default=0)
    step = high + words * LINE + GAP
    text_width = max([font.getlength(line) for line in caption] + [font.getlength(section.title) for section in sections])
    width = max(columns * (wide + GAP) + GAP, int(text_width) + 2 * GAP)
    height = GAP + len(caption) * LINE + sum(2 * LINE + GAP + len(section.rows) * step for section in sections)
    picture = Image.new("RGB", (width, height), "white")
    draw, y = ImageDraw.Draw(picture), GAP
    for line in caption:
        draw.text((GAP, y), line, "black", font)
        y += LINE
    for section in sections:
        y += GAP
        draw.text((GAP, y), section.title, "black", font)
        y += LINE
        for i, head in enumerate(section.heads):
            draw.text((GAP + i * (wide + GAP), y), _fitting(head, wide, font), "#0072B2", font)
        y += LINE
        for row in section.rows:
            for i, cell in enumerate(row):
                x = GAP + i * (wide + GAP)
                if cell.pixels is not None:
                    picture.paste(Image.fromarray(enlarged(cell.pixels)), (x, y))
                for k, line in enumerate(cell.lines):
                    draw.text((x, y + high + k * LINE), _fitting(line, wide, font), "black", font)
            y += step
    return picture


def encoded(picture: Image.Image, format: str) -> bytes:
    """The picture as a file's bytes; `format` of `check_format`."""
    file = io.BytesIO()
    picture.save(file, format=format)
    return file.getvalue()


def _fitting(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    text = " ".join(text.split())
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "."
    return text
