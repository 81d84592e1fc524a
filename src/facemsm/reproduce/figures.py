"""Figures 5 and 7 to 15 and the speed. Functions as in :mod:`facemsm.reproduce.tables`."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facemsm.assets import SAMPLE, SAMPLE_BOX
from facemsm.data.contact_sheet import contact_sheet
from facemsm.data.sample import FaceSample, evenly_chosen
from facemsm.evaluation import metrics
from facemsm.evaluation.plots import add_legend, line_styles, new_figure
from facemsm.evaluation.published_curves import Curve, read_curves
from facemsm.geometry import (
    CANONICAL_MARGIN,
    apply_affine,
    box_to_crop,
    canonical_matrix,
    compose,
    invert,
)
from facemsm.imaging.io import IMAGE_SUFFIXES, read_image, write_image
from facemsm.imaging.warping import warp
from facemsm.provenance import machine
from facemsm.reproduce.ablation import ARMS
from facemsm.reproduce.outputs import (
    CONDITIONS,
    DRAWN_OCCLUDERS,
    GIVEN,
    PERTURBED_BOXES,
    SIZE,
    CachedOutputs,
    StageRunner,
)
from facemsm.reproduce.paper import paper
from facemsm.reproduce.render import Block, ours, picture, table, text
from facemsm.reproduce.tables import (
    REBUILT,
    Sets,
    arms_of,
    claim,
    draw_ced,
    interval_of,
    mean_of,
    outputs_of,
    published_files,
    published_predictions,
)
from facemsm.reproduce.workspace import MODEL, Workspace
from facemsm.schemes import OCCLUDED, VISIBLE, LandmarkScheme, get_scheme
from facemsm.shapes.reconstruction import Reconstruction, reconstruct
from facemsm.typing import Array, FloatArray, Image

SIZES, NEIGHBOURS = (100, 200, 300, 500, 1000), (10, 20, 50, 100, 200)
"""N and k of Fig. 7, whose own values the text does not give."""


CED_CAPTIONS = {
    "fig9": "CED; curves of the 300-W challenges' best entries are drawn if MenpoBenchmark's 300W_test_all.mat lies in "
    "the data folder, that of DAN is not published",
    "fig11": "CED; methods whose result files of the COFW-68 benchmark lie in the data folder are drawn",
}
NO_PHOTOS = "Left out: its pictures would show photos of the data set (--no-photos)."
COLUMNS = 8


# --- Curves ----------------------------------------------------------------------------------------------------------


def ced_of_model(workspace: Workspace, there: Sets, name: str, scheme: str) -> list[Block]:
    """Fig. 9 and 11: cumulative errors of the model and, where the files are there, of others as published."""
    landmarks, curves = get_scheme(scheme), {}
    for dataset, split in there:
        cached = workspace.outputs(scheme, MODEL, dataset, split)
        points = cached.points(workspace.dictionary(scheme))
        curves["facemsm"] = metrics.nme(points, cached.truth, landmarks, "inter-ocular")
    if name == "fig11":
        for file, (truth, points) in published_predictions(workspace).items():
            curves[file] = metrics.nme(points, truth.truth, landmarks, "inter-ocular")
    published: dict[str, Curve] = {}
    if name == "fig9":
        for path in published_files(workspace, name):
            published |= read_curves(path)
    file = f"plots/{name}.png"
    draw_ced(workspace, curves, file, "inter-ocular", 10, published)
    return [picture(file, CED_CAPTIONS[name])]


def ced_of_configurations(workspace: Workspace, there: Sets, name: str, scheme: str) -> list[Block]:
    """Fig. 13: cumulative errors of HG, ST-GAN + HG and the whole method, of each arm."""
    blocks = []
    for dataset, split in there:
        outputs = {
            f"{config}, {ARMS[arm]}": found
            for arm, networks in arms_of(workspace, scheme).items()
            for config, found in outputs_of(workspace, scheme, dataset, split, GIVEN, networks).items()
            if config in ("HG", "ST-GAN + HG", f"ST-GAN + HG{REBUILT}")
        }
        if not outputs:
            continue  # no hourglass is trained yet
        kind = next(iter(outputs.values()))[0].normaliser(get_scheme(scheme))
        curves = {
            label: metrics.nme(points, cached.truth, get_scheme(scheme), kind)
            for label, (cached, points) in outputs.items()
        }
        file = f"plots/{name}-{dataset}-{split}.png"
        draw_ced(workspace, curves, file, kind, 10)
        blocks.append(picture(file, f"CED, {dataset} {split}"))
    return blocks


def neighbours(workspace: Workspace, there: Sets, name: str, scheme: str) -> list[Block]:
    """Fig. 7: stage 3 by the size N of the dictionary and the number k of exemplars, on kept outputs of stage 2."""
    landmarks, blocks = get_scheme(scheme), []
    dictionaries = {size: workspace.dictionary(scheme, "built here", size) for size in SIZES}
    for dataset, split in there:
        cached = workspace.outputs(scheme, MODEL, dataset, split)
        kind = cached.normaliser(landmarks)
        rows, curves = [], {}
        for size, dictionary in dictionaries.items():
            errors = [
                100 * metrics.nme(cached.points(dictionary, Reconstruction(k=k)), cached.truth, landmarks, kind)
                for k in NEIGHBOURS
                if k <= size
            ]
            cells: list[Any] = [ours(mean_of(one), interval_of(one)) for one in errors]
            rows.append([f"N = {size}", *cells, *["-"] * (len(NEIGHBOURS) - len(cells))])
            curves[f"N = {size}"] = (NEIGHBOURS[: len(errors)], [mean_of(one) for one in errors])
        without = 100 * metrics.nme(cached.points(), cached.truth, landmarks, kind)
        rows.append(["no stage 3", *[ours(mean_of(without), interval_of(without))], *["-"] * (len(NEIGHBOURS) - 1)])
        blocks.append(
            text(
                f"**{workspace.used(dataset, split)}**, NRMSE in per cent of {kind}; the paper chose N = 500, k = 100."
            )
        )
        blocks.append(table(["", *(f"k = {k}" for k in NEIGHBOURS)], rows))
        file = f"plots/{name}-{dataset}-{split.replace('/', '-')}.png"
        with _plot(workspace, file) as figure:
            axes = figure.subplots()
            for (label, (x, y)), style in zip(curves.items(), line_styles(), strict=False):
                axes.plot(x, y, marker="o", markersize=4, label=label, **style)
            axes.axhline(mean_of(without), color="#767676", linewidth=1, label="no stage 3")
            axes.set(xlabel="k, nearest exemplars", ylabel=f"NRMSE (% of {kind})", xscale="log")
            axes.set_xticks(NEIGHBOURS, [str(k) for k in NEIGHBOURS])
            add_legend(axes, figure)
        blocks.append(picture(file, f"NRMSE by N and k, {dataset} {split}"))
    return blocks


def score_distribution(workspace: Workspace, there: Sets, name: str, scheme: str) -> list[Block]:
    """Fig. 15: scores of each landmark; the paper's claim is that those of the contour are lower."""
    landmarks, blocks, claims, rows = get_scheme(scheme), [], [], []
    contour = np.isin(np.arange(landmarks.count), landmarks.contour)
    for dataset, split in there:
        scores = workspace.outputs(scheme, MODEL, dataset, split).scores
        difference = scores[:, contour].mean(1) - scores[:, ~contour].mean(1)
        claims.append(
            claim(
                "Scores of the contour are lower than of the features",
                f"{dataset} {split}",
                difference,
                "a perfect score",
            )
        )
        quartiles = np.quantile(scores, (0.25, 0.5, 0.75), axis=0)
        for label, group in (("contour", contour), ("features", ~contour)):
            low, middle, high = np.quantile(scores[:, group], (0.25, 0.5, 0.75))
            rows.append([f"{dataset} {split}", label, f"{middle:.3f}", f"{low:.3f} to {high:.3f}"])
        file = f"plots/{name}-{dataset}-{split.replace('/', '-')}.png"
        with _plot(workspace, file) as figure:
            axes, number = figure.subplots(), np.arange(1, landmarks.count + 1)
            axes.fill_between(number, quartiles[0], quartiles[2], color="#56B4E9", alpha=0.5, label="middle half")
            axes.plot(number, quartiles[1], color="#0072B2", marker=".", label="median")
            axes.axvspan(0.5, contour.sum() + 0.5, color="#E0E0E0", zorder=0, label="contour")
            axes.set(xlabel="landmark", ylabel="score (Eq. 9, share of a perfect heatmap's)", ylim=(0, 1))
            add_legend(axes, figure)
        blocks.append(picture(file, f"Scores of each landmark, {dataset} {split}, numbered from 1 as in Fig. 16"))
    return [table(["set", "points", "median score", "middle half"], rows, 2), {"claims": claims}, *blocks]


