"""Files of annotation tools and other data sets, written by hand in their exact form."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import official_files as official
from facemsm.apps.data import app
from facemsm.data.catalogue import load_dataset, read_items
from facemsm.data.check import check_dataset
from facemsm.data.jd106 import POINTS_68
from facemsm.data.reading import Skipped
from facemsm.errors import FacemsmError
from facemsm.typing import FloatArray

FIVE = """
name = "five"
count = 5
flip = [[0, 1], [3, 4]]
right_eye = [0]
left_eye = [1]
mouth = [3, 4]
names = ["right eye", "left eye", "nose", "mouth right", "mouth left"]
"""
NAMES = ["right eye", "left eye", "nose", "mouth right", "mouth left"]


@pytest.fixture
def five(tmp_path: Path) -> str:
    (tmp_path / "five.toml").write_text(FIVE)
    return str(tmp_path / "five.toml")


def _signed(shape: FloatArray, occluded: list[int], absent: list[int]) -> str:
    """A file of MERL-RAV's."""
    lines = [f"{x + 1:.2f} {y + 1:.2f}" for x, y in shape]
    for i in occluded:
        lines[i] = f"{-shape[i, 0] - 1:.2f} {-shape[i, 1] - 1:.2f}"
    for i in absent:
        lines[i] = "-1 -1"
    return "\n".join(["version: 1", f"n_points:  {len(shape)}", "{", *lines, "}"]) + "\n"


@pytest.mark.parametrize(("name", "split"), [("merl-rav", "train"), ("pts", "all")])
def test_merl_rav_signs_are_visibility(tmp_path: Path, name: str, split: str) -> None:
    folder = tmp_path / "left" / "trainset"
    shape = official.points(68)
    official.write_photo(folder / "image00002_1.jpg")
    (folder / "image00002_1.pts").write_text(_signed(shape, [3, 4, 5], [0, 1, 2]))
    (sample,) = load_dataset(name, tmp_path, split, scheme="68")
    assert sample.name == "left/trainset/image00002_1"
    assert sample.visibility is not None
    assert sample.visibility.tolist() == [0] * 3 + [1] * 3 + [2] * 62
    assert np.isnan(sample.points[:3]).all()
    np.testing.assert_allclose(sample.points[3:], shape[3:], atol=6e-3)
    assert check_dataset(name, tmp_path, scheme="68").outside == {}


def test_points_in_the_corner_outside_a_photo_are_no_occluded_ones(tmp_path: Path) -> None:
    official.write_photo(tmp_path / "a.jpg")
    shape = official.points(68) - 12
    assert (shape < -1).all(axis=1).any()
    (tmp_path / "a.pts").write_text(official.pts_text(shape))
    (sample,) = load_dataset("pts", tmp_path, "all", scheme="68")
    np.testing.assert_allclose(sample.points, shape, atol=1e-3)
    far = official.points(68) + 300
    (tmp_path / "a.pts").write_text(_signed(far, [7, 8], []))  # none that is not located
    (sample,) = load_dataset("pts", tmp_path, "all", scheme="68")
    np.testing.assert_allclose(sample.points, far, atol=6e-3)
    (tmp_path / "a.pts").write_text(_signed(far, [], list(range(68))))
    assert list(read_items("pts", tmp_path, "all", scheme="68")) == [Skipped("a", "face without a labelled point")]


def test_pts_files_of_other_systems(tmp_path: Path) -> None:
    name = "Zoë"
    official.write_photo(tmp_path / f"{unicodedata.normalize('NFC', name)}.JPG")
    for file in (f"{unicodedata.normalize('NFD', name)}.PTS", "._a.pts"):
        (tmp_path / file).write_text(official.pts_text(official.points(68)))
    (tmp_path / "._a.pts").write_bytes(b"\0\5\26\7")
    face, skipped = sorted(read_items("pts", tmp_path, "all", scheme="68"), key=lambda item: isinstance(item, Skipped))
    assert not isinstance(face, (Skipped, FacemsmError))
    assert skipped == Skipped("._a.pts", "file of macOS (._*)")
    assert Skipped("._a", "file of macOS (._*)") in read_items("menpo", tmp_path, "semifrontal")
    assert check_dataset("menpo", tmp_path).problems == []


