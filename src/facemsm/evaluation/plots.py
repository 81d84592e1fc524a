"""Plots of results, written to ``.png``, ``.svg`` or ``.pdf``. They need matplotlib (extra ``plots``), no display.

Every plot names its normaliser and thresholds. Colour-blind readers can tell the colours apart (Okabe and Ito, 2008),
and lines differ in dashes too.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from facemsm.errors import FacemsmError
from facemsm.evaluation.metrics import ced, summarise
from facemsm.evaluation.occlusion import Reliability, average_precision, precision_recall_curve, recall_at_precision
from facemsm.evaluation.published_curves import Curve
from facemsm.files import atomic_write
from facemsm.geometry import Normaliser
from facemsm.typing import PathLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
_GREY = "#767676"


def plot_ced(
    curves: Mapping[str, ArrayLike],
    path: PathLike,
    *,
    normaliser: Normaliser,
    threshold: float = 10,
    published: Mapping[str, Curve] | None = None,
) -> None:
    """Cumulative error curves of one or more methods, up to the threshold.

    Args:
        curves: name -> (N,) errors from :func:`facemsm.evaluation.metrics.nme` as fractions.
        path: the file to write; its ending says the format.
        normaliser: what the errors were divided by.
        threshold: per cent of the normaliser; failure rate and AUC in the legend are at this threshold.
        published: name -> a curve of which the single errors are not known; it must be of the same normaliser.

    Raises:
        FacemsmError: no curve, a curve without a scored face, no matplotlib, or the file cannot be written.
    """
    with new_figure(path) as figure:
        axes = figure.subplots()
        styles = line_styles()
        for (name, errors), style in zip(_filled(curves).items(), styles, strict=False):
            x, share = ced(errors)
            figures = summarise(errors, [threshold])
            fr, area = figures[f"fr@{threshold:g}"], figures[f"auc@{threshold:g}"]
            label = f"{name}: NME {figures['nme']:.2f} %, FR@{threshold:g} {fr:.2f} %, AUC@{threshold:g} {area:.3f}"
            if figures["missed"]:
                label += f", {figures['missed']} missed"
            # hold the last share up to the edge: the curve is flat after its last step
            x, share = np.append(x * 100, max(threshold, x[-1] * 100)), np.append(share, share[-1])
            axes.step(x, share * 100, where="post", label=label, **style)
        for (name, (x, share)), style in zip((published or {}).items(), styles, strict=False):
            failed = 100 - 100 * np.interp(threshold / 100, x, share)
            axes.plot(x * 100, share * 100, label=f"{name}: FR@{threshold:g} {failed:.2f} % (published curve)", **style)
        axes.set(xlim=(0, threshold), ylim=(0, 100))
        axes.set(xlabel=f"NME (% of {normaliser}), up to {threshold:g} %", ylabel="faces with this error or less (%)")
        add_legend(axes, figure)


def plot_precision_recall(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    path: PathLike,
    *,
    flags: Mapping[str, tuple[float, float]] | None = None,
    precision: float = 0.8,
) -> None:
    """Precision-recall curves of occlusion scores, with average precision and the recall at a precision.

    Args:
        curves: name -> (scores, occluded), see :func:`facemsm.evaluation.occlusion.precision_recall_curve`.
        path: the file to write; its ending says the format.
        flags: name -> (precision, recall) of methods that only say yes or no, drawn as points.
        precision: where the recall of the legend is read, in [0, 1].

    Raises:
        FacemsmError: no curve, arguments the measures refuse, no matplotlib, or the file cannot be written.
    """
    with new_figure(path) as figure:
        axes = figure.subplots()
        at = f"recall@{precision * 100:g}P"
        for (name, (scores, occluded)), style in zip(_filled(curves).items(), line_styles(), strict=False):
            p, r, _ = precision_recall_curve(scores, occluded)
            recall, _ = recall_at_precision(scores, occluded, precision)
            label = f"{name}: AP {average_precision(scores, occluded):.3f}, {at} {recall * 100:.1f} %"
            # steps as average precision counts them: precision P_k holds over (R_{k-1}, R_k]
            axes.step(np.append(0, r) * 100, np.append(p[0], p) * 100, where="pre", label=label, **style)
        for (name, (p_flag, r_flag)), marker in zip((flags or {}).items(), cycle("osD^v"), strict=False):
            label = f"{name} (flags): precision {p_flag * 100:.1f} %, recall {r_flag * 100:.1f} %"
            axes.plot(r_flag * 100, p_flag * 100, marker, color="black", markersize=7, label=label, clip_on=False)
        axes.axhline(precision * 100, color=_GREY, linewidth=0.8, linestyle=(0, (2, 3)))
        axes.set(xlim=(0, 100), ylim=(0, 100))
        axes.set(xlabel="recall of occluded points (%)", ylabel="precision of occlusion flags (%)")
        add_legend(axes, figure)


def plot_reliability(bins: Reliability, path: PathLike, *, correct: str) -> None:
    """Reliability diagram, with the number of predictions in every bin below it.

    Args:
        bins: from :func:`facemsm.evaluation.occlusion.reliability`.
        path: the file to write; its ending says the format.
        correct: what counts as correct, threshold and normaliser included: ``"error < 5 % of inter-ocular"``.

    Raises:
        FacemsmError: no matplotlib, or the file cannot be written.
    """
    with new_figure(path, height=5.4) as figure:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        bars: dict[str, Any] = {"width": np.diff(bins.edges), "align": "edge", "edgecolor": "white", "linewidth": 0.8}
        left = bins.edges[:-1]
        axes.plot([0, 1], [0, 1], color=_GREY, linestyle=(0, (2, 3)), label="perfectly calibrated")
        axes.bar(left, np.nan_to_num(bins.accuracy), color=_COLOURS[5], label="observed in the bin", **bars)
        axes.plot(
            bins.confidence, bins.accuracy, "o", color=_COLOURS[1], label="at the bin's mean score, with the gap to it"
        )
        axes.vlines(bins.confidence, bins.accuracy, bins.confidence, color=_COLOURS[1], linewidth=1.5)
        axes.set(ylim=(0, 1), ylabel=f"share with\n{correct}")
        below.bar(left, bins.count, color=_GREY, **bars)
        below.set(xlim=(0, 1), xlabel="score", ylabel="predictions")
        ece = f"expected calibration error {bins.expected_calibration_error * 100:.2f} %"
        axes.set_title(f"{ece} ({len(bins.count)} bins, {bins.count.sum():,} predictions)", fontsize="medium")
        add_legend(axes, figure)


@contextmanager
def new_figure(path: PathLike, height: float = 4.8) -> Iterator[Figure]:
    """A figure that is saved on leaving. Made without pyplot: no global state, no window."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise FacemsmError(f"{path}: end the name of a plot in .png, .svg or .pdf")
    _keep_out_of_home()
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FacemsmError('plots need matplotlib: pip install "facemsm[plots]"') from error
    figure = Figure(figsize=(6.4, height), layout="constrained")
    yield figure
    for axes in figure.axes:
        axes.grid(color="#E0E0E0", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix[1:])


@cache
def _keep_out_of_home() -> None:
    """Let matplotlib, if it was not loaded before, write its list of fonts into a folder that goes with the process."""
    if "matplotlib" not in sys.modules and "MPLCONFIGDIR" not in os.environ:
        with suppress(OSError):  # there is no temporary folder
            folder = TemporaryDirectory(prefix="facemsm-")
            atexit.register(folder.cleanup)
            os.environ["MPLCONFIGDIR"] = folder.name


def line_styles() -> Iterator[dict[str, Any]]:
    """Colours and dashes of one line after the other, without end."""
    for colour, dashes in zip(cycle(_COLOURS), cycle(_DASHES), strict=False):
        yield {"color": colour, "linestyle": dashes, "linewidth": 1.8}


def _filled(curves: Mapping[str, Any]) -> Mapping[str, Any]:
    if not curves:
        raise FacemsmError("no curve to plot")
    return curves


def add_legend(axes: Axes, figure: Figure) -> None:
    """Above the plot, where it covers no curve."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", frameon=False, fontsize="small")