# --- What the stages do ----------------------------------------------------------------------------------------------


def heatmaps(workspace: Workspace, there: Sets, name: str, scheme: str) -> list[Block]:
    """Fig. 5: faces and their heatmaps; the paper's claim is that those of hidden points are weaker."""
    rows, claims = [], []
    for dataset, split in there:
        for condition in (GIVEN, DRAWN_OCCLUDERS):
            cached = workspace.outputs(scheme, MODEL, dataset, split, condition)
            hidden, seen = cached.hidden, cached.visibility == VISIBLE
            if not hidden.any():
                continue
            where = f"{dataset} {split}, {condition}"
            cells = [f"{np.median(cached.scores[which]):.3f}" for which in (seen, hidden)]
            rows.append([where, *cells, f"{100 * hidden.sum() / (hidden | seen).sum():.1f} %"])
            both = hidden.any(1) & seen.any(1)
            difference = [
                cached.scores[i][hidden[i]].mean() - cached.scores[i][seen[i]].mean() for i in np.flatnonzero(both)
            ]
            claims.append(
                claim(
                    "Hidden points have lower scores than visible ones", where, np.array(difference), "a perfect score"
                )
            )
    blocks = (
        [table(["set", "median score, visible", "hidden", "share hidden"], rows), {"claims": claims}] if rows else []
    )
    stages = workspace.stages(scheme, MODEL, keep=True)
    samples, source = _pictured(workspace, stages, *there[0])
    faces = [CONDITIONS[DRAWN_OCCLUDERS](sample, stages.scheme) for sample in samples]
    found = stages.run_stages([s.image for s in faces], np.stack([s.box for s in faces]))
    if found.heatmaps is None:
        return [*blocks, text("Left out: these weights give no heatmaps.")]
    top = [_with_points(*face) for face in zip(found.canonical, found.points, strict=True)]
    below = [_glow(maps) for maps in found.heatmaps]
    caption = f"{source}: canonical faces with a drawn occluder and the points of stage 2, and their heatmaps"
    return [*blocks, _grid(workspace, name, [top, below], caption)]