def test_wflw_names_with_spaces(tmp_path: Path) -> None:
    official.write_wflw(tmp_path)
    images = tmp_path / "WFLW_images" / "1--Handshaking"
    (images / "1_Handshaking_b_2.jpg").rename(images / "b 2 (1).jpg")
    path = tmp_path / "WFLW_annotations" / "list_98pt_rect_attr_train_test" / "list_98pt_rect_attr_test.txt"
    path.write_text(path.read_text().replace("1_Handshaking_b_2.jpg", "b 2 (1).jpg "))
    assert load_dataset("wflw", tmp_path, "test")[0].name == "1--Handshaking/b 2 (1)#1"


def _coco_of(tmp_path: Path, **changes: Any) -> Path:
    content = official.coco_content()
    for entry in content["annotations"]:
        entry.update(changes)
    return official.write_coco(tmp_path, content)


def test_coco_attributes_as_tools_write_them(tmp_path: Path, five: str) -> None:
    given = {"occluded": False, "track_id": 0, "keyframe": True, "sharp": 0.5, "note": None, "tags": ["a"], "by": "me"}
    path = _coco_of(tmp_path, attributes=given, segmentation=[], extra={"a": [1]}, track_id=None)
    sample = load_dataset("coco", path, "all", "provided", five)[0]
    kept = {"occluded": False, "track_id": 0, "keyframe": True, "sharp": 0.5, "tags": '["a"]', "by": "me"}
    assert dict(sample.attributes) == kept
    result = CliRunner().invoke(app, ["convert", "coco", str(path), str(tmp_path / "again.json"), "--scheme", five])
    assert result.exit_code == 0, result.exception
    again = load_dataset("coco", tmp_path / "again.json", "all", "provided", five)
    assert dict(again[0].attributes) == kept
    assert load_dataset("coco", _coco_of(tmp_path, attributes=None), "all", scheme=five)[0].attributes == {}
    assert load_dataset("coco", _coco_of(tmp_path, attributes=[]), "all", scheme=five)[0].attributes == {}


def test_coco_names_and_ids_as_tools_write_them(tmp_path: Path, five: str) -> None:
    content = official.coco_content()
    official.write_coco(tmp_path)
    folder = tmp_path / "images" / "fête"
    official.write_photo(tmp_path / "images" / unicodedata.normalize("NFD", "fête") / "é.JPG")
    content["images"] = [
        {"id": 1.0, "file_name": "images\\a.jpg"},
        {"id": "2", "file_name": unicodedata.normalize("NFC", f"images\\{folder.name}\\é.jpg")},
    ]
    content["annotations"][2]["image_id"] = 2
    content["annotations"].append({"id": 9, "image_id": 1, "keypoints": []})
    content["annotations"].append({"id": 10.0, "image_id": 1, "bbox": [1, 2, 3, 4]})
    path = tmp_path / "annotations" / "faces.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    items = list(read_items("coco", path, "all", "provided", five))
    assert not any(isinstance(item, FacemsmError) for item in items)
    assert items[3:] == [Skipped(f"images\\a.jpg#{key}", "annotation without keypoints") for key in (9, 10)]


@pytest.mark.parametrize("names", [NAMES, ["0", "1", "2", "3", "4"], ["1", "2", "3", "4", "5"]])
def test_coco_keypoints_in_another_order(tmp_path: Path, five: str, names: list[str]) -> None:
    content = official.coco_content()
    content["categories"][0]["keypoints"] = names[::-1]
    path = official.write_coco(tmp_path, content)
    np.testing.assert_allclose(load_dataset("coco", path, "all", scheme=five)[1].points, official.points(5, 2)[::-1])


