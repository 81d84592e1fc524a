"""Heatmaps: one codec for the way from points to heatmaps and back, so the two cannot disagree.

A heatmap cell covers ``input_size / size`` input pixels; cell centres follow the half-pixel rule, so input pixel x lies
at cell ``(x + 0.5) * size / input_size - 0.5``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from facemsm.errors import FacemsmError, check_number, short
from facemsm.typing import FloatArray

Refinement = Literal["mass", "gaussian", "quarter", "none"]

MASS_FLOOR = 0.2
"""Part of a heatmap's peak below which a cell does not count towards its centre of mass."""

_TINY = 1e-6


class Decoded(NamedTuple):
    """What heatmaps say of points.

    Attributes:
        points: (..., L, 2) float32, input pixels.
        scores: (..., L) float32, Eq. 9: the mean of the heatmap in the (2r + 1)² window about the peak, negative
            values counted as 0. At the border the window is what lies inside the heatmap.
        spread: (..., L, 3) float32, variances xx, xy, yy in squared input pixels of what the squared heatmap holds
            above ``MASS_FLOOR`` of its peak: wide where a point could lie in many places. 0 for an empty heatmap.
    """

    points: FloatArray
    scores: FloatArray
    spread: FloatArray


@dataclass(frozen=True)
class HeatmapCodec:
    """Points to heatmaps and back.

    Attributes:
        input_size: side of the image the points lie in, px.
        size: side of a heatmap, cells.
        sigma: standard deviation of the Gaussian peak, cells. The paper does not give it.
        radius: r of Eq. 9, cells.
        refinement: how the peak is placed between cells. ``none`` is Eq. 8 to the letter; ``quarter`` moves a quarter
            cell towards the higher neighbour; ``gaussian`` fits a Gaussian to the three cells about the peak on each
            axis, exact on clean targets; ``mass`` is the centre of mass of what the squared heatmap holds above
            ``MASS_FLOOR`` of the peak, which errs less where a point could lie anywhere
            along an edge, and more within 3 cells of the border.

    Raises:
        FacemsmError: a value is out of range.

    Example::

        >>> codec = HeatmapCodec()
        >>> read = codec.decode(codec.encode(np.array([[40.3, 71.8]])))
        >>> read.points.astype(float).round(1).tolist(), bool(abs(read.scores[0] - codec.ideal_score) < 0.05)
        ([[40.3, 71.8]], True)
    """

    input_size: int = 128
    size: int = 64
    sigma: float = 1.5
    radius: int = 1
    refinement: Refinement = "gaussian"

    def __post_init__(self) -> None:
        check_number("codec.input_size", self.input_size, 8, 1024, whole=True)
        check_number("codec.size", self.size, 4, self.input_size, whole=True)
        check_number("codec.sigma", self.sigma, 0.01, self.size)
        check_number("codec.radius", self.radius, 0, self.size, whole=True)
        if self.refinement not in get_args(Refinement):
            choices = ", ".join(get_args(Refinement))
            raise FacemsmError(f"codec.refinement is {short(self.refinement)}, choose from {choices}")

    @cached_property
    def ideal_score(self) -> float:
        """Eq. 9 on a clean target whose peak lies on a cell's centre: the score of a perfect heatmap."""
        profile = np.exp(-0.5 * (np.arange(-self.radius, self.radius + 1) / self.sigma) ** 2)
        return float(np.outer(profile, profile).mean())

    def to_cells(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Input pixels to heatmap cells."""
        return (points + 0.5) * (self.size / self.input_size) - 0.5

    def to_pixels(self, cells: NDArray[np.floating]) -> NDArray[np.floating]:
        """Heatmap cells to input pixels."""
        return (cells + 0.5) * (self.input_size / self.size) - 0.5

    def encode(self, points: NDArray[np.floating]) -> FloatArray:
        """Target heatmaps of points: Gaussian peaks of height 1, at any position between cells.

        Training draws the same where its loss is, by :func:`facemsm.hourglass.losses.gaussians`.

        Args:
            points: (..., L, 2) input pixels.

        Returns:
            (..., L, size, size) float32; dark where a point is NaN.
        """
        cells = self.to_cells(np.asarray(points, dtype=np.float32))
        distance = np.arange(self.size, dtype=np.float32) - cells[..., None]
        profiles = np.nan_to_num(np.exp(-0.5 * (distance / self.sigma) ** 2)).astype(np.float32)
        return profiles[..., 1, :, None] * profiles[..., 0, None, :]

    def decode(self, heatmaps: NDArray[np.floating]) -> Decoded:
        """Peaks (Eq. 8), scores (Eq. 9) and spreads of heatmaps (..., L, size, size)."""
        lead, size = heatmaps.shape[:-2], heatmaps.shape[-1]
        flat = np.ascontiguousarray(heatmaps, dtype=np.float32).reshape(-1, size, size)
        peak = flat.reshape(len(flat), size * size).argmax(axis=1)
        peak_y, peak_x = np.divmod(peak, size)
        cells, spread = self._mass(flat)
        if self.refinement != "mass":
            cells = np.stack((peak_x, peak_y), axis=-1).astype(np.float32)
        if self.refinement in ("gaussian", "quarter"):
            cells[:, 0] += self._offset(flat[np.arange(len(flat)), peak_y], peak_x)
            cells[:, 1] += self._offset(flat[np.arange(len(flat)), :, peak_x], peak_y)
        points = self.to_pixels(cells).astype(np.float32)
        scores = self._window_mean(flat, peak_x, peak_y)
        return Decoded(points.reshape(*lead, 2), scores.reshape(lead), spread.reshape(*lead, 3))

    def _mass(self, flat: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Centres of mass (M, 2) in cells and spreads (M, 3) in squared pixels, of flat (M, size, size)."""
        floor = MASS_FLOOR * np.maximum(flat.max((1, 2)), 0)
        mass = np.maximum(flat - floor[:, None, None], 0)
        np.square(mass, out=mass)
        steps = np.arange(self.size, dtype=np.float32)
        columns, rows = mass.sum(1), mass.sum(2)
        total = np.maximum(columns.sum(1), _TINY)
        x, y = columns @ steps / total, rows @ steps / total
        xx, yy = columns @ steps**2 / total - x**2, rows @ steps**2 / total - y**2
        xy = ((mass @ steps) @ steps) / total - x * y
        spread = np.stack((xx, xy, yy), axis=-1) * (self.input_size / self.size) ** 2
        return np.stack((x, y), axis=-1), np.asarray(spread * (columns.sum(1) > _TINY)[:, None], dtype=np.float32)

    def _offset(self, line: FloatArray, peak: NDArray[np.int64]) -> FloatArray:
        """Distance from the peak cell to the peak between cells, on one axis; line (M, size), peak (M,)."""
        centre = np.clip(peak, 1, line.shape[1] - 2)  # at the border the three cells next to it
        below, at, above = np.maximum(
            np.take_along_axis(line, centre[:, None] + np.array([[-1, 0, 1]]), axis=1), _TINY
        ).T
        if self.refinement == "quarter":
            return np.asarray(np.where(centre == peak, 0.25 * np.sign(above - below), 0.0), dtype=np.float32)
        below, at, above = np.log(below), np.log(at), np.log(above)
        curvature = 2 * at - below - above
        vertex = np.where(curvature > _TINY, 0.5 * (above - below) / np.maximum(curvature, _TINY), 0.0)
        return np.asarray(np.clip(centre - peak + vertex, -1.0, 1.0), dtype=np.float32)

    def _window_mean(self, flat: FloatArray, x: NDArray[np.int64], y: NDArray[np.int64]) -> FloatArray:
        """Eq. 9: mean intensity of the window about (x, y) in each of flat (M, size, size)."""
        r, size = self.radius, flat.shape[-1]
        steps = np.arange(-r, r + 1)
        columns, rows = x[:, None] + steps, y[:, None] + steps
        inside_x, inside_y = (columns >= 0) & (columns < size), (rows >= 0) & (rows < size)
        inside = inside_y[:, :, None] & inside_x[:, None, :]
        window = flat[
            np.arange(len(flat))[:, None, None],
            np.clip(rows, 0, size - 1)[:, :, None],
            np.clip(columns, 0, size - 1)[:, None, :],
        ]
        total = np.where(inside, np.maximum(window, 0), 0).sum((1, 2))
        return np.asarray(total / inside.sum((1, 2)), dtype=np.float32)
