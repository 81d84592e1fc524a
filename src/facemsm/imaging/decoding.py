"""Photos from bytes: one decoder and one set of limits for files, uploads and Python.

JPEG is decoded by simplejpeg, which tells what libjpeg only warns of; PNG and still WebP by OpenCV, which needs the
least memory; the rest by Pillow. Each sees only what was checked before.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import simplejpeg

from facemsm.errors import FacemsmError
from facemsm.typing import Image

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

MAX_PIXELS = 1 << 28
"""Largest photo that is read, 268 megapixels (768 MiB): above every camera, below what a forged header can claim."""

MAX_SCANS = 50
"""Of a progressive JPEG. Encoders write up to about 20; each takes time for the whole photo, however few bytes it has.
"""

_NO_CHECKS = ("WebP", "AVIF", "HEIC", "JPEG XL")
"""Kinds whose decoders make a picture of any bytes."""

_HOLE = 4096
"""Zeros in a row that are a hole in such a photo: a block that was never copied. Encoders were seen to write 16, or
1542 in even WebP photos of 16 megapixels; editors pad EXIF data by 2060."""

_PLUGINS = {
    "WebP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIC": ("pillow_heif", "HeifImageFile"),
    "JPEG XL": ("pillow_jxl.JpegXLImagePlugin", "JXLImageFile"),
}

KINDS = ("JPEG", "PNG", *_PLUGINS)
"""The kinds of photo that are read; the last two need the extra ``formats``."""

_SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WebP": rb"RIFF....WEBP",
    "BMP": rb"BM",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "GIF": rb"GIF8[79]a",
    "AVIF": rb"....ftyp(?:....){0,12}?avi[fs]",
    "HEIC": rb"....ftyp(?:....){0,12}?(?:he[iv][cxms]|m[is]f1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
}
SIGNATURE_BYTES = 64
"""Enough of a file's beginning to tell its kind."""


class UnknownKindError(FacemsmError):
    """Not a kind of photo that is taken."""


class TooManyPixelsError(FacemsmError):
    """More pixels than allowed."""


def kind_of(data: bytes) -> str | None:
    """The kind, one of ``KINDS``, by the first bytes; None if it is another."""
    return next(
        (kind for kind, pattern in _SIGNATURES.items() if re.match(pattern, data[:SIGNATURE_BYTES], re.DOTALL)), None
    )


def decode_image(
    data: bytes, where: str = "photo", *, max_pixels: int = MAX_PIXELS, kinds: Collection[str] = KINDS
) -> Image:
    """The photo in the bytes of a file, turned upright as its orientation tag says; of an animation the first frame.

    The tag is EXIF's, or where that has none XMP's, ``tiff:Orientation``, as Pillow's ``exif_transpose`` reads them.

    Grey and CMYK become RGB, 16 bits become 8 by scale, transparency is ignored.

    Of damage is seen: missing bytes, in every kind; wrong checksums (PNG; compressed TIFF); JPEG data that do not fit
    the size, are no code or are left over, as after holes and overwritten parts. What is not seen: damage that leaves
    valid data, which is a changed byte in a JPEG more often than not; anything in BMP and uncompressed TIFF, which
    have no checks; in the middle of WebP, HEIC, AVIF and JPEG XL most but blocks of zeros; in the middle of a JPEG in a
    TIFF of the first kind (compression 6). Where the program that uses this sets Pillow's ``LOAD_TRUNCATED_IMAGES``,
    Pillow tells of less.

    Args:
        data: the whole file.
        where: begins the error's message.
        max_pixels: width times height, by the header before anything is decoded.
        kinds: those of ``KINDS`` that are taken.

    Returns:
        (H, W, 3) uint8 RGB, contiguous.

    Raises:
        UnknownKindError: the bytes do not begin as one of ``kinds``.
        TooManyPixelsError: above ``max_pixels``.
        FacemsmError: empty, truncated or damaged, or the decoder of its kind is not installed.
    """
    if not data:
        raise FacemsmError(f"{where}: is empty (0 bytes); copy or download it again")
    kind = kind_of(data)
    if kind not in kinds or kind is None:
        *first, last = kinds
        names = f"{', '.join(first)} or {last}" if first else last
        raise UnknownKindError(f"{where}: is not a {names} photo, whatever its name; save it as one")

    def check(width: int, height: int) -> None:
        if width * height > max_pixels:
            raise TooManyPixelsError(
                f"{where}: has {width} x {height} pixels, above the limit of {max_pixels / 1e6:.4g} megapixels; "
                "make it smaller"
            )

    try:
        if kind == "JPEG":
            image = _decode_jpeg(data, check)
        elif kind == "PNG":
            image = _decode_png(data, check)
        elif kind in _NO_CHECKS and bytes(_HOLE) in data:
            raise ValueError("a hole")
        else:
            image = _decode_by_pillow(data, kind, check)
    except FacemsmError:
        raise
    except ImportError as error:
        raise FacemsmError(f'{where}: is a {kind} photo, which needs: pip install "facemsm[formats]"') from error
    except Exception as error:  # decoders raise all kinds
        if type(error).__name__ == "DecompressionBombError":
            raise TooManyPixelsError(
                f"{where}: has more pixels than Pillow takes of a {kind}; make it smaller"
            ) from error
        raise FacemsmError(
            f"{where}: is truncated, damaged or of a kind that cannot be read; copy it again or re-save it"
        ) from error
    check(image.shape[1], image.shape[0])  # whatever the header said
    return np.ascontiguousarray(image)