def normalised(workspace: Workspace, there: Sets, name: str, scheme: str) -> list[Block]:
    """Fig. 14: faces cropped by their boxes and by stage 1, and how far both are from the canonical frame."""
    landmarks, rows, claims = get_scheme(scheme), [], []
    for dataset, split in there:
        for condition in (GIVEN, PERTURBED_BOXES):
            cached = workspace.outputs(scheme, MODEL, dataset, split, condition)
            by_box = invert(box_to_crop(cached.boxes, SIZE, CANONICAL_MARGIN))
            before, after = (_misplaced(cached, frame, landmarks) for frame in (by_box, cached.to_photo))
            where = f"{dataset} {split}, {condition}"
            cells = [ours(mean_of(one), interval_of(one)) for pair in zip(before, after, strict=True) for one in pair]
            rows.append([where, *cells])
            claims.append(
                claim(
                    "Stage 1 brings faces nearer to canonical", where, (after[0] - before[0]) / SIZE, "the crop's side"
                )
            )
    head = ["set", "corners off, box (px of 128)", "corners off, stage 1", "tilt, box (°)", "tilt, stage 1"]
    blocks = [table(head, rows), {"claims": claims}]
    stages = workspace.stages(scheme, MODEL)
    samples, source = _pictured(workspace, stages, *there[0])
    condition = GIVEN if workspace.photos else PERTURBED_BOXES  # the bundled photo has one box only
    faces = [CONDITIONS[condition](sample, stages.scheme) for sample in samples]
    boxes = np.stack([s.box for s in faces])
    frames = [box_to_crop(boxes, SIZE), invert(stages.run_stages([s.image for s in faces], boxes).to_photo)]
    both = [[warp(s.image, matrix, SIZE) for s, matrix in zip(faces, frame, strict=True)] for frame in frames]
    caption = f"{source}, {condition}: what stage 1 sees, cropped by the boxes, and what it makes of it"
    return [*blocks, _grid(workspace, name, both, caption)]


