"""Predictions beside the truth: all figures as one plain dictionary, the same as Markdown, and plots.

Every figure says what it was divided by and at which threshold. The same predictions give the same report, bit for bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemsm.data.sample import FaceSample
from facemsm.errors import FacemsmError, check_number
from facemsm.evaluation import metrics, occlusion, plots
from facemsm.evaluation.markdown import markdown_table
from facemsm.evaluation.predictions import Predictions
from facemsm.files import atomic_write
from facemsm.geometry import Normaliser, face_scale, normaliser
from facemsm.schemes import OCCLUDED, UNLABELLED, LandmarkScheme
from facemsm.typing import Array, BoolArray, FloatArray

REPORTED_NORMALISERS: tuple[Normaliser, ...] = ("inter-pupil", "inter-ocular", "box")
"""What is reported unless asked otherwise."""

_ERROR_NOTE = """\
NME, median and FR in per cent, AUC as a fraction. FR@T: faces with an error of T % of the normaliser or more; missed
faces are among them, but not in NME and median. Unscored: the normaliser cannot be computed."""

THRESHOLDS: tuple[float, ...] = (8, 10)
"""Of failure rate and AUC, in per cent of the normaliser, unless asked otherwise."""

CORRECT_PERCENT = 5
"""A point counts as correct for the calibration of scores below this error, in per cent of the normaliser."""

PRECISIONS = (0.8, 0.9)
"""At which the recall of occlusion scores is read; the first as in the COFW literature."""

FINAL, BEFORE, OWN = "final", "before stage 3", "in the set's convention"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions and truth of N faces, row by row.

    Attributes:
        predictions: of the method.
        truth: (N, L, 2) photo pixels, NaN where unlabelled.
        visibility: (N, L) int8 as in ``FaceSample``; ``UNLABELLED`` everywhere if the data set marks no occlusion.
        scheme: the landmark scheme of both.
    """

    predictions: Predictions
    truth: FloatArray
    visibility: NDArray[np.int8]
    scheme: LandmarkScheme

    @classmethod
    def of(cls, samples: Sequence[FaceSample], predictions: Predictions, scheme: LandmarkScheme) -> Evaluation:
        """Put the predictions for ``samples`` beside their truth. Other predictions are left out.

        Raises:
            FacemsmError: none of the predictions is for one of the samples.
        """
        unknown = np.full(scheme.count, UNLABELLED, np.int8)
        visibility = np.stack([unknown if s.visibility is None else s.visibility for s in samples])
        # A data set in which every point is "visible" has no occlusion labels: it says so by default.
        known = bool((visibility == OCCLUDED).any())
        return cls(
            predictions.for_faces([sample.name for sample in samples]),
            np.stack([sample.points for sample in samples]),
            visibility if known else np.full_like(visibility, UNLABELLED),
            scheme,
        )

    @property
    def found(self) -> BoolArray:
        """(N,) faces with a prediction."""
        return np.asarray(np.isfinite(self.predictions.points).all(axis=(1, 2)))

    @property
    def stages(self) -> dict[str, FloatArray]:
        """The predicted points; where stage 3 ran, those before it; where the data set's convention is known, those in
        it (label adaptation: Wood et al., ICCV 2021)."""
        points = {FINAL: self.predictions.points}
        if self.predictions.preliminary is not None:
            points[BEFORE] = self.predictions.preliminary
        if self.predictions.own is not None:
            points[OWN] = self.predictions.own
        return points

    @property
    def scored(self) -> BoolArray:
        """(N, L) points of faces found of which the data set says whether they are occluded."""
        return np.asarray((self.visibility != UNLABELLED) & self.found[:, None])

    def nme(self, kind: Normaliser, stage: str = FINAL) -> Array:
        """(N,) error of every face, see :func:`facemsm.evaluation.metrics.nme`."""
        return metrics.nme(self.stages[stage], self.truth, self.scheme, kind)

    def usable(self, kind: Normaliser) -> bool:
        """Whether any face has this normaliser."""
        return bool(np.isfinite(normaliser(self.truth, self.scheme, kind)).any())

    def occlusion_scores(self) -> tuple[Array, BoolArray] | None:
        """Occlusion score and truth of the :attr:`scored` points; None if there are none occluded.

        The score is the method's probability that a point is hidden, or else ``1 - score``.
        """
        hidden = self.visibility[self.scored] == OCCLUDED
        found, scores = self.predictions.occlusion, self.predictions.scores
        if found is None and scores is not None:
            found = 1 - scores
        if found is None or not hidden.any():
            return None
        return found[self.scored].astype(float), hidden

    def calibration(self) -> tuple[str, occlusion.Reliability] | None:
        """How often points of a score are correct, and the normaliser of that; None without scores.

        The normaliser of a face is inter-ocular, or box if an eye corner is unlabelled, as in profiles.
        """
        eyes = np.isfinite(normaliser(self.truth, self.scheme, "inter-ocular"))
        kind = "inter-ocular" if eyes.all() else "inter-ocular, box without it" if eyes.any() else "box"
        errors = metrics.point_errors(self.predictions.points, self.truth)
        errors /= face_scale(self.truth, self.scheme)[:, None]
        errors[~self.found] = np.nan
        counted = np.isfinite(errors)
        if self.predictions.scores is None or not counted.any():
            return None
        return kind, occlusion.reliability(self.predictions.scores[counted], errors[counted] < CORRECT_PERCENT / 100)


