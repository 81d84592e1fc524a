from __future__ import annotations

import importlib.util
import io
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL.PngImagePlugin import PngInfo

from facemsm.errors import FacemsmError
from facemsm.imaging import decoding
from facemsm.imaging.decoding import (
    KINDS,
    MAX_SCANS,
    TooManyPixelsError,
    UnknownKindError,
    decode_image,
    from_pillow,
    kind_of,
)
from facemsm.typing import Image

PILLOW_NAMES = {"JPEG XL": "JXL", "HEIC": "HEIF"}
NEEDED = {"JPEG XL": "pillow_jxl", "HEIC": "pillow_heif"}
LOSSY = {"JPEG": {"quality": 95}, "WebP": {"quality": 95}, "AVIF": {"quality": 90}, "HEIC": {"quality": 90}}


def scene() -> Image:
    """40 high, 60 wide, four plain quarters that no two channels agree on."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, :30], image[:20, 30:] = (220, 30, 60), (30, 200, 90)
    image[20:, :30], image[20:, 30:] = (40, 60, 230), (240, 210, 20)
    return image


def noise(height: int = 64, width: int = 80) -> Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(kind: str, image: Image, **options: Any) -> bytes:
    """A photo of any kind that is read, by Pillow and its plugins."""
    if kind in NEEDED:
        pytest.importorskip(NEEDED[kind], reason="needs the extra 'formats'")
        if kind == "HEIC":
            importlib.import_module("pillow_heif").register_heif_opener()
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, PILLOW_NAMES.get(kind, kind), **{**LOSSY.get(kind, {}), **options})
    return file.getvalue()


def by_opencv(data: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read(kind: str) -> None:
    data = encoded(kind, scene())
    assert kind_of(data) == kind
    image = decode_image(data)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.shape == (40, 60, 3)
    for y, x in ((10, 15), (10, 45), (30, 15), (30, 45)):
        np.testing.assert_allclose(image[y, x].astype(int), scene()[y, x], atol=20)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 3}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_pixels_of_jpegs_are_those_of_opencv(mode: str, options: dict[str, Any]) -> None:
    file = io.BytesIO()
    PIL.Image.fromarray(noise(61, 83)).convert(mode).save(file, "JPEG", **options)
    np.testing.assert_array_equal(decode_image(file.getvalue()), by_opencv(file.getvalue()))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_pixels_of_lossless_kinds_are_those_of_opencv(kind: str, mode: str) -> None:
    file = io.BytesIO()
    picture = PIL.Image.fromarray(noise(61, 83))
    if mode == "I;16":
        picture = PIL.Image.fromarray(noise(61, 83)[..., 0].astype(np.uint16) * 257)
    (picture if mode == "I;16" else picture.convert(mode)).save(file, kind)
    np.testing.assert_array_equal(decode_image(file.getvalue()), by_opencv(file.getvalue()))


@pytest.mark.parametrize("kind", ["WebP", "GIF"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    second = PIL.Image.fromarray(255 - scene())
    data = encoded(kind, scene(), save_all=True, append_images=[second], duration=100)
    np.testing.assert_allclose(decode_image(data)[10, 15], scene()[10, 15], atol=20)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF", "AVIF", "HEIC"])
def test_orientation_is_followed_whatever_opencv_does(
    kind: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = cv2.imdecode

    def as_stored(data: Any, flags: int) -> Any:
        assert flags & cv2.IMREAD_IGNORE_ORIENTATION
        return decode(data, flags)

    monkeypatch.setattr(cv2, "imdecode", as_stored)
    upright = np.concatenate([scene(), scene()[:20] // 2])  # 60 x 60: a square shows no turn by its shape
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    options: Any = exif if kind == "TIFF" else exif.tobytes()
    image = decode_image(encoded(kind, np.ascontiguousarray(stored), exif=options))
    for y in (10, 30, 50):
        for x in (15, 45):
            np.testing.assert_allclose(image[y, x].astype(int), upright[y, x], atol=20)


@pytest.mark.parametrize(
    ("form", "exif", "turned"),
    [
        ('<rdf:Description tiff:Orientation="6"/>', 0, True),
        ("<rdf:Description><tiff:Orientation>6</tiff:Orientation></rdf:Description>", 0, True),
        ('<rdf:Description tiff:Orientation="6"/>', 1, False),
        ('<rdf:Description tiff:Orientation="0"/>', 0, False),
    ],
    ids=["attribute", "element", "EXIF says otherwise", "garbage"],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
def test_an_orientation_in_xmp_alone_is_followed_as_by_pillow(kind: str, form: str, exif: int, turned: bool) -> None:
    packet = f'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/">{form}</x:xmpmeta>'
    tags, text = PIL.Image.Exif(), PngInfo()
    text.add_itxt("XML:com.adobe.xmp", packet)
    if kind == "TIFF":
        tags[700] = packet.encode()
    if exif:
        tags[0x0112] = exif
    data = encoded(kind, scene(), xmp=packet.encode(), pnginfo=text, **({"exif": tags} if len(tags) else {}))
    with PIL.Image.open(io.BytesIO(data)) as picture:
        by_pillow = PIL.ImageOps.exif_transpose(picture)
        assert from_pillow(picture).shape[:2] == ((60, 40) if turned else (40, 60))
    image = decode_image(data)
    assert image.shape[:2] == ((60, 40) if turned else (40, 60))
    np.testing.assert_allclose(image.astype(int), np.asarray(by_pillow.convert("RGB")), atol=20)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_data_of_any_order_and_garbage(order: str) -> None:
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    entry = {3: struct.pack(f"{order}HHIHH", 0x0112, 3, 1, 6, 0), 4: struct.pack(f"{order}HHII", 0x0112, 4, 1, 6)}
    jpeg = encoded("JPEG", noise(16, 24))

    def shape(exif: bytes) -> tuple[int, ...]:
        segment = b"Exif\0\0" + exif
        return decode_image(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]).shape

    for field in entry.values():
        assert shape(mark + struct.pack(f"{order}IH", 8, 1) + field) == (24, 16, 3)
    for garbage in (
        b"",
        mark,
        mark + struct.pack(f"{order}I", 0xFFFFFFFF),
        mark + struct.pack(f"{order}IH", 8, 0xFFFF) + entry[3][:-6],
        mark + struct.pack(f"{order}IH", 8, 1) + struct.pack(f"{order}HHIHH", 0x0112, 3, 1, 99, 0),
        b"\xff" * 40,
    ):
        assert shape(garbage) == (16, 24, 3)


def test_a_jpeg_within_jpeg_xl_is_turned_once() -> None:
    pytest.importorskip("pillow_jxl", reason="needs the extra 'formats'")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    jpeg = encoded("JPEG", noise(16, 24), exif=exif)
    encoder = importlib.import_module("pillow_jxl").Encoder(
        mode="RGB",
        lossless=True,
        quality=100,
        decoding_speed=0,
        effort=7,
        use_container=True,
        use_original_profile=False,
        num_threads=1,
    )
    np.testing.assert_array_equal(decode_image(encoder(jpeg, 24, 16, jpeg_encode=True)), decode_image(jpeg))


# --- Limits ---


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_limited_before_decoding(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(kind, noise())
    assert decode_image(data, max_pixels=64 * 80).shape == (64, 80, 3)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(decoding, "_rgb", lambda *_: pytest.fail("decoded"))
    with pytest.raises(TooManyPixelsError, match=r"a photo: has 80 x 64 pixels, above the limit of 0\.005119 me"):
        decode_image(data, "a photo", max_pixels=64 * 80 - 1)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (256, 256), (300, 200), (640, 360), (9000, 7), (1000, 800), (7, 600)])
@pytest.mark.parametrize("container", [False, True])
def test_the_size_of_jpeg_xl_is_known_before_it_is_decoded(size: tuple[int, int], container: bool) -> None:
    data = encoded("JPEG XL", np.zeros((size[1], size[0], 3), np.uint8), use_container=container)
    assert decoding._jxl_size(data) == size


def test_the_decoded_size_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_decode_jpeg", lambda *_: noise())  # as a decoder that reads the header differently
    with pytest.raises(TooManyPixelsError):
        decode_image(encoded("JPEG", noise(8, 8)), max_pixels=64 * 80 - 1)


def test_kinds_that_are_not_taken() -> None:
    data = encoded("GIF", noise())
    with pytest.raises(UnknownKindError, match="a: is not a JPEG or PNG photo"):
        decode_image(data, "a", kinds=("JPEG", "PNG"))
    for other in (b"hello", b"RIFF\x24\0\0\0WAVEfmt ", b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", b"\xff\xd8", b"<svg>"):
        with pytest.raises(UnknownKindError, match="is not a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, HEIC or JPEG XL"):
            decode_image(other)


@pytest.mark.parametrize("kind", NEEDED)
def test_a_missing_decoder_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"HEIC": b"\0\0\0\x18ftypheic" + bytes(500), "JPEG XL": b"\xff\x0a" + bytes(50)}[kind]
    monkeypatch.setitem(sys.modules, NEEDED[kind], None)
    monkeypatch.delitem(sys.modules, "pillow_jxl.JpegXLImagePlugin", raising=False)
    with pytest.raises(FacemsmError, match=rf'IMG_1: is a {kind} photo, which needs: pip install "facemsm\[formats\]"'):
        decode_image(data, "IMG_1")


def scans_jpeg(count: int, side: int = 64) -> bytes:
    """A grey progressive JPEG whose scans repeat the same empty coefficients."""
    blocks = (side // 8) ** 2
    head = b"\xff\xd8\xff\xc2" + struct.pack(">HBHHB3B", 11, 8, side, side, 1, 1, 0x11, 0)
    head += b"\xff\xdb\0\x43\0" + b"\x10" * 64
    for table, symbol in ((0x00, 0x00), (0x10, 0xE0)):
        head += b"\xff\xc4" + struct.pack(">H", 20) + bytes([table, 1] + [0] * 15 + [symbol])
    head += b"\xff\xda\0\x08\1\1\0\0\0\0" + bytes((blocks + 7) // 8)
    bits = ("0" + "1" * 14) * -(-blocks // 32767)  # runs of 32767 blocks without a coefficient
    bits += "1" * (-len(bits) % 8)
    body = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
    return head + (b"\xff\xda\0\x08\1\1\0\1\x3f\0" + body) * count + b"\xff\xd9"


def test_scans_are_limited() -> None:
    assert decoding._jpeg_segments(scans_jpeg(7))[0] == 8
    for count in (MAX_SCANS, 30_000):
        with pytest.raises(FacemsmError, match="damaged"):
            decode_image(scans_jpeg(count))
    # marks after the end, in a thumbnail or in a camera's own data are no scans
    jpeg = encoded("JPEG", noise())
    own = b"\xff\xe4" + struct.pack(">H", 2 + 200) + b"\xff\xda" * 100
    np.testing.assert_array_equal(decode_image(jpeg[:2] + own + jpeg[2:] + own * 9), decode_image(jpeg))


def bombs() -> dict[str, bytes]:
    """Small files that ask for gigabytes."""
    small = encoded("JPEG", noise())
    frame = small.index(b"\xff\xc0")
    length = 2 + int.from_bytes(small[frame + 2 : frame + 4], "big")
    huge = small[frame : frame + 5] + struct.pack(">HH", 30_000, 30_000) + small[frame + 9 : frame + length]
    fields = [(256, 4, 1, 32_000), (257, 4, 1, 32_000), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)]
    fields += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 32_000), (279, 4, 1, 99)]
    tiff = b"II*\0" + struct.pack("<IH", 8, len(fields)) + b"".join(struct.pack("<HHII", *field) for field in fields)
    bmp = struct.pack("<IHHIIiiHHIIiiII", 1080, 0, 0, 1078, 40, 30_000, 30_000, 1, 8, 1, 2, 0, 0, 256, 0)
    return {
        "chunk.png": png_header(64, 64) + struct.pack(">I", 0xFFFFFFF0) + b"IDAT" + b"x" * 8 + b"IEND",
        "size.png": png_header(30_000, 30_000) + png_chunk(b"IDAT", zlib.compress(bytes(9))) + png_chunk(b"IEND", b""),
        "two headers.png": png_header(64, 64) + png_header(30_000, 30_000)[8:] + png_chunk(b"IEND", b""),
        "size.jpg": small[:frame] + huge + small[frame + length :],
        "fill bytes.jpg": small[:frame] + b"\xff\xff\xff" + huge + small[frame + length :],
        "two frames.jpg": small[:frame] + huge + small[frame:],
        "two frames, small first.jpg": small[: frame + length] + huge + small[frame + length :],
        "garbage.jpg": small[:3] + b"\xe0\0\2xx" + huge + small[2:],
        "size.tif": tiff + bytes(4) + bytes(99),
        "size.bmp": b"BM" + bmp + bytes(1024) + b"\0\1",
        "size.webp": b"RIFF\x30\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\x00" * 2 + encoded("WebP", noise())[12:],
        "size.gif": b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + encoded("GIF", noise())[10:],
        "size.jxl": b"\xff\x0a" + (0b0_11 << 1 | (1 << 30) - 1 << 3).to_bytes(8, "little") + bytes(50),
        "scans.jpg": scans_jpeg(30_000, 2000),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="measures the memory as Linux counts it")
def test_bombs_cost_no_memory(tmp_path: Any) -> None:
    for name, data in bombs().items():
        (tmp_path / name).write_bytes(data)
    code = """