def _pictured(workspace: Workspace, stages: StageRunner, dataset: str, split: str) -> tuple[list[FaceSample], str]:
    """Faces of a set to show, and what they are; without its photos the bundled photo, once per column."""
    if workspace.photos:
        return evenly_chosen(workspace.samples(dataset, split), COLUMNS), f"{dataset} {split}"
    found = stages.run_stages([read_image(SAMPLE)], SAMPLE_BOX[None])
    points = apply_affine(found.to_photo, found.points).astype(np.float32)[0]
    names = [f"bundled photo {i}" for i in range(COLUMNS)]
    return [FaceSample(name, SAMPLE, SAMPLE_BOX, "detector", points) for name in names], "The bundled photo"


def _misplaced(cached: CachedOutputs, to_photo: Array, scheme: LandmarkScheme) -> tuple[Array, Array]:
    """Of each face how far the corners of its canonical image are off, in pixels of 128, and by what angle it is."""
    truth = canonical_matrix(cached.truth.astype(np.float64), scheme, SIZE)
    error = compose(truth, to_photo)
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * SIZE - 0.5
    angle = np.degrees(np.abs(np.arctan2(error[:, 1, 0], error[:, 0, 0])))
    return np.linalg.norm(apply_affine(error, corners) - corners, axis=-1).mean(1), angle


# --- Pictures --------------------------------------------------------------------------------------------------------


def examples(workspace: Workspace, there: Sets, name: str, scheme: str) -> list[Block]:
    """Figs. 8, 10 and 12: faces of a set, or of a folder of photos, with the points found."""
    if not workspace.photos and not workspace.own_photos:
        return [text(NO_PHOTOS)]
    landmarks, dictionary = get_scheme(scheme), workspace.dictionary(scheme)
    if workspace.own_photos:
        samples, source = _own_faces(workspace, scheme), workspace.own_photos.name
    else:
        dataset, split = there[0]
        cached, source = workspace.outputs(scheme, MODEL, dataset, split), f"{dataset} {split}"
        canonical, rebuilt = reconstruct(cached.canonical, cached.scores, dictionary, Reconstruction())
        points = apply_affine(cached.to_photo, canonical).astype(np.float32)
        visibility = np.where(rebuilt, OCCLUDED, VISIBLE).astype(np.int8)
        samples = [
            replace(sample, points=points[i], visibility=visibility[i])
            for i, sample in enumerate(workspace.samples(dataset, split))
        ]
    if not samples:
        return [text(f"No face found in {source}.")]
    sheet = contact_sheet(samples, landmarks, columns=min(COLUMNS, len(samples)), rows=4)
    file = f"plots/{name}.jpg"
    write_image(workspace.report / file, sheet)
    return [picture(file, f"{source}: points found (green), points that stage 3 rebuilt (red), boxes (yellow)")]


