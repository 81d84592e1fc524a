"""A photo from memory, refused by its header before it costs anything."""

from __future__ import annotations

from contextlib import suppress

import cv2
import numpy as np

from facemsm.errors import FacemsmError
from facemsm.typing import Image


class UnknownKindError(FacemsmError):
    """Not a kind of photo that is taken."""


class TooManyPixelsError(FacemsmError):
    """More pixels than allowed."""


def decode_photo(data: bytes, max_pixels: int) -> Image:
    """The photo of a JPEG, PNG or WebP file, turned upright as its EXIF orientation says.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UnknownKindError: the bytes do not begin as one of these.
        TooManyPixelsError: by the header; nothing was decoded.
        FacemsmError: empty, truncated or damaged.
    """
    if not data:
        raise FacemsmError("photo: is empty (0 bytes)")
    try:
        width, height = _declared_size(data)
    except IndexError:
        width = height = 0
    if not width or not height:
        raise FacemsmError("photo: is damaged, its header gives no size; save it again")
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"photo: {width} x {height} pixels are above the limit of {max_pixels / 1e6:g} megapixels; make it smaller"
        )
    image = None
    with suppress(cv2.error):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise FacemsmError("photo: is truncated or damaged; save it again")
    return np.asarray(image, np.uint8)


def _declared_size(data: bytes) -> tuple[int, int]:
    """Width and height by the header, before EXIF turns them; 0 where it is damaged."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_size(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_size(data)
    raise UnknownKindError("photo: is not a JPEG, PNG or WebP file, whatever its name; save it as one")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    i = 2
    while data[i] == 0xFF:
        while data[i + 1] == 0xFF:  # fill bytes
            i += 1
        marker = data[i + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF: the frame header
            return int.from_bytes(data[i + 7 : i + 9], "big"), int.from_bytes(data[i + 5 : i + 7], "big")
        i += 2 + int.from_bytes(data[i + 2 : i + 4], "big")
    return 0, 0


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
