"""What leaves for other programs: the schema of a line, COCO and Label Studio documents, by way of their readers."""

from __future__ import annotations

import csv
import json
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest

import facemsm
from facemsm.data.catalogue import load_dataset
from facemsm.errors import FacemsmError
from facemsm.face import Face
from facemsm.imaging.io import write_image
from facemsm.results.jsonl import PhotoResult, to_line
from facemsm.results.label_studio import label_studio_tasks
from facemsm.results.tables import write_csv
from facemsm.schemes import SCHEME_29, SCHEME_68, get_scheme
from facemsm.shapes.measures import MEASURES
from facemsm.video.io import Frame, frame_line, write_video_csv
from facemsm.video.tracking import TrackedFace
from synthetic_faces import mean_shape

SIZE = (200, 220)
SCHEMA = json.loads(files("facemsm.results").joinpath("landmarks.schema.json").read_text(encoding="utf-8"))


def face(shift: float = 0, count: int = 68, detection_score: float | None = None) -> Face:
    shape = mean_shape()
    if count != 68:
        shape = np.stack([shape[list(near)].mean(axis=0) for near in get_scheme(str(count)).from_68])
    points = (shape * 40 + (100 + shift, 80)).astype(np.float32)
    return Face(
        points=points,
        scores=np.linspace(0.2, 0.9, count, dtype=np.float32),
        occluded=np.arange(count) % 5 == 0,
        box=np.array([60 + shift, 40, 140 + shift, 180.5], np.float32),
        theta=np.eye(2, 3, dtype=np.float32),
        preliminary=points + 1,
        detection_score=detection_score,
    )


def photos() -> list[PhotoResult]:
    two = [face(), face(12.5, detection_score=0.98)]
    return [PhotoResult("a b.jpg", *SIZE[::-1], "68", two), PhotoResult("none.jpg", 5, 5, "68", [])]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_image(tmp_path / "a b.jpg", np.zeros((*SIZE, 3), np.uint8))
    write_image(tmp_path / "none.jpg", np.zeros((5, 5, 3), np.uint8))
    return tmp_path


# --- The schema ---


def check(line: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(line)
    jsonschema.validate(record, SCHEMA, jsonschema.Draft202012Validator)
    return record


@pytest.mark.parametrize("measures", [False, True])
def test_lines_are_of_the_schema(measures: bool) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for photo in photos():
        record = check(to_line(photo, measures=SCHEME_68 if measures else None))
        assert ["measures" in found for found in record["faces"]] == [measures] * len(photo.faces)
    few = check(to_line(PhotoResult("a.jpg", 9, 9, "29", [face(count=29)]), measures=SCHEME_29))
    assert few["faces"][0]["measures"]["left_eye_openness"] is None
    frame = Frame(7, 0.25, np.zeros((*SIZE, 3), np.uint8))
    record = check(frame_line(frame, "v.mp4", SCHEME_68, [TrackedFace(3, face())], measures=measures))
    assert (record["image"], record["frame"], record["faces"][0]["id"]) == ("v.mp4#7", 7, 3)


@pytest.mark.parametrize("change", [{"width": 0}, {"more": 1}, {"frame": 1}, {"faces": [{}]}, {"image": None}])
def test_the_schema_refuses_what_is_no_line(change: dict[str, Any]) -> None:
    record = json.loads(to_line(photos()[0]))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record | change, SCHEMA)


def test_every_field_is_described_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs/formats.md").read_text(encoding="utf-8")
    found = SCHEMA["$defs"]["face"]["properties"]
    for name in [*SCHEMA["properties"], *found, *found["measures"]["properties"]]:
        assert f"`{name}`" in text, name


# --- Tables ---


