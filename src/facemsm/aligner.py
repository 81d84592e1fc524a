"""The whole way of a face, photo to landmarks: Algorithm 2, or our form of it.

:class:`Aligner` has its lines in order: 1 and 2 crop and rectify, 3 and 4 locate (both by
:func:`facemsm.stages.run_stages`), 5 to 13 refine, 14 back to the photo.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike

from facemsm.confidence.model import detail
from facemsm.detectors import FaceDetector, get_detector
from facemsm.detectors.rotation import detect_any_rotation, turns_of_boxes
from facemsm.errors import FacemsmError, check_number, short
from facemsm.face import Face
from facemsm.geometry import Matrix, apply_affine, box_to_crop, check_boxes, compose, similarity
from facemsm.imaging.io import as_image
from facemsm.runtime.model import HOURGLASS, STGAN, Model, load_model
from facemsm.runtime.providers import MAX_THREADS
from facemsm.runtime.session import LANDMARKS, Network
from facemsm.schemes import LandmarkScheme
from facemsm.shapes.conventions import Convention
from facemsm.shapes.dictionary import ShapeDictionary
from facemsm.shapes.reconstruction import Reconstruction, reconstruct, relative_scores
from facemsm.stages import Located, Settings, StageOutputs, mirrored, retry_rotated, run_stages
from facemsm.typing import BoolArray, FloatArray, Image, Method, PathLike, Provider

if TYPE_CHECKING:
    from facemsm.imaging.io import ImageSource

BATCH = 32
"""Faces that a thread works on at once; bounds the memory."""


class Refined(NamedTuple):
    """What stage 3 makes of N faces.

    Attributes:
        points: (N, L, 2) float32, canonical pixels.
        scores: (N, L) float32 in [0, 1].
        occluded: (N, L) bool.
        occlusion: (N, L) float32, a probability; None by the paper's method.
        rebuilt: (N, L) bool, None if stage 3 weighed all points or did not run.
    """

    points: FloatArray
    scores: FloatArray
    occluded: BoolArray
    occlusion: FloatArray | None
    rebuilt: BoolArray | None


class _Job(NamedTuple):
    """One face on its way."""

    photo: Image
    box: FloatArray
    detection_score: float | None
    turns: int = 0
    """Quarter turns counter-clockwise by which the photo becomes upright."""


class Aligner:
    """Finds the landmarks of faces. Loads its networks once; use one for many photos.

    Args:
        model: a checked model.
        settings: how faces are aligned; each call may have its own.
        detector: finds the faces where no boxes are given, or the name of one (:func:`facemsm.get_detector`); the
            bundled one by default.
        keep: ``"heatmaps"`` and ``"canonical"`` are kept in every ``Face``, at 1.1 MB per face.
        threads: CPU threads, which share the faces of one call.
        providers: what runs the networks, the best first: ``"cuda"``, ``"coreml"``, ``"directml"``, ``"openvino"`` or
            an execution provider's name in ONNX Runtime, alone or with its options, ``("cuda", {"device_id": 1})``.
            By default the CPU, which also runs what they cannot. The bundled detector runs there, too.

    Raises:
        FacemsmError: a setting that the model cannot follow, an unknown name to keep, or a provider that the installed
            ONNX Runtime does not have.

    Example::

        >>> aligner = Aligner.from_pretrained("68")
        >>> (face,) = aligner.align("photo.jpg")
        >>> face.points.shape, bool(face.scores[30] > 0.5), bool(face.occluded[30])  # 30 is the nose's tip
        ((68, 2), True, False)
        >>> (paper,) = aligner.align("photo.jpg", [face.box], settings=Settings("paper"))
        >>> float(paper.scores.max())  # relative to the face's best
        1.0
    """

    def __init__(
        self,
        model: Model,
        *,
        settings: Settings | None = None,
        detector: FaceDetector | str | None = None,
        keep: Collection[str] = (),
        threads: int = 1,
        providers: Sequence[Provider] = (),
    ) -> None:
        if not isinstance(keep, Collection) or not all(name in ("heatmaps", "canonical") for name in keep):
            raise FacemsmError(f"keep is {keep!r}: give a list of heatmaps and canonical")
        check_number("threads", threads, 1, MAX_THREADS, whole=True)
        if isinstance(detector, str):
            detector = get_detector(detector, providers=providers)
        if detector is not None and not callable(getattr(detector, "detect", None)):
            raise FacemsmError(f"detector is {short(detector)}: give the name of one, or an object that detects faces")
        self.model, self.keep, self.threads, self.providers = model, frozenset(keep), threads, providers
        self._conventions: dict[str, Convention] = {}
        self.settings = self._resolved(settings or Settings())
        self._given_detector = detector
        outputs = [*LANDMARKS, *(["heatmaps"] if "heatmaps" in keep else [])]
        self._hourglass = model.network(HOURGLASS, outputs, providers)
        if 1 in self.settings.stages:
            _ = self._generator  # a damaged file is an error now, not at the first face
        if 3 in self.settings.stages:
            _ = self._dictionary
        self._prior = model.prior()
        self._locate = mirrored(self._seen, model.scheme.flip, model.codec.input_size) if model.mirror else self._seen

    @classmethod
    def from_pretrained(
        cls,
        name: PathLike = "68",
        *,
        method: Method | None = None,
        stages: Collection[int] | None = None,
        thresholds: Mapping[str, float] | None = None,
        any_rotation: bool = False,
        settings: Settings | None = None,
        detector: FaceDetector | str | None = None,
        keep: Collection[str] = (),
        threads: int = 1,
        providers: Sequence[Provider] = (),
    ) -> Aligner:
        """An aligner with bundled weights, offline, or with those in a model folder.

        Args:
            name: a bundled model's name (:func:`facemsm.list_models`) or a folder's path.
            method, stages, any_rotation: as in :class:`facemsm.stages.Settings`, and its defaults.
            thresholds: T of the paper's method, ``"contour"`` and ``"features"``: a point whose score is not above its
                threshold is rebuilt.
            settings: all of these at once, instead of them.
            detector, keep, threads, providers: as for :class:`Aligner`.

        Raises:
            FacemsmError: no such model, a damaged one, an unknown option, or an option beside ``settings``.
        """
        own = {"method": method, "stages": stages, "thresholds": thresholds, "any_rotation": any_rotation or None}
        given = [name for name, value in own.items() if value is not None]
        if settings and given:
            raise FacemsmError(f"{given[0]} is given beside settings, which hold it too; give one of them")
        if thresholds and method != "paper":
            raise FacemsmError("thresholds are the paper's: they need method='paper'")
        settings = settings or Settings(
            method,
            (1, 2, 3) if stages is None else stages,
            Reconstruction.with_thresholds(thresholds or {}),
            any_rotation=any_rotation,
        )
        return cls(
            load_model(name), settings=settings, detector=detector, keep=keep, threads=threads, providers=providers
        )

    def align(
        self, image: ImageSource, boxes: ArrayLike | None = None, *, settings: Settings | None = None
    ) -> list[Face]:
        """Landmarks of the faces in one photo.

        Args:
            image: a path, bytes, a file object, a PIL picture, or (H, W, 3) uint8 RGB: see
                :func:`facemsm.imaging.io.as_image`.
            boxes: (N, 4) ``[x_min, y_min, x_max, y_max]`` in photo pixels, tight around the landmarks or a usual
                detector's. The detector finds them if None.
            settings: for this call, instead of the aligner's.

        Returns:
            A face for each box, in their order; the detector's, best first.

        Raises:
            FacemsmError: the photo cannot be read, or a box is not one.
        """
        return self.align_batch([image], [boxes], settings=settings)[0]

    @overload
    def align_batch(
        self,
        images: Iterable[ImageSource],
        boxes: Iterable[ArrayLike | None] | None = None,
        *,
        settings: Settings | None = None,
        errors: Literal["raise"] = "raise",
    ) -> list[list[Face]]: ...

    @overload
    def align_batch(
        self,
        images: Iterable[ImageSource],
        boxes: Iterable[ArrayLike | None] | None = None,
        *,
        settings: Settings | None = None,
        errors: Literal["return"],
    ) -> list[list[Face] | FacemsmError]: ...

    def align_batch(
        self,
        images: Iterable[ImageSource],
        boxes: Iterable[ArrayLike | None] | None = None,
        *,
        settings: Settings | None = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> Any:
        """Landmarks of the faces in several photos, the same numbers as one by one.

        Args:
            images: as for :meth:`align`.
            boxes: one entry per photo, as for :meth:`align`; None for the detector everywhere.
            settings: as for :meth:`align`.
            errors: ``"return"`` puts the error of a photo that cannot be used, or of its boxes, in place of its faces,
                so that the others are not lost.

        Returns:
            A list of faces for each photo.

        Raises:
            FacemsmError: as :meth:`align`, or ``boxes`` has not as many entries as there are photos.
        """
        if errors not in ("raise", "return"):
            raise FacemsmError(f"errors is {errors!r}: choose raise or return")
        if isinstance(images, (str, bytes, os.PathLike)) or not isinstance(images, Iterable):
            raise FacemsmError(f"images are {short(images)}: give a list of photos")
        images = list(images)
        boxes = [None] * len(images) if boxes is None else list(boxes)
        if len(boxes) != len(images):
            raise FacemsmError(f"boxes for {len(boxes)} photos, but there are {len(images)} photos")
        settings = self._resolved(settings) if settings else self.settings
        jobs: list[list[_Job] | FacemsmError] = []
        for index, (image, given) in enumerate(zip(images, boxes, strict=True)):
            try:
                jobs.append(self._jobs(image, given, settings, index))
            except FacemsmError as error:  # noqa: PERF203
                if errors == "raise":
                    raise
                jobs.append(error)
        faces = iter(self._shared([job for part in jobs if isinstance(part, list) for job in part], settings))
        return [[next(faces) for _ in part] if isinstance(part, list) else part for part in jobs]

    def quarter_turns(self, image: ImageSource) -> int | None:
        """By how many quarter turns counter-clockwise (``np.rot90``) a photo becomes upright, as its faces tell.

        Args:
            image: as for :meth:`align`.

        Returns:
            0 to 3; None if no face is found in any orientation.

        Raises:
            FacemsmError: the photo cannot be read.
        """
        jobs = self._jobs(image, None, replace(self.settings, any_rotation=True), 0)
        return jobs[0].turns if jobs else None

    # --- Algorithm 2 -------------------------------------------------------------------------------------------------

    def _align(self, jobs: Sequence[_Job], settings: Settings) -> list[Face]:
        """Algorithm 2 for up to ``BATCH`` faces."""
        photos, boxes, turns = [job.photo for job in jobs], np.stack([job.box for job in jobs]), [j.turns for j in jobs]
        outputs = self.run_stages(photos, boxes, settings, turns)  # lines 1 to 4: crop, rectify, locate
        refined = self.refine(outputs, settings)  # lines 5 to 13
        points = self._to_photo(refined.points, outputs, settings)  # line 14
        preliminary = self._to_photo(outputs.points, outputs, settings)
        return [
            Face(
                points=points[i],
                scores=refined.scores[i],
                occluded=refined.occluded[i],
                box=job.box,
                theta=outputs.theta[i].astype(np.float32),
                preliminary=preliminary[i],
                detection_score=job.detection_score,
                heatmaps=None if outputs.heatmaps is None else outputs.heatmaps[i],
                canonical=outputs.canonical[i] if "canonical" in self.keep else None,
                occlusion=None if refined.occlusion is None else refined.occlusion[i],
                intensity=outputs.scores[i],
                rebuilt=None if refined.rebuilt is None else refined.rebuilt[i],
            )
            for i, job in enumerate(jobs)
        ]

    def run_stages(
        self,
        photos: Sequence[Image],
        boxes: FloatArray,
        settings: Settings | None = None,
        turns: Sequence[int] = (),
    ) -> StageOutputs:
        """Lines 1 to 4 for up to ``BATCH`` faces.

        Args:
            photos: (H, W, 3) uint8 RGB, one for each box.
            boxes: (N, 4), photo pixels.
            settings: instead of the aligner's.
            turns: quarter turns counter-clockwise that make each face upright, if any is not.
        """
        settings = settings or self.settings
        size = self.model.codec.input_size
        rectify = self._rectify if 1 in settings.stages else None
        to_crop = box_to_crop(boxes, size)  # line 1
        if any(turns):
            to_crop = compose(_quarter_turns(turns, (size - 1) / 2), to_crop)
        outputs = run_stages(photos, to_crop, rectify, self._locate, size)
        if rectify and settings.method == "calibrated" and settings.retry:
            outputs = retry_rotated(outputs, photos, to_crop, rectify, self._locate, size)
        if any(turns):  # θ runs to the crop of the photo as it is
            outputs = outputs._replace(theta=compose(_quarter_turns([-n for n in turns]), outputs.theta))
        return outputs

    def _rectify(self, crops: Image) -> FloatArray:
        """Line 2: θ of crops."""
        return self._generator(crops)[0]

    def _seen(self, canonical: Image) -> Located:
        """Lines 3 and 4: points by Eq. 8, scores by Eq. 9 as shares of a perfect heatmap's."""
        points, intensity, spread, *heatmaps = self._hourglass(canonical)
        scores = np.clip(intensity / self.model.codec.ideal_score, 0, 1).astype(np.float32)
        return Located(points, scores, spread, heatmaps[0] if heatmaps else None)

    def refine(self, outputs: StageOutputs, settings: Settings | None = None) -> Refined:
        """Lines 5 to 13: points with low scores, from the others and from shapes; scores and flags."""
        settings = settings or self.settings
        stage3 = 3 in settings.stages
        points, rebuilt = outputs.points, None
        calibration = self.model.calibration if settings.method == "calibrated" else None
        if stage3 and (calibration is None or calibration.stage3 == "exemplars"):
            points, rebuilt = reconstruct(points, outputs.scores, self._dictionary, settings.reconstruction)
        if calibration is None:
            occluded = np.zeros(outputs.scores.shape, dtype=bool) if rebuilt is None else rebuilt
            return Refined(points, relative_scores(outputs.scores), occluded, None, rebuilt)
        assert self._prior is not None
        assert outputs.spread is not None
        found = calibration.predict(
            outputs.points, outputs.scores, outputs.spread, detail(outputs.canonical), self._prior, self.scheme
        )
        if stage3 and calibration.stage3 == "posterior":
            points = found.points
        return Refined(points, found.scores, found.occlusion >= calibration.threshold, found.occlusion, rebuilt)

    def _to_photo(self, points: FloatArray, outputs: StageOutputs, settings: Settings) -> FloatArray:
        """Line 14. θ runs from canonical to crop (Eq. 2), so it is θ and not its inverse that is applied."""
        found = apply_affine(outputs.to_photo, points)
        if settings.convention:
            found = self._conventions[settings.convention].to_labels(found)
        return found.astype(np.float32)

    # --- Around it ---------------------------------------------------------------------------------------------------

    @property
    def scheme(self) -> LandmarkScheme:
        """The landmarks that are found."""
        return self.model.scheme

    @property
    def method(self) -> Method:
        """``calibrated`` or ``paper``, where a call has no settings of its own."""
        return self.settings.method or "paper"

    @property
    def description(self) -> dict[str, Any]:
        """What a report must say about the weights and how they were used."""
        settings = asdict(self.settings)
        if self.settings.method != "paper" or 3 not in self.settings.stages:
            settings["reconstruction"] = None
        settings["stages"] = sorted(self.settings.stages)
        return {"weights": self.model.name, "checksum": self.model.checksum, **settings, **self.model.provenance}

    @cached_property
    def detector(self) -> FaceDetector:
        """The face detector, loaded when it is first needed."""
        return self._given_detector or get_detector(providers=self.providers)

    @cached_property
    def _generator(self) -> Network:
        return self.model.network(STGAN, ["theta"], self.providers)

    @cached_property
    def _dictionary(self) -> ShapeDictionary:
        return self.model.dictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        options: dict[str, Any] = {"settings": self.settings, "detector": self._given_detector, "keep": self.keep}
        return partial(Aligner, **options, threads=self.threads, providers=self.providers), (self.model,)

    def _resolved(self, settings: Settings) -> Settings:
        """Settings that name the method."""
        if not isinstance(settings, Settings):
            raise FacemsmError(f"settings are {short(settings)}: give facemsm.Settings(...)")
        if settings.convention and settings.convention not in self._conventions:
            exact = settings.convention in self.model.conventions
            convention = self.model.convention(settings.convention) if exact else None
            if convention is None:
                known = ", ".join(self.model.conventions) or "none"
                raise FacemsmError(f"no convention {settings.convention!r}: the model knows {known}")
            self._conventions[settings.convention] = convention
        if settings.method == "calibrated" and not self.model.calibration:
            raise FacemsmError(
                f"{self.model.folder}: has no calibration; run 'facemsm calibrate' on it, or use method='paper'"
            )
        return replace(settings, method=settings.method or ("calibrated" if self.model.calibration else "paper"))

    def _jobs(self, image: ImageSource, boxes: ArrayLike | None, settings: Settings, index: int) -> list[_Job]:
        where = str(image) if isinstance(image, (str, os.PathLike)) else f"image {index}"
        photo = as_image(image, where)
        if boxes is None:
            if settings.any_rotation:
                detections, turns = detect_any_rotation(self.detector, photo, partial(self._mean_scores, settings))
            else:
                detections, turns = self.detector.detect(photo), 0
            return [_Job(photo, found[:4], float(found[4]), turns) for found in detections]
        checked = check_boxes(boxes, photo.shape, where)
        turns = turns_of_boxes(photo, checked, partial(self._mean_scores, settings)) if settings.any_rotation else 0
        return [_Job(photo, box, None, turns) for box in checked]

    def _mean_scores(self, settings: Settings, view: Image, boxes: FloatArray) -> FloatArray:
        """Mean scores (N,) by which :mod:`facemsm.detectors.rotation` tells how a photo lies."""
        scores = self.run_stages([view] * len(boxes), boxes, replace(settings, retry=False)).scores
        return np.asarray(scores.mean(1), np.float32)

    def _shared(self, jobs: Sequence[_Job], settings: Settings) -> list[Face]:
        """All jobs, shared by the threads: faces are, as the networks' layers are too small to split."""
        work = partial(self._align, settings=settings)
        share = min(BATCH, max(1, -(-len(jobs) // self.threads)))
        parts = [jobs[i : i + share] for i in range(0, len(jobs), share)]
        if len(parts) < 2 or self.threads == 1:
            return [face for part in parts for face in work(part)]
        with ThreadPoolExecutor(self.threads) as pool:  # for this call only: threads do not survive a fork
            return [face for faces in pool.map(work, parts) for face in faces]


def _quarter_turns(counts: Sequence[int], middle: float = 0) -> Matrix:
    """Maps (N, 2, 3) that turn by 90° times each count, counter-clockwise in a photo, about (middle, middle)."""
    return np.stack([similarity(-count * np.pi / 2, centre=(middle, middle)) for count in counts])
