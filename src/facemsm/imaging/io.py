"""Photos in and out, by OpenCV alone: always (H, W, 3) uint8 RGB, upright."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facemsm.errors import FacemsmError
from facemsm.files import atomic_write
from facemsm.typing import Image, PathLike

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""What a folder is searched for, in lower case. A photo named outright may have any suffix; its content decides."""

MAX_PIXELS = 1 << 28
"""Largest photo that is read, 268 megapixels (768 MiB): above every camera, below what a forged header can claim."""

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def read_image(path: PathLike) -> Image:
    """The photo of a JPEG, PNG, WebP, BMP or TIFF file, turned upright as its EXIF orientation says.

    Grey and CMYK become RGB, 16 bits become 8 by scale, transparency is ignored. No copy is kept beside the result:
    100 megapixels take about 600 MB at their peak.

    Returns:
        (H, W, 3) uint8 RGB, contiguous.

    Raises:
        FacemsmError: no such file, a folder, empty, not a photo, truncated or damaged, or above ``MAX_PIXELS``.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(16)
            if data.startswith(_SIGNATURES):
                data += file.read()
    except OSError as error:
        raise FacemsmError(f"{path}: cannot be read ({error.strerror})") from error
    if not data:
        raise FacemsmError(f"{path}: is empty (0 bytes); copy or download it again")
    if not data.startswith(_SIGNATURES):
        raise FacemsmError(f"{path}: is not a JPEG, PNG, WebP, BMP or TIFF photo, whatever its name; save it as one")
    pixels = _declared_pixels(data)
    if pixels > MAX_PIXELS:
        raise FacemsmError(
            f"{path}: has {pixels / 1e6:.0f} megapixels, above the limit of {MAX_PIXELS // 10**6}; make it smaller"
        )
    # libpng would print its own line about a PNG without end
    complete = not data.startswith(b"\x89PNG") or b"IEND" in data[-1024:]
    image = None
    if complete:
        with suppress(cv2.error):  # raised beyond OpenCV's own limits; None for all other damage
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise FacemsmError(
            f"{path}: is truncated, damaged or of a kind OpenCV cannot read; copy it again or re-save it"
        )
    return np.asarray(image, np.uint8)


def write_image(path: PathLike, image: Image) -> None:
    """Write RGB to a file of the kind its suffix names (JPEG at quality 95); the file appears whole or not at all.

    Raises:
        FacemsmError: unknown suffix, or the file cannot be written.
    """
    path = Path(path)
    try:
        encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        encoded = False
    if not encoded:
        raise FacemsmError(f"{path}: cannot be encoded; use one of the suffixes {', '.join(IMAGE_SUFFIXES)}")
    with atomic_write(path) as temporary:
        temporary.write_bytes(data.tobytes())


def check_image(image: NDArray[Any], where: str = "image") -> Image:
    """An array from outside as (H, W, 3) uint8; grey (H, W) becomes RGB and a fourth channel (alpha) is dropped.

    Raises:
        FacemsmError: not uint8, another shape, or no pixel; ``where`` begins the message.
    """
    if not isinstance(image, np.ndarray):
        raise FacemsmError(f"{where}: expected a path or a NumPy array, not {type(image).__name__}")
    if image.dtype != np.uint8:
        raise FacemsmError(f"{where}: pixels are {image.dtype}; convert them to uint8, 0 to 255")
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise FacemsmError(f"{where}: the shape is {image.shape}; expected (height, width, 3), RGB")
    if image.size == 0:
        raise FacemsmError(f"{where}: the shape is {image.shape}; there is no pixel in it")
    return np.ascontiguousarray(image[..., :3])


def _declared_pixels(data: bytes) -> int:
    """Width times height by the header of a PNG or JPEG; 0 if it is another kind, which OpenCV limits by itself."""
    if data.startswith(b"\x89PNG"):
        return int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
    i = 2
    while data.startswith(b"\xff\xd8") and data[i : i + 1] == b"\xff" and i + 9 <= len(data):
        marker, length = data[i + 1], int.from_bytes(data[i + 2 : i + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF: the frame header
            return int.from_bytes(data[i + 5 : i + 7], "big") * int.from_bytes(data[i + 7 : i + 9], "big")
        i += 2 + length
    return 0
