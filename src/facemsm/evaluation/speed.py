"""How long each step takes, beside other landmark finders on the same faces in the same run."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from facemsm.aligner import Aligner
from facemsm.assets import SAMPLE
from facemsm.data.sample import BoxSource, FaceSample, evenly_chosen
from facemsm.errors import FacemsmError, first_line
from facemsm.evaluation.markdown import markdown_table
from facemsm.evaluation.metrics import nme
from facemsm.evaluation.plots import new_figure
from facemsm.files import atomic_write
from facemsm.geometry import box_to_crop
from facemsm.imaging.io import read_image, write_image
from facemsm.imaging.warping import warp
from facemsm.provenance import commit, instruction_sets, machine
from facemsm.runtime.model import HOURGLASS, STGAN
from facemsm.stages import Settings
from facemsm.typing import FloatArray, Image

BATCHES = (1, 2, 4, 8, 16, 32, 64)
ROUNDS = 5
BENCH = 'pip install "facemsm[bench]"'

Find = Callable[[Image, FloatArray], FloatArray | None]
"""A landmark finder: photo and box to points (L, 2) in the photo, or None if they are not those of the scheme."""


@dataclass(frozen=True)
class Finder:
    """A landmark finder in the comparison, and what must be said of it."""

    name: str
    find: Find
    megabytes: float | None
    note: str


def measure_speed(
    model: str = "68",
    data: str | None = None,
    *,
    count: int = 64,
    onnx: Sequence[Path] = (),
    weights: Sequence[str] = (),
    threads: int | None = None,
    providers: Sequence[str] = (),
    warn: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Time every step, and the whole way beside other landmark finders.

    Times on one thread are processor times, which other programs disturb little; methods take turns, face by face.

    Args:
        model: a bundled model's name or a folder.
        data: annotated faces, ``NAME=ROOT:SPLIT``; the sample photo's face if None.
        count: how many of them, evenly chosen.
        onnx: networks to be timed on face crops of their input size.
        weights: other models of ours.
        threads: where many are used; all by default.
        providers: what runs our networks, as for :meth:`facemsm.Aligner.from_pretrained`. Processor times leave out
            what an accelerator does.
        warn: takes a line for each finder that is left out, and why.

    Returns:
        Plain values for :func:`markdown`.

    Raises:
        FacemsmError: no such model or data, or a fresh process failed.
    """
    cv2.setNumThreads(1)
    many = threads or os.cpu_count() or 1
    aligner = Aligner.from_pretrained(model, providers=providers)
    samples = _samples(aligner, data, count)
    photos = [sample.load() for sample in samples]
    report: dict[str, Any] = {
        "machine": machine(),
        "instruction sets": instruction_sets(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,  # whatever its package is called
        "commit": commit(),
        "weights": aligner.description,
        "faces": f"{len(samples)} of {data.partition('=')[0]} {data.rpartition(':')[2]}"
        if data
        else "the sample photo's",
        "providers": list(providers) or ["cpu"],
        "stages": _stages(aligner, samples[0], photos[0]),
        "batches": _batches(
            aligner, Aligner.from_pretrained(model, threads=many, providers=providers), samples[0], photos[0]
        ),
        "threads": many,
    }
    if sys.platform == "linux":  # which says how much memory a process took
        report["start"] = _start(model, providers)
    methods = [_ours(name, providers) for name in (model, *weights)]
    peers: list[Callable[[], Finder]] = [_dlib, _mediapipe, *(partial(_network, path) for path in onnx)]
    for peer in peers:
        try:
            methods.append(peer())
        except (FacemsmError, ImportError) as error:  # noqa: PERF203
            warn(f"left out: {first_line(error)}")
    report["methods"] = _compare(methods, samples, photos, aligner, labelled=data is not None)
    return report


def _samples(aligner: Aligner, data: str | None, count: int) -> list[FaceSample]:
    if data is None:
        box = aligner.align(SAMPLE)[0].box
        nowhere = np.full((aligner.scheme.count, 2), np.nan, np.float32)
        return [FaceSample(SAMPLE.name, SAMPLE, box, "detector", nowhere, None, {})] * min(count, 32)
    from facemsm.data.catalogue import find_dataset, load_dataset
    from facemsm.data.sources import Source

    source = Source.parse(data)
    boxes: BoxSource = "provided" if find_dataset(source.name).provided_boxes else "gt"
    there = load_dataset(source.name, source.root, source.split, boxes, aligner.scheme)
    return evenly_chosen(there, count)


def _milliseconds(run: Callable[[], object], repeat: int = 15) -> float:
    """Median processor time of a call, after two to warm up."""
    times = []
    for _ in range(repeat + 2):
        start = time.process_time()
        run()
        times.append(1e3 * (time.process_time() - start))
    return float(np.median(times[2:]))


def _stages(aligner: Aligner, sample: FaceSample, photo: Image) -> dict[str, float]:
    """Milliseconds of one face's steps on one thread."""
    from facemsm.imaging.drawing import draw_faces
    from facemsm.results.jsonl import PhotoResult, ResultsFile
    from facemsm.runtime.session import LANDMARKS

    model, size = aligner.model, aligner.model.codec.input_size
    matrix = box_to_crop(sample.box[None], size)[0]
    crop = warp(photo, matrix, size)[None]
    views = np.concatenate((crop, crop[:, :, ::-1])) if model.mirror else crop
    first = model.network(STGAN, ["theta"], aligner.providers)
    second = model.network(HOURGLASS, LANDMARKS, aligner.providers)
    two = Aligner(model, settings=Settings(stages=(1, 2)), providers=aligner.providers)
    found = aligner.align(photo, [sample.box])
    height, width = photo.shape[:2]
    with tempfile.TemporaryDirectory() as scratch:
        encoded = Path(scratch) / "photo.jpg"
        write_image(encoded, photo)
        results = ResultsFile(Path(scratch) / "landmarks.jsonl", aligner.scheme.name, resume=False)
        line = PhotoResult(SAMPLE.name, width, height, aligner.scheme.name, found)
        times = {
            "read photo": _milliseconds(lambda: read_image(encoded)),
            "detect faces": _milliseconds(lambda: aligner.detector.detect(photo), 5),
            "cut a crop (done twice)": _milliseconds(lambda: warp(photo, matrix, size)),
            "stage 1, network": _milliseconds(lambda: first(crop)),
            "stage 2, network and reading": _milliseconds(lambda: second(views)),
            "stages 1 and 2, box to points": _milliseconds(lambda: two.align(photo, [sample.box])),
            "all stages, box to landmarks": _milliseconds(lambda: aligner.align(photo, [sample.box])),
            "draw": _milliseconds(lambda: draw_faces(photo, found, aligner.scheme)),
            "write results": _milliseconds(lambda: results.append(line)),
        }
        results.close()
    return times


def _batches(single: Aligner, many: Aligner, sample: FaceSample, photo: Image) -> dict[str, dict[str, float]]:
    """Milliseconds per face from box to landmarks by faces at once: processor time of one thread, clock of many.

    Each is run twice and the second time counts: processors that had nothing to do take a while to get going.
    """
    times: dict[str, dict[str, list[float]]] = {
        str(n): {"one": [], "one, clock": [], "many, clock": []} for n in BATCHES
    }
    for _ in range(ROUNDS):
        for n in BATCHES:
            boxes, row = [sample.box] * n, times[str(n)]
            single.align(photo, boxes)
            start, clock = time.process_time(), time.perf_counter()
            single.align(photo, boxes)
            row["one"].append(1e3 * (time.process_time() - start) / n)
            row["one, clock"].append(1e3 * (time.perf_counter() - clock) / n)
            many.align(photo, boxes)
            clock = time.perf_counter()
            many.align(photo, boxes)
            row["many, clock"].append(1e3 * (time.perf_counter() - clock) / n)
    return {n: {kind: float(np.median(values)) for kind, values in row.items()} for n, row in times.items()}


def _start(model: str, providers: Sequence[str]) -> dict[str, float]:
    """Seconds and megabytes of fresh processes: the import, and a photo to landmarks on disk."""
    imports = [_fresh("import facemsm")[1:3] for _ in range(ROUNDS)]
    with tempfile.TemporaryDirectory() as scratch:
        starts = []
        for i in range(ROUNDS):  # each into a folder of its own: no results are overwritten
            arguments = ["facemsm", "align", str(SAMPLE), "-o", str(Path(scratch) / str(i)), "--weights", model]
            arguments += [word for name in providers for word in ("--provider", name)]
            starts.append(_fresh(f"import sys; sys.argv = {arguments!r}; from facemsm.apps.cli import main; main()"))
    (clock, processor), (start, _, used, peak) = np.min(imports, axis=0), np.min(starts, axis=0)
    return {
        "import, s": float(clock),
        "import, processor s": float(processor),
        "process start to landmarks written, s": float(start),
        "process start to landmarks written, processor s": float(used),
        "peak memory, MB": float(peak),
    }


_TELL = """
import atexit, time
begun = time.perf_counter()
def tell():
    seconds = time.perf_counter() - begun, time.process_time()
    with open("/proc/self/status") as status:
        print("cost", *seconds, *(line.split()[1] for line in status if line.startswith("VmHWM")))
atexit.register(tell)
"""


def _fresh(code: str) -> tuple[float, float, float, float]:
    """A fresh process: seconds by the clock, those within the code, processor seconds, and MB of memory at most."""
    begun = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", _TELL + code], capture_output=True, text=True, check=False)
    clock = time.perf_counter() - begun
    if run.returncode:
        raise FacemsmError(f"a fresh process failed: {''.join(run.stderr.strip().splitlines()[-1:])}")
    within, used, peak = map(float, run.stdout.splitlines()[-1].split()[1:])
    return clock, within, used, peak / 1e3


def _ours(name: str, providers: Sequence[str]) -> Finder:
    aligner = Aligner.from_pretrained(name, providers=providers)
    made = aligner.model.provenance.get("quantisation", {"scheme": "float"})
    note = ", ".join(str(value) if key == "scheme" else f"{key}: {value}" for key, value in made.items())
    # powers of two are stored as floats, but need fewer bits
    megabytes = _megabytes(*map(aligner.model.path, (STGAN, HOURGLASS))) * made.get("bits", 32) / 32
    return Finder(f"facemsm {name}", lambda photo, box: aligner.align(photo, [box])[0].points, megabytes, note)


def _megabytes(*files: Path) -> float:
    return sum(file.stat().st_size for file in files) / 1e6


def _dlib() -> Finder:
    spec = find_spec("face_recognition_models")
    if not find_spec("dlib") or not spec or not spec.submodule_search_locations:
        raise FacemsmError(f"dlib's shape predictor: {BENCH}")
    import dlib

    folder = Path(spec.submodule_search_locations[0])
    trees = folder / "models" / "shape_predictor_68_face_landmarks.dat"
    predict = dlib.shape_predictor(str(trees))

    def find(photo: Image, box: FloatArray) -> FloatArray:
        left, top, right, bottom = np.round(box).astype(int).tolist()
        shape = predict(photo, dlib.rectangle(left, top, right, bottom))
        return np.array([(part.x, part.y) for part in shape.parts()], np.float32)

    note = "regression trees, 68 points; trained on boxes of its own detector"
    return Finder(f"dlib {version('dlib-bin')}", find, _megabytes(trees), note)


def _mediapipe() -> Finder:
    if not find_spec("mediapipe"):
        raise FacemsmError(
            "MediaPipe is not installed: pip install mediapipe==0.10.21, where its NumPy 1 does not disturb"
        )
    import mediapipe

    mesh = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True)

    def find(photo: Image, box: FloatArray) -> None:
        mesh.process(warp(photo, box_to_crop(box[None], 256)[0], 256))

    note = "face mesh, 478 other points; finds the face in the crop itself, on several threads"
    return Finder(f"MediaPipe {version('mediapipe')}", find, None, note)


