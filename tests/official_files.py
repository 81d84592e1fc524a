"""Small files in exactly the formats the data sets are published in, for tests. Points in and out are 0-based."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facemsm.typing import FloatArray, Image

WIDTH, HEIGHT = 80, 64


def points(count: int, seed: int = 0) -> FloatArray:
    """(count, 2) float32 inside the photo, three decimals at most, so that text files hold them exactly."""
    rng = np.random.default_rng(seed)
    return np.round(rng.uniform((4, 4), (WIDTH - 5, HEIGHT - 5), (count, 2)), 3).astype(np.float32)


def photo(seed: int = 0) -> Image:
    """(HEIGHT, WIDTH, 3) uint8 RGB of noise: no two channels, rows or columns alike."""
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def write_photo(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, photo(seed)[..., ::-1])[1].tobytes())


def pts_text(shape: FloatArray, *, gap: str = " ", newline: str = "\n") -> str:
    lines = ["version: 1", f"n_points:{gap}{len(shape)}", "{", *(f"{x + 1:.3f} {y + 1:.3f}" for x, y in shape), "}"]
    return newline.join(lines) + newline


def write_300w(root: Path, parts: Mapping[str, Sequence[str]] | None = None, count: int = 68) -> None:
    """300-W's folders with photo, ``.pts`` and boxes; ``parts`` maps folders to names of photos."""
    parts = parts or {
        "afw": ["134212_1.jpg", "134212_2.jpg"],
        "helen/trainset": ["100032540_1.jpg"],
        "helen/testset": ["296814969_3.jpg"],
        "lfpw/trainset": ["image_0001.png"],
        "lfpw/testset": ["image_0001.png", "image_0002.png"],
        "ibug": ["image_092 _01.jpg", "image_100_1.jpg"],
    }
    for part, names in parts.items():
        boxes = {}
        for seed, name in enumerate(names):
            path = root / part / name
            write_photo(path, seed)
            path.with_suffix(".pts").write_text(pts_text(points(count, seed), gap="  " if part == "afw" else " "))
            boxes[name] = ((3.5 + seed, 4.25, 60.5 + seed, 62.0), (5.0 + seed, 6.0, 70.0 + seed, 60.0))
        write_box_mat(root / f"bounding_boxes_{part.replace('/', '_')}.mat", boxes)