def test_measures_in_tables(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", photos(), 68, measures=SCHEME_68)
    lines = [
        frame_line(
            Frame(0, 0.0, np.zeros((9, 9, 3), np.uint8)), "v", SCHEME_68, [TrackedFace(1, face())], measures=True
        )
    ]
    (tmp_path / "v.jsonl").write_text("".join(lines), encoding="utf-8")
    write_video_csv(tmp_path / "v.csv", tmp_path / "v.jsonl", 68, measures=True)
    expected = face().to_dict(measures=True)
    for name in ("a.csv", "v.csv"):
        with (tmp_path / name).open(newline="", encoding="utf-8") as file:
            row = next(iter(csv.DictReader(file)))
        assert {key: float(row[key]) for key in MEASURES} == expected["measures"]
        assert float(row["score"]) == expected["score"] == 0.55
        assert float(row["score_0"]) == 0.2


# --- Annotation tools ---


def test_coco_names_the_points() -> None:
    document = facemsm.to_coco(photos())
    (category,) = document["categories"]
    assert category["keypoints"] == list(SCHEME_68.names)
    assert category["skeleton"] == [[a + 1, b + 1] for a, b in SCHEME_68.edges]
    assert [image["file_name"] for image in document["images"]] == ["a b.jpg", "none.jpg"]
    for annotation in document["annotations"]:
        assert len(annotation["keypoints"]) == 3 * 68
        assert annotation["score"] == 0.55


def test_coco_of_the_faces_of_a_photo(folder: Path) -> None:
    document = facemsm.to_coco([face()], image=folder / "a b.jpg")
    assert document["images"][0] | {"file_name": ""} == {"id": 1, "file_name": "", "width": 220, "height": 200}
    assert facemsm.to_coco(face(), image=folder / "a b.jpg") == document
    assert facemsm.to_coco([], image=folder / "a b.jpg")["annotations"] == []
    with pytest.raises(FacemsmError, match=r"to_coco\(faces, image="):
        facemsm.to_coco([face()])


def exported_by_cvat(document: dict[str, Any]) -> str:
    """CVAT for images 1.1 of what CVAT imports of COCO keypoints: the skeleton's points, by name."""
    root = ElementTree.Element("annotations")
    for image in document["images"]:
        size = {name: str(image[name]) for name in ("id", "width", "height")}
        element = ElementTree.SubElement(root, "image", {"name": image["file_name"], **size})
        for annotation in document["annotations"]:
            if annotation["image_id"] != image["id"]:
                continue
            skeleton = ElementTree.SubElement(element, "skeleton", label="face", source="file", z_order="0")
            for i, name in enumerate(document["categories"][0]["keypoints"]):
                x, y, v = annotation["keypoints"][3 * i : 3 * i + 3]
                flags = {"outside": str(int(v == 0)), "occluded": str(int(v == 1))}
                ElementTree.SubElement(skeleton, "points", {"label": name, "points": f"{x:.2f},{y:.2f}", **flags})
    return ElementTree.tostring(root, encoding="unicode")


def exported_by_label_studio(tasks: list[dict[str, Any]]) -> str:
    """The export of predictions that were taken over as they are."""
    kept = ("id", "type", "value", "original_width", "original_height", "image_rotation", "parentID")
    for task in tasks:
        (prediction,) = task["predictions"]
        regions = [{name: region[name] for name in kept if name in region} for region in prediction["result"]]
        task["annotations"] = [{"was_cancelled": False, "result": regions}]
    return json.dumps(tasks)


@pytest.mark.parametrize(("tool", "shift"), [("cvat", 0.006), ("label-studio", 1e-3), ("coco", 1e-3)])
def test_what_annotation_tools_import_comes_back(folder: Path, tool: str, shift: float) -> None:
    path = folder / ("annotations.xml" if tool == "cvat" else "faces.json")
    if tool == "label-studio":
        path.write_text(exported_by_label_studio(label_studio_tasks(photos(), SCHEME_68)), encoding="utf-8")
    else:
        document = json.loads(json.dumps(facemsm.to_coco(photos())))
        path.write_text(exported_by_cvat(document) if tool == "cvat" else json.dumps(document), encoding="utf-8")
    samples = load_dataset(tool, path, "all", scheme="68")
    assert [sample.image for sample in samples] == [folder / "a b.jpg"] * 2
    for sample, expected in zip(samples, photos()[0].faces, strict=True):
        np.testing.assert_allclose(sample.points, expected.points, atol=shift)
        if tool != "label-studio":  # which knows of no hidden points
            assert sample.visibility is not None
            np.testing.assert_array_equal(sample.visibility == 1, expected.occluded)


def test_label_studio_tasks() -> None:
    first, second = label_studio_tasks(photos(), SCHEME_68)
    assert first["data"] == {"image": "/data/local-files/?d=a%20b.jpg"}
    assert second["predictions"] == [{"model_version": "facemsm", "score": 0.0, "result": []}]
    box, point = first["predictions"][0]["result"][:2]
    assert (box["from_name"], box["to_name"], box["type"]) == ("face", "image", "rectanglelabels")
    assert box["value"]["x"] == pytest.approx(100 * 60 / 220)
    assert (point["from_name"], point["parentID"]) == ("point", box["id"])
    assert point["value"]["keypointlabels"] == ["right jaw 1"]
    assert len({region["id"] for region in first["predictions"][0]["result"]}) == 2 * 69
