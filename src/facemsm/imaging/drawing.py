"""Drawing landmarks into a photo."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from facemsm.errors import FacemsmError
from facemsm.imaging.io import as_image
from facemsm.schemes import LandmarkScheme, scheme_of
from facemsm.typing import BoolArray, FloatArray, Image

if TYPE_CHECKING:
    from facemsm.imaging.io import ImageSource

SHIFT = 4
"""Bits of a pixel's fraction in OpenCV's drawing: it draws at 1/16 pixel."""
_WHITE = (255, 255, 255)
_LARGEST = 1e6  # coordinates beyond this overflow OpenCV's fixed point; no photo is as large


LOW_SCORE = 0.3
"""Score of a face below which hardly a point is right, or it is none: it is drawn faintly, and counted."""

_FAINT = 0.3  # opacity of such a face


class Drawable(Protocol):
    """What is drawn of a :class:`facemsm.Face`."""

    @property
    def points(self) -> FloatArray:
        """(L, 2) photo pixels."""

    @property
    def scores(self) -> FloatArray:
        """(L,) in [0, 1]."""

    @property
    def occluded(self) -> BoolArray:
        """(L,)."""

    @property
    def box(self) -> FloatArray:
        """(4,) photo pixels."""

    @property
    def score(self) -> float:
        """0 to 1, of the face."""


def draw_faces(
    image: ImageSource,
    faces: Sequence[Drawable] | Drawable,
    scheme: LandmarkScheme | None = None,
    *,
    boxes: bool = False,
    legend: bool = False,
) -> Image:
    """Draw faces into a copy of the photo.

    Discs are points that were seen, rings hidden ones (``Face.occluded``). Their colour is the score, from violet
    (0) to yellow (1). Sizes follow the face. Faces with a score below ``LOW_SCORE`` are
    faint. A legend is added at the bottom left if the photo has room for it.

    Args:
        image: a path, bytes, a PIL picture or an array; see :func:`facemsm.imaging.io.as_image`.
        faces: what :meth:`facemsm.Aligner.align` returns, or one of them.
        scheme: theirs; may be left out if it is a built-in one.
        boxes: draw the face boxes too.
        legend: draw it without a face, too: in a video it stays where it is.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        FacemsmError: the image cannot be used, or a face has another number of points.
    """
    canvas: Image = as_image(image).copy()
    faces = faces if isinstance(faces, Sequence) else [faces]
    for face in faces:
        scheme = scheme or scheme_of(len(face.points))
        if len(face.points) != scheme.count:
            raise FacemsmError(f"a face has {len(face.points)} points, not the {scheme.count} of scheme {scheme.name}")
        _draw_face(canvas, face, scheme, boxes)
    if faces or legend:
        _draw_legend(canvas)
    return canvas


def score_colours(scores: FloatArray) -> NDArray[np.uint8]:
    """(N, 3) uint8 RGB of scores (N,) in [0, 1], by the plasma map: even steps, readable by the colour-blind."""
    levels = np.round(40 + np.clip(scores, 0, 1) * 215).astype(np.uint8)  # without the end that is nearly black
    rgb: NDArray[np.uint8] = np.flip(cv2.applyColorMap(levels[:, None], cv2.COLORMAP_PLASMA)[:, 0], axis=1)
    return rgb


def _draw_face(canvas: Image, face: Drawable, scheme: LandmarkScheme, boxes: bool) -> None:
    points = np.clip(face.points, -_LARGEST, _LARGEST)
    size = float(np.sqrt(np.prod(np.ptp(points, axis=0) + 1)))
    radius = max(0.9, 0.011 * size)
    line = max(1, round(0.004 * size))
    opacity = 1.0 if face.score >= LOW_SCORE else _FAINT
    if boxes:
        low, high = fixed(np.clip(face.box, -_LARGEST, _LARGEST).reshape(2, 2)).tolist()
        cv2.rectangle(canvas, low, high, _WHITE, line, cv2.LINE_AA, SHIFT)

    edges = np.array(scheme.edges, np.int64).reshape(-1, 2)
    # the skeleton is blended, and only where the face is: a copy of a large photo would be slow
    margin = 2 * line + 2
    x0, y0 = np.maximum(np.floor(points.min(axis=0)).astype(int) - margin, 0)
    x1, y1 = np.ceil(points.max(axis=0)).astype(int) + margin
    region = canvas[y0 : max(y1, 0), x0 : max(x1, 0)]
    if len(edges) and region.size:
        lines = region.copy()
        cv2.polylines(lines, list(fixed(points[edges] - (x0, y0))), False, _WHITE, line, cv2.LINE_AA, SHIFT)
        cv2.addWeighted(lines, 0.5 * opacity, region, 1 - 0.5 * opacity, 0, dst=region)

    for centre, colour, hidden in zip(points, score_colours(face.scores), face.occluded, strict=True):
        _draw_mark(canvas, centre, colour, radius, bool(hidden), opacity)


def _draw_mark(
    canvas: Image,
    centre: NDArray[np.floating],
    colour: NDArray[np.uint8],
    radius: float,
    hidden: bool,
    opacity: float = 1.0,
) -> None:
    """A disc or, if hidden, a ring, with dark rims, blended by the share of each pixel that it covers.

    OpenCV's circles have whole-pixel lines, which closes the rings of small faces.
    """
    inner, outer = (0.8 * radius, 1.6 * radius) if hidden else (-1.0, radius)
    rim = max(0.45, 0.15 * radius)
    reach = int(np.ceil(outer + rim)) + 1
    x, y = int(np.floor(centre[0])), int(np.floor(centre[1]))
    x0, y0 = max(x - reach, 0), max(y - reach, 0)
    patch = canvas[y0 : max(y + reach + 2, 0), x0 : max(x + reach + 2, 0)]
    across, down = np.arange(patch.shape[1]) + (x0 - centre[0]), np.arange(patch.shape[0]) + (y0 - centre[1])
    distance = np.hypot(across, down[:, None])[..., None]
    dark, light = (
        np.clip(np.minimum(outer + edge - distance, distance - inner + edge) + 0.5, 0, 1) for edge in (rim, 0.0)
    )
    if opacity < 1:
        dark, light = opacity * dark, opacity * light
    patch[:] = np.round(patch * ((1 - dark) * (1 - light)) + colour * light)


def _draw_legend(canvas: Image) -> None:
    """Score bar and the mark of a hidden point, on a dark plate; nothing in a photo too small for it."""
    height, width = canvas.shape[:2]
    unit = max(1, round(min(height, width) / 500))
    plate_w, plate_h = 250 * unit, 22 * unit
    if width < 2 * plate_w or height < 10 * plate_h:
        return
    plate = canvas[height - plate_h :, :plate_w]
    np.copyto(plate, (plate * 0.25).astype(np.uint8))
    bar = score_colours(np.linspace(0, 1, 60 * unit, dtype=np.float32))
    plate[8 * unit : 14 * unit, 60 * unit : 120 * unit] = bar
    for text, x in (("score", 6), ("0", 48), ("1", 125), ("hidden point", 165)):
        _text(plate, text, x, unit)
    _draw_mark(plate, np.array([155.0, 10.5]) * unit, np.array(_WHITE, np.uint8), 3.0 * unit, True)


def _text(plate: Image, text: str, x: int, unit: int) -> None:
    cv2.putText(plate, text, (x * unit, 15 * unit), cv2.FONT_HERSHEY_SIMPLEX, 0.36 * unit, _WHITE, unit, cv2.LINE_AA)


def fixed(points: NDArray[np.floating]) -> NDArray[np.int32]:
    """Pixels as coordinates of OpenCV's drawing, which ``SHIFT`` goes with."""
    return np.asarray(np.rint(points * 2**SHIFT), np.int32)


def sketch(face: Drawable) -> str:
    """HTML with the points as SVG: discs are seen, rings hidden, colours are scores. Hover for number and score."""
    low = face.points.min(axis=0)
    points = (face.points - low) * (200 / max(1e-6, float(np.ptp(face.points, axis=0).max()))) + 10
    width, height = points.max(axis=0) + 10
    try:
        edges = scheme_of(len(points)).edges
    except FacemsmError:  # a scheme of one's own: its lines are not known here
        edges = ()
    ends = points[np.array(edges, np.int64).reshape(-1, 2)].tolist()
    lines = [f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}"/>' for (x0, y0), (x1, y1) in ends]
    marks = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" stroke="{colour}" fill="{"none" if hidden else colour}">'
        f"<title>{i}: {score:.2f}{', hidden' if hidden else ''}</title></circle>"
        for i, ((x, y), colour, score, hidden) in enumerate(
            zip(points.tolist(), map(_hex, score_colours(face.scores)), face.scores, face.occluded, strict=True)
        )
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" style="background:#222">'
        f'<g stroke="#777">{"".join(lines)}</g><g pointer-events="all">{"".join(marks)}</g></svg>'
        f"<div><code>{escape(repr(face))}</code></div>"
    )


def _hex(colour: Any) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