CheckSize = Callable[[int, int], None]
"""Raises an error if width and height are too much."""


def _decode_jpeg(data: bytes, check: CheckSize) -> Image:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    check(width, height)
    scans, exif, xmp = _jpeg_segments(data)
    if scans > MAX_SCANS:
        raise ValueError(f"{scans} scans")
    image: Image
    if colours in ("CMYK", "YCCK"):  # inverted, as Adobe writes them
        cmyk = simplejpeg.decode_jpeg(data, "CMYK").astype(np.uint16)
        ink, key = cmyk[..., :3], cmyk[..., 3:]
        image = (key - ((255 - ink) * key >> 8)).astype(np.uint8)
    else:
        image = simplejpeg.decode_jpeg(data, "RGB")
    return _upright(image, exif, xmp)


def _jpeg_segments(data: bytes) -> tuple[int, bytes, bytes]:
    """The number of scans up to the end mark, the EXIF data and the XMP packet."""
    scans, exif, xmp, at = 0, b"", b"", 2
    while found := _MARKER.search(data, at):
        at, marker = found.end(), data[found.end() - 1]
        if marker == 0xD9:  # end of image
            break
        end = at + int.from_bytes(data[at : at + 2], "big")
        if marker == 0xE1 and not exif and data.startswith(b"Exif\0\0", at + 2):
            exif = data[at + 2 : end]
        elif marker == 0xE1 and not xmp and data.startswith(b"http://ns.adobe.com/xap/1.0/\0", at + 2):
            xmp = data[at + 2 : end]
        scans += marker == 0xDA
        at = end
    return scans, exif, xmp


