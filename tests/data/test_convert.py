"""``facemsm data convert``: COCO JSON out of every format, and the same faces back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import official_files as official
from facemsm.apps.data import app
from facemsm.data.catalogue import load_dataset
from facemsm.data.coco import write_coco
from facemsm.data.sample import FaceSample
from facemsm.errors import FacemsmError
from facemsm.schemes import get_scheme

WRITE: dict[str, Callable[[Path], None]] = {
    "300w": official.write_300w,
    "wflw": official.write_wflw,
    "cofw": lambda root: official.write_cofw(root, "test"),
}


def _convert(*arguments: object) -> None:
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)])
    assert result.exit_code == 0, result.exception or result.output


def _assert_same(before: Sequence[FaceSample], after: Sequence[FaceSample]) -> None:
    assert len(before) == len(after) > 0
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a.points, b.points, atol=1e-4)  # NaN equals NaN here
        np.testing.assert_allclose(a.box, b.box, atol=2e-4)
        labelled = np.isfinite(a.points[:, 0])
        np.testing.assert_array_equal(np.where(labelled, 2, 0) if a.visibility is None else a.visibility, b.visibility)
        assert dict(a.attributes) == dict(b.attributes)
        np.testing.assert_array_equal(a.load(), b.load())


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("boxes", ["gt", "provided"])
@pytest.mark.parametrize(
    ("name", "split", "scheme"), [("300w", "full", "68"), ("wflw", "test", "98"), ("cofw", "test", "29")]
)
def test_catalogue_sets(tmp_path: Path, name: str, split: str, scheme: str, boxes: str, copy: bool) -> None:
    root, output = tmp_path / "set", tmp_path / "out" / "faces.json"
    root.mkdir()
    WRITE[name](root)
    options = ["--copy-photos"] if copy else []
    _convert(name, root, output, "--split", split, "--boxes", boxes, *options)
    before = load_dataset(name, root, split, boxes)  # type: ignore[arg-type]
    _assert_same(before, load_dataset("coco", output, "all", "provided", scheme))
    if copy:
        root.rename(tmp_path / "moved")
        assert [s.load().shape for s in load_dataset("coco", output, "all", "gt", scheme)]


def test_csv_and_own_scheme(tmp_path: Path) -> None:
    path = official.write_csv(tmp_path, 5)
    scheme = str(official.scheme_file(tmp_path))
    _convert("csv", path, tmp_path / "faces.json", "--scheme", scheme, "--boxes", "provided")
    before = load_dataset("csv", path, "all", "provided", scheme)
    _assert_same(before, load_dataset("coco", tmp_path / "faces.json", "all", "provided", scheme))


def test_pts_folder(tmp_path: Path) -> None:
    official.write_photo(tmp_path / "deep" / "x.png")
    (tmp_path / "deep" / "x.pts").write_text(official.pts_text(official.points(29)))
    _convert("pts", tmp_path, tmp_path / "faces.json", "--scheme", "29")
    (sample,) = load_dataset("coco", tmp_path / "faces.json", "all", scheme="29")
    assert sample.name == "deep/x.png"
    np.testing.assert_allclose(sample.points, official.points(29), atol=1e-4)


def test_faces_of_one_photo_share_its_entry(tmp_path: Path) -> None:
    official.write_wflw(tmp_path)
    _convert("wflw", tmp_path, tmp_path / "faces.json", "--split", "test")
    content = json.loads((tmp_path / "faces.json").read_text())
    assert [image["id"] for image in content["images"]] == [1]
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (official.WIDTH, official.HEIGHT)
    assert len(content["annotations"]) == 3
    assert len(content["categories"][0]["keypoints"]) == 98


coordinates = st.floats(-100, 5000, width=32)
point = st.one_of(st.none(), st.tuples(coordinates, coordinates, st.sampled_from([1, 2])))


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(point, min_size=5, max_size=5).filter(any))
def test_any_points_come_back(
    tmp_path_factory: pytest.TempPathFactory, shape: list[tuple[float, float, int] | None]
) -> None:
    folder = tmp_path_factory.mktemp("coco")
    official.write_photo(folder / "a.png")
    rows = np.array([(np.nan, np.nan, 0) if p is None else p for p in shape])
    box = np.array([1, 2, 30, 40], np.float32)
    points, visibility = rows[:, :2].astype(np.float32), rows[:, 2].astype(np.int8)
    before = FaceSample("a", folder / "a.png", box, "provided", points, visibility, {"smile": True})
    scheme = official.scheme_file(folder)
    write_coco([before], folder / "faces.json", get_scheme(scheme))
    _assert_same([before], load_dataset("coco", folder / "faces.json", "all", "provided", str(scheme)))


def test_nothing_half_written(tmp_path: Path) -> None:
    official.write_cofw68(tmp_path)
    samples = load_dataset("cofw68", tmp_path, "test")
    with pytest.raises(FacemsmError, match="no such file"):  # there are no photos to take the size from
        write_coco(samples, tmp_path / "faces.json", get_scheme("68"))
    with pytest.raises(FacemsmError, match="68 points, expected the 98 of 98"):
        write_coco(samples, tmp_path / "faces.json", get_scheme("98"))
    assert not (tmp_path / "faces.json").exists()


def test_copying_photos_from_elsewhere_is_refused(tmp_path: Path) -> None:
    path = official.write_coco(tmp_path / "a")
    (tmp_path / "b").mkdir()
    scheme = official.scheme_file(tmp_path)
    samples = load_dataset("coco", path, "all", scheme=str(scheme))
    with pytest.raises(FacemsmError, match="lies outside"):
        write_coco(samples, tmp_path / "c" / "faces.json", get_scheme(scheme), photo_root=tmp_path / "b")


def test_which_split_must_be_said(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["convert", "300w", str(tmp_path), str(tmp_path / "faces.json")])
    assert isinstance(result.exception, FacemsmError)
    assert "say --split train, common" in str(result.exception)


def test_real_faces_are_unchanged_by_a_round_trip(data_root: Path, tmp_path: Path) -> None:
    if not (data_root / "aflw2000").is_dir():
        pytest.skip("no aflw2000 there")
    before = load_dataset("aflw2000", data_root / "aflw2000", "val", "provided")[:20]
    write_coco(before, tmp_path / "val.json", get_scheme("68"))
    _assert_same(before, load_dataset("aflw2000", tmp_path, "val", "provided"))
