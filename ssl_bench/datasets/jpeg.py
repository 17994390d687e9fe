"""The common case of a photograph, decoded fast: 8-bit RGB or grey JPEG without rotation, by libjpeg-turbo in torchvision."""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive Huffman
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_START_OF_SCAN, _APP1 = 0xDA, 0xE1
# EXIF's orientation tag, and the whole entry where it says "upright", in both byte orders.
_TURNED = (
    (b"\x01\x12", b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x01"),
    (b"\x12\x01", b"\x12\x01\x03\x00\x01\x00\x00\x00\x01\x00"),
)


def decode_plain(path: str, largest: int) -> torch.Tensor | None:
    """Decode a file to uint8 (3, H, W), height x width outermost in memory; equal to Pillow's pixels byte for byte.

    None when it is not a plain JPEG of at most `largest` pixels, when it may be broken, or when torchvision has no decoder:
    then Pillow says what the file is.
    """
    import torch
    from torchvision import io

    if not hasattr(io, "decode_jpeg"):
        return None
    try:
        with open(path, "rb") as file:
            content = bytearray(file.read())
    except OSError:
        return None
    if not _is_plain(content, largest):
        return None
    try:
        return io.decode_jpeg(torch.frombuffer(content, dtype=torch.uint8), mode=io.ImageReadMode.RGB)
    except RuntimeError:
        return None


def _is_plain(content: bytearray, largest: int) -> bool:
    # Without its end marker a file is cut off, which libjpeg fills with grey where torchvision does not notice.
    if content[:3] != b"\xff\xd8\xff" or content[-2:] != b"\xff\xd9":
        return False
    framed, place = False, 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == _START_OF_SCAN:
            return framed
        if marker < 0xC0 or marker in _OTHER_FRAMES:
            return False
        stop = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        segment = bytes(content[place + 4 : stop])
        if marker in _FRAMES:
            if len(segment) < 6:
                return False
            bits, height, width, channels = struct.unpack_from(">BHHB", segment)
            framed = bits == 8 and channels in (1, 3) and 0 < height * width <= largest
            if not framed:
                return False
        elif marker == _APP1 and _may_turn(segment):
            return False
        place = stop
    return False


def _may_turn(segment: bytes) -> bool:
    """Whether EXIF or XMP may ask for a rotation; chance hits in a thumbnail only cost Pillow's time."""
    if b"rientation" in segment:
        return True
    return segment.startswith(b"Exif") and any(segment.count(tag) > segment.count(upright) for tag, upright in _TURNED)