def _own_faces(workspace: Workspace, scheme: str) -> list[FaceSample]:
    """Every face the detector finds in a folder of photos, aligned."""
    from facemsm.detectors import get_detector

    assert workspace.own_photos
    detector, stages, dictionary = get_detector(), workspace.stages(scheme, MODEL), workspace.dictionary(scheme)
    samples = []
    for path in sorted(p for p in workspace.own_photos.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES):
        photo = read_image(path)
        boxes = detector.detect(photo)[:, :4]
        if not len(boxes):
            continue
        found = stages.run_stages([photo] * len(boxes), boxes)
        points, rebuilt = reconstruct(found.points, found.scores, dictionary, Reconstruction())
        points = apply_affine(found.to_photo, points).astype(np.float32)
        visibility = np.where(rebuilt, OCCLUDED, VISIBLE).astype(np.int8)
        samples += [
            FaceSample(path.name, path, box, "detector", *found)
            for box, *found in zip(boxes, points, visibility, strict=True)
        ]
    return samples


def _with_points(canonical: Image, points: FloatArray) -> Image:
    zoom = 2
    tile = cv2.resize(canonical, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    for centre in np.round((zoom * (points + 0.5) - 0.5) * 16).astype(int).tolist():
        cv2.circle(tile, centre, 32, (60, 255, 60), cv2.FILLED, cv2.LINE_AA, 4)
    return np.asarray(tile, np.uint8)


def _glow(maps: FloatArray) -> Image:
    """The brightest of all heatmaps at each place."""
    grey = (255 * np.clip(maps.max(0), 0, 1)).astype(np.uint8)
    colour = cv2.applyColorMap(cv2.resize(grey, (2 * SIZE, 2 * SIZE)), cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(colour, cv2.COLOR_BGR2RGB), np.uint8)


def _grid(workspace: Workspace, name: str, rows: Sequence[Sequence[Image]], caption: str) -> Block:
    file = f"plots/{name}.jpg"
    write_image(workspace.report / file, np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))
    return picture(file, caption)


def _plot(workspace: Workspace, file: str) -> Any:
    path: Path = workspace.report / file
    path.parent.mkdir(parents=True, exist_ok=True)
    return new_figure(path)


# --- Speed -----------------------------------------------------------------------------------------------------------


def speed(workspace: Workspace, there: Sets, name: str, scheme: str) -> list[Block]:  # noqa: ARG001
    """Time of one face on one thread of this machine, photo in memory, beside the paper's."""
    busy = _load()
    photo, box = read_image(SAMPLE), SAMPLE_BOX
    stages, dictionary = workspace.stages(scheme, MODEL), workspace.dictionary(scheme)
    found = stages.run_stages([photo], box[None])
    scores = found.scores.copy()
    scores[:, ::5] = 0.01  # every fifth point is to be rebuilt
    networks = _milliseconds(lambda: stages.run_stages([photo], box[None]))
    rebuild = _milliseconds(lambda: reconstruct(found.points, scores, dictionary, Reconstruction()))
    said: Mapping[str, float] = paper().text
    rows = [
        ["stages 1 and 2, ms", f"{said['milliseconds of both networks']:g}", f"{networks:.1f}"],
        ["stage 3, ms", f"{said['milliseconds of shape reconstruction']:g}", f"{rebuild:.1f}"],
        ["faces per second", f"{said['frames per second']:g}", f"{1000 / (networks + rebuild):.1f}"],
    ]
    return [
        table(["", "paper (GTX 1080)", "facemsm"], rows),
        text(
            f"Median of 20 runs on {machine()}{busy}, one face at a time, every fifth point rebuilt, without detector."
        ),
    ]


def _load() -> str:
    """How busy the machine is, where the system says."""
    return f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""


def _milliseconds(run: Callable[[], object], repeats: int = 20) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)
