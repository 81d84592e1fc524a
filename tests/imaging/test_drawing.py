from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from facemsm.errors import FacemsmError
from facemsm.face import Face
from facemsm.imaging.drawing import LOW_SCORE, draw_faces, score_colours
from facemsm.schemes import LandmarkScheme, get_scheme
from facemsm.typing import BoolArray, FloatArray

THREE = LandmarkScheme("3", 3, (), right_eye=(0,), left_eye=(1,), mouth=(2,))


def face(points: FloatArray, scores: FloatArray | None = None, occluded: BoolArray | None = None) -> Face:
    n = len(points)
    return Face(
        points=points.astype(np.float32),
        scores=np.ones(n, np.float32) if scores is None else scores,
        occluded=np.zeros(n, np.bool_) if occluded is None else occluded,
        box=np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float32),
        theta=np.eye(2, 3, dtype=np.float32),
        preliminary=points.astype(np.float32),
    )


def corners(size: float, offset: float = 0.0) -> FloatArray:
    return (np.array([[0, 0], [size, 0], [size / 2, size]]) + offset).astype(np.float32)


def test_faces_with_low_scores_are_faint() -> None:
    photo = np.zeros((120, 120, 3), np.uint8)

    def brightness(score: float) -> float:
        return float(draw_faces(photo, [face(corners(80, 20), np.full(3, score, np.float32))], THREE).max())

    assert brightness(LOW_SCORE - 0.01) < 0.4 * brightness(LOW_SCORE)


@pytest.mark.parametrize("size", [100, 1500])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5])
def test_marks_are_centred_on_their_points_to_a_tenth_of_a_pixel(size: int, fraction: float) -> None:
    photo = np.zeros((size + 400, size + 400, 3), np.uint8)
    points = corners(size, 200 + fraction)
    drawn = draw_faces(photo, [face(points)], THREE)[..., 0].astype(float)
    for point in points:
        x0, y0 = np.round(point).astype(int) - 25
        patch = drawn[y0 : y0 + 51, x0 : x0 + 51]
        y, x = np.mgrid[y0 : y0 + 51, x0 : x0 + 51]
        centre = np.array([(x * patch).sum(), (y * patch).sum()]) / patch.sum()
        np.testing.assert_allclose(centre, point, atol=0.1)


@pytest.mark.parametrize("size", [100, 2000])
def test_rebuilt_points_are_hollow(size: int) -> None:
    photo = np.full((size + 60, size + 60, 3), 128, np.uint8)
    points = corners(size, 30)
    drawn = draw_faces(photo, [face(points, occluded=np.array([True, False, False]))], THREE)
    yellow = score_colours(np.ones(1, np.float32))[0].astype(int)
    hollow, solid = drawn[30, 30].astype(int), drawn[30, 30 + size].astype(int)
    assert np.abs(hollow - 128).max() < 70 if size == 100 else hollow.tolist() == [128] * 3
    np.testing.assert_array_equal(solid, yellow)


def test_colours_get_steadily_brighter_with_the_score() -> None:
    colours = score_colours(np.linspace(0, 1, 11, dtype=np.float32)).astype(float)
    luminance = colours @ [0.2126, 0.7152, 0.0722]
    assert np.all(np.diff(luminance) > 5)
    assert colours[0].max() > 120  # also the lowest score can be seen on black
    np.testing.assert_array_equal(
        score_colours(np.array([-1, 2], np.float32)), score_colours(np.array([0, 1], np.float32))
    )


def test_the_photo_itself_and_pixels_far_from_the_face_stay() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (600, 800, 3), dtype=np.uint8)
    before = photo.copy()
    points = np.random.default_rng(1).uniform(100, 300, (68, 2)).astype(np.float32)
    drawn = draw_faces(photo, [face(points)], get_scheme("68"), boxes=True)
    np.testing.assert_array_equal(photo, before)
    assert drawn.shape == photo.shape
    assert drawn.dtype == np.uint8
    changed = (drawn != photo).any(axis=2)
    changed[-22:, :250] = False  # the legend
    y, x = changed.nonzero()
    assert 90 < x.min() < x.max() < 310
    assert 90 < y.min() < y.max() < 310
    np.testing.assert_array_equal(draw_faces(photo, [], get_scheme("68")), photo)


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 300, 3), (64, 64, 3), (900, 1200, 3)])
def test_any_photo_and_points_anywhere(shape: tuple[int, int, int]) -> None:
    scheme = get_scheme("68")
    rng = np.random.default_rng(2)
    photo = np.zeros(shape, np.uint8)
    for points in (
        np.zeros((68, 2)),
        rng.uniform(-100, 400, (68, 2)),
        rng.uniform(-1e4, -9e3, (68, 2)),
        rng.uniform(9e3, 1e12, (68, 2)),
    ):
        drawn = draw_faces(
            photo, [face(points.astype(np.float32), rng.random(68).astype(np.float32), rng.random(68) < 0.5)], scheme
        )
        assert drawn.shape == shape


def test_faces_of_another_scheme_are_refused() -> None:
    with pytest.raises(FacemsmError, match="3 points, not the 68 of scheme 68"):
        draw_faces(np.zeros((90, 90, 3), np.uint8), [face(corners(50))], get_scheme("68"))


def test_one_face_and_its_scheme_need_not_be_said() -> None:
    photo = np.zeros((90, 90, 3), np.uint8)
    points = np.random.default_rng(0).uniform(10, 80, (68, 2)).astype(np.float32)
    drawn = draw_faces(photo, [face(points)], get_scheme("68"))
    np.testing.assert_array_equal(draw_faces(photo, face(points)), drawn)
    np.testing.assert_array_equal(draw_faces(photo, []), photo)
    with pytest.raises(FacemsmError, match="no built-in landmark scheme has 3 points"):
        draw_faces(photo, [face(corners(50))])


def test_photos_of_any_form_are_drawn_into() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    drawn = face(corners(30, 10)).draw(photo, THREE)
    rgba = np.dstack([photo, photo[..., 0]])
    for source in (rgba, PIL.Image.fromarray(photo), PIL.Image.fromarray(rgba)):
        np.testing.assert_array_equal(face(corners(30, 10)).draw(source, THREE), drawn)
    assert face(corners(30, 10)).draw(photo[..., 0], THREE).shape == (60, 80, 3)
    with pytest.raises(FacemsmError, match="image: is None"):
        face(corners(30, 10)).draw(None, THREE)  # type: ignore[arg-type]
