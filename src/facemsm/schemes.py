"""Landmark schemes as data: which points there are, which mirror which, and what they are used for.

A scheme of one's own is a short TOML file, read by :func:`load_scheme`::

    name = "5"
    count = 5
    flip = [[0, 1], [3, 4]]        # mirrored pairs; every other point is its own mirror image
    right_eye = [0]                # the person's right eye (left in the photo): its points' mean is the eye centre
    left_eye = [1]
    mouth = [3, 4]                 # their mean is the mouth centre
    edges = [[0, 1], [3, 4]]       # optional: lines of the skeleton, for drawing
    contour = []                   # optional: points on the face's outline (lower threshold in stage 3)
    eye_corners = [0, 1]           # optional: outer corners for inter-ocular normalisation; eye centres otherwise
    names = ["right eye", ...]     # optional: a name of its own for each point, for annotation tools
    from_68 = [[36, 37, 38, 39, 40, 41], [42, 43, 44, 45, 46, 47], [30], [48], [54]]
                                   # optional: points of the 68 whose mean is nearest each point, or [] for none;
                                   # then training can start from 68-point weights

All indices are 0-based.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemsm.errors import FacemsmError, check_number, short
from facemsm.files import check_file, read_text
from facemsm.typing import FloatArray, IntArray, PathLike

Edge = tuple[int, int]

_LARGEST_FILE = 1 << 20  # bytes

VISIBLE, OCCLUDED, UNLABELLED = 2, 1, 0
"""Visibility of a landmark, as in COCO keypoints."""

_MOST_POINTS = 10_000  # tables of all pairs of points still fit into memory


@dataclass(frozen=True)
class LandmarkScheme:
    """A set of landmarks.

    Attributes:
        name: short name, ``"68"``.
        count: number of points L.
        flip_pairs: pairs of points that change places when the photo is mirrored; all others are their own mirror.
        right_eye, left_eye: points whose mean is the eye centre (the pupil where the scheme has one). The person's
            right eye is on the left of the photo.
        mouth: points whose mean is the mouth centre.
        eye_corners: outer corners of right and left eye; their distance is the inter-ocular normaliser.
        contour: points on the outline of the face; the paper gives them a threshold of their own (Section IV-G).
        edges: the skeleton, for drawing.
        names: one name per point, or empty. Right and left are the person's.
        from_68: for each point, those of the 68 whose mean is nearest to it, none where nothing is near; or empty.
            Used by :func:`relation` only.

    Example::

        >>> scheme = get_scheme("68")
        >>> scheme.count, scheme.flip[:3].tolist(), len(scheme.contour)
        (68, [16, 15, 14], 17)
    """

    name: str
    count: int
    flip_pairs: tuple[Edge, ...]
    right_eye: tuple[int, ...]
    left_eye: tuple[int, ...]
    mouth: tuple[int, ...]
    eye_corners: Edge | None = None
    contour: tuple[int, ...] = ()
    edges: tuple[Edge, ...] = ()
    names: tuple[str, ...] = field(default=(), repr=False)
    from_68: tuple[tuple[int, ...], ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        where = f"landmark scheme {self.name!r}"
        check_number(f"{where}: count", self.count, 3, _MOST_POINTS, whole=True)
        groups: dict[str, Iterable[int]] = {
            "flip": [i for pair in self.flip_pairs for i in pair],
            "right_eye": self.right_eye,
            "left_eye": self.left_eye,
            "mouth": self.mouth,
            "eye_corners": self.eye_corners or (),
            "contour": self.contour,
            "edges": [i for edge in self.edges for i in edge],
        }
        for group, indices in groups.items():
            for index in indices:
                if not 0 <= index < self.count:
                    raise FacemsmError(f"{where}: {group} names point {index}, but points are 0 to {self.count - 1}")
        paired = list(groups["flip"])
        if len(set(paired)) != len(paired):
            raise FacemsmError(f"{where}: flip names a point in two pairs")
        for group in ("right_eye", "left_eye", "mouth"):
            if not groups[group]:
                raise FacemsmError(f"{where}: {group} is empty; it is needed to make faces canonical")
        if self.names and len(self.names) != self.count:
            raise FacemsmError(f"{where}: {len(self.names)} names for {self.count} points")
        if self.from_68 and len(self.from_68) != self.count:
            raise FacemsmError(f"{where}: from_68 has {len(self.from_68)} entries for {self.count} points")
        for index in (i for near in self.from_68 for i in near):
            if not 0 <= index < 68:
                raise FacemsmError(f"{where}: from_68 names point {index}, but the 68 points are 0 to 67")

    @cached_property
    def flip(self) -> IntArray:
        """(L,) int64: ``points[flip]`` after mirroring x puts every point back at its own index. An involution."""
        table = np.arange(self.count)
        for a, b in self.flip_pairs:
            table[a], table[b] = b, a
        return table

    @property
    def built_in(self) -> bool:
        """Whether :func:`get_scheme` knows it by its name; files then need not say more of it."""
        known = _BUILT_IN.get(self.name)
        return known is not None and known.count == self.count

    @cached_property
    def features(self) -> tuple[int, ...]:
        """Every point that is not on the contour."""
        return tuple(sorted(set(range(self.count)) - set(self.contour)))

    @cached_property
    def outer_eye_corners(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Points whose means span the inter-ocular distance: the outer eye corners, else the eye centres."""
        if self.eye_corners is None:
            return self.right_eye, self.left_eye
        return (self.eye_corners[0],), (self.eye_corners[1],)