@pytest.mark.parametrize(("count", "shift"), [(68, 1), (98, 0)])
def test_mmpose_says_nothing_of_visibility_and_its_300w_is_1_based(tmp_path: Path, count: int, shift: int) -> None:
    content = official.coco_content(count)
    for entry in content["annotations"]:
        entry["keypoints"] = np.column_stack([official.points(count, entry["id"]), np.ones(count)]).ravel().tolist()
        entry |= {"num_keypoints": count, "center": [482.5, 164.5], "scale": 0.425}
    content["categories"] = [{"supercategory": "person", "id": 1, "name": "face", "keypoints": [], "skeleton": []}]
    path = official.write_coco(tmp_path, content)
    samples = load_dataset("coco", path, "all", "provided", str(count))
    assert [sample.visibility for sample in samples] == [None] * 3
    np.testing.assert_allclose(samples[2].points, official.points(count, 3) - shift, atol=1e-4)
    assert samples[2].box.tolist() == [5 - shift, 6 - shift, 55 - shift, 46 - shift]


def test_doubts(tmp_path: Path, five: str) -> None:
    path = _coco_of(tmp_path, keypoints=[30, 10, 2, 60, 10, 2, 45, 20, 1, 30, 30, 1, 60, 30, 2])
    path.write_text(path.read_text().replace('"image_id": 1', '"image_id": 2', 1))  # each photo and points once
    content = json.loads(path.read_text())
    del content["annotations"][2]
    path.write_text(json.dumps(content))
    check = check_dataset("coco", path, scheme=five)
    assert (check.problems, check.warnings) == ([], [])
    assert check.visibility == {"visible": 6, "occluded": 4}
    kinds = {
        "no visible point": [30, 10, 1, 60, 10, 1, 45, 20, 1, 30, 30, 1, 60, 30, 1],
        "further outside": [30, 10, 2, 60, 10, 2, 450, 20, 2, 30, 30, 2, 60, 30, 2],
        "one place": [0, 0, 2, 0, 0, 2, 0, 0, 2, 0, 0, 2, 60, 30, 2],
        "2 px large": [0.3, 0.1, 2, 0.6, 0.1, 2, 0.45, 0.2, 2, 0.3, 0.3, 2, 0.6, 0.3, 2],
        "right eye": [60, 10, 2, 30, 10, 2, 45, 20, 1, 60, 30, 1, 30, 30, 2],
    }
    for what, keypoints in kinds.items():
        for entry in content["annotations"]:
            entry["keypoints"] = keypoints
        path.write_text(json.dumps(content))
        (warning,) = check_dataset("coco", path, scheme=five).warnings
        assert what in warning
        assert warning.startswith("2 of 2 faces")
    result = CliRunner().invoke(app, ["check", "coco", str(path), "--scheme", five])
    assert result.exit_code == 0
    assert "points: 6 visible, 4 occluded" in result.output
    assert "warning: 2 of 2 faces have the right eye right of the left one" in result.output


def test_visibility_is_counted_where_it_is_labelled(tmp_path: Path) -> None:
    official.write_300w(tmp_path, {"ibug": ["a.jpg"]})
    assert check_dataset("300w", tmp_path).visibility == {"labelled": 68}


DLIB = """<?xml version='1.0' encoding='ISO-8859-1'?>
<?xml-stylesheet type='text/xsl' href='image_metadata_stylesheet.xsl'?>
<dataset>
<name>iBUG face point dataset - training images</name>
<comment>Mauricio Vill\xe9n</comment>
<images>
  <image file='helen/trainset/1.jpg' width='80' height='64'>
    <box top='6' left='5' width='50' height='40'>
      <part name='04' x='50' y='40'/>
      <part name='00' x='20' y='10'/>
      <part name='01' x='52' y='11'/>
      <part name='03' x='25' y='41'/>
    </box>
    <box top='6' left='5' width='50' height='40' ignore='1'/>
  </image>
</images>
</dataset>
"""