def _network(path: Path) -> Finder:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise FacemsmError(f"{path}: {first_line(error)}") from error
    taken = session.get_inputs()[0]
    shape = [1, *(n if isinstance(n, int) else 128 for n in taken.shape[1:])]
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise FacemsmError(f"{path}: takes {taken.shape}, not images")
    first = shape[1] == 3
    size, kind = max(shape[1:]), np.uint8 if "uint8" in taken.type else np.float32

    def find(photo: Image, box: FloatArray) -> None:
        image = warp(photo, box_to_crop(box[None], size)[0], size)
        values = image if kind is np.uint8 else image.astype(np.float32) / 255
        session.run(None, {taken.name: (values.transpose(2, 0, 1) if first else values)[None]})

    return Finder(path.name, find, _megabytes(path), "the network alone, a crop at a time; speed only")


def _compare(
    methods: Sequence[Finder],
    samples: Sequence[FaceSample],
    photos: Sequence[Image],
    aligner: Aligner,
    *,
    labelled: bool,
) -> list[dict[str, Any]]:
    """Time and error of each method; they take turns on every face."""
    times: dict[str, list[float]] = {method.name: [] for method in methods}
    found: dict[str, list[FloatArray | None]] = {method.name: [] for method in methods}
    for method in methods:
        method.find(photos[0], samples[0].box)
    for sample, photo in zip(samples, photos, strict=True):
        for method in methods:
            start = time.process_time()
            points = method.find(photo, sample.box)
            times[method.name].append(1e3 * (time.process_time() - start))
            found[method.name].append(points)
    ours = np.array(times[methods[0].name])
    truth = np.stack([sample.points for sample in samples])
    rows = []
    for method in methods:
        same = [p for p in found[method.name] if p is not None and p.shape == truth.shape[1:]]
        errors = None
        if labelled and len(same) == len(samples):
            errors = 100 * nme(np.stack(same), truth, aligner.scheme, "inter-ocular")
        rows.append(
            {
                "method": method.name,
                "note": method.note,
                "ms": float(np.median(times[method.name])),
                "MB": method.megabytes,
                "ratio": float(np.median(np.array(times[method.name]) / ours)),
                "inter-ocular NME, %": None if errors is None else float(np.nanmean(errors)),
            }
        )
    return rows


