"""One image file to a uint8 RGB tensor, as a person would see it, or one line that names the file."""
from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ssl_bench.datasets.jpeg import decode_plain
from ssl_bench.messages import printable, reason_of

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as Picture

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# Content is what counts, not the suffix; naming the formats keeps Pillow from starting interpreters such as EPS's.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
LARGEST = 89_478_485
"""Most pixels an image may have; Pillow only warns above it."""


class UnreadableImage(ValueError):
    """A file cannot be decoded; the message names the file, the reason and the remedy."""


def decode(path: str) -> torch.Tensor:
    """Decode a file to uint8 (3, H, W), RGB; in memory the three levels of a pixel lie together (permuted from H, W, 3).

    The EXIF orientation is applied; transparent pixels show a white page; 16-bit grey is scaled to 8 bit (0..65535 to
    0..255, rounded); CMYK and palettes are converted by Pillow; of several frames the first is taken.

    Raises:
        UnreadableImage: not an image, truncated, empty, without permission, more than `LARGEST` pixels, or of 32 bits
            a channel (those have no fixed range).
    """
    import torch

    # Opening a pipe waits for ever, and a device such as /dev/zero never ends; where there is nothing, Pillow says so.
    if os.path.isfile(path) or not os.path.exists(path):
        plain = decode_plain(path, LARGEST)
        if plain is not None:
            return plain
    with _opened(path) as picture:
        return torch.from_numpy(np.array(_as_rgb(picture))).permute(2, 0, 1)


def stored_size(path: str) -> tuple[int, int]:
    """(height, width) from the header alone, before any EXIF rotation. Raises `UnreadableImage` as `decode` does."""
    with _opened(path) as picture:
        return picture.height, picture.width


def _as_rgb(picture: Picture) -> Picture:
    from PIL import Image, ImageOps

    picture.load()
    # In place, because otherwise every image without an orientation is copied too.
    ImageOps.exif_transpose(picture, in_place=True)
    # Pillow reads 16-bit PGM (and, in older versions, PNG) as "I", scaled to 0..65535.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        grey = np.asarray(picture).astype(np.float64)
        return Image.fromarray(np.rint(grey / 257.0).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError("32 bits a channel have no fixed range, convert it to 8 or 16 bit")
    if picture.has_transparency_data:
        seen = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, (255, 255, 255, 255)), seen).convert("RGB")
    return picture.convert("RGB")


@cache
def _quiet() -> None:
    """Pillow's two lines on an image above its limit are not printed: it is refused, in one."""
    from PIL import Image

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


@contextmanager
def _opened(path: str) -> Iterator[Picture]:
    from PIL import Image

    _quiet()
    try:
        if not os.path.isfile(path) and os.path.exists(path):
            raise ValueError("a folder, not a file" if os.path.isdir(path) else "a pipe or a device, not a file")
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > LARGEST:
                raise ValueError(f"{picture.width} x {picture.height} pixels, at most {LARGEST:,} are decoded")
            yield picture
    except MemoryError:
        raise
    # A decoder fed with arbitrary bytes raises almost anything (SyntaxError, struct.error, EOFError, IndexError ...).
    except Exception as error:
        # The machine's limits are not the file's fault: skipping such files would silently shrink the set.
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        raise UnreadableImage(
            # A name with a line break in it would end the line before the reason.
            f"cannot read image {printable(path)}: {_reason(path, error)}; repair or remove it, or run again with --skip-broken "
            "to leave out every unreadable file"
        ) from error


def _reason(path: str, error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, FileNotFoundError):
        return "the file is gone, or a link that leads nowhere"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "a link that leads back to itself"
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return "the file is empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a known format"
    return reason_of(error)