def test_dlib(tmp_path: Path, five: str) -> None:
    official.write_photo(tmp_path / "helen" / "trainset" / "1.jpg")
    path = tmp_path / "labels_ibug_300W_train.xml"
    path.write_bytes(DLIB.encode("latin-1"))
    (sample,) = load_dataset("dlib", path, "all", "provided", five)
    assert sample.name == "helen/trainset/1.jpg"
    assert sample.box.tolist() == [5, 6, 55, 46]
    np.testing.assert_array_equal(sample.points, [[20, 10], [52, 11], [np.nan] * 2, [25, 41], [50, 40]])
    assert load_dataset("dlib", path, "all", "gt", five)[0].box.tolist() == [20, 10, 52, 41]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name='04'", "name='05'"), r"image 1 \('helen/trainset/1.jpg'\): box 1: a point is labelled '00'|'05'"),
        (("x='50' ", ""), r"<part> has no x"),
        (("x='50'", "x='NaN'"), r"'NaN' is not a pixel coordinate"),
        (("</images>", ""), r"train\.xml:17: not valid XML"),
        (("<dataset>", "<!DOCTYPE d [<!ENTITY a 'aa'>]><dataset>"), r"not valid XML: a DOCTYPE is not expected"),
        (("ISO-8859-1", "nonsense"), r"not valid XML"),
        (("dataset>", "annotations>"), r"its root is <annotations>, expected <dataset>; .* the name 'cvat'"),
    ],
)
def test_dlib_faults(tmp_path: Path, five: str, change: tuple[str, str], message: str) -> None:
    official.write_photo(tmp_path / "helen" / "trainset" / "1.jpg")
    path = tmp_path / "labels_ibug_300W_train.xml"
    path.write_bytes(DLIB.replace(*change).encode("latin-1"))
    with pytest.raises(FacemsmError, match=message) as caught:
        load_dataset("dlib", path, "all", "provided", five)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "variable"), [("aflw2000-3d", "pt3d_68"), ("300w-lp", "pt2d")])
def test_fitted_points_are_0_based(tmp_path: Path, name: str, variable: str) -> None:
    from scipy.io import savemat

    shape = official.points(68)
    official.write_photo(tmp_path / "AFW" / "AFW_1_0.jpg")
    rows = np.vstack([shape.T + 1, np.zeros((1, 68))])[: 3 if variable == "pt3d_68" else 2]
    content = {"roi": np.array([[1, 2, 3, 4]], np.int16), "Pose_Para": np.zeros((1, 7)), variable: rows}
    if variable == "pt3d_68":
        content["pt2d"] = np.full((2, 21), -1.0)
    savemat(tmp_path / "AFW" / "AFW_1_0.mat", content)
    savemat(tmp_path / "AFW_1_0_pts.mat", {"pts_2d": shape})
    face, skipped = sorted(read_items(name, tmp_path, "all"), key=lambda item: isinstance(item, Skipped))
    assert not isinstance(face, (Skipped, FacemsmError))
    np.testing.assert_allclose(face.points, shape, atol=1e-4)
    assert skipped == Skipped("AFW_1_0_pts", ".mat file without a photo beside it")
    savemat(tmp_path / "AFW" / "AFW_1_0.mat", {"pt2d": np.ones((2, 21))})
    with pytest.raises(FacemsmError, match=r"has \(2, 21\) points, expected pt3d_68 \(3, 68\)"):
        load_dataset(name, tmp_path, "all")


