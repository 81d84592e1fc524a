"""The shape dictionary D_S of Section III-C: exemplar shapes that stand for all shapes seen in training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facemsm.errors import FacemsmError, check_number
from facemsm.files import atomic_write, check_file
from facemsm.geometry import apply_affine, canonical_matrix
from facemsm.schemes import LandmarkScheme, scheme_from_dict, scheme_to_dict
from facemsm.typing import FloatArray, PathLike

LARGEST_FILE = 1 << 26
"""Bytes of a file of shapes: a hundred thousand of them."""

FARTHEST = 1e5
"""Canonical pixels; no number of a shape is as large."""

_FORMAT = "facemsm shape dictionary 1"


@dataclass(frozen=True, eq=False)
class ShapeDictionary:
    """Exemplar shapes.

    Attributes:
        shapes: (N, L, 2) float32, below ``FARTHEST``, canonical pixels. The paper writes D_S as an N × 2L matrix.
        scheme: the landmark scheme of the shapes.
        size: side of the canonical image in pixels.

    Raises:
        FacemsmError: the shapes are not N >= 1 shapes of the scheme, or the size is not 1 to 1024.
    """

    shapes: FloatArray
    scheme: LandmarkScheme
    size: int = 128

    def __post_init__(self) -> None:
        shape = (self.scheme.count, 2)
        if self.shapes.ndim != 3 or self.shapes.shape[1:] != shape or not len(self.shapes):
            raise FacemsmError(f"shapes are {self.shapes.shape}, scheme {self.scheme.name!r} needs (N, {shape[0]}, 2)")
        if self.shapes.dtype != np.float32 or not (np.abs(self.shapes) < FARTHEST).all():  # NaN is not below either
            raise FacemsmError(f"shape dictionary: shapes must be finite float32 numbers below {FARTHEST:g} px")
        check_number("shape dictionary: size", self.size, 1, 1024, whole=True)

    @property
    def centre(self) -> float:
        """x and y of the centre of the canonical image."""
        return (self.size - 1) / 2

    @cached_property
    def rows(self) -> NDArray[np.float64]:
        """(N, 2L) float64: D_S, pixels from the centre of the canonical image, so that a mirrored x is -x."""
        return self.shapes.reshape(len(self.shapes), -1).astype(np.float64) - self.centre

    def save(self, path: PathLike) -> None:
        """Write a safetensors file, with scheme and size in its metadata, whole or not at all.

        Raises:
            FacemsmError: the file cannot be written.
        """
        from safetensors.numpy import save

        # one entry only: safetensors writes several in an order that differs from run to run
        metadata = {_FORMAT: json.dumps({"size": self.size, "scheme": scheme_to_dict(self.scheme)})}
        with atomic_write(Path(path)) as partial:
            partial.write_bytes(save({"shapes": np.ascontiguousarray(self.shapes)}, metadata))

    @classmethod
    def load(cls, path: PathLike) -> ShapeDictionary:
        """Read a file that :meth:`save` wrote.

        Raises:
            FacemsmError: the file cannot be read, is cut short, or holds something else.
        """
        from safetensors import SafetensorError, safe_open

        check_file(Path(path), LARGEST_FILE)
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if _FORMAT not in metadata:
                    raise FacemsmError("not a shape dictionary; build one with build_dictionary")
                shapes = np.asarray(file.get_tensor("shapes"))
            fields = json.loads(metadata[_FORMAT])
            return cls(shapes, scheme_from_dict(fields["scheme"], "its scheme"), fields["size"])
        except FacemsmError as error:
            raise FacemsmError(f"{path}: {error}") from error
        except OSError as error:
            raise FacemsmError(f"{path}: cannot be read ({error.strerror or error})") from error
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise FacemsmError(
                f"{path}: not a shape dictionary, or a damaged one ({type(error).__name__}: {error})"
            ) from error


def build_dictionary(
    points: NDArray[np.floating],
    scheme: LandmarkScheme,
    *,
    count: int = 500,
    mirror: bool = True,
    seed: int = 0,
    size: int = 128,
) -> ShapeDictionary:
    """Make shapes canonical and reduce them to representative ones by K-means (Section IV-C).

    Args:
        points: (M, L, 2) photo pixels, all labelled.
        scheme: the landmark scheme of ``points``.
        count: N, the number of exemplars.
        mirror: add the mirror image of every shape.
        seed: of K-means. The same seed gives the same dictionary, to the last bit on one machine.
        size: side of the canonical image in pixels.

    Returns:
        The centroids, those of the largest clusters first.

    Raises:
        FacemsmError: wrong shape, points missing, or fewer shapes than exemplars.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    points = np.asarray(points)
    if points.ndim != 3 or points.shape[1:] != (scheme.count, 2):
        raise FacemsmError(f"shapes are {points.shape}: scheme {scheme.name!r} needs (M, {scheme.count}, 2)")
    incomplete = int((~np.isfinite(points)).any(axis=(1, 2)).sum())
    if incomplete:
        raise FacemsmError(f"{incomplete} of {len(points)} shapes have unlabelled points: leave those shapes out")
    shapes = apply_affine(canonical_matrix(points, scheme, size), points)
    if mirror:
        shapes = np.concatenate((shapes, (shapes * [-1, 1] + [size - 1, 0])[:, scheme.flip]))
    if not 1 <= count <= len(shapes):
        raise FacemsmError(f"{count} exemplars asked of {len(shapes)} shapes: ask for 1 to {len(shapes)}")
    with threadpool_limits(1):  # several threads add up a centroid in an order that differs from run to run
        clusters = KMeans(count, n_init=1, random_state=seed).fit(shapes.reshape(len(shapes), -1))
    largest_first = np.argsort(-np.bincount(clusters.labels_, minlength=count), kind="stable")
    centroids = clusters.cluster_centers_[largest_first]
    return ShapeDictionary(centroids.reshape(count, -1, 2).astype(np.float32), scheme, size)