def write_box_mat(path: Path, boxes: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """The box file: MATLAB 5, a 1xN cell of structs. ``boxes``: name -> (detector, ground truth), 1-based."""
    from scipy.io import savemat

    cell = np.empty((1, len(boxes)), dtype=object)
    for i, (name, (detector, truth)) in enumerate(boxes.items()):
        cell[0, i] = {
            "imgName": name,
            "bb_detector": np.array([detector], float),
            "bb_ground_truth": np.array([truth], float),
        }
    savemat(path, {"bounding_boxes": cell}, do_compression=True)


def write_cofw(root: Path, split: str, count: int = 3, *, grey: Sequence[int] = (1,)) -> None:
    """COFW's MATLAB 7.3 file of a split, with its 512-byte block before the HDF5; photos in ``grey`` are 2-D."""
    import h5py

    tail = "Tr" if split == "train" else "T"
    path = root / f"COFW_{split}_color.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        cells = file.create_dataset(f"Is{tail}", (1, count), dtype=h5py.ref_dtype)
        phis = np.empty((87, count))
        for i in range(count):
            image = photo(i)[..., 0] if i in grey else photo(i)
            stored = file.create_dataset(f"#refs#/{i}", data=np.ascontiguousarray(image.T))
            stored.attrs["MATLAB_class"] = np.bytes_("uint8")
            cells[0, i] = stored.ref
            phis[:29, i], phis[29:58, i] = points(29, i).T + 1
            phis[58:, i] = occluded(29, i)
        file[f"phis{tail}"] = phis
        file[f"bboxes{tail}"] = np.array([[5.0, 7.0, 50.0, 40.0]] * count).T
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan 1 00:00:00 2018 HDF5 schema 1.00 ."
    with path.open("r+b") as raw:
        raw.write(header.ljust(116) + bytes(8) + b"\x00\x02IM")


def occluded(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(count,) uint8, 1 where a point is occluded."""
    return np.random.default_rng(seed).integers(0, 2, count, dtype=np.uint8)


def write_cofw68(root: Path, count: int = 3) -> None:
    """The COFW-68 benchmark's annotations and boxes, MATLAB 5."""
    from scipy.io import savemat

    folder = root / "COFW68_Data" / "test_annotations"
    folder.mkdir(parents=True)
    for n in range(1, count + 1):
        content = {"Points": points(68, n).astype(float) + 1, "Occ": occluded(68, n)[None]}
        savemat(folder / f"{n}_points.mat", content, do_compression=True)
    boxes = np.array([[5 + n, 7, 50, 40] for n in range(1, count + 1)], np.int16)
    savemat(root / "COFW68_Data" / "cofw68_test_bboxes.mat", {"bboxes": boxes})


def wflw_line(shape: FloatArray, flags: Sequence[int], name: str) -> str:
    coordinates = " ".join(f"{value:.6f}" for value in shape.ravel())
    return f"{coordinates} 5 7 70 60 {' '.join(map(str, flags))} {name}\n"


def write_wflw(root: Path) -> None:
    """WFLW's lists and photos: two train faces in one photo, three test faces with different attributes."""
    lists = root / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    lists.mkdir(parents=True)
    train, test = "0--Parade/0_Parade_a_1.jpg", "1--Handshaking/1_Handshaking_b_2.jpg"
    for seed, name in enumerate((train, test)):
        write_photo(root / "WFLW_images" / name, seed)
    lines = [wflw_line(points(98, seed), [0] * 6, train) for seed in range(2)]
    (lists / "list_98pt_rect_attr_train.txt").write_text("".join(lines))
    flags = [[1, 0, 0, 0, 1, 0], [0, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1]]
    lines = [wflw_line(points(98, seed), flags[seed], test) for seed in range(3)]
    (lists / "list_98pt_rect_attr_test.txt").write_text("".join(lines))


def coco_content(count: int = 5) -> dict[str, Any]:
    """A COCO keypoints file: two faces in ``a.jpg``, one in ``b.jpg`` with an unlabelled and an occluded point."""
    annotations: list[dict[str, Any]] = []
    for key, photo_key in ((1, 1), (2, 1), (3, 2)):
        keypoints = np.column_stack([points(count, key), np.full(count, 2)]).astype(float)
        if key == 3:
            keypoints[0], keypoints[1, 2] = 0, 1
        annotations.append(
            {
                **{"id": key, "image_id": photo_key, "category_id": 1, "iscrowd": 0, "bbox": [5.0, 6.0, 50.0, 40.0]},
                **{"area": 2000.0, "num_keypoints": count - (key == 3), "keypoints": keypoints.ravel().tolist()},
            }
        )
    images = [
        {"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in ((1, "a.jpg"), (2, "b.jpg"))
    ]
    category = {"id": 1, "name": "face", "keypoints": [str(i) for i in range(count)], "skeleton": []}
    return {"images": images, "annotations": annotations, "categories": [category]}


def write_coco(root: Path, content: Mapping[str, Any] | None = None, count: int = 5) -> Path:
    for seed, name in enumerate(("a.jpg", "b.jpg")):
        write_photo(root / "images" / name, seed)
    path = root / "faces.json"
    path.write_text(json.dumps(content or coco_content(count)))
    return path


def write_csv(root: Path, count: int = 29) -> Path:
    """Two faces in a CSV file: the first with an unlabelled point, boxes, visibility and an attribute."""
    names = [f"{axis}{i}" for i in range(count) for axis in "xy"]
    header = ["image", *names, *(f"v{i}" for i in range(count)), "x_min", "y_min", "x_max", "y_max", "glasses"]
    rows = [header]
    for seed, name in enumerate(("a.jpg", "b.jpg")):
        write_photo(root / name, seed)
        values = [f"{value:.3f}" for value in points(count, seed).ravel()]
        flags = ["2"] * count
        if seed == 0:
            values[:2], flags[:2] = ["", ""], ["0", "1"]
        rows.append([name, *values, *flags, "5", "6", "70", "60", "yes" if seed else "no"])
    path = root / "faces.csv"
    path.write_text("\n".join(map(",".join, rows)) + "\n")
    return path


def scheme_file(folder: Path, count: int = 5) -> Path:
    """A landmark scheme of ``count`` points, as anybody may write one."""
    path = folder / "scheme.toml"
    lines = [f'name = "{count}"', f"count = {count}", "right_eye = [0]", "left_eye = [1]", "mouth = [3, 4]"]
    path.write_text("\n".join([*lines, "flip = [[0, 1], [3, 4]]", "edges = [[0, 1], [3, 4]]"]))
    return path