@pytest.mark.parametrize(("count", "shift"), [(68, 1), (98, 0)])
def test_hrnet(tmp_path: Path, count: int, shift: int) -> None:
    shape = official.points(count)
    official.write_photo(tmp_path / "images" / "afw" / "1.jpg")
    header = [
        *("image_name", "scale", "center_w", "center_h"),
        *(f"original_{i}_{a}" for i in range(count) for a in "xy"),
    ]
    row = ["afw/1.jpg", "1.17", "906.0", "399.0", *(f"{value:.6f}" for value in shape.ravel())]
    path = tmp_path / "face_landmarks_300w_train.csv"
    path.write_text("\n".join([",".join(header), ",".join(row)]) + "\n")
    (sample,) = load_dataset("hrnet", path, "all", scheme=str(count))
    np.testing.assert_allclose(sample.points, shape - shift, atol=1e-4)
    with pytest.raises(FacemsmError, match=r"no column 'image', .* the name 'hrnet'"):
        load_dataset("csv", path, "all", scheme=str(count))
    with pytest.raises(FacemsmError, match=r"has more than the 29 points"):
        load_dataset("hrnet", path, "all", scheme="29")


@pytest.mark.parametrize(
    "split",
    [("lapa", "train/landmarks/1.txt", "train/images/1.jpg"), ("jd106", "AFW/landmark/1.jpg.txt", "AFW/picture/1.jpg")],
)
def test_68_of_106(tmp_path: Path, split: tuple[str, str, str]) -> None:
    name, text, photo = split
    shape = official.points(106)
    official.write_photo(tmp_path / photo)
    (tmp_path / text).parent.mkdir(exist_ok=True)
    (tmp_path / text).write_text("106\n" + "".join(f"{x:.3f} {y:.3f}\n" for x, y in shape))
    (sample,) = load_dataset(name, tmp_path, "train" if name == "lapa" else "all")
    np.testing.assert_allclose(sample.points, shape[list(POINTS_68)], atol=1e-4)
    assert sample.points[36].tolist() == shape[66].tolist()  # outer corners of the eyes
    assert sample.points[45].tolist() == shape[79].tolist()
    (tmp_path / text).write_text("106\n1 2\n")
    with pytest.raises(FacemsmError, match=r"txt:1: expected a line 106 and then"):
        load_dataset(name, tmp_path, "train" if name == "lapa" else "all")


def test_the_68_of_106_are_68() -> None:
    assert len(set(POINTS_68)) == len(POINTS_68) == 68


def _labelme(shape: FloatArray, **more: Any) -> dict[str, Any]:
    points: list[dict[str, Any]] = [
        {"label": label, "points": [[float(x), float(y)]], "group_id": None, "shape_type": "point", "flags": {}}
        for label, (x, y) in zip(NAMES, shape, strict=True)
    ]
    return {
        **{"version": "5.2.1", "flags": {}, "shapes": points, "imagePath": "..\\photos\\a.jpg", "imageData": None},
        **{"imageHeight": official.HEIGHT, "imageWidth": official.WIDTH},
        **more,
    }


