"""Training faces in one file."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from facemsm.data.catalogue import load_dataset
from facemsm.data.pack import MAX_LABEL, PackedCrop, write_pack
from facemsm.data.packing import packed_faces
from facemsm.data.sources import Source, faces_per_photo, photo_key
from facemsm.errors import AbsentError, FacemsmError
from facemsm.geometry import apply_affine, fit_similarity
from facemsm.imaging.warping import warp
from facemsm.schemes import OCCLUDED, UNLABELLED
from facemsm.training.faces import load_faces
from official_files import write_300w
from synthetic_faces import write_faces


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    write_faces(tmp_path / "drawn", 12)
    return tmp_path / "drawn"


def pack(*sources: str, to: Path) -> int:
    return write_pack(packed_faces([Source.parse(source) for source in sources]), to)


def test_faces_are_what_they_were(drawn: Path, tmp_path: Path) -> None:
    file = tmp_path / "faces.tar"
    assert pack(f"aflw2000={drawn}:train", to=file) == 12
    for boxes in ("gt", "provided"):
        before = load_dataset("aflw2000", drawn, "train", boxes)
        after = load_dataset("pack", file, "aflw2000", boxes, "68")
        assert [face.name for face in after] == [face.name for face in before]
        for old, new in zip(before, after, strict=True):
            to_crop = fit_similarity(old.points, new.points)
            np.testing.assert_allclose(apply_affine(to_crop, old.points), new.points, atol=0.02)
            np.testing.assert_allclose(apply_affine(to_crop, old.box.reshape(2, 2)).ravel(), new.box, atol=0.1)
            assert new.convention == "aflw2000"
            crop = new.load()
            expected = warp(old.load(), to_crop, len(crop))
            assert np.abs(crop.astype(int) - expected).mean() < 6  # grey levels: JPEG


def test_visibility_and_gaps_are_kept(drawn: Path, tmp_path: Path) -> None:
    packed = next(packed_faces([Source("aflw2000", str(drawn), "train")]))
    points, visibility = packed.face.points.copy(), np.full(68, 2, np.int8)
    points[3], visibility[3], visibility[5] = np.nan, UNLABELLED, OCCLUDED
    face = replace(packed.face, points=points, visibility=visibility)
    write_pack([replace(packed, face=face)], tmp_path / "one.tar")
    (again,) = load_dataset("pack", tmp_path / "one.tar", "all", "gt", "68")
    assert again.visibility is not None
    np.testing.assert_array_equal(again.visibility, visibility)
    np.testing.assert_array_equal(np.isnan(again.points[:, 0]), np.isnan(points[:, 0]))


def test_the_same_faces_are_held_out(drawn: Path, tmp_path: Path) -> None:
    """AFW's photos with several faces among them: all of a photo fall on one side, as they did."""
    write_300w(tmp_path / "300w", {"afw": [f"{n}_{i}.jpg" for n in range(20) for i in (1, 2)]})
    file = tmp_path / "faces.tar"
    pack(f"300w={tmp_path / '300w'}:train", f"aflw2000={drawn}:train", to=file)
    plain = [Source("300w", str(tmp_path / "300w"), "train"), Source("aflw2000", str(drawn), "train")]
    packed = [Source("pack", str(file), "300w"), Source("pack", str(file), "aflw2000")]
    before, after = (load_faces(s, box_source="gt", scheme="68", holdout=0.3) for s in (plain, packed))
    assert [f.name for f in before.validation] == [f.name for f in after.validation]
    assert before.validation
    assert before.conventions == after.conventions == ("300w", "aflw2000")
    assert {face.convention for face in after.training} == {"300w/afw", "aflw2000"}
    shared = faces_per_photo(after.training)
    assert all(isinstance(face.image, PackedCrop) for face in after.training)
    assert {photo_key(face, shared) for face in after.training}.isdisjoint(
        {photo_key(face, shared) for face in after.validation}
    )


def test_files_that_are_no_pack(drawn: Path, tmp_path: Path) -> None:
    file = tmp_path / "faces.tar"
    pack(f"aflw2000={drawn}:train", to=file)
    with pytest.raises(AbsentError, match="holds no face of wflw, only of aflw2000"):
        load_dataset("pack", file, "wflw", "gt", "68")
    with pytest.raises(AbsentError, match="facemsm data pack"):
        load_dataset("pack", tmp_path / "none.tar", "all", "gt", "68")
    with pytest.raises(FacemsmError, match="68 points, expected 29"):
        load_dataset("pack", file, "all", "gt", "29")
    whole = file.read_bytes()
    for content in (b"", b"text", whole[:3000], whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(FacemsmError, match=r"faces\.tar"):
            load_dataset("pack", file, "all", "gt", "68")
    with tarfile.open(file, "w"):
        pass
    with pytest.raises(AbsentError, match="only of no set"):
        load_dataset("pack", file, "all", "gt", "68")


def archive(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


LABEL = {"set": "300w", "name": "a", "photo": "a", "scheme": "68", "points": [[1, 2]] * 68, "visibility": None}
BOX = {"boxes": {"gt": [1, 2, 30, 40], "provided": None}}


@pytest.mark.parametrize(
    "label",
    [
        b"[" * 100_000,
        b"null",
        json.dumps({**LABEL, "boxes": []}).encode(),
        json.dumps({**LABEL, **BOX, "visibility": [300] * 68}).encode(),
        b" " * (MAX_LABEL + 1) + b"{}",
    ],
    ids=["deep", "null", "boxes", "visibility", "large"],
)
def test_labels_that_are_none(label: bytes, tmp_path: Path) -> None:
    file = archive(tmp_path / "faces.tar", {"1.jpg": b"x", "1.json": label})
    with pytest.raises(FacemsmError, match=r"faces\.tar: not a whole file"):
        load_dataset("pack", file, "all", "gt", "68")


def test_a_packed_archive_is_refused(tmp_path: Path) -> None:
    file = archive(tmp_path / "faces.tar", {"1.json": b"{}"}, "w:gz")
    file.write_bytes(file.read_bytes() + bytes(1024))
    with pytest.raises(FacemsmError, match=r"faces\.tar: not a whole file"):
        load_dataset("pack", file, "all", "gt", "68")


def test_a_crop_larger_than_any_is_refused_undecoded(tmp_path: Path) -> None:
    photo = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    at = photo.index(b"\xff\xc0") + 5
    photo = photo[:at] + struct.pack(">HH", 60000, 60000) + photo[at + 4 :]
    file = archive(tmp_path / "faces.tar", {"1.jpg": photo, "1.json": json.dumps({**LABEL, **BOX}).encode()})
    (face,) = load_dataset("pack", file, "all", "gt", "68")
    with pytest.raises(FacemsmError, match="60000 x 60000 pixels, above the limit"):
        face.load()


def test_a_crop_that_is_gone_is_named(drawn: Path, tmp_path: Path) -> None:
    file = tmp_path / "faces.tar"
    pack(f"aflw2000={drawn}:train", to=file)
    face = load_dataset("pack", file, "all", "gt", "68")[-1]
    assert isinstance(face.image, PackedCrop)
    for size in (face.image.offset + 1000, 4000):
        os.truncate(file, size)
        with pytest.raises(
            FacemsmError, match=rf"faces\.tar: holds no whole crop at byte {face.image.offset}; copy it"
        ):
            face.load()