import resource, sys
from pathlib import Path
from facemsm.errors import FacemsmError
from facemsm.imaging.io import read_image
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
read_image(sys.argv[2])  # the decoders' own share
for path in sorted(Path(sys.argv[1]).iterdir()):
    before = peak()
    try:
        print(path.name, "read", read_image(path).shape)
    except FacemsmError as error:
        assert path.name in str(error), error
    if peak() - before > 60:
        print(path.name, "took", peak() - before, "MB")
"""
    good = tmp_path.parent / "good.jpg"
    good.write_bytes(encoded("JPEG", noise(600, 800)))
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(good)], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, ""), run.stderr


# --- Damage ---


def damaged(data: bytes, end: bytes) -> dict[str, bytes]:
    half = len(data) // 2
    return {
        "second half missing": data[:half],
        "second half zeros": data[:half] + bytes(len(data) - half),
        "second half missing, ended": data[:half] + end,
        "a hole": data[:half] + bytes(4096) + data[half + 4096 :],
        "two bytes missing": data[:-2],
    }


@pytest.mark.parametrize("progressive", [False, True])
def test_damage_of_a_jpeg_is_seen(progressive: bool) -> None:
    smooth = np.asarray(cv2.resize(noise(20, 25), (500, 400), interpolation=cv2.INTER_CUBIC), np.uint8)
    data = encoded("JPEG", smooth, progressive=progressive)
    assert decode_image(data).shape == (400, 500, 3)
    assert decode_image(data + b"a camera's own data").shape == (400, 500, 3)
    for what, photo in damaged(data, b"\xff\xd9").items():
        with pytest.raises(FacemsmError, match="truncated, damaged"):
            pytest.fail(f"{what}: {decode_image(photo).shape}")


def test_damage_of_a_png_is_seen() -> None:
    data = encoded("PNG", noise())
    for what, photo in damaged(data, png_chunk(b"IEND", b"")).items():
        with pytest.raises(FacemsmError, match="truncated, damaged"):
            pytest.fail(f"{what}: {decode_image(photo).shape}")
    for at in range(29, len(data), 97):  # any byte behind the size
        with pytest.raises(FacemsmError):
            decode_image(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_checksums_of_an_animated_png_count() -> None:
    data = encoded("PNG", noise(), save_all=True, append_images=[PIL.Image.fromarray(255 - noise())])
    np.testing.assert_array_equal(decode_image(data), noise())
    at = data.index(b"fdAT") + 100
    with pytest.raises(FacemsmError, match="damaged"):
        decode_image(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


@pytest.mark.parametrize("kind", KINDS)
def test_missing_bytes_are_seen_in_every_kind(kind: str) -> None:
    data = encoded(kind, noise())
    for kept in (0.2, 0.6, 0.95):
        with pytest.raises(FacemsmError):
            decode_image(data[: int(len(data) * kept)])


@pytest.mark.parametrize(
    ("kind", "options"),
    [*((kind, {}) for kind in KINDS if kind not in ("JPEG", "BMP", "TIFF")), ("WebP", {"lossless": True})]
    + [("TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")],
)
def test_zeros_where_data_were_never_copied_are_seen(kind: str, options: dict[str, Any]) -> None:
    data = encoded(kind, noise(300, 400), **options)
    assert decode_image(data).shape == (300, 400, 3)
    for what in ("second half zeros", "a hole"):
        with pytest.raises(FacemsmError, match="truncated, damaged"):
            pytest.fail(f"{what}: {decode_image(damaged(data, b'')[what]).shape}")


@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr", "CMYK"])
def test_jpegs_in_a_tiff(mode: str) -> None:
    smooth = np.asarray(cv2.resize(noise(20, 25), (500, 400), interpolation=cv2.INTER_CUBIC), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(smooth).convert(mode).save(file, "TIFF", compression="jpeg", quality=90)
    data = file.getvalue()
    assert decode_image(data).shape == (400, 500, 3)
    first, half = data.index(b"\xff\xda"), len(data) // 2
    for damage in (data[:half] + bytes(2048) + data[half + 2048 :], data[: first + 40] + data[first + 60 :]):
        with pytest.raises(FacemsmError, match="damaged"):
            decode_image(damage)


def test_jpegs_larger_than_their_tiff() -> None:
    data = encoded("TIFF", noise(16, 16), compression="jpeg")
    at = data.index(b"\xff\xc0") + 5
    for height, width in ((3000, 3000), (65535, 65535)):
        with pytest.raises(FacemsmError, match="damaged"):
            decode_image(data[:at] + struct.pack(">HH", height, width) + data[at + 4 :])


@pytest.mark.parametrize("kind", KINDS)
def test_even_photos_are_not_taken_for_damaged(kind: str) -> None:
    assert decode_image(encoded(kind, np.full((1500, 2000, 3), 255, np.uint8))).shape == (1500, 2000, 3)


# --- Anything ---

SEEDS = [kind for kind in KINDS if kind not in NEEDED or importlib.util.find_spec(NEEDED[kind])]
PARTS = st.sampled_from(
    [b"\xff" * 4, b"\xff\xff\xff\xf0", b"\0\0\0\1", b"\x7f\xff\xff\xff", b"\0\0\x75\x30", b"\0", b"\xff"]
)


@pytest.mark.parametrize("kind", SEEDS)
def test_mutated_headers_are_refused_or_read(kind: str) -> None:
    content = encoded(
        kind, noise(), **({"exif": PIL.Image.Exif().tobytes()} if kind in ("JPEG", "PNG", "WebP") else {})
    )

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        photo = bytearray(content)
        for _ in range(data.draw(st.integers(1, 5))):
            at = data.draw(st.integers(0, min(300, len(photo) - 1)))
            part = data.draw(PARTS | st.binary(min_size=1, max_size=4))
            cut = data.draw(st.sampled_from([len(part), 0, len(part) + 7]))  # overwrites, inserts or takes away
            photo[at : at + cut] = part
        with suppress(FacemsmError):
            image = decode_image(bytes(photo), max_pixels=10**6)
            assert image.dtype == np.uint8
            assert image.shape[0] * image.shape[1] <= 10**6

    run()