def _chain(first: int, last: int, *, closed: bool = False) -> tuple[Edge, ...]:
    edges = tuple((i, i + 1) for i in range(first, last))
    return (*edges, (last, first)) if closed else edges


def _mirrored(names: Sequence[str]) -> tuple[Edge, ...]:
    """Pairs of points whose names differ by right and left alone."""
    swap = {"right": "left", "left": "right"}
    others = [re.sub("right|left", lambda side: swap[side[0]], name) for name in names]
    return tuple((i, names.index(other)) for i, other in enumerate(others) if names.index(other) > i)


def _run(name: str, first: int, last: int) -> tuple[str, ...]:
    """Names of points in a row, ``right brow 1`` to ``right brow 5``, or falling numbers."""
    step = 1 if first <= last else -1
    return tuple(f"{name} {i}" for i in range(first, last + step, step))


def _eye_names(side: str, lid: int) -> tuple[str, ...]:
    """Names of the points around an eye from the photo's left on, over the upper lid; ``lid`` on each lid."""
    first, last = ("outer", "inner") if side == "right" else ("inner", "outer")
    there, back = ((1, lid), (lid, 1)) if side == "right" else ((lid, 1), (1, lid))
    upper, lower = _run(f"{side} upper lid", *there), _run(f"{side} lower lid", *back)
    return (f"{side} eye {first} corner", *upper, f"{side} eye {last} corner", *lower)


_MOUTH_NAMES = (
    *("right mouth corner", *_run("right upper lip", 1, 2), "upper lip middle", *_run("left upper lip", 2, 1)),
    *("left mouth corner", *_run("left lower lip", 1, 2), "lower lip middle", *_run("right lower lip", 2, 1)),
    *("right inner mouth corner", "right upper lip inside", "upper lip inside middle", "left upper lip inside"),
    *("left inner mouth corner", "left lower lip inside", "lower lip inside middle", "right lower lip inside"),
)

_NAMES_68 = (
    *(*_run("right jaw", 1, 8), "chin", *_run("left jaw", 8, 1)),
    *(*_run("right brow", 1, 5), *_run("left brow", 5, 1)),
    *(*_run("nose bridge", 1, 3), "nose tip"),
    *(*_run("right nostril", 1, 2), "nose base", *_run("left nostril", 2, 1)),
    *(*_eye_names("right", 2), *_eye_names("left", 2), *_MOUTH_NAMES),
)