def measure(
    evaluation: Evaluation, normalisers: Iterable[Normaliser] = (), thresholds: Iterable[float] = ()
) -> dict[str, Any]:
    """All figures; what cannot be computed is None.

    Args:
        evaluation: predictions and truth.
        normalisers: which to divide by; those of ``REPORTED_NORMALISERS`` that any face has, by default.
        thresholds: of failure rate and AUC, in per cent of the normaliser; ``THRESHOLDS`` by default.

    Returns:
        - ``faces``, ``missed``: how many, and how many of them have no prediction.
        - ``errors``: normaliser -> ``final`` and, where stage 3 ran, ``before stage 3`` -> ``summary`` of
          :func:`facemsm.evaluation.metrics.summarise`, ``groups`` of :func:`facemsm.evaluation.metrics.per_group` and
          ``per landmark``, (L,); the latter two of the faces found, in per cent.
        - ``occlusion``: None where the data set marks none; else ``points``, ``occluded`` (of faces found), precision
          and recall of the ``flags`` and, where the method gives scores, ``average precision``,
          ``recall@80P``, ``recall@90P`` and, for each, the ``threshold@…`` on the score for occlusion. Fractions.
        - ``calibration``: None without scores; else ``correct`` (what counts as such), ``ece``, and the bins.

    Raises:
        FacemsmError: no face can be scored by a normaliser that was asked for, or by any; or a threshold is no per
            cent.
    """
    limits = sorted(set(thresholds)) or THRESHOLDS
    for limit in limits:
        check_number("threshold", limit, 0.01, 100)
    chosen = list(normalisers) or [kind for kind in REPORTED_NORMALISERS if evaluation.usable(kind)]
    if not chosen:
        raise FacemsmError("no face can be scored: none has labelled points enough for any normaliser")
    report = {
        "faces": len(evaluation.truth),
        "missed": int((~evaluation.found).sum()),
        "errors": {
            kind: {stage: _errors(evaluation, kind, stage, limits) for stage in evaluation.stages}
            for kind in dict.fromkeys(chosen)
        },
        "occlusion": _occlusion(evaluation),
        "calibration": _calibration(evaluation),
    }
    plain: dict[str, Any] = _plain(report)
    return plain


def _errors(evaluation: Evaluation, kind: Normaliser, stage: str, thresholds: Sequence[float]) -> dict[str, Any]:
    scheme, visibility = evaluation.scheme, evaluation.visibility
    errors = 100 * metrics.normalised_errors(evaluation.stages[stage], evaluation.truth, scheme, kind)
    errors[~evaluation.found] = np.nan
    groups = metrics.per_group(errors, scheme)
    if (visibility != UNLABELLED).any():
        known = np.where(visibility != UNLABELLED, errors, np.nan)
        by_visibility = metrics.per_group(known, scheme, visibility == OCCLUDED)
        groups |= {name: by_visibility[name] for name in ("visible", "occluded")}
    try:
        summary = metrics.summarise(evaluation.nme(kind, stage), thresholds)
    except FacemsmError as error:
        raise FacemsmError(f"normaliser {kind}: {error}") from error
    return {"summary": summary, "groups": groups, "per landmark": metrics.per_landmark(errors)}


def _occlusion(evaluation: Evaluation) -> dict[str, Any] | None:
    scored = evaluation.scored
    if not scored.any():
        return None
    hidden = evaluation.visibility[scored] == OCCLUDED
    precision, recall = occlusion.precision_recall(evaluation.predictions.occluded[scored], hidden)
    report: dict[str, Any] = {
        "points": len(hidden),
        "occluded": int(hidden.sum()),
        "flags": {"precision": precision, "recall": recall},
    }
    if pair := evaluation.occlusion_scores():
        report["scores"] = {"average precision": occlusion.average_precision(*pair)}
        for precision in PRECISIONS:
            recall, threshold = occlusion.recall_at_precision(*pair, precision)
            report["scores"] |= {f"recall@{_at(precision)}": recall, f"threshold@{_at(precision)}": threshold}
    return report


