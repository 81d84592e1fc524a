"""Fit the average head of ``facemsm.shapes.measures`` to annotated faces: ``python tools/fit_head.py shapes=DATA/shapes:300w_train``.

One rigid, symmetric head and a pose for each face, so that the head's projections come closest to the labels: bundle
adjustment. Labels tell the head up to its size, which the distance of the outer eye corners sets, and its pitch: zero
is the median pitch of the faces. Needs SciPy, and two minutes.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy.optimize import least_squares
from scipy.sparse import coo_matrix
from scipy.spatial.transform import Rotation

from facemsm.data.catalogue import load_dataset
from facemsm.data.sources import Source
from facemsm.shapes.measures import HEAD, camera_of, pose_of
from facemsm.typing import Array

MIDDLE, PAIRS = (8, 30, 33), ((36, 45), (39, 42), (48, 54))
INDICES = list(HEAD)
EYES = 90.0  # mm between the outer eye corners
EXACT = 1e-8


def symmetric(values: Array) -> Array:
    """The head (9, 3) in mm of y, z of ``MIDDLE`` and x, y, z of the left points of ``PAIRS``, 15 numbers."""
    head = np.zeros((len(INDICES), 3))
    for i, yz in zip(MIDDLE, values[:6].reshape(3, 2), strict=True):
        head[INDICES.index(i), 1:] = yz
    for (right, left), xyz in zip(PAIRS, values[6:].reshape(3, 3), strict=True):
        head[INDICES.index(left)], head[INDICES.index(right)] = xyz, xyz * (-1, 1, 1)
    return head


def fit(points: Array) -> tuple[Array, Array]:
    """The head (9, 3) and the rotation vectors (N, 3) of faces (N, 9, 2)."""
    cameras = np.stack([camera_of(face) for face in points])
    focal, centre = cameras[:, 0, 0, None, None], cameras[:, None, :2, 2]
    seen = (points - centre) / focal
    count = len(points)

    def residuals(unknown: Array) -> Array:
        turns, places = unknown[15:].reshape(2, count, 3)
        turned = Rotation.from_rotvec(turns[:, None].repeat(9, 1).reshape(-1, 3)).apply(
            np.tile(symmetric(unknown[:15]), (count, 1))
        )
        placed = turned.reshape(count, 9, 3) + places[:, None]
        return np.asarray((placed[..., :2] / placed[..., 2:] - seen).ravel())

    face = np.repeat(np.arange(count), 18)
    rows = np.arange(18 * count)
    columns = [np.full_like(rows, i) for i in range(15)]
    columns += [15 + 3 * face + i for i in range(3)] + [15 + 3 * (count + face) + i for i in range(3)]
    pattern = coo_matrix((np.ones(21 * len(rows)), (np.tile(rows, 21), np.concatenate(columns))))
    known = np.array(list(HEAD.values()))
    start = [*(known[INDICES.index(i), 1:] for i in MIDDLE), *(known[INDICES.index(left)] for _, left in PAIRS)]
    distance = np.full(count, 1000.0)
    places = np.column_stack((seen.mean(axis=1) * distance[:, None], distance))
    unknown = np.concatenate((*start, np.zeros(3 * count), places.ravel()))
    found = least_squares(
        residuals, unknown, jac_sparsity=pattern, x_scale="jac", loss="soft_l1", f_scale=0.005, xtol=EXACT, ftol=EXACT
    ).x
    return symmetric(found[:15]), found[15 : 15 + 3 * count].reshape(count, 3)


def main(source: Source) -> None:
    """Print the head, and the poses of the faces by it."""
    faces = np.stack([face.points for face in load_dataset(source.name, source.root, source.split, "gt", "68")])
    head, turns = fit(faces[:, INDICES].astype(np.float64))
    pitch = np.median([pose_of(rotation).pitch for rotation in Rotation.from_rotvec(turns).as_matrix()])
    head = Rotation.from_euler("x", -pitch, degrees=True).apply(head)
    head -= head[[INDICES.index(i) for i in (36, 39, 42, 45)]].mean(axis=0)
    head *= EYES / (head[INDICES.index(45), 0] - head[INDICES.index(36), 0])
    for index, place in zip(INDICES, head.round(1).tolist(), strict=True):
        print(index, place)


if __name__ == "__main__":
    main(Source.parse(sys.argv[1]))
