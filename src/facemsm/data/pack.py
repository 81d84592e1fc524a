"""Training faces as one file: crops and labels in a tar archive of WebDataset's form.

Face n is two members, ``n.jpg`` and ``n.json``; the latter holds ``set``, ``name``, ``photo`` (what the faces of one
photo have in common), ``scheme``, ``points`` (L of x, y or null), ``visibility`` (L of COCO's values, or null) and
``boxes`` (``gt`` and ``provided``, or null), in 0-based pixels of the crop. One file is quickly copied to another
machine, and a crop is decoded faster than the photo it was cut from.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facemsm.data.completion import to_68
from facemsm.data.reading import DatasetItem, Skipped, check_box, try_read
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import AbsentError, FacemsmError
from facemsm.files import atomic_write, reading
from facemsm.geometry import apply_affine, tight_box
from facemsm.imaging.decoding import decode_image
from facemsm.imaging.warping import warp
from facemsm.schemes import LandmarkScheme
from facemsm.typing import FloatArray, Image

SIDE, MARGIN, QUALITY = 208, 2.1, 70
"""Of a crop: largest side in pixels, side over the face box's larger side (room for all that training's jitter asks
for), and JPEG quality."""

MAX_PIXELS, MAX_LABEL = 1 << 24, 1 << 20
"""Most of a crop, and most bytes of a label: far above what is written, below what a forged file can claim."""

SETS = ("300w", "aflw2000", "wflw", "cofw", "ytf", "coco", "csv", "pts")
"""Data sets that may be in a pack."""


@dataclass(frozen=True)
class Packed:
    """A face to be packed: its set, what its photo's faces have in common, both boxes."""

    face: FaceSample
    set: str
    scheme: str
    photo: str
    provided: FloatArray | None


@dataclass(frozen=True)
class PackedCrop:
    """The crop of a face in a pack. The file is opened anew by each call, so samples may go to worker processes."""

    path: Path
    offset: int
    size: int
    photo: str

    def __call__(self) -> Image:
        """The crop, (S, S, 3) uint8 RGB.

        Raises:
            FacemsmError: the file is gone or damaged.
        """
        with reading(self.path), self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise FacemsmError(f"{self.path}: holds no whole crop at byte {self.offset}; copy it again")
        return decode_image(data, f"{self.path}: crop at byte {self.offset}", max_pixels=MAX_PIXELS, kinds=("JPEG",))


def write_pack(faces: Iterable[Packed], path: Path, *, side: int = SIDE, quality: int = QUALITY) -> int:
    """Write faces one by one; the file appears whole or not at all.

    Args:
        faces: their photos are opened one by one.
        path: the ``.tar`` file.
        side: largest side of a crop, px; smaller faces are not enlarged.
        quality: of JPEG, 1 to 100.

    Returns:
        How many were written.

    Raises:
        FacemsmError: a photo cannot be read, or the file cannot be written.
    """
    count = 0
    with atomic_write(path) as partial, tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
        for count, packed in enumerate(faces, 1):
            crop, label = _cut(packed, side)
            bgr = cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)
            data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            for suffix, content in (("jpg", data), ("json", json.dumps(label, separators=(",", ":")).encode())):
                member = tarfile.TarInfo(f"{count:06d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return count


def _cut(packed: Packed, side: int) -> tuple[Image, dict[str, Any]]:
    face = packed.face
    corners = [tight_box(face.points)] if np.isfinite(face.points).any() else []
    corners += [box for box in (face.box, packed.provided) if box is not None]
    low, high = np.min([box[:2] for box in corners], axis=0), np.max([box[2:] for box in corners], axis=0)
    extent = MARGIN * max(float((high - low).max()), 1.0)
    size = min(side, int(np.ceil(extent)))
    scale = size / extent
    matrix = np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]])
    matrix[:, 2] = (size - 1) / 2 - scale * (low + high) / 2

    def moved(box: FloatArray | None) -> list[float] | None:
        return None if box is None else apply_affine(matrix, box.reshape(2, 2)).round(2).ravel().tolist()

    points = apply_affine(matrix, face.points).round(2)
    label = {
        "set": packed.set,
        "name": face.name,
        "convention": face.convention,
        "photo": packed.photo,
        "scheme": packed.scheme,
        "points": [point if np.isfinite(point).all() else None for point in points.tolist()],
        "visibility": None if face.visibility is None else face.visibility.tolist(),
        "boxes": {"gt": moved(face.box), "provided": moved(packed.provided)},
    }
    return warp(face.load(), matrix, size), label


def read_pack(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:
    """The faces of a data set in a pack; of all if the split is ``all``. 98 points serve as 68.

    Raises:
        AbsentError: there is no such file, or it holds no face of the set.
        FacemsmError: it is no pack.
    """
    if not root.is_file():
        raise AbsentError(f"{root}: no such file; make it with 'facemsm data pack'")
    sets: set[str] = set()
    with reading(root), root.open("rb") as file:
        file.seek(max(0, root.stat().st_size - 1024))
        if file.read() != bytes(1024):  # an archive ends in two empty blocks; without them tarfile reads what is there
            raise FacemsmError(f"{root}: not a whole file of 'facemsm data pack'; copy it again")
    try:
        with tarfile.open(root, "r:") as archive:  # not packed, which could hold anything
            members = [member for member in archive if member.isfile()]
            crops = {m.name.removesuffix(".jpg"): m for m in members if m.name.endswith(".jpg")}
            for member in members:
                if member.name.endswith(".json"):
                    content = archive.extractfile(member)
                    if content is None or member.size > MAX_LABEL:
                        raise ValueError(f"{member.name} is no label")
                    label = json.loads(content.read())
                    sets.add(label["set"])
                    if split in (label["set"], "all"):
                        crop = crops[member.name.removesuffix(".json")]
                        yield try_read(_face, label, root, crop, box_source, scheme.count)
    except (
        *(tarfile.TarError, OSError, ValueError, KeyError, TypeError),
        *(AttributeError, OverflowError, RecursionError),
    ) as error:
        raise FacemsmError(
            f"{root}: not a whole file of 'facemsm data pack' ({type(error).__name__}: {error})"
        ) from error
    if split not in sets and not (split == "all" and sets):
        raise AbsentError(f"{root}: holds no face of {split}, only of {', '.join(sorted(sets)) or 'no set'}")


def _face(
    label: dict[str, Any], root: Path, crop: tarfile.TarInfo, box_source: BoxSource, count: int
) -> FaceSample | Skipped:
    name, boxes = f"{label['name']}", label["boxes"]
    box = boxes["provided" if box_source == "provided" else "gt"]
    if box is None:
        return Skipped(name, "face without provided box")
    points = np.array([(np.nan, np.nan) if point is None else point for point in label["points"]], np.float32)
    visibility = None if label["visibility"] is None else np.array(label["visibility"], np.int8)
    if len(points) == 98 and count == 68:
        points, visibility = to_68(points), None
    if points.shape != (count, 2) or (visibility is not None and visibility.shape != (count,)):
        raise FacemsmError(f"{root}: {name} has {len(points)} points, expected {count}")
    photo = PackedCrop(root, crop.offset_data, crop.size, label["photo"])
    checked = check_box(np.array(box, np.float64), f"{root}: {name}")
    habit = f"{label.get('convention') or label['set']}"  # packs of before name the set alone
    return FaceSample(name, photo, checked, box_source, points, visibility, convention=habit)
