"""``facemsm data check``: everything that is wrong, in one go."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import official_files as official
from facemsm.apps.data import app
from facemsm.data.catalogue import load_dataset
from facemsm.data.check import check_dataset
from facemsm.data.contact_sheet import contact_sheet, draw_sample
from facemsm.data.sample import FaceSample
from facemsm.errors import FacemsmError
from facemsm.imaging.io import read_image
from facemsm.schemes import LandmarkScheme, get_scheme


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"ibug": [f"{name}.jpg" for name in "abcdefg"], "afw": ["h.jpg"]})
    folder = tmp_path / "ibug"
    (folder / "a.pts").write_text(official.pts_text(official.points(67)))
    (folder / "b.jpg").unlink()
    (folder / "c.jpg").write_bytes((folder / "c.jpg").read_bytes()[:300])
    (folder / "d.pts").write_text((folder / "d.pts").read_text().replace("version: 1", "version: 3"))
    (folder / "e.pts").unlink()
    official.write_box_mat(
        tmp_path / "bounding_boxes_ibug.mat", {f"{n}.jpg": ((1, 2, 3, 4), (1, 2, 3, 4)) for n in "abcdf"}
    )
    check = check_dataset("300w", tmp_path)
    faults = sorted(fault.split("/ibug/")[-1] for fault in check.problems)
    assert [fault[:5] for fault in faults] == ["a.pts", "b.pts", "c.jpg", "d.pts", "g.pts"]
    assert (check.faces["challenge"], check.published["challenge"]) == (3, 135)  # c, f and g
    assert check.faces["train"] == 1
    assert (len(check.samples), check.photos) == (3, 3)  # f, g and h
    assert set(check.short) == set(check.faces)
    assert check.skipped == {"photo without .pts file": 1}


def test_a_complete_split_is_not_short_and_absent_ones_are_no_fault(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"ibug": [f"{i}.jpg" for i in range(135)]})
    check = check_dataset("300w", tmp_path)
    assert check.problems == []
    assert set(check.faces) - set(check.short) == {"challenge", "ibug"}
    assert check.boxes["challenge"] == 135


def test_boxes_that_are_not_there_are_no_fault(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"ibug": ["a.jpg"]})
    (tmp_path / "bounding_boxes_ibug.mat").unlink()
    check = check_dataset("300w", tmp_path)
    assert (check.problems, check.boxes["challenge"]) == ([], 0)


def test_every_faulty_box_is_listed(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"ibug": ["a.jpg", "b.jpg", "c.jpg"]})
    good, bad = ((1, 2, 3, 4), (1, 2, 3, 4)), ((9, 2, 3, 4), (1, 2, 3, 4))
    official.write_box_mat(
        tmp_path / "bounding_boxes_ibug.mat", {"a.jpg": bad, "b.jpg": good, "b.png": good, "c.jpg": bad}
    )
    check = check_dataset("300w", tmp_path)
    assert [i for i in (1, 2, 3, 4) if any(f"bounding_boxes{{{i}}}" in fault for fault in check.problems)] == [1, 3, 4]
    assert (check.faces["challenge"], check.boxes["challenge"]) == (3, 1)


def test_csv_without_boxes_is_no_fault(tmp_path: Path) -> None:
    path = official.write_csv(tmp_path)
    path.write_text(path.read_text().replace("x_min", "left"))
    check = check_dataset("csv", path, scheme="29")
    assert (check.problems, check.faces, check.boxes) == ([], {"all": 2}, {"all": 0})
    with pytest.raises(FacemsmError, match="has no columns x_min, y_min, x_max, y_max"):
        load_dataset("csv", path, "all", "provided", "29")


def test_nothing_there_is_a_fault(tmp_path: Path) -> None:
    assert len(check_dataset("wflw", tmp_path).problems) == 2
    assert check_dataset("wflw", tmp_path).faces["blur"] == 0


def test_a_split_asked_for_must_be_there(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"ibug": ["a.jpg"]})
    (fault,) = check_dataset("300w", tmp_path, ["challenge", "afw"]).problems
    assert "none of the folders afw" in fault


def test_points_outside_their_photo_are_counted_to_half_a_pixel(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"ibug": ["a.jpg", "b.jpg"]})
    shape = official.points(68)
    shape[:4] = [[-0.5, 5], [-0.51, 5], [official.WIDTH - 0.49, 5], [5, official.HEIGHT - 0.5]]
    (tmp_path / "ibug" / "a.pts").write_text(official.pts_text(shape))
    check = check_dataset("300w", tmp_path)
    assert check.outside == {"ibug/a": 2}
    assert check.problems == []


def test_broken_photo_of_two_faces_is_one_fault(tmp_path: Path) -> None:
    path = official.write_coco(tmp_path)
    (tmp_path / "images" / "a.jpg").write_bytes(b"\xff\xd8\xffnot a photo")
    check = check_dataset("coco", path, scheme=str(official.scheme_file(tmp_path)))
    assert len(check.problems) == 1
    assert check.photos == 1


def test_two_faces_for_one_name_in_check(tmp_path: Path) -> None:
    content = official.coco_content()
    content["annotations"][1]["id"] = 1
    path = official.write_coco(tmp_path, content)
    check = check_dataset("coco", path, scheme=str(official.scheme_file(tmp_path)))
    assert [fault.split("faces.json:1: ")[1] for fault in check.problems] == [
        "annotations[1]: id 1 is taken by another face, expected distinct ids"
    ]


def test_a_face_listed_twice_is_a_fault_in_every_subset(tmp_path: Path) -> None:
    official.write_wflw(tmp_path)
    path = tmp_path / "WFLW_annotations" / "list_98pt_rect_attr_train_test" / "list_98pt_rect_attr_test.txt"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    (fault,) = check_dataset("wflw", tmp_path).problems
    assert fault == f"{path}:4: the same photo and points as at {path}:2, expected each face once"
    assert check_dataset("wflw", tmp_path, ["blur"]).problems == [fault]  # though it is not in this one


def test_faults_of_the_same_file_are_all_listed(tmp_path: Path) -> None:
    path = official.write_csv(tmp_path)
    header, first, second = path.read_text().splitlines()
    path.write_text("\n".join([header, "a.jpg,1", first, second.replace("b.jpg", "c.jpg"), "b.jpg,2", second, '"']))
    check = check_dataset("csv", path, scheme="29")
    assert [fault.split(":")[1] for fault in check.problems] == ["2", "4", "5", "7"]
    assert check.faces == {"all": 2}

    content = official.coco_content()
    content["images"] = [{"id": 7}, content["images"][0], *content["images"], "b.jpg"]
    content["annotations"][0]["keypoints"] = [1]
    path = official.write_coco(tmp_path, content)
    check = check_dataset("coco", path, scheme=str(official.scheme_file(tmp_path)))
    assert [fault.split(": ")[1] for fault in check.problems] == [
        "images[0]",
        "images[2]",
        "images[4]",
        "annotations[0]",
    ]
    assert check.faces == {"all": 2}


def test_a_broken_box_file_hides_no_other_fault(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"ibug": ["a.jpg", "b.jpg"]})
    (tmp_path / "bounding_boxes_ibug.mat").write_bytes(b"damaged")
    (tmp_path / "ibug" / "b.pts").write_text("")
    check = check_dataset("300w", tmp_path)
    assert ["ibug.mat: not a MATLAB 5" in check.problems[0], "b.pts:1: " in check.problems[1]] == [True, True]
    assert (len(check.problems), check.faces["challenge"], check.boxes["challenge"]) == (2, 1, 0)


def test_menpo_profiles_are_counted(tmp_path: Path) -> None:
    for n, count in enumerate((68, 39, 39, 12)):
        (tmp_path / f"{n}.pts").write_text(official.pts_text(official.points(count)))
    check = check_dataset("menpo", tmp_path)
    assert check.skipped == {"profile face with 39 points": 2}
    assert check.without_photo == 1
    assert len(check.problems) == 1


def test_packed_photos_are_checked_too(tmp_path: Path) -> None:
    official.write_cofw(tmp_path, "test")
    check = check_dataset("cofw", tmp_path)
    assert (check.problems, check.photos, check.short) == ([], 3, {"train": (0, 1345), "test": (3, 507)})


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    official.write_300w(tmp_path, {"ibug": ["a.jpg", "b.jpg"]})
    sheet = tmp_path / "sheet.png"
    result = CliRunner().invoke(app, ["check", "300w", str(tmp_path), "--contact-sheet", str(sheet)])
    assert result.exit_code == 0, result.output
    assert "no fault" in result.output
    assert "2 (short)" in result.output
    assert read_image(sheet).shape == (224, 6 * 224, 3)
    (tmp_path / "ibug" / "a.jpg").unlink()
    result = CliRunner().invoke(app, ["check", "300w", str(tmp_path), "--split", "challenge"])
    assert result.exit_code == 1
    assert "1 fault" in result.output
    assert "a.pts: expected one photo of the same name" in result.output
    assert "drawn: facemsm-out/300w-contact-sheet.jpg" in result.output.replace("\\", "/")
    assert read_image(Path("facemsm-out/300w-contact-sheet.jpg")).shape == (224, 6 * 224, 3)


def test_command_without_any_photo_to_draw(tmp_path: Path) -> None:
    official.write_cofw68(tmp_path)
    result = CliRunner().invoke(app, ["check", "cofw68", str(tmp_path), "--contact-sheet", str(tmp_path / "s.png")])
    assert isinstance(result.exception, FacemsmError)
    assert "no face with a photo" in str(result.exception)


def test_contact_sheet_draws_points_where_they_are(tmp_path: Path) -> None:
    """A white pixel of the photo must lie under the middle of its point's mark."""
    dot = (23, 31)
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[dot[1], dot[0]] = 255
    path = tmp_path / "dot.png"
    cv2.imwrite(str(path), photo)
    box = np.array([4, 4, 60, 60], np.float32)
    scheme = LandmarkScheme("3", 3, (), (0,), (1,), (2,))
    drawn = []
    for shape in ([[4, 4], [60, 60], [60, 4]], [[4, 4], [60, 60], dot]):
        points = np.array(shape, np.float32)
        sample = FaceSample("dot", path, box, "provided", points)
        drawn.append(draw_sample(sample, scheme, 448))
    white = np.argwhere(drawn[0].min(axis=2) > 128).mean(axis=0)
    green = np.argwhere((drawn[1][..., 1] > 200) & (drawn[1][..., 0] < 100))
    near = green[np.abs(green - white).max(axis=1) < 8]
    np.testing.assert_allclose(near.mean(axis=0), white, atol=0.6)


def test_contact_sheet_has_rows_as_needed(tmp_path: Path) -> None:
    official.write_wflw(tmp_path)
    samples = load_dataset("wflw", tmp_path, "test") * 3
    assert contact_sheet(samples, get_scheme("98"), columns=4, rows=5, tile=32).shape == (3 * 32, 4 * 32, 3)
    assert contact_sheet(samples, get_scheme("98"), columns=2, rows=2, tile=32).shape == (2 * 32, 2 * 32, 3)


@pytest.mark.parametrize("folder", ["300w", "cofw68", "wflw_mini", "shapes"])
@pytest.mark.slow
def test_real_parts_have_no_fault(data_root: Path, folder: str) -> None:
    if not (data_root / folder).is_dir():
        pytest.skip(f"no {folder} there")
    check = check_dataset(folder.removesuffix("_mini"), data_root / folder)
    assert check.problems == []
    assert check.samples