SCHEME_68 = LandmarkScheme(
    name="68",
    count=68,
    flip_pairs=_mirrored(_NAMES_68),
    right_eye=tuple(range(36, 42)),
    left_eye=tuple(range(42, 48)),
    mouth=tuple(range(48, 68)),
    eye_corners=(36, 45),
    contour=tuple(range(17)),
    edges=(
        *_chain(0, 16),
        *_chain(17, 21),
        *_chain(22, 26),
        *_chain(27, 30),
        *_chain(31, 35),
        *_chain(36, 41, closed=True),
        *_chain(42, 47, closed=True),
        *_chain(48, 59, closed=True),
        *_chain(60, 67, closed=True),
    ),
    names=_NAMES_68,
    from_68=tuple((i,) for i in range(68)),
)
"""300-W, 300-W private, COFW-68, Menpo semi-frontal (Fig. 16)."""

_NAMES_98 = (
    *(*_run("right jaw", 1, 16), "chin", *_run("left jaw", 16, 1)),
    *(*_run("right brow upper edge", 1, 5), *_run("right brow lower edge", 5, 2)),
    *(*_run("left brow upper edge", 5, 1), *_run("left brow lower edge", 2, 5)),
    *(*_run("nose bridge", 1, 3), "nose tip"),
    *(*_run("right nostril", 1, 2), "nose base", *_run("left nostril", 2, 1)),
    *(*_eye_names("right", 3), *_eye_names("left", 3), *_MOUTH_NAMES, "right pupil", "left pupil"),
)

