from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from facemsm.heatmaps import HeatmapCodec, Refinement

CELL = 2.0  # input pixels a heatmap cell, 128 / 64
seeds = st.integers(0, 2**32 - 1)


def random_points(
    seed: int, low: float = -0.5, high: float = 127.5, shape: tuple[int, ...] = (68,)
) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(low, high, (*shape, 2))


def error(codec: HeatmapCodec, points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Distance of each decoded coordinate from the encoded one, input pixels."""
    return np.abs(codec.decode(codec.encode(points))[0] - points)


@given(seeds, st.sampled_from([1.0, 1.5, 2.0]))
def test_decode_inverts_encode(seed: int, sigma: float) -> None:
    assert error(HeatmapCodec(sigma=sigma), random_points(seed)).max() < 0.1


@pytest.mark.parametrize(("input_size", "size"), [(128, 64), (128, 32), (256, 64), (64, 64), (96, 56)])
def test_decode_inverts_encode_at_any_size(input_size: int, size: int) -> None:
    points = random_points(0, high=input_size - 0.5)
    assert error(HeatmapCodec(input_size, size), points).max() < 0.1


def test_decode_inverts_encode_at_the_border() -> None:
    edge = np.linspace(-0.5, 127.5, 129)
    borders = [np.column_stack((edge, np.full_like(edge, side))) for side in (-0.5, 0.0, 0.3, 126.9, 127.0, 127.5)]
    points = np.concatenate((*borders, *(border[:, ::-1] for border in borders)))
    assert error(HeatmapCodec(), points).max() < 0.1


def test_a_cell_covers_two_pixels_by_the_half_pixel_rule() -> None:
    codec = HeatmapCodec()
    np.testing.assert_allclose(codec.to_cells(np.array([-0.5, 0.5, 2.5, 127.5])), [-0.5, 0, 1, 63.5])
    heatmap = codec.encode(np.array([[20.5, 40.5]]))[0]
    assert np.unravel_index(heatmap.argmax(), heatmap.shape) == (20, 10)  # row, column
    assert heatmap.max() == 1


@given(seeds)
def test_cells_and_pixels_invert_each_other(seed: int) -> None:
    codec, points = HeatmapCodec(96, 56), random_points(seed)
    np.testing.assert_allclose(codec.to_pixels(codec.to_cells(points)), points, atol=1e-9)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)])
def test_shapes_of_batches(lead: tuple[int, ...]) -> None:
    codec = HeatmapCodec()
    points = random_points(0, shape=(*lead, 5))
    heatmaps = codec.encode(points)
    decoded, scores, _ = codec.decode(heatmaps)
    assert heatmaps.shape == (*lead, 5, 64, 64)
    assert decoded.shape == (*lead, 5, 2)
    assert scores.shape == (*lead, 5)
    assert heatmaps.dtype == decoded.dtype == scores.dtype == np.float32
    np.testing.assert_allclose(decoded, points, atol=0.1)


# --- Eq. 9


@pytest.mark.parametrize(
    ("sigma", "radius", "score"), [(1, 1, 0.544), (1.5, 1, 0.752), (2, 1, 0.849), (1.5, 2, 0.469), (2, 2, 0.633)]
)
def test_score_of_a_perfect_heatmap(sigma: float, radius: int, score: float) -> None:
    codec = HeatmapCodec(sigma=sigma, radius=radius)
    centre = codec.to_pixels(np.array([[30.0, 20.0]]))
    measured = codec.decode(codec.encode(centre))[1]
    assert measured[0] == pytest.approx(score, abs=5e-4)
    assert measured[0] == pytest.approx(codec.ideal_score)


def test_score_falls_with_the_height_of_the_peak() -> None:
    codec = HeatmapCodec()
    heatmaps = codec.encode(random_points(0, 20, 100))
    np.testing.assert_allclose(codec.decode(0.3 * heatmaps)[1], 0.3 * codec.decode(heatmaps)[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("row", "column", "inside"), [(0, 0, 4), (0, 9, 6), (63, 63, 4), (30, 63, 6), (30, 30, 9), (1, 1, 9)]
)
def test_score_at_the_border_counts_only_the_cells_inside(row: int, column: int, inside: int) -> None:
    heatmap = np.zeros((1, 64, 64), dtype=np.float32)
    heatmap[0, row, column] = 1
    assert HeatmapCodec().decode(heatmap)[1][0] == pytest.approx(1 / inside)


def test_negative_values_count_as_zero() -> None:
    heatmap = np.full((2, 64, 64), -5, dtype=np.float32)
    heatmap[0, 10, 20] = 0.9
    points, scores, _ = HeatmapCodec().decode(heatmap)
    np.testing.assert_allclose(scores, [0.1, 0.0], rtol=1e-6)
    np.testing.assert_allclose(points[0], [40.5, 20.5])


def test_an_unlabelled_point_gives_an_empty_heatmap() -> None:
    points = random_points(0, shape=(3,))
    points[1] = np.nan
    heatmaps = HeatmapCodec().encode(points)
    assert heatmaps.max(axis=(1, 2)).round(1).tolist() == pytest.approx([1, 0, 1], abs=0.2)
    assert not heatmaps[1].any()
    decoded, scores, _ = HeatmapCodec().decode(heatmaps)
    assert scores[1] == 0
    assert np.isfinite(decoded).all()


# --- Refinement


@pytest.mark.parametrize(("refinement", "cells"), [("none", 0.5), ("quarter", 0.25)])
@given(seed=seeds)
def test_coarser_refinements_keep_their_bounds(refinement: Refinement, cells: float, seed: int) -> None:
    errors = error(HeatmapCodec(refinement=refinement), random_points(seed, 4, 123))
    assert errors.max() <= cells * CELL + 1e-3


def test_refinements_rank_as_their_bounds_do() -> None:
    points = random_points(0, shape=(500,))
    none, quarter, gaussian = (
        error(HeatmapCodec(refinement=name), points).mean() for name in ("none", "quarter", "gaussian")
    )
    assert none == pytest.approx(CELL / 4, rel=0.1)  # uniform within half a cell
    assert quarter == pytest.approx(CELL / 8, rel=0.1)
    assert gaussian < 0.001


def test_no_refinement_is_eq_8_to_the_letter() -> None:
    codec = HeatmapCodec(refinement="none")
    points = random_points(0)
    np.testing.assert_allclose(codec.decode(codec.encode(points))[0], codec.to_pixels(codec.to_cells(points).round()))


@pytest.mark.parametrize("refinement", ["gaussian", "quarter"])
def test_a_flat_peak_stays_where_it_is(refinement: Refinement) -> None:
    heatmap = np.zeros((1, 64, 64), dtype=np.float32)
    heatmap[0, 19:22, 29:32] = 0.5
    heatmap[0, 20, 30] = 0.5 + 1e-6
    np.testing.assert_allclose(HeatmapCodec(refinement=refinement).decode(heatmap)[0][0], [60.5, 40.5], atol=0.05)


@pytest.mark.parametrize(("noise", "mean_px"), [(0.01, 0.05), (0.05, 0.25), (0.1, 0.5)])
def test_decoding_bears_noise(noise: float, mean_px: float) -> None:
    codec = HeatmapCodec()
    points = random_points(0, 4, 123, shape=(300,))
    heatmaps = codec.encode(points)
    heatmaps += np.random.default_rng(1).normal(0, noise, heatmaps.shape).astype(np.float32)
    decoded, scores, _ = codec.decode(heatmaps)
    errors = np.abs(decoded - points)
    assert errors.mean() < mean_px
    assert errors.max() < 2 * CELL
    assert scores.mean() == pytest.approx(codec.ideal_score, abs=0.05)


def test_the_centre_of_mass_lies_between_places_where_the_peak_must_choose() -> None:
    codec = HeatmapCodec(refinement="mass")
    heatmaps = codec.encode(np.array([[[50.0, 60.0], [58.0, 60.0]], [[30.3, 40.7], [30.3, 40.7]]])).max(axis=1)
    points, _, spread = codec.decode(heatmaps)
    np.testing.assert_allclose(points, [[54.0, 60.0], [30.3, 40.7]], atol=0.15)
    assert spread[0, 0] > 2 * spread[1, 0]  # along x, where it was in doubt
    np.testing.assert_allclose([*spread[0, 1:], spread[1, 1]], [0, spread[1, 2], 0], atol=0.1)


@given(seeds)
def test_spread_is_a_covariance_in_pixels(seed: int) -> None:
    codec = HeatmapCodec()
    noise = np.random.default_rng(seed).normal(0, 1, (5, 64, 64)).astype(np.float32)
    xx, xy, yy = codec.decode(noise).spread.T
    assert (xx * yy - xy**2 > 0).all()
    clean = codec.decode(codec.encode(random_points(seed, 20, 100))).spread
    # the square of a Gaussian of 1.5 cells has half its variance; the floor takes some away
    np.testing.assert_allclose(clean[:, [0, 2]], 0.7 * 0.5 * (1.5 * CELL) ** 2, rtol=0.15)
    assert not codec.decode(np.zeros((1, 64, 64), np.float32)).spread.any()