def test_labelme(tmp_path: Path, five: str) -> None:
    official.write_photo(tmp_path / "photos" / "a.jpg")
    path = tmp_path / "labels" / "a.json"
    path.parent.mkdir()
    content = _labelme(official.points(5))
    content["shapes"][1]["flags"] = {"occluded": True}
    del content["shapes"][2]
    content["shapes"].append({"label": "face", "points": [[1, 2], [3, 4]], "shape_type": "rectangle"})
    path.write_text(json.dumps(content))
    (sample,) = load_dataset("labelme", path.parent, "all", scheme=five)
    assert sample.visibility is not None
    assert sample.visibility.tolist() == [2, 1, 0, 2, 2]
    np.testing.assert_allclose(np.delete(sample.points, 2, 0), np.delete(official.points(5), 2, 0), atol=1e-4)
    two = _labelme(official.points(5))
    for shape, n in zip(two["shapes"], (1, 2, 3, 4, 5), strict=True):
        shape |= {"label": str(n), "group_id": 1}
    two["shapes"] += [{**shape, "group_id": 2, "points": [[n, n * n]]} for n, shape in enumerate(two["shapes"])]
    path.write_text(json.dumps(two))
    first, second = load_dataset("labelme", path, "all", scheme=five)
    np.testing.assert_allclose(first.points, official.points(5), atol=1e-4)
    assert second.points.tolist() == [[n, n * n] for n in range(5)]
    for problem, message in (
        ({"shapes": [{"shape_type": "point"}]}, r"shapes\[0\]: expected a shape_type"),
        ({"shapes": [{**two["shapes"][0], "points": [["1", 2]]}]}, r"shapes\[0\]: '1' is not a number of pixels"),
        ({"shapes": [{**two["shapes"][0], "label": "nase"}]}, r"a\.json: a point is labelled 'nase', expected one of"),
        ({"shapes": two["shapes"][:1] * 2}, r"two points are labelled '1'"),
        ({"shapes": 3}, r"a\.json:1: expected 'shapes' and 'imagePath'"),
    ):
        path.write_text(json.dumps({**two, **problem}))
        with pytest.raises(FacemsmError, match=message):
            load_dataset("labelme", path, "all", scheme=five)


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><labels>
    <label><name>face</name><type>skeleton</type></label>
    <label><name>1</name><type>points</type><parent>face</parent></label>
    <label><name>5</name><type>points</type><parent>face</parent></label>
  </labels></task></meta>
  <image id="0" name="a.jpg" width="80" height="64">
    <skeleton label="face" source="manual" z_order="0">
      <points label="2" source="manual" outside="0" occluded="1" points="52.00,11.00"></points>
      <points label="1" source="manual" outside="0" occluded="0" points="20.50,10.00"></points>
      <points label="3" source="manual" outside="1" occluded="0" points="30.00,20.00"></points>
      <points label="4" source="manual" outside="0" occluded="0" points="25.00,41.00"></points>
      <attribute name="glasses">yes</attribute>
    </skeleton>
    <points label="face" source="manual" occluded="0" points="1,2;3,4;5,6;7,8;9,1" z_order="0"></points>
    <box label="face" occluded="0" xtl="1" ytl="2" xbr="3" ybr="4" z_order="0"></box>
  </image>
  <image id="1" name="b.jpg" width="80" height="64">
  </image>
