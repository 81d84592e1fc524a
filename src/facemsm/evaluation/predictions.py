"""What a method predicted for the faces of a data set, in memory and on disk: scored again without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemsm.data.reading import read_npz
from facemsm.errors import FacemsmError
from facemsm.evaluation.cofw68_results import read_cofw68_results
from facemsm.files import atomic_write
from facemsm.typing import BoolArray, FloatArray

OPTIONAL = ("scores", "preliminary", "occlusion", "own")
"""Arrays that a method may not give."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of one method for N faces. A face that was missed has NaN everywhere.

    Attributes:
        method: short name, for plots.
        names: (N,) distinct ``FaceSample.name``.
        points: (N, L, 2) float32, photo pixels, 0-based pixel centres.
        occluded: (N, L) bool flags.
        scores: (N, L) float32 in [0, 1], how surely a point is right; None if the method does not say.
        preliminary: (N, L, 2) float32, the points before stage 3; None where stage 3 did not run.
        occlusion: (N, L) float32 in [0, 1], the probability that a point is hidden; None if the method does not say.
        own: (N, L, 2) float32, the points in the convention of the data set's labels; None where the method knows none.
        origin: what a report must say about where they come from: weights, boxes, commit...
    """

    method: str
    names: Sequence[str]
    points: FloatArray
    occluded: BoolArray
    scores: FloatArray | None = None
    preliminary: FloatArray | None = None
    occlusion: FloatArray | None = None
    own: FloatArray | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    def for_faces(self, names: Sequence[str]) -> Predictions:
        """The same for the faces ``names``, in their order; a face without prediction is missed.

        Raises:
            FacemsmError: none of the faces has a prediction.
        """
        row = {name: i for i, name in enumerate(self.names)}
        known = np.array([name in row for name in names], dtype=bool)
        if not known.any():
            example = f" ({self.names[0]!r}, ...)" if len(self.names) else ""
            raise FacemsmError(f"none of the predictions{example} is for a face of this split ({names[0]!r}, ...)")
        order = [row.get(name, 0) for name in names]

        def pick(values: FloatArray) -> FloatArray:
            chosen = values[order]
            chosen[~known] = np.nan
            return chosen

        return Predictions(
            method=self.method,
            names=tuple(names),
            points=pick(self.points),
            occluded=self.occluded[order] & known[:, None],
            **{name: pick(values) for name in OPTIONAL if (values := getattr(self, name)) is not None},
            origin=self.origin,
        )


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Write ``predictions`` to an ``.npz`` file: the arrays under their names, ``origin`` as JSON text.

    Raises:
        FacemsmError: the name does not end in ``.npz``, or it cannot be written.
    """
    check_ending(path)
    arrays: dict[str, NDArray[Any]] = {
        "method": np.array(predictions.method),
        "names": np.array(predictions.names, dtype=np.str_),
        "points": predictions.points,
        "occluded": predictions.occluded,
        "origin": np.array(json.dumps(predictions.origin)),
    }
    arrays |= {name: values for name in OPTIONAL if (values := getattr(predictions, name)) is not None}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub takes names for allow_pickle


def check_ending(path: Path) -> None:
    """What :func:`save_predictions` demands of a name, to be known before a long run.

    Raises:
        FacemsmError: it does not end in ``.npz``.
    """
    if path.suffix != ".npz":
        raise FacemsmError(f"{path}: predictions are saved as .npz; give it that ending")


def load_predictions(path: Path, count: int) -> Predictions:
    """Read an ``.npz`` of :func:`save_predictions`, or else a result file of the COFW-68 benchmark.

    Args:
        path: the file.
        count: number of points L that is expected.

    Raises:
        FacemsmError: it cannot be read, is neither, or has another number of points.
    """
    if path.suffix == ".npz":
        found = _load_npz(path)
    else:
        results = read_cofw68_results(path)
        names = [str(number) for number in results.numbers]
        origin = {"file": path.name, "data set": "cofw68"}
        found = Predictions(path.stem, names, results.points, results.occluded, origin=origin)
    if found.points.shape[1] != count:
        raise FacemsmError(f"{path}: has {found.points.shape[1]} points per face, expected {count}")
    return found


def _load_npz(path: Path) -> Predictions:
    arrays = read_npz(path, (field.name for field in fields(Predictions)))
    try:
        names = tuple(str(name) for name in arrays["names"])
        points = arrays["points"].astype(np.float32)
        n, count, _ = points.shape
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("points", "preliminary", "own"), (n, count, 2))
        shapes |= dict.fromkeys(("occluded", "scores", "occlusion"), (n, count))
        for name, shape in shapes.items():
            if name in arrays and arrays[name].shape != shape:
                raise ValueError(f"{name} is {arrays[name].shape}, expected {shape}")
        if not (len(set(names)) == len(names) == n):
            raise ValueError("expected one distinct name for each face")
        return Predictions(
            str(arrays["method"]),
            names,
            points,
            arrays["occluded"].astype(bool),
            **{name: arrays[name].astype(np.float32) for name in OPTIONAL if name in arrays},
            origin=dict(json.loads(str(arrays["origin"]))),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise FacemsmError(f"{path}: not a file of predictions, or damaged ({reason})") from error