def markdown(report: dict[str, Any]) -> str:
    """The tables of a report of :func:`measure_speed`."""
    weights = report["weights"]
    scheme, many = weights.get("quantisation", {}).get("scheme", "float"), f"clock, {report['threads']} threads"
    parts = [
        f"Weights {weights['weights']} ({scheme}), {report['faces']} faces; {report['machine']} "
        f"({report['instruction sets']}), load {report['load'] or 0:.1f}; Python {report['python']}, ONNX Runtime "
        f"{report['onnxruntime']} on {', '.join(report['providers'])}; commit {report['commit']}. Milliseconds of one "
        "thread's processor time, unless the clock is named.",
        markdown_table(["step, one face", "ms"], [[name, _number(ms)] for name, ms in report["stages"].items()]),
        markdown_table(
            ["faces at once, box to landmarks", "ms per face", "clock, ms per face", many, "speed-up"],
            [
                [n, *map(_number, row.values()), _number(row["one, clock"] / row["many, clock"])]
                for n, row in report["batches"].items()
            ],
        ),
        markdown_table(
            ["from a box, one thread", "ms per face", "times the first", "inter-ocular NME, %", "MB", ""],
            [
                [
                    row["method"],
                    *(_number(row[name]) for name in ("ms", "ratio", "inter-ocular NME, %", "MB")),
                    row["note"],
                ]
                for row in report["methods"]
            ],
            "<>>>><",
        ),
    ]
    if "start" in report:
        start = [[name, _number(value)] for name, value in report["start"].items()]
        parts.insert(3, markdown_table(["fresh process", ""], start))
    return "\n\n".join(parts) + "\n"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def write_report(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``benchmark.json`` and ``.md`` and, if faces were labelled and matplotlib is there, ``benchmark.png``.

    Returns:
        The files.

    Raises:
        FacemsmError: a file cannot be written.
    """
    files = [folder / "benchmark.json", folder / "benchmark.md"]
    for path, content in zip(files, (json.dumps(report, indent=1) + "\n", markdown(report)), strict=True):
        with atomic_write(path) as partial:
            partial.write_text(content, encoding="utf-8")
    rows = [row for row in report["methods"] if row["inter-ocular NME, %"] is not None]
    if rows and find_spec("matplotlib"):
        files.append(folder / "benchmark.png")
        _plot(rows, files[-1])
    return files


def _plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Error against time, one point per method."""
    with new_figure(path) as figure:
        axes = figure.subplots()
        for row in rows:
            at = (row["ms"], row["inter-ocular NME, %"])
            axes.scatter(*at, color="#0072B2")
            axes.annotate(row["method"], at, xytext=(6, 4), textcoords="offset points")
        axes.set(xlabel="ms per face from a box, one thread", ylabel="inter-ocular NME, %")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.margins(0.25)
