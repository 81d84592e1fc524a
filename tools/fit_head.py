"""Fit the average head of ``facemsm.shapes.measures``: ``python tools/fit_head.py shapes=DATA/shapes:300w_train``.

One rigid, symmetric head and a pose for each face, so that the head's projections come closest to the labels, by
Gauss-Newton steps (bundle adjustment) with Cauchy weights. Labels do not tell the head's size and pitch: the outer eye
corners are ``EYES`` apart, and zero is the median pitch of the faces.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy.spatial.transform import Rotation

from facemsm.data.catalogue import load_dataset
from facemsm.data.sources import Source
from facemsm.shapes.measures import DISTANCE, HEAD, pose_of
from facemsm.typing import Array

INDICES = list(HEAD)
MIDDLE, PAIRS = (8, 30, 33), ((36, 45), (39, 42), (48, 54))
EYES = 90.0  # mm
SURE = 0.05  # sides of the face; labels this far off count half
STEPS = 40


def symmetric() -> Array:
    """(27, 15): a head from y, z of ``MIDDLE`` and x, y, z of the left points of ``PAIRS``."""
    columns = np.zeros((15, len(INDICES), 3))
    for i, point in enumerate(MIDDLE):
        for axis in (1, 2):
            columns[2 * i + axis - 1, INDICES.index(point), axis] = 1
    for i, pair in enumerate(PAIRS):
        for axis in range(3):
            columns[6 + 3 * i + axis, [INDICES.index(point) for point in pair], axis] = (-1 if axis == 0 else 1), 1
    return columns.reshape(15, -1).T


def fit(points: Array) -> tuple[Array, Array]:
    """The head (9, 3), whose outer eye corners are ``EYES`` apart, and rotations (N, 3, 3) of faces (N, 9, 2)."""
    low, high = points.min(axis=1), points.max(axis=1)
    side = (high - low).max(axis=1)[:, None, None]
    seen = (points - ((low + high) / 2)[:, None]) / side
    head, basis, count = np.array(list(HEAD.values())) / 115, symmetric(), len(points)
    turn = Rotation.identity(count)
    place = np.column_stack((seen.mean(axis=1) - head.mean(axis=0)[:2], np.full(count, DISTANCE)))
    for step in range(STEPS):
        rotation = turn.as_matrix()
        turned = head @ rotation.transpose(0, 2, 1)
        x, y, z = np.moveaxis(turned + place[:, None], -1, 0)
        off = seen - DISTANCE * np.stack((x, y), axis=-1) / z[..., None]
        weight = np.repeat(1 / (1 + np.sum((off / SURE) ** 2, axis=-1)), 2, axis=1)[..., None]
        zero = np.zeros_like(z)
        by_place = DISTANCE * np.stack((1 / z, zero, -x / z**2, zero, 1 / z, -y / z**2), axis=-1).reshape(
            count, 9, 2, 3
        )
        a, b, c = np.moveaxis(turned, -1, 0)
        spin = np.stack((zero, c, -b, -c, zero, a, b, -a, zero), axis=-1).reshape(count, 9, 3, 3)  # d (w × p) / d w
        of_pose = np.concatenate((by_place @ spin, by_place), axis=-1).reshape(count, 18, 6)
        of_head = np.einsum("nijc,nck,ikm->nijm", by_place, rotation, basis.reshape(9, 3, 15), optimize=True)
        of_head = of_head.reshape(count, 18, 15)
        if step < 8:  # poses alone at first
            of_head = np.zeros_like(of_head)
        off = off.reshape(count, 18, 1) * weight
        weighted = (of_pose * weight).transpose(0, 2, 1)
        poses = weighted @ of_pose + 1e-4 * np.eye(6)
        solved = np.linalg.solve(poses, np.concatenate((weighted @ of_head, of_pose.transpose(0, 2, 1) @ off), axis=-1))
        rest, pose_step = solved[..., :-1], solved[..., -1]
        cross = (of_head * weight).transpose(0, 2, 1) @ of_pose
        matrix = np.sum((of_head * weight).transpose(0, 2, 1) @ of_head - cross @ rest, axis=0)
        right = np.sum(of_head.transpose(0, 2, 1) @ off - cross @ solved[..., -1:], axis=0)[:, 0]
        change = np.linalg.solve(matrix + (1e-4 * np.trace(matrix) / 15 + 1e-12) * np.eye(15), right)
        pose_step = pose_step - rest @ change
        head = head + (basis @ change).reshape(9, 3)
        turn = Rotation.from_rotvec(np.clip(pose_step[:, :3], -0.3, 0.3)) * turn
        place = place + pose_step[:, 3:]
    return head * (EYES / np.ptp(head[[INDICES.index(36), INDICES.index(45)], 0])), turn.as_matrix()


def main(source: Source) -> None:
    """Print the head."""
    faces = np.stack([face.points for face in load_dataset(source.name, source.root, source.split, "gt", "68")])
    head, rotations = fit(faces[:, INDICES].astype(np.float64))
    pitch = np.median([pose_of(rotation).pitch for rotation in rotations])
    head = Rotation.from_euler("x", -pitch, degrees=True).apply(head)
    head -= head[[INDICES.index(i) for i in (36, 39, 42, 45)]].mean(axis=0)
    for index, place in zip(INDICES, head.round(1).tolist(), strict=True):
        print(index, place)


if __name__ == "__main__":
    main(Source.parse(sys.argv[1]))
