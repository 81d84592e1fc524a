"""Photos in and out: always (H, W, 3) uint8 RGB, upright."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facemsm.errors import FacemsmError
from facemsm.files import atomic_write, check_file, reading
from facemsm.imaging.decoding import SIGNATURE_BYTES, decode_image, from_pillow, kind_of
from facemsm.typing import Image, PathLike

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

    ImageSource = PathLike | bytes | bytearray | memoryview | IO[bytes] | PillowImage | NDArray[Any]
    """What is taken for a photo: see :func:`as_image`."""

WRITTEN_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""What :func:`write_image` writes."""

IMAGE_SUFFIXES = (*WRITTEN_SUFFIXES, *(".jfif", ".jpe", ".mpo", ".gif", ".avif", ".heic", ".heif", ".jxl"))
"""What a folder is searched for, in lower case. A photo named outright may have any suffix; its content decides."""

MAX_BYTES = 1 << 30
"""Largest file that is read: one of ``MAX_PIXELS`` with four channels."""


def read_image(path: PathLike) -> Image:
    """The photo in a file of any of ``decoding.KINDS``, turned upright as its orientation tag says.

    See :func:`facemsm.imaging.decoding.decode_image` for what becomes of colours and which damage is seen.

    Returns:
        (H, W, 3) uint8 RGB, contiguous.

    Raises:
        FacemsmError: no such file, a folder, a pipe or a device, empty, not a photo, truncated or damaged, or above
            ``MAX_PIXELS`` or ``MAX_BYTES``.
    """
    path = Path(path)
    check_file(path, MAX_BYTES)
    with reading(path), path.open("rb") as file:
        data = file.read(SIGNATURE_BYTES)
        if kind_of(data):
            file.seek(0)
            data = file.read()
    return decode_image(data, str(path))


def as_image(source: ImageSource, where: str = "image") -> Image:
    """A photo, whatever it is given as.

    Args:
        source: a path; the bytes of a file, or a binary file object; a PIL picture, turned upright as its
            orientation tag says where it has one; or a uint8 array (H, W), (H, W, 3) RGB or (H, W, 4), as it is.
        where: begins the error's message; a path stands for itself.

    Returns:
        (H, W, 3) uint8 RGB, contiguous; of a fitting array a view.

    Raises:
        FacemsmError: none of these, or not a sound photo; see :func:`read_image` and :func:`check_image`.
    """
    if isinstance(source, (str, os.PathLike)):
        return read_image(source)
    if hasattr(source, "read"):
        try:
            source = source.read()
        except (OSError, ValueError) as error:
            raise FacemsmError(f"{where}: the file cannot be read ({error}); open it with mode 'rb'") from error
        if isinstance(source, str):
            raise FacemsmError(f"{where}: the file is open as text; open it with mode 'rb'")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode_image(bytes(source), where)
    pillow = sys.modules.get("PIL.Image")  # where it was not imported there is no PIL picture
    if pillow and isinstance(source, pillow.Image):
        return from_pillow(source, where)
    return check_image(source, where)


def write_image(path: PathLike, image: Image) -> None:
    """Write RGB to a file of the kind its suffix names (JPEG at quality 95); the file appears whole or not at all.

    Raises:
        FacemsmError: unknown suffix, not an image (see :func:`check_image`), or the file cannot be written.
    """
    path = Path(path)
    image = check_image(image, str(path))
    try:
        encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        encoded = False
    if not encoded:
        raise FacemsmError(f"{path}: cannot be encoded; use one of the suffixes {', '.join(WRITTEN_SUFFIXES)}")
    with atomic_write(path) as temporary:
        temporary.write_bytes(data.tobytes())


def check_image(image: Any, where: str = "image") -> Image:
    """An array from outside as (H, W, 3) uint8; grey (H, W) or (H, W, 1) becomes RGB, a fourth channel is dropped.

    Raises:
        FacemsmError: not uint8, another shape, or no pixel; ``where`` begins the message.
    """
    if image is None:
        raise FacemsmError(
            f"{where}: is None, as cv2.imread returns for a file that it cannot read; give the path itself"
        )
    if not isinstance(image, np.ndarray):
        raise FacemsmError(
            f"{where}: expected a path, bytes, a PIL picture or a NumPy array, not {type(image).__name__}; "
            "np.asarray(..., np.uint8) makes an array of lists"
        )
    if image.dtype != np.uint8:
        raise FacemsmError(f"{where}: pixels are {image.dtype}; convert them to uint8, 0 to 255")
    image = np.asarray(image)  # no subclass: with np.matrix NumPy writes beyond its memory
    if image.ndim == 2 or image.shape[2:] == (1,):
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise FacemsmError(f"{where}: the shape is {image.shape}; expected (height, width, 3), RGB")
    if image.size == 0:
        raise FacemsmError(f"{where}: the shape is {image.shape}; there is no pixel in it")
    return np.ascontiguousarray(image[..., :3])
