from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import facemsm
from facemsm.data.coco import read_coco
from facemsm.data.sample import FaceSample
from facemsm.errors import FacemsmError
from facemsm.face import Face
from facemsm.imaging.drawing import draw_faces
from facemsm.imaging.io import write_image
from facemsm.results.jsonl import PhotoResult
from facemsm.schemes import get_scheme
from facemsm.shapes.measures import MEASURES
from synthetic_faces import mean_shape


def face(count: int = 68) -> Face:
    points = (mean_shape()[np.arange(count) % 68] * 40 + 100).astype(np.float32)
    occluded = np.arange(count) < 3
    return Face(
        points=points,
        scores=np.linspace(0, 1, count, dtype=np.float32),
        occluded=occluded,
        box=np.array([60, 40, 140, 180.5], np.float32),
        theta=np.eye(2, 3, dtype=np.float32),
        preliminary=points,
    )


def test_a_line_for_a_face() -> None:
    assert repr(face()) == "<Face at (100, 110): 68 points, 3 hidden, score 0.50>"


def test_a_face_as_plain_values() -> None:
    found = face()
    content = json.loads(json.dumps(found.to_dict()))
    assert content["score"] == round(found.score, 3) == 0.5
    np.testing.assert_allclose(content["points"], found.points, atol=6e-4)
    assert "measures" not in content
    assert set(found.to_dict(measures=True)["measures"]) == set(MEASURES)
    with pytest.raises(FacemsmError, match="has 7 points"):
        face(7).to_dict(measures=True)


@pytest.mark.parametrize("count", [68, 98, 7])
def test_a_notebook_shows_every_point_once_inside_the_sketch(count: int) -> None:
    html = face(count)._repr_html_()
    svg = ElementTree.fromstring(html[: html.index("</svg>") + 6])
    name = "{http://www.w3.org/2000/svg}"
    circles = svg.findall(f".//{name}circle")
    assert [c.findtext(f"{name}title") for c in circles][:4] == [
        *(f"{i}: {i / (count - 1):.2f}, hidden" for i in range(3)),
        f"3: {3 / (count - 1):.2f}",
    ]
    assert [c.get("fill") == "none" for c in circles] == [True] * 3 + [False] * (count - 3)
    assert len({c.get("stroke") for c in circles}) > count / 2
    places = np.array([[float(c.get(k, "nan")) for k in ("cx", "cy")] for c in circles])
    assert (places >= 9.9).all()
    assert (places <= np.array([float(svg.get(k, "nan")) for k in ("width", "height")]) - 9).all()
    assert len(svg.findall(f".//{name}path")) == (0 if count == 7 else len(get_scheme(str(count)).edges))


def test_a_sketch_of_points_that_coincide() -> None:
    one = dataclasses.replace(face(), points=np.full((68, 2), 5, np.float32))
    assert "nan" not in one._repr_html_()


def test_draw_is_draw_faces() -> None:
    photo = np.full((240, 240, 3), 90, np.uint8)
    np.testing.assert_array_equal(face().draw(photo), draw_faces(photo, [face()], get_scheme("68")))
    with pytest.raises(FacemsmError, match="has 7 points"):
        face(7).draw(photo)


def test_tables() -> None:
    pytest.importorskip("pandas")
    table = facemsm.to_dataframe([face(), face()])
    assert list(table.columns) == ["face", "landmark", "x", "y", "score", "occluded"]
    assert len(table) == 136
    np.testing.assert_array_equal(table.loc[table["face"] == 1, ["x", "y"]], face().points)
    assert table.groupby("face")["occluded"].sum().tolist() == [3, 3]
    assert facemsm.to_dataframe(face()).equals(table[table["face"] == 0])
    alone = face().to_dataframe()
    np.testing.assert_array_equal(alone["score"], face().scores)
    assert alone.index.name == "landmark"
    assert list(facemsm.to_dataframe([]).columns) == list(table.columns)


def test_tables_need_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(FacemsmError, match="pip install pandas"):
        facemsm.to_dataframe([face()])


def test_coco_is_read_back(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, np.zeros((200, 220, 3), np.uint8))
    photos = [PhotoResult("a.png", 220, 200, "68", [face()]), PhotoResult("b.png", 220, 200, "68", [])]
    (tmp_path / "faces.json").write_text(json.dumps(facemsm.to_coco(photos)))
    (sample,) = read_coco(tmp_path / "faces.json", "provided", get_scheme("68"))
    assert isinstance(sample, FaceSample)
    np.testing.assert_allclose(sample.points, face().points, atol=1e-3)
    np.testing.assert_allclose(sample.box, face().box, atol=1e-3)
    assert sample.visibility is not None
    np.testing.assert_array_equal(sample.visibility == 1, face().occluded)
    assert face().to_coco(3, 4)["image_id"] == 3
    assert face().to_coco(3, 4)["id"] == 4


def test_coco_has_one_scheme() -> None:
    for photos in ([], [PhotoResult("a", 1, 1, name, []) for name in ("68", "98")]):
        with pytest.raises(FacemsmError, match="one landmark scheme"):
            facemsm.to_coco(photos)
    with pytest.raises(FacemsmError, match=r"made of facemsm\.PhotoResult"):
        facemsm.to_coco([[face()]])  # type: ignore[arg-type]
