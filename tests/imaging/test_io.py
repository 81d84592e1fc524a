from __future__ import annotations

import base64
import io
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facemsm.errors import FacemsmError
from facemsm.geometry import check_boxes
from facemsm.imaging.decoding import MAX_PIXELS
from facemsm.imaging.io import as_image, check_image, read_image, write_image
from facemsm.typing import Image

# 16x8, left half (220, 30, 30), right half (30, 30, 220), stored as CMYK the way Photoshop does (inverted)
CMYK_JPEG = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwAbEhQXFBEbFxYXHhwbIChCKyglJShROj0wQmBVZWRfVV1baniZgWpxkHNbXYW1hpCeo6utq2eAvMm6"
    "pseZqKuk/8AAFAgACAAQBEMRAE0RAFkRAEsRAP/EABYAAQEBAAAAAAAAAAAAAAAAAAUGAP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAOBEMA"
    "TQBZAEsAAD8AbBAlMh2XDP/Z"
)


def scene() -> Image:
    """40 high, 60 wide, four plain quarters that no two channels agree on."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, :30], image[:20, 30:] = (220, 30, 60), (30, 200, 90)
    image[20:, :30], image[20:, 30:] = (40, 60, 230), (240, 210, 20)
    return image


def encoded(suffix: str, image: Image, *options: int) -> bytes:
    return bytes(cv2.imencode(suffix, image[..., ::-1], options)[1].tobytes())


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def assert_close(actual: Image, expected: Image, tolerance: int = 12) -> None:
    assert actual.shape == expected.shape
    assert actual.dtype == np.uint8
    assert actual.flags.c_contiguous
    # edges between the quarters ring in JPEG: compare the quarters' centres
    h, w = expected.shape[:2]
    for y, x in ((h // 4, w // 4), (h // 4, 3 * w // 4), (3 * h // 4, w // 4), (3 * h // 4, 3 * w // 4)):
        assert np.abs(actual[y, x].astype(int) - expected[y, x]).max() <= tolerance, (y, x)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_reads_every_kind_whatever_the_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "Zoë 顔.photo"
    path.write_bytes(encoded(suffix, scene()))
    assert_close(read_image(path), scene())
    assert_close(read_image(str(path)), scene())


def test_colour_kinds_become_rgb(tmp_path: Path) -> None:
    path = tmp_path / "photo"
    grey = scene()[..., 0]

    cv2.imencode(".jpg", grey)[1].tofile(path)
    assert_close(read_image(path), np.dstack([grey] * 3))

    rgba = np.dstack([scene(), np.full((40, 60), 7, np.uint8)])
    cv2.imencode(".png", rgba[..., [2, 1, 0, 3]])[1].tofile(path)
    np.testing.assert_array_equal(read_image(path), scene())

    path.write_bytes(CMYK_JPEG)
    image = read_image(path)
    assert image.shape == (8, 16, 3)
    np.testing.assert_allclose(image[4, 3], (220, 30, 30), atol=15)
    np.testing.assert_allclose(image[4, 12], (30, 30, 220), atol=15)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(4, 256)
    for name, array in (("grey.png", ramp), ("rgb.png", np.dstack([ramp] * 3)), ("rgb.tif", np.dstack([ramp] * 3))):
        cv2.imencode(name[-4:], array)[1].tofile(tmp_path / name)
        image = read_image(tmp_path / name)
        assert image.shape == (4, 256, 3)
        np.testing.assert_allclose(image[..., 0], ramp / 257, atol=1)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    upright = scene()
    as_stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }
    for orientation, stored in as_stored.items():
        path.write_bytes(with_orientation(encoded(".jpg", np.ascontiguousarray(stored)), orientation))
        assert_close(read_image(path), upright)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_truncated_photo_is_an_error(
    tmp_path: Path, suffix: str, kept: float, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(suffix, noise, *([cv2.IMWRITE_TIFF_COMPRESSION, 1] if suffix == ".tif" else []))
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(FacemsmError, match=r"photo.*truncated") as error:
        read_image(path)
    assert "\n" not in str(error.value)
    assert "libpng" not in capfd.readouterr().err


def test_files_that_are_no_photo(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a photo at all, only some words")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "magic.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    for name, why in {
        "text.jpg": "is not a JPEG",
        "empty.jpg": r"is empty \(0 bytes\)",
        "folder.jpg": "cannot be read",
        "missing.jpg": "no such file",
        "magic.jpg": "is truncated, damaged",
    }.items():
        with pytest.raises(FacemsmError, match=f"{name}: {why}") as error:
            read_image(tmp_path / name)
        assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_bytes_never_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from([".jpg", ".png", ".webp", ".bmp", ".tif"]))
    content = bytearray(encoded(suffix, scene()))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / f"photo{suffix}"
    path.write_bytes(bytes(content))
    with suppress(FacemsmError):
        image = read_image(path)
        assert image.ndim == 3
        assert image.dtype == np.uint8


def test_as_image_takes_a_photo_in_any_form(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    stored = np.ascontiguousarray(np.rot90(scene()))
    path.write_bytes(with_orientation(encoded(".jpg", stored), 6))
    expected = read_image(path)
    assert_close(expected, scene())
    data = path.read_bytes()
    with path.open("rb") as file:
        for source in (path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), file):
            np.testing.assert_array_equal(as_image(source), expected)
    with PIL.Image.open(path) as picture:
        np.testing.assert_array_equal(as_image(picture), expected)  # turned, as the file itself
        np.testing.assert_array_equal(as_image(picture.convert("RGBA")), expected)
        upright = PIL.ImageOps.exif_transpose(picture)
        np.testing.assert_array_equal(as_image(upright), expected)
        np.testing.assert_array_equal(as_image(upright.convert("L")), np.dstack([np.asarray(upright.convert("L"))] * 3))
    image = scene()
    assert np.shares_memory(as_image(image), image)
    np.testing.assert_array_equal(as_image(image[..., 0]), np.dstack([image[..., 0]] * 3))


def test_as_image_says_what_it_cannot_take(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(".jpg", scene()))
    with (tmp_path / "a.jpg").open(encoding="latin-1") as text, (tmp_path / "a.jpg").open(encoding="utf-8") as utf8:
        closed = io.BytesIO()
        closed.close()
        for source, why in (
            (None, "is None, as cv2.imread returns"),
            (scene().tolist(), "expected a path, bytes, a PIL picture or a NumPy array, not list"),
            (7, "not int"),
            (b"", r"is empty \(0 bytes\)"),
            (b"no photo", "is not a JPEG"),
            (io.BytesIO(), r"is empty \(0 bytes\)"),
            (closed, "cannot be read.*closed"),
            (text, "mode 'rb'"),
            (utf8, "mode 'rb'"),
            (PIL.Image.new("F", (4, 4)), "unknown range"),
        ):
            with pytest.raises(FacemsmError, match=f"photo 3: .*{why}") as error:
                as_image(source, "photo 3")  # type: ignore[arg-type]
            assert "\n" not in str(error.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.jpg")
    for path in (tmp_path / "f.jpg", Path("/dev/zero")):
        with pytest.raises(FacemsmError, match=r"cannot be read \(it is a folder, a pipe or a device\)"):
            read_image(path)


def test_files_above_the_limit_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.write(encoded(".png", scene()))
        file.truncate(1 << 31)
    with pytest.raises(FacemsmError, match=r"a\.png: has 2147483648 bytes, more than the 1073741824 that are read"):
        read_image(tmp_path / "a.png")


def test_names_that_no_file_can_have() -> None:
    with pytest.raises(FacemsmError, match="cannot be read"):
        read_image("a\0b.jpg")
    with pytest.raises(FacemsmError, match="cannot be written"):
        write_image("a\0b.jpg", np.zeros((1, 1, 3), np.uint8))


def test_smallest_photo(tmp_path: Path) -> None:
    write_image(tmp_path / "one.png", np.full((1, 1, 3), (1, 2, 3), np.uint8))
    np.testing.assert_array_equal(read_image(tmp_path / "one.png"), [[[1, 2, 3]]])


def test_hundred_megapixels(tmp_path: Path) -> None:
    stored = np.zeros((10_000, 10_000), np.uint8)
    stored[9_000:, 2_000:3_000] = 255
    cv2.imencode(".jpg", stored)[1].tofile(tmp_path / "big.jpg")
    image = read_image(tmp_path / "big.jpg")
    assert image.shape == (10_000, 10_000, 3)
    assert image[9_500, 2_500].tolist() == [255, 255, 255]
    assert image[8_900, 2_500].tolist() == [0, 0, 0]


def test_a_claimed_size_above_the_limit_is_refused_before_decoding(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    jpeg = bytearray(encoded(".jpg", scene()))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 20_000, 20_000)
    assert MAX_PIXELS < 20_000**2
    for name, data in (("huge.png", png), ("huge.jpg", bytes(jpeg))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FacemsmError, match=f"{name}: has 20000 x 20000 pixels, above the limit of 268"):
            read_image(tmp_path / name)


def test_write_image(tmp_path: Path) -> None:
    write_image(tmp_path / "new" / "ü.png", scene())
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "ü.png"), scene())
    write_image(tmp_path / "new" / "a.jpg", scene())
    assert_close(read_image(tmp_path / "new" / "a.jpg"), scene())
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.jpg", "ü.png"]


def test_write_image_leaves_nothing_behind_on_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FacemsmError, match="cannot be written"):
        write_image(tmp_path / "file" / "a.png", scene())
    with pytest.raises(FacemsmError, match="suffix"):
        write_image(tmp_path / "a.docx", scene())
    with pytest.raises(FacemsmError, match=r"a\.png: pixels are float64"):
        write_image(tmp_path / "a.png", scene() / 255)  # type: ignore[arg-type]
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(FacemsmError, match="cannot be written"):
        write_image(tmp_path / "taken.png", scene())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.png"]


def test_check_image() -> None:
    image = scene()
    np.testing.assert_array_equal(check_image(image), image)
    np.testing.assert_array_equal(check_image(np.dstack([image, image[..., :1]])), image)
    np.testing.assert_array_equal(check_image(image[..., 1]), np.dstack([image[..., 1]] * 3))
    np.testing.assert_array_equal(check_image(image[..., :1]), np.dstack([image[..., 0]] * 3))
    for subclass in (np.asmatrix(image[..., 1]), np.ma.masked_array(image[..., 1])):
        found = check_image(subclass)
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, np.dstack([image[..., 1]] * 3))
    assert check_image(image[::2, ::-1]).flags.c_contiguous
    for wrong, why in (
        (image / 255, "float64.*uint8"),
        (image.transpose(2, 0, 1), r"\(3, 40, 60\).*height, width, 3"),
        (image[None], r"\(1, 40, 60, 3\)"),
        (image[:0], "no pixel"),
        (image.tolist(), "not list.*np.asarray"),
        (None, "is None, as cv2.imread returns"),
    ):
        with pytest.raises(FacemsmError, match=f"frame 3: .*{why}"):
            check_image(wrong, "frame 3")


def test_check_boxes_accepts() -> None:
    boxes = check_boxes([[1, 2, 30, 35], [-500, -5, 0, 900]], (40, 60, 3))
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(boxes, [[1, 2, 30, 35], [-500, -5, 0, 900]])
    assert check_boxes([], (40, 60)).shape == (0, 4)
    assert check_boxes(np.zeros((0, 4)), (40, 60)).shape == (0, 4)
    assert check_boxes([[59.4, 39.4, 70, 70]], (40, 60)).shape == (1, 4)  # the last pixel ends at 59.5, 39.5


@pytest.mark.parametrize(
    ("boxes", "why"),
    [
        ([[0, 0, 9, 9], [1, 2, float("nan"), 4]], r"box 2 of 2, \[1, 2, nan, 4\], is not finite"),
        ([[1, 2, float("inf"), 4]], "is not finite"),
        ([[0, 0, 1e300, 1e300]], "is beyond any photo"),
        ([[-1.1e6, 0, 9, 9]], "is beyond any photo"),
        ([[30, 2, 1, 35]], "has no area"),
        ([[1, 35, 30, 2]], "has no area"),
        ([[5, 5, 5, 9]], "has no area"),
        ([[60, 2, 90, 30]], "lies outside the 60x40 photo"),
        ([[59.5, 2, 90, 30]], "lies outside"),
        ([[1, -30, 30, -0.5]], "lies outside"),
        ([1, 2, 30, 35], "list of"),
        ([[1, 2, 30]], "list of"),
        ([[1, 2, 30], [1, 2, 30, 40]], "list of"),
        (["left"], "list of"),
        ([[10**400, 0, 1, 1]], "list of"),
        (7, "list of"),
    ],
)
def test_check_boxes_refuses(boxes: object, why: str) -> None:
    with pytest.raises(FacemsmError, match=f"photo.jpg: .*{why}") as error:
        check_boxes(boxes, (40, 60, 3), "photo.jpg")  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