</annotations>
"""


def test_cvat(tmp_path: Path, five: str) -> None:
    official.write_photo(tmp_path / "images" / "a.jpg")
    path = tmp_path / "annotations.xml"
    path.write_text(CVAT)
    first, second, skipped = read_items("cvat", path, "all", scheme=five)
    assert not isinstance(first, (Skipped, FacemsmError))
    assert not isinstance(second, (Skipped, FacemsmError))
    assert first.visibility is not None
    assert first.visibility.tolist() == [2, 1, 0, 2, 0]
    assert first.points[[0, 1, 3]].tolist() == [[20.5, 10], [52, 11], [25, 41]]
    assert first.attributes == {"glasses": "yes"}
    assert (first.name, second.name) == ("a.jpg#1", "a.jpg#2")
    assert second.points.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 1]]
    assert skipped == Skipped("b.jpg", "photo without points")
    for change, message in (
        (("20.50,10.00", "20.50"), r"image 1 \('a\.jpg'\): points of '1' are '20\.50', expected x,y"),
        (("<image id", "<track id='0'/><image id"), r"CVAT for video"),
        ((' name="a.jpg"', ""), r"image 1: <image> has no name"),
    ):
        path.write_text(CVAT.replace(*change, 1))
        with pytest.raises(FacemsmError, match=message):
            load_dataset("cvat", path, "all", scheme=five)


def _task(photo: str, shape: FloatArray, **more: Any) -> dict[str, Any]:
    results = [
        {
            **{"original_width": official.WIDTH, "original_height": official.HEIGHT, "image_rotation": 0, "id": label},
            **{"from_name": "kp-1", "to_name": "img-1", "type": "keypointlabels", "origin": "manual"},
            "value": {
                **{"x": float(x) / official.WIDTH * 100, "y": float(y) / official.HEIGHT * 100, "width": 0.3},
                "keypointlabels": [label],
            },
            **more,
        }
        for label, (x, y) in zip(NAMES, shape, strict=True)
    ]
    done = {"id": 1, "completed_by": 1, "was_cancelled": False, "result": results, "ground_truth": False}
    return {"id": 1, "annotations": [done], "file_upload": "x", "data": {"img": photo}, "predictions": []}


@pytest.mark.parametrize("photo", ["/data/upload/1/8a7b6c5d-a%20b.jpg", "/data/local-files/?d=sub/a%20b.jpg"])
def test_label_studio(tmp_path: Path, five: str, photo: str) -> None:
    official.write_photo(tmp_path / "images" / "a b.jpg")
    path = tmp_path / "project-1.json"
    path.write_text(json.dumps([_task(photo, official.points(5))]))
    (sample,) = load_dataset("label-studio", path, "all", scheme=five)
    np.testing.assert_allclose(sample.points, official.points(5), atol=1e-4)
    assert sample.name == "a b.jpg"
    with_notes = _task(photo, official.points(5))
    with_notes["data"] = {"session": "lab 3", "note": "http://[", **with_notes["data"], "after": "z.txt"}
    path.write_text(json.dumps([with_notes]))
    assert load_dataset("label-studio", path, "all", scheme=five)[0].name == "a b.jpg"
    with pytest.raises(FacemsmError, match=r"expected a COCO keypoints file.* the name 'label-studio'"):
        load_dataset("coco", path, "all", scheme=five)
    for broken, message in (
        ([_task(photo, official.points(5), image_rotation=90)], r"task 1: result 1: the photo was rotated"),
        ([_task(photo, official.points(5), original_width=None)], r"task 1: result 1: 'None' is not a number"),
        ([_task(photo, official.points(5), value={})], r"task 1: result 1: expected original_width"),
        ([{"img": photo, "kp-1": []}], r"task 1: expected 'data' and 'annotations'"),
        ([{"data": {}, "annotations": []}], r"task 1: its data names no photo"),
        ({}, r"json:1: expected a list of tasks"),
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(FacemsmError, match=message):
            load_dataset("label-studio", path, "all", scheme=five)


def test_refusals_name_the_way_in(tmp_path: Path, five: str) -> None:
    official.write_photo(tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text(json.dumps(_labelme(official.points(5))))
    (tmp_path / "b.json").write_text(json.dumps(official.coco_content()))
    with pytest.raises(FacemsmError, match="the name 'coco'"):
        load_dataset("labelme", tmp_path / "b.json", "all", scheme=five)
    (tmp_path / "b.json").unlink()
    for name, root in (("coco", tmp_path / "a.json"), ("pts", tmp_path)):
        with pytest.raises(FacemsmError, match="the name 'labelme'"):
            load_dataset(name, root, "all", scheme=five)


@pytest.mark.parametrize("name", ["coco", "csv", "dlib", "cvat", "label-studio", "hrnet", "labelme"])
def test_files_of_no_known_format_are_told_which_are_read(tmp_path: Path, five: str, name: str) -> None:
    (tmp_path / "points.yaml").write_text("faces:\n- [1, 2]\n")
    with pytest.raises(
        FacemsmError, match=r"points\.yaml.*: coco, csv, pts, dlib, .* a csv table with the columns image"
    ):
        load_dataset(name, tmp_path / "points.yaml", "all", scheme=five)


def test_nothing_to_convert_is_an_error(tmp_path: Path, five: str) -> None:
    path = _coco_of(tmp_path, keypoints=[])
    result = CliRunner().invoke(app, ["convert", "coco", str(path), str(tmp_path / "out.json"), "--scheme", five])
    assert "no face to convert" in str(result.exception)
    assert not (tmp_path / "out.json").exists()