def _calibration(evaluation: Evaluation) -> dict[str, Any] | None:
    calibration = evaluation.calibration()
    if calibration is None:
        return None
    kind, bins = calibration
    return {
        "correct": _correct(kind),
        "ece": bins.expected_calibration_error,
        **{name: getattr(bins, name) for name in ("edges", "count", "confidence", "accuracy")},
    }


def _correct(kind: str) -> str:
    return f"error < {CORRECT_PERCENT} % of {kind}"


def _plain(value: Any) -> Any:
    """As JSON holds it: lists, and None for what is not finite. Rounded, as later digits are noise."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 6) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def compare_painted(painted: Evaluation, clean: Evaluation, kinds: Sequence[Normaliser]) -> list[dict[str, Any]]:
    """Errors of the same points with and without something in front of them, %, and their ratio.

    One entry for each normaliser, stage and group of points: all, those that are seen and those that are hidden.
    """
    rows: list[dict[str, Any]] = []
    both = painted.found & clean.found
    labelled, hidden = painted.visibility != UNLABELLED, painted.visibility == OCCLUDED
    for kind in kinds or [kind for kind in REPORTED_NORMALISERS if painted.usable(kind)]:
        for stage in painted.stages:
            after, before = (
                100 * metrics.normalised_errors(side.stages[stage], side.truth, side.scheme, kind)
                for side in (painted, clean)
            )
            for name, group in (("all", labelled), ("visible", labelled & ~hidden), ("hidden", hidden)):
                counted = group & both[:, None] & np.isfinite(after)
                if counted.any():
                    pair = float(before[counted].mean()), float(after[counted].mean())
                    row = {"normaliser": kind, "points": stage, "group": name, "count": int(counted.sum())}
                    rows.append(
                        {**row, "clean": pair[0], "occluded": pair[1], "ratio": pair[1] / pair[0] if pair[0] else None}
                    )
    return rows


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown(report: Mapping[str, Any]) -> str:
    """The tables of a report of :func:`measure`, readable as they are. Its entry ``run``, if any, comes first."""
    parts = []
    if run := report.get("run"):
        parts += [f"# {run['data set']}", markdown_table(["run", ""], _flat(run), "<")]
    parts += ["## Errors", _error_table(report), _ERROR_NOTE, "## Points", _group_table(report)]
    parts.append("Mean error of all points of a kind in the faces found, in per cent of the normaliser.")
    if report["occlusion"]:
        parts += ["## Occlusion", _occlusion_text(report["occlusion"])]
    if report["calibration"]:
        found = report["calibration"]
        parts += ["## Calibration of scores", f"Correct: {found['correct']}. ECE {found['ece'] * 100:.2f} %, 10 bins."]
    if rows := report.get("occluded and clean"):
        parts += ["## Painted occluders", "Mean error of the same points in the same photos, in %."]
        parts.append(_comparison_table(rows))
    return "\n\n".join(parts) + "\n"


def _comparison_table(found: Sequence[Mapping[str, Any]]) -> str:
    head = ["normaliser", "points", "group", "count", "clean", "occluded", "ratio"]
    rows = [
        [row["normaliser"], row["points"], row["group"], str(row["count"])]
        + [_number(row[name]) for name in ("clean", "occluded", "ratio")]
        for row in found
    ]
    return markdown_table(head, rows, "<<<>")


def _flat(value: Any, name: str = "") -> list[list[str]]:
    """Rows of name and value, nested names joined by colons."""
    if isinstance(value, Mapping):
        return [row for key, item in value.items() for row in _flat(item, f"{name}: {key}" if name else str(key))]
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return [[name, "none" if value is None else str(value)]]


def _error_table(report: Mapping[str, Any]) -> str:
    head = ["normaliser", "points", "NME", "95 % interval", "median"]
    rates = _thresholds(report)
    head += [f"FR@{t}" for t in rates] + [f"AUC@{t}" for t in rates] + ["faces", "missed", "unscored"]
    rows = []
    for kind, stage, entry in _entries(report):
        s = entry["summary"]
        interval = f"{_number(s['nme low'])} to {_number(s['nme high'])}"
        row = [kind, stage, _number(s["nme"]), interval, _number(s["median"])]
        row += [_number(s[f"fr@{t}"]) for t in rates] + [_number(s[f"auc@{t}"], 4) for t in rates]
        rows.append(row + [str(s[name]) for name in ("faces", "missed", "unscored")])
    return markdown_table(head, rows, "<<>")


def _group_table(report: Mapping[str, Any]) -> str:
    entries = list(_entries(report))
    names = list(entries[0][2]["groups"])
    rows = []
    for kind, stages in report["errors"].items():
        groups = {stage: entry["groups"] for stage, entry in stages.items()}
        rows += [[kind, stage, *(_number(values[name]) for name in names)] for stage, values in groups.items()]
        if BEFORE in groups:
            change = [_difference(groups[FINAL][name], groups[BEFORE][name]) for name in names]
            rows.append([kind, "change by stage 3", *(_number(value, sign="+") for value in change)])
    return markdown_table(["normaliser", "points", *names], rows, "<<>")


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _occlusion_text(found: Mapping[str, Any]) -> str:
    flags = found["flags"]
    lines = [
        f"{found['occluded']} of {found['points']} points of the faces found are occluded.",
        f"- Flags: precision {_percent(flags['precision'])}, recall {_percent(flags['recall'])}",
    ]
    if "scores" in found:
        scores = found["scores"]
        line = f"- Scores: average precision {_percent(scores['average precision'])}"
        for precision in PRECISIONS:
            recall, threshold = (scores[f"{name}@{_at(precision)}"] for name in ("recall", "threshold"))
            reached = "never reached" if threshold is None else f"flagging from {threshold:.3f} on"
            line += f", recall {_percent(recall)} at {100 * precision:g} % precision ({reached})"
        lines.append(line)
    return "\n".join([lines[0], "", *lines[1:]])


def _entries(report: Mapping[str, Any]) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    return ((kind, stage, entry) for kind, stages in report["errors"].items() for stage, entry in stages.items())


def _thresholds(report: Mapping[str, Any]) -> list[str]:
    """Those of failure rate and AUC, as the names of figures have them."""
    summary = next(entry["summary"] for _, _, entry in _entries(report))
    return [name.removeprefix("fr@") for name in summary if name.startswith("fr@")]


def _number(value: float | None, digits: int = 2, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}"


def _at(precision: float) -> str:
    return f"{100 * precision:g}P"


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{value * 100:.1f} %"


def write_report(evaluation: Evaluation, report: Mapping[str, Any], stem: Path) -> list[Path]:
    """Write ``STEM.json`` and ``STEM.md`` and, if matplotlib is there, the plots of :func:`draw_plots`.

    Args:
        evaluation: predictions and truth.
        report: of :func:`measure`.
        stem: beginning of the files' paths.

    Returns:
        The files.

    Raises:
        FacemsmError: a file cannot be written.
    """
    written = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".json", ".md")]
    texts = json.dumps(report, indent=1, allow_nan=False) + "\n", markdown(report)
    for path, text in zip(written, texts, strict=True):
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if not find_spec("matplotlib"):
        return written
    return written + draw_plots(evaluation, list(report["errors"]), stem, max(map(float, _thresholds(report))))


# --- Plots -----------------------------------------------------------------------------------------------------------


def draw_plots(
    evaluation: Evaluation, normalisers: Iterable[Normaliser], stem: Path, threshold: float = max(THRESHOLDS)
) -> list[Path]:
    """Draw the CED curve for each normaliser, precision-recall where occlusion is known, and reliability of scores.

    Args:
        evaluation: predictions and truth.
        normalisers: as in the report.
        stem: beginning of the files' paths.
        threshold: where the CED curves end, in per cent of the normaliser.

    Returns:
        The files written: ``STEM-ced-NORMALISER.png``, ``STEM-precision-recall.png``, ``STEM-reliability.png``.

    Raises:
        FacemsmError: no matplotlib, or a file cannot be written.
    """
    method = evaluation.predictions.method
    names = {stage: method if stage == FINAL else f"{method}, {stage}" for stage in evaluation.stages}
    written = []

    def path(kind: str) -> Path:
        written.append(stem.with_name(f"{stem.name}-{kind}.png"))
        return written[-1]

    for kind in normalisers:
        curves = {name: evaluation.nme(kind, stage) for stage, name in names.items()}
        plots.plot_ced(curves, path(f"ced-{kind}"), normaliser=kind, threshold=threshold)
    if scored := evaluation.occlusion_scores():
        hidden = evaluation.visibility[evaluation.scored] == OCCLUDED
        flags = occlusion.precision_recall(evaluation.predictions.occluded[evaluation.scored], hidden)
        marks = {method: flags} if np.isfinite(flags).all() else {}
        plots.plot_precision_recall({method: scored}, path("precision-recall"), flags=marks, precision=PRECISIONS[0])
    if calibration := evaluation.calibration():
        length, bins = calibration
        plots.plot_reliability(bins, path("reliability"), correct=_correct(length))
    return written