_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""Without those that have no length: stuffing, TEM, restarts and start of image."""


def _decode_png(data: bytes, check: CheckSize) -> Image:
    """Of the chunks, whose checksums must be right, OpenCV gets those that the pixels need."""
    kept, exif, xmp, at, name = [data[:8]], b"", b"", 8, b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if data[end - 4 : end] != struct.pack(">I", zlib.crc32(memoryview(data)[at + 4 : end - 4])):
            raise ValueError("wrong checksum")
        if name == b"IHDR":
            check(*struct.unpack_from(">II", data, at + 8))
        if name in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            kept.append(data[at:end])
        elif name == b"eXIf":
            exif = data[at + 8 : end - 4]
        elif name == b"iTXt" and data.startswith(b"XML:com.adobe.xmp\0", at + 8):
            xmp = data[at + 8 : end - 4]
        at = end
    return _upright(_decode_by_opencv(b"".join(kept)), exif, xmp)


def _decode_by_opencv(data: bytes) -> Image:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # which versions of OpenCV know for different kinds
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError("not decoded")
    return np.asarray(image, np.uint8)


def _decode_by_pillow(data: bytes, kind: str, check: CheckSize) -> Image:
    module, name = _PLUGINS[kind]
    plugin = import_module(module)
    if not getattr(plugin, "SUPPORTED", True):
        raise ImportError(f"this Pillow has no {kind}")
    if kind == "JPEG XL":  # decoded when it is opened
        check(*_jxl_size(data))
    elif data[8:16] == b"WEBPVP8X":  # has the memory for its canvas when it is opened
        check(int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1)
    # the plugin itself, as Image.open would look through more kinds and has a limit of its own
    with getattr(plugin, name)(io.BytesIO(data)) as photo:
        check(*photo.size)
        if kind == "TIFF" and photo.tag_v2.get(259) == 7:
            _check_jpegs(data, photo.tag_v2, photo.width * photo.height)
        still_webp = kind == "WebP" and photo.n_frames == 1
        image = _decode_by_opencv(data) if still_webp else _rgb(photo)
        return _upright(image, *_metadata(photo))


def _check_jpegs(data: bytes, tags: Mapping[int, Any], pixels: int) -> None:
    """Decode the JPEGs that a TIFF consists of, for the warnings that libtiff keeps to itself."""
    left = 4 * pixels + (1 << 22)  # tiles reach beyond the photo

    def check(width: int, height: int) -> None:
        nonlocal left
        left -= width * height
        if left < 0:
            raise ValueError("JPEGs larger than the TIFF")

    tables = tags.get(347, b"")
    offsets, sizes = (tags.get(324), tags.get(325)) if 324 in tags else (tags.get(273), tags.get(279))
    for offset, size in zip(offsets or (), sizes or (), strict=True):
        strip = data[offset : offset + size]
        _decode_jpeg(tables[:-2] + strip.removeprefix(tables[:2]), check)  # without end and begin between them


def from_pillow(picture: PillowImage, where: str = "picture") -> Image:
    """(H, W, 3) uint8 RGB of a PIL picture, turned upright as its orientation tag says.

    Raises:
        FacemsmError: its file is truncated or damaged, or it has pixels of unknown range.
    """
    try:
        return _upright(_rgb(picture), *_metadata(picture))
    except Exception as error:
        raise FacemsmError(f"{where}: the picture cannot be read ({' '.join(str(error).split())})") from error


def _metadata(photo: PillowImage) -> tuple[bytes, bytes]:
    """EXIF data and the XMP packet whose orientation is still to be followed. Pillow has turned a TIFF."""
    turned = photo.format == "JXL" and not getattr(photo, "jpeg", False)  # by libjxl, unless it holds a JPEG
    if turned or photo.format == "TIFF":
        return b"", b""
    xmp = photo.info.get("xmp")
    return photo.info.get("exif") or b"", xmp if isinstance(xmp, bytes) else b""


def _rgb(photo: PillowImage) -> Image:
    photo.load()
    if photo.mode.startswith("I;16"):
        grey = (np.asarray(photo) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if photo.mode in ("I", "F"):
        raise ValueError("its pixels are of unknown range, not 0 to 255")
    image = np.empty((photo.height, photo.width, 3), np.uint8)
    for top in range(0, photo.height, 64):  # a whole photo would be copied several times
        below = min(top + 64, photo.height)
        image[top:below] = np.asarray(photo.crop((0, top, photo.width, below)).convert("RGB"))
    return image


def _jxl_size(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG XL by the first bits of its codestream (ISO/IEC 18181-1, SizeHeader)."""
    at = 0
    while data[at : at + 2] != b"\xff\x0a":  # boxes of the container, until one holds the codestream
        length, name = struct.unpack_from(">I4s", data, at)
        if name in (b"jxlc", b"jxlp"):
            at += 8 + 4 * (name == b"jxlp") + 8 * (length == 1)
            if data[at : at + 2] != b"\xff\x0a":
                raise ValueError("no codestream")
        elif length < 8:
            raise ValueError("box")
        else:
            at += length
    bits = int.from_bytes(data[at + 2 : at + 12], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & (1 << count) - 1, bits >> count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    height = side()
    ratio = ((), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[take(3)]
    return height * ratio[0] // ratio[1] if ratio else side(), height


def _upright(image: Image, exif: bytes, xmp: bytes) -> Image:
    """Turned as the orientation in EXIF data says, or else that in an XMP packet."""
    orientation = _orientation(exif.removeprefix(b"Exif\0\0"), xmp)
    if orientation in (5, 6, 7, 8):
        image = np.asarray(cv2.transpose(image), np.uint8)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if flip is None else np.asarray(cv2.flip(image, flip), np.uint8)


def _orientation(exif: bytes, xmp: bytes) -> int:
    """Tag 0x0112 of the first directory, else ``tiff:Orientation``; 1, upright, where there is none."""
    order = ">" if exif.startswith(b"MM") else "<"
    with suppress(struct.error):
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == 0x0112:
                return int(struct.unpack_from(f"{order}{'I' if kind == 4 else 'H'}", exif, entry + 8)[0])
    found = re.search(rb"""tiff:Orientation(?:=["']|>)([1-8])""", xmp)
    return int(found[1]) if found else 1
