"""The evaluation of a whole data set: its faces, what an aligner or a file says of them, and the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from facemsm.aligner import Aligner
from facemsm.data.catalogue import dataset_scheme, find_dataset, load_dataset
from facemsm.data.sample import BoxSource, evenly_chosen
from facemsm.detectors import get_detector
from facemsm.errors import FacemsmError
from facemsm.evaluation.conditions import EVALUATED, Perturbation, painted
from facemsm.evaluation.evaluate import run_aligner
from facemsm.evaluation.predictions import Predictions, check_ending, load_predictions, save_predictions
from facemsm.evaluation.report import THRESHOLDS, Evaluation, compare_painted, measure
from facemsm.geometry import CROP_ENLARGEMENT, Normaliser
from facemsm.provenance import commit, machine
from facemsm.shapes.conventions import known_as
from facemsm.stages import Settings
from facemsm.typing import PathLike, Progress, untracked


def evaluate_dataset(
    dataset: str,
    root: PathLike,
    split: str,
    scheme: str | None = None,
    *,
    limit: int | None = None,
    boxes: BoxSource | None = None,
    perturbation: Perturbation | None = None,
    occlude: bool = False,
    seed: int = 0,
    weights: str = "68",
    settings: Settings | None = None,
    threads: int = 1,
    predictions: Path | None = None,
    save: Path | None = None,
    normalisers: Sequence[Normaliser] = (),
    thresholds: Sequence[float] = (),
    progress: Progress = untracked,
) -> tuple[Evaluation, dict[str, Any]]:
    """Measure weights, or the predictions in a file, on a split of a data set.

    Args:
        dataset, root, split, scheme: as for :func:`facemsm.load_dataset`.
        limit: take only so many faces, evenly chosen.
        boxes: by default those of the data set, else ``gt``.
        perturbation: of the boxes.
        occlude: paint something over every face, and compare with the faces as they are.
        seed: of the painted occluders.
        weights, settings, threads: of the aligner.
        predictions: score this file instead of running anything; see :func:`load_predictions`.
        save: keep the predictions in this ``.npz`` file.
        normalisers, thresholds: as for :func:`measure`.
        progress: shows the faces that are aligned.

    Returns:
        Predictions beside the truth; the figures of :func:`measure`, with ``run``, which says how they were made, and
        for ``occlude`` with ``occluded and clean``, the rows of :func:`compare_painted`.

    Raises:
        FacemsmError: data, weights or predictions cannot be used, or do not fit together.
    """
    landmarks = dataset_scheme(dataset, scheme)
    if save:
        check_ending(save)
    provided: BoxSource = "provided" if find_dataset(dataset).provided_boxes else "gt"
    source = "gt" if predictions else boxes or provided
    there = load_dataset(dataset, root, split, "gt" if source == "detector" else source, scheme, photos=not predictions)
    if not there:
        raise FacemsmError(f"{root}: holds no face of {dataset}, {split}")
    samples = evenly_chosen(there, limit)
    clean = None
    if predictions:
        predicted = load_predictions(predictions, landmarks.count)
        made_for = predicted.origin.get("data set", dataset)
        if made_for != dataset:
            raise FacemsmError(f"{predictions}: holds predictions for {made_for}, not {dataset}")
    else:
        aligner = Aligner.from_pretrained(weights, settings=settings, threads=threads)
        if aligner.scheme != landmarks:
            raise FacemsmError(
                f"weights {weights!r} find scheme {aligner.scheme.name}, the faces have {landmarks.name}"
            )
        detector = get_detector() if source == "detector" else None
        conventions = {known_as(face.convention, aligner.model.conventions) for face in samples}
        origin = {
            "weights": aligner.description,
            "boxes": f"detector ({detector.name})" if detector else source,
            "crop enlargement": CROP_ENLARGEMENT,
            "perturbation": asdict(perturbation) if perturbation else None,
            "data set": dataset,
            "convention": None if None in conventions else ", ".join(sorted(map(str, conventions))),
            "commit": commit(),
            "machine": machine(),
        }

        def predict() -> Predictions:
            found = run_aligner(aligner, progress(samples, "aligning"), detector, perturbation)
            return replace(found, origin=origin)

        if occlude:
            clean = predict()
            samples = [painted(sample, landmarks, seed=seed) for sample in samples]
        predicted = predict()
        if save:
            save_predictions(save, predicted)

    evaluation = Evaluation.of(samples, predicted, landmarks)
    report = measure(evaluation, normalisers, thresholds)
    report["run"] = {
        "data set": f"{dataset}, {split}",
        "faces": {"used": len(samples), "there": len(there), "published": find_dataset(dataset).splits[split]},
        "scheme": landmarks.name,
        "normalisers": list(report["errors"]),
        "thresholds (%)": _plain(sorted(set(thresholds)) or THRESHOLDS),
        "predictions": {**predicted.origin, "convention": predicted.origin.get("convention")},  # old files name none
        "commit": commit(),
        "machine": machine(),
    }
    if clean:
        unpainted = Evaluation.of(samples, clean, landmarks)
        report["run"]["painted over"] = list(EVALUATED)
        report["occluded and clean"] = compare_painted(evaluation, unpainted, normalisers)
    return evaluation, report


def _plain(values: Iterable[float]) -> list[float]:
    return [int(value) if value == int(value) else value for value in values]
