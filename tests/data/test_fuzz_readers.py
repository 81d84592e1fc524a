"""Whatever the bytes of a file are, a reader gives faces or ``FacemsmError``s of one line, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import official_files as official
from facemsm.data.catalogue import read_items
from facemsm.data.reading import collect_errors
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import FacemsmError

Question = tuple[str, Path, str, BoxSource, str | None]


def _300w(root: Path) -> tuple[Path, Question]:
    official.write_300w(root, {"ibug": ["a.jpg"]})
    return root / "ibug" / "a.pts", ("300w", root, "challenge", "gt", None)


def _box_mat(root: Path) -> tuple[Path, Question]:
    official.write_300w(root, {"ibug": ["a.jpg"]})
    return root / "bounding_boxes_ibug.mat", ("300w", root, "challenge", "provided", None)


def _box_csv(root: Path) -> tuple[Path, Question]:
    path = root / "bounding_boxes_ibug.csv"
    official.write_300w(root, {"ibug": ["a.jpg"]})
    (root / "bounding_boxes_ibug.mat").unlink()
    path.write_text("image,x_min,y_min,x_max,y_max\na.jpg,1,2,30.5,40\n")
    return path, ("300w", root, "challenge", "provided", None)


def _cofw(root: Path) -> tuple[Path, Question]:
    official.write_cofw(root, "test", 2)
    return root / "COFW_test_color.mat", ("cofw", root, "test", "provided", None)


def _cofw68(root: Path) -> tuple[Path, Question]:
    official.write_cofw68(root, 1)
    return root / "COFW68_Data" / "test_annotations" / "1_points.mat", ("cofw68", root, "test", "gt", None)


def _cofw68_boxes(root: Path) -> tuple[Path, Question]:
    official.write_cofw68(root, 1)
    return root / "COFW68_Data" / "cofw68_test_bboxes.mat", ("cofw68", root, "test", "provided", None)


def _wflw(root: Path) -> tuple[Path, Question]:
    official.write_wflw(root)
    lists = root / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    return lists / "list_98pt_rect_attr_test.txt", ("wflw", root, "test", "provided", None)


def _menpo(root: Path) -> tuple[Path, Question]:
    path = root / "1.pts"
    path.write_text(official.pts_text(official.points(68)))
    return path, ("menpo", root, "semifrontal", "gt", None)


def _shapes(root: Path) -> tuple[Path, Question]:
    path = root / "300w_train_68.npz"
    np.savez(path, points=np.stack([official.points(68)]))
    return path, ("shapes", root, "300w_train", "gt", None)


def _coco(root: Path) -> tuple[Path, Question]:
    path = official.write_coco(root)
    return path, ("coco", path, "all", "provided", str(official.scheme_file(root)))


def _csv(root: Path) -> tuple[Path, Question]:
    path = official.write_csv(root)
    return path, ("csv", path, "all", "provided", "29")


FORMATS = [_300w, _box_mat, _box_csv, _cofw, _cofw68, _cofw68_boxes, _wflw, _menpo, _shapes, _coco, _csv]
edits = st.lists(
    st.tuples(
        st.floats(0, 1), st.integers(0, 8), st.one_of(st.binary(max_size=8), st.sampled_from([b"nan", b"-1", b'"']))
    )
)


def _read(question: Question) -> None:
    for item in collect_errors(read_items(*question)):
        if isinstance(item, FacemsmError):
            assert len(str(item).splitlines()) == 1
        elif isinstance(item, FaceSample):
            assert item.points.dtype == item.box.dtype == np.float32
            assert item.box[0] < item.box[2]
            assert item.box[1] < item.box[3]
            with suppress(FacemsmError):
                item.load()


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_untouched_files_have_faces(tmp_path: Path, write: Callable[[Path], tuple[Path, Question]]) -> None:
    _, question = write(tmp_path)
    items = list(read_items(*question))
    assert items
    assert all(isinstance(item, FaceSample) for item in items)


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_any_bytes(tmp_path: Path, write: Callable[[Path], tuple[Path, Question]]) -> None:
    path, question = write(tmp_path)
    original = path.read_bytes()

    # derandomised: a damaged HDF5 file is read by a C library, whose crash would end the whole run
    @settings(max_examples=80, deadline=None, derandomize=True)
    @given(content=st.one_of(st.binary(max_size=200), edits.map(lambda changes: _edited(original, changes))))
    def run(content: bytes) -> None:
        path.write_bytes(content)
        _read(question)

    run()


def _edited(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for place, removed, added in changes:
        at = int(place * len(content))
        content = content[:at] + added + content[at + removed :]
    return content