SCHEME_98 = LandmarkScheme(
    name="98",
    count=98,
    flip_pairs=_mirrored(_NAMES_98),
    right_eye=(96,),
    left_eye=(97,),
    mouth=tuple(range(76, 96)),
    eye_corners=(60, 72),
    contour=tuple(range(33)),
    edges=(
        *_chain(0, 32),
        *_chain(33, 41, closed=True),
        *_chain(42, 50, closed=True),
        *_chain(51, 54),
        *_chain(55, 59),
        *_chain(60, 67, closed=True),
        *_chain(68, 75, closed=True),
        *_chain(76, 87, closed=True),
        *_chain(88, 95, closed=True),
    ),
    names=_NAMES_98,
    from_68=(
        *((i // 2,) if i % 2 == 0 else (i // 2, i // 2 + 1) for i in range(33)),
        *((i,) for i in (*range(17, 22), 21, 20, 19, 18)),  # both edges of a brow from its one line
        *((i,) for i in (*range(22, 27), 25, 24, 23, 22)),
        *((i,) for i in range(27, 36)),
        *((36,), (37,), (37, 38), (38,), (39,), (40,), (40, 41), (41,)),
        *((42,), (43,), (43, 44), (44,), (45,), (46,), (46, 47), (47,)),
        *((i,) for i in range(48, 68)),
        *(tuple(range(36, 42)), tuple(range(42, 48))),
    ),
)
"""WFLW."""

_NAMES_29 = (
    *("right brow outer end", "left brow outer end", "right brow inner end", "left brow inner end"),
    *("right brow upper edge", "right brow lower edge", "left brow upper edge", "left brow lower edge"),
    *("right eye outer corner", "left eye outer corner", "right eye inner corner", "left eye inner corner"),
    *("right upper lid", "right lower lid", "left upper lid", "left lower lid", "right pupil", "left pupil"),
    *("right nostril", "left nostril", "nose tip", "nose base", "right mouth corner", "left mouth corner"),
    *("upper lip middle", "upper lip inside middle", "lower lip inside middle", "lower lip middle", "chin"),
)

SCHEME_29 = LandmarkScheme(
    name="29",
    count=29,
    flip_pairs=_mirrored(_NAMES_29),
    right_eye=(16,),
    left_eye=(17,),
    mouth=tuple(range(22, 28)),
    eye_corners=(8, 9),
    contour=(28,),
    edges=(
        *((0, 4), (4, 2), (2, 5), (5, 0), (1, 6), (6, 3), (3, 7), (7, 1)),
        *((8, 12), (12, 10), (10, 13), (13, 8), (9, 14), (14, 11), (11, 15), (15, 9)),
        *((18, 20), (20, 19), (19, 21), (21, 18)),
        *((22, 24), (24, 23), (23, 27), (27, 22), (22, 25), (25, 23), (23, 26), (26, 22)),
    ),
    names=_NAMES_29,
    from_68=(
        *((17,), (26,), (21,), (22,), (19,), (19,), (24,), (24,)),
        *((36,), (45,), (39,), (42,), (37, 38), (40, 41), (43, 44), (46, 47)),
        *(tuple(range(36, 42)), tuple(range(42, 48))),
        *((31,), (35,), (30,), (33,), (48,), (54,), (51,), (62,), (66,), (57,), (8,)),
    ),
)
"""COFW."""

_BUILT_IN: Mapping[str, LandmarkScheme] = {s.name: s for s in (SCHEME_29, SCHEME_68, SCHEME_98)}


def get_scheme(name: PathLike | LandmarkScheme) -> LandmarkScheme:
    """The scheme called ``name`` (``"29"``, ``"68"``, ``"98"``), or the one a ``.toml`` file declares.

    A scheme is returned as it is: what takes a name may so be given the scheme of a model, which no name leads to if it
    is one of one's own.

    Raises:
        FacemsmError: no such scheme, or a fault in the file.
    """
    if isinstance(name, LandmarkScheme):
        return name
    if str(name) in _BUILT_IN:
        return _BUILT_IN[str(name)]
    if str(name).endswith(".toml"):
        return load_scheme(name)
    raise FacemsmError(f"no landmark scheme {str(name)!r}: use {', '.join(_BUILT_IN)} or a .toml file of your own")


def scheme_of(count: int) -> LandmarkScheme:
    """The built-in scheme of so many points.

    Raises:
        FacemsmError: there is none.
    """
    if str(count) not in _BUILT_IN:
        known = ", ".join(_BUILT_IN)
        raise FacemsmError(f"no built-in landmark scheme has {count} points ({known} do): say which, scheme=...")
    return _BUILT_IN[str(count)]


def relation(source: LandmarkScheme, target: LandmarkScheme) -> FloatArray:
    """Where the landmarks of one scheme lie among another's, by what both say of the 68 points.

    Returns:
        (L_target, L_source) float32: row i has the weights of the source points whose mean is nearest to target point
        i, and is 0 where none is near.

    Raises:
        FacemsmError: one of the schemes says nothing of the 68 points.
    """
    for scheme in (source, target):
        if not scheme.from_68:
            raise FacemsmError(
                f"landmark scheme {scheme.name!r} does not say where its points lie among the 68: add from_68 to its "
                ".toml file"
            )
    weights = np.zeros((target.count, source.count), np.float32)
    alone = {near[0]: i for i, near in reversed(list(enumerate(source.from_68))) if len(near) == 1}  # the first wins
    for i, near in enumerate(target.from_68):
        weights[i, [alone[point] for point in near if point in alone]] = 1
    weights /= np.maximum(weights.sum(1, keepdims=True), 1)
    return weights


def coco_category(scheme: LandmarkScheme) -> dict[str, Any]:
    """The COCO keypoints category of a scheme: names and skeleton of its points."""
    return {
        "id": 1,
        "name": "face",
        "keypoints": list(scheme.names) or [str(i) for i in range(scheme.count)],
        "skeleton": [[a + 1, b + 1] for a, b in scheme.edges],  # COCO counts keypoints from 1 here
    }


def coco_annotation(
    annotation_id: int, image_id: int, points: FloatArray, visibility: NDArray[np.integer[Any]], box: FloatArray
) -> dict[str, Any]:
    """The COCO keypoints annotation of one face, to 0.0001 px.

    Args:
        annotation_id, image_id: numbers of the face and of its photo.
        points: (L, 2), photo pixels; not used where unlabelled.
        visibility: (L,), ``VISIBLE``, ``OCCLUDED`` or ``UNLABELLED``.
        box: (4,), ``x_min, y_min, x_max, y_max``; becomes x, y, width, height.
    """
    located = np.where((visibility == UNLABELLED)[:, None], 0, points.astype(np.float64))
    x_min, y_min, x_max, y_max = box.astype(np.float64)
    width, height = x_max - x_min, y_max - y_min
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [round(float(value), 4) for value in (x_min, y_min, width, height)],
        "area": round(float(width * height), 4),
        "num_keypoints": int(np.count_nonzero(visibility)),
        "keypoints": [round(value, 4) for value in np.column_stack([located, visibility]).ravel().tolist()],
    }


def load_scheme(path: PathLike) -> LandmarkScheme:
    """Read a scheme from a TOML file (see the module's docstring).

    Raises:
        FacemsmError: the file cannot be read, or a field is missing, unknown or of the wrong kind.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    check_file(Path(path), _LARGEST_FILE)
    text = read_text(Path(path))
    try:
        fields: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise FacemsmError(f"{path}: not valid TOML: {error}") from error
    return scheme_from_dict(fields, str(path))


def scheme_from_dict(fields: Mapping[str, Any], where: str) -> LandmarkScheme:
    """A scheme from plain values, as in the TOML file and in model files. ``where`` is named in errors.

    A built-in scheme without its names, as model files have it, is that scheme.

    Raises:
        FacemsmError: a field is missing, unknown or of the wrong kind.
    """
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in _FIELDS:
            raise FacemsmError(f"{where}: unknown field {short(name)}; known are {', '.join(_FIELDS)}")
        try:
            values[name] = _FIELDS[name](value)
        except (TypeError, ValueError) as error:
            raise FacemsmError(f"{where}: field {name!r}: {error}") from error
    for name in ("name", "count", "right_eye", "left_eye", "mouth"):
        if name not in values:
            raise FacemsmError(f"{where}: field {name!r} is missing")
    try:
        scheme = LandmarkScheme(flip_pairs=values.pop("flip", ()), **values)
    except FacemsmError as error:
        raise FacemsmError(f"{where}: {error}") from error
    built_in = _BUILT_IN.get(scheme.name)
    return built_in if built_in and scheme == replace(built_in, names=()) else scheme


def scheme_to_dict(scheme: LandmarkScheme) -> dict[str, Any]:
    """The inverse of :func:`scheme_from_dict`: plain lists, numbers and strings. Built-in schemes are written without
    ``from_68`` and names, which their name leads to."""
    own = scheme.from_68 and not scheme.built_in
    related = {"from_68": [list(near) for near in scheme.from_68]} if own else {}
    built_in = _BUILT_IN.get(scheme.name)
    return {
        "name": scheme.name,
        "count": scheme.count,
        "flip": [list(pair) for pair in scheme.flip_pairs],
        "right_eye": list(scheme.right_eye),
        "left_eye": list(scheme.left_eye),
        "mouth": list(scheme.mouth),
        "eye_corners": list(scheme.eye_corners or ()),
        "contour": list(scheme.contour),
        "edges": [list(edge) for edge in scheme.edges],
        "names": [] if built_in and scheme.names == built_in.names else list(scheme.names),
        **related,
    }


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{short(value)} is not text in quotes")
    if not value.isprintable():
        raise ValueError(f"{short(value)} has characters that cannot be printed")
    return value


def _index(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{short(value)} is not a whole number")
    return value


def _items(value: object) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{short(value)} is not a list in brackets")
    return value


def _indices(value: object) -> tuple[int, ...]:
    return tuple(_index(item) for item in _items(value))


def _pair(value: object) -> Edge:
    indices = _indices(value)
    if len(indices) != 2:
        raise ValueError(f"{short(value)} is not a pair of points")
    return indices[0], indices[1]


def _pairs(value: object) -> tuple[Edge, ...]:
    return tuple(_pair(item) for item in _items(value))


_FIELDS: Mapping[str, Callable[[object], Any]] = {
    "name": _text,
    "count": _index,
    "flip": _pairs,
    "right_eye": _indices,
    "left_eye": _indices,
    "mouth": _indices,
    "eye_corners": lambda value: _pair(value) if value else None,
    "contour": _indices,
    "edges": _pairs,
    "names": lambda value: tuple(_text(item) for item in _items(value)),
    "from_68": lambda value: tuple(_indices(item) for item in _items(value)),
}
