"""What the tables and figures are made from: faces, networks, dictionaries, and what has been computed already.

Everything lies in one report folder: ``runs/SCHEME/`` the trained networks, ``outputs/`` what stages 1 and 2 made of
each set, ``dictionaries/``, ``results/`` a JSON file for each table and figure, ``plots/``, ``index.md``. Files of
``outputs`` and ``dictionaries`` have a checksum of all they depend on in their names: what fits is not computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facemsm.data.catalogue import find_dataset, load_dataset
from facemsm.data.reading import NoPhoto
from facemsm.data.sample import BoxSource, FaceSample, evenly_chosen
from facemsm.errors import AbsentError, FacemsmError
from facemsm.reproduce.ablation import ARMS, HEADS, NETWORKS, in_arm, networks_of
from facemsm.reproduce.outputs import PERTURBATION, CachedOutputs, StageRunner, locate
from facemsm.runtime.model import list_models, load_model
from facemsm.schemes import LandmarkScheme, get_scheme
from facemsm.shapes.dictionary import ShapeDictionary, build_dictionary
from facemsm.shapes.posterior import ShapePrior
from facemsm.stages import StageOutputs
from facemsm.typing import FloatArray, Image, Progress, untracked

if TYPE_CHECKING:
    from facemsm.aligner import Aligner
    from facemsm.reproduce.runs import Plan

MODEL = "model"
"""The network of Tables III to VI: the weights given; without any those bundled, or with preset ``paper`` and where
none are bundled the runs ``stgan`` and ``hourglass`` of the first arm in which both are trained."""

SHIPPED = "as shipped"
"""The same weights with everything that comes with them: calibrated scores and their own form of stage 3."""

WITHOUT_STAGE1 = "model without stage 1"
"""The same weights on crops by the boxes, which their stage 2 was not trained on."""

EXEMPLARS = 500
"""N, exemplars of the dictionary unless a sweep says otherwise."""

TRAINING = {"68": ("300w:train", "aflw2000:train"), "98": ("wflw:train",)}
"""Default training faces; preset ``paper`` takes the first only."""

_OUTPUT_FORMAT = 3


class MissingError(FacemsmError):
    """Something that a table needs is not there; says what, and which command makes it."""


@dataclass
class Workspace:
    """One report and all it is made from.

    Attributes:
        report: its folder.
        data: ``ROOT`` folders, each with data sets in folders of the catalogue's names, and ``NAME=FOLDER``.
        weights: names or folders of models, at most one for a scheme.
        preset: ``paper`` or ``lite``.
        training: ``NAME=ROOT:SPLIT`` instead of the default training faces.
        budget, settings, exclude, init: of all runs, see :class:`facemsm.reproduce.runs.Plan`.
        occluders: the arms to be trained, of :data:`ARMS`.
        limit: take so many faces of each set, evenly chosen.
        photos: whether pictures may show faces of the data sets.
        own_photos: a folder of anybody's photos for the pictures.
        calibrated: whether tables have a row for the calibrated form that the weights ship with.
        progress: shows the faces whose outputs are computed.
    """

    report: Path
    data: Sequence[str] = ()
    weights: Sequence[str] = ()
    preset: str = "lite"
    training: Sequence[str] = ()
    budget: int = 0
    settings: Sequence[str] = ()
    exclude: Sequence[str] = ()
    init: Sequence[str] = ()
    occluders: Sequence[str] = tuple(ARMS)
    limit: int | None = None
    photos: bool = True
    own_photos: Path | None = None
    calibrated: bool = True
    progress: Progress = field(default=untracked, repr=False)
    _faces: dict[tuple[str, str], list[FaceSample]] = field(default_factory=dict, repr=False)
    _shapes: dict[str, str] = field(default_factory=dict, repr=False)
    _outputs: dict[Path, CachedOutputs] = field(default_factory=dict, repr=False)
    _dictionaries: dict[tuple[str, int], ShapeDictionary] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse models of which one would be passed over."""
        found: dict[str, str] = {}
        for name in self.weights:
            other = found.setdefault(load_model(name).scheme.name, name)
            if other != name:
                raise FacemsmError(f"--weights {other} and {name} find the same points; make a report of each")

    # --- Faces -------------------------------------------------------------------------------------------------------

    def root(self, name: str) -> Path:
        """Where a data set lies.

        Raises:
            MissingError: nowhere that ``data`` names.
        """
        found = self.find(name)
        if found is None:
            raise MissingError(f"{name}: no folder of this name in --data; download it, or say --data {name}=FOLDER")
        return found

    def find(self, name: str) -> Path | None:
        """The same, None for nowhere."""
        named = dict(text.split("=", 1) for text in self.data if "=" in text)
        places = [Path(named[name])] if name in named else [Path(text) / name for text in self.data if "=" not in text]
        return next((place for place in places if place.exists()), None)

    def every(self, name: str, split: str) -> list[FaceSample]:
        """Faces of a split, with the provided boxes where there are any, tight ones otherwise; photos or not.

        Raises:
            MissingError: there are none.
            FacemsmError: a fault in its files.
        """
        if (name, split) not in self._faces:
            root, found = self.root(name), None
            sources: tuple[BoxSource, ...] = ("provided", "gt") if find_dataset(name).provided_boxes else ("gt",)
            for source in sources:
                try:
                    found = load_dataset(name, root, split, source)
                    break
                except AbsentError as error:
                    absent = error
            if not found:
                raise MissingError(f"{name} {split}: {absent if found is None else f'{root} holds no face of it'}")
            self._faces[name, split] = found
        return self._faces[name, split]

    def samples(self, name: str, split: str) -> list[FaceSample]:
        """Faces of a split that have photos; ``limit`` of them.

        Raises:
            MissingError: there are none.
            FacemsmError: a fault in its files.
        """
        found = [face for face in self.every(name, split) if not isinstance(face.image, NoPhoto)]
        if not found:
            raise MissingError(f"{name} {split}: {self.root(name)} holds labels but no photos; add the set's photos")
        return evenly_chosen(found, self.limit)

    def has(self, name: str, split: str) -> bool:
        """Whether there are such faces."""
        try:
            return bool(self.samples(name, split))
        except MissingError:
            return False

    def labelled(self, name: str, split: str) -> bool:
        """Whether there are such faces, with photos or without."""
        try:
            return bool(self.every(name, split))
        except MissingError:
            return False

    def used(self, name: str, split: str, *, photos: bool = True) -> str:
        """Faces used of faces published: ``300w common: 224 of 554 faces``.

        Those that have no photo count only if ``photos`` is False.
        """
        published = find_dataset(name).splits[split]
        there = self.has(name, split) if photos else self.labelled(name, split)
        samples = (self.samples if photos else self.every)(name, split) if there else []
        boxes = " (tight boxes)" if samples and samples[0].box_source == "gt" else ""
        return f"{name} {split}: {len(samples)} {f'of {published} ' if published else ''}faces{boxes}"

    # --- Networks ----------------------------------------------------------------------------------------------------

    def runs(self, scheme: str) -> Path:
        """Folder of the runs of a scheme.

        Raises:
            MissingError: it holds runs of the time before there were arms.
        """
        folder = self.report / "runs" / scheme
        if old := ", ".join(head for head in HEADS if (folder / head).is_dir()):
            painted, none = (folder / in_arm("", arm) for arm in ("painted", "none"))
            raise MissingError(
                f"{folder}: holds runs of an earlier version; move {old} to {painted} if they are of preset lite, to "
                f"{none} if they are of preset paper"
            )
        return folder

    def plan(self, scheme: str) -> Plan:
        """How the runs of a scheme are trained.

        Raises:
            MissingError: there are no faces to train on.
        """
        from facemsm.data.sources import Source
        from facemsm.reproduce.runs import Plan

        sources = [Source.parse(text) for text in self.training]
        sources = [s for s in sources if find_dataset(s.name).scheme in (scheme, None)]
        if not self.training:
            first, *rest = TRAINING[scheme]
            more = [] if self.preset == "paper" else [text for text in rest if self.find(text.partition(":")[0])]
            for name, _, split in (text.partition(":") for text in (first, *more)):
                sources.append(Source(name, str(self.root(name)), split))
        if not sources:
            raise MissingError(f"no faces to train {scheme} points on; say --train NAME=ROOT:SPLIT")
        exclude: tuple[str, ...] = ()
        if self.exclude:  # names of the other scheme's faces are none of these
            faces = [face for s in sources for face in load_dataset(s.name, s.root, s.split, "gt")]
            exclude = tuple(sorted({face.name for face in faces} & set(self.exclude)))
        settings, init = tuple(self.settings), tuple(self.init)
        return Plan(get_scheme(scheme), self.preset, tuple(sources), self.budget, settings, exclude, init)

    def train_command(self, scheme: str) -> str:
        """The command that makes the runs of a scheme."""
        length = "--budget STEPS" if self.preset == "lite" else f"--preset {self.preset}"
        return f"facemsm reproduce train --scheme {scheme} --data ROOT {length} -o {self.report}"

    def _run_settings(self, scheme: str, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Settings of finished runs, and ``weights``, the checksum."""
        found = {}
        for name in names:
            done = self.finished(scheme, name)
            found[name] = {**done["config"], "weights": done["weights"]}
        return found

    def finished(self, scheme: str, name: str) -> dict[str, Any]:
        """What a finished run's ``done.json`` says of it.

        Raises:
            MissingError: it is not finished.
            FacemsmError: the file is damaged.
        """
        folder = self.runs(scheme) / name
        if not (folder / "done.json").is_file():
            state = "is half-finished; go on" if (folder / "last.ckpt").is_file() else "is not trained; train it"
            raise MissingError(f"run {folder} {state} with: {self.train_command(scheme)}")
        try:
            done: dict[str, Any] = json.loads((folder / "done.json").read_text(encoding="utf-8"))
            if not {"config", "weights", "steps", "faces"} <= done.keys():
                raise ValueError
        except (ValueError, AttributeError) as error:
            raise FacemsmError(f"{folder / 'done.json'}: damaged; remove {folder} and train again") from error
        return done

    def _model(self, scheme: str) -> str | None:
        """Name of the weights of a scheme, None if the runs are to be used."""
        found = {load_model(name).scheme.name: name for name in self.weights}
        if scheme in found:
            return found[scheme]
        if not self.weights and self.preset == "lite" and scheme in list_models():
            return scheme
        try:
            self._run_settings(scheme, NETWORKS[self._own(scheme)])
            return None
        except MissingError as error:
            given = "; ".join(f"--weights {name} finds {other} points" for other, name in found.items())
            raise MissingError(f"no weights for {scheme} points ({given or 'none given'}): {error}") from error

    def _own(self, scheme: str) -> str:
        """The whole method of the first arm in which it is trained, of the first one to be if it is in none."""
        whole = [in_arm("ST-GAN + HG", arm) for arm in (*ARMS, self.occluders[0])]
        return next((one for one in whole if self._trained(scheme, one)), whole[-1])

    def _trained(self, scheme: str, network: str) -> bool:
        return all((self.runs(scheme) / run / "done.json").is_file() for run in NETWORKS[network])

    def network_key(self, scheme: str, network: str) -> dict[str, Any]:
        """What names a network's weights for good.

        Raises:
            MissingError: they are not there.
        """
        if network in (MODEL, SHIPPED, WITHOUT_STAGE1):
            model = self._model(scheme)
            if model is not None:
                loaded = load_model(model)
                return {"weights": loaded.name, "checksum": loaded.checksum}
            network = self._own(scheme)
        settings = self._run_settings(scheme, NETWORKS[network])
        return {name: own["weights"] for name, own in settings.items()}

    def configurations(self, scheme: str) -> list[str]:
        """Those of :data:`NETWORKS` that are trained.

        Raises:
            MissingError: none is.
        """
        trained = [network for network in NETWORKS if self._trained(scheme, network)]
        if not trained:
            self.network_key(scheme, next(iter(networks_of(self.occluders[0]))))  # says which run is missing
        return trained

    def stages(self, scheme: str, network: str, *, keep: bool = False) -> StageRunner:
        """Stages 1 and 2 of a network, with scores by Eq. 9.

        Raises:
            MissingError: it is not there.
        """
        names = NETWORKS[network if network in NETWORKS else self._own(scheme)]
        if network in (MODEL, SHIPPED, WITHOUT_STAGE1):
            model = self._model(scheme)
            if model is not None:
                from facemsm.aligner import Aligner

                if network == SHIPPED:
                    return FullPipeline(Aligner.from_pretrained(model))
                stages = (2,) if network == WITHOUT_STAGE1 else (1, 2)
                kept = ("heatmaps",) if keep else ()
                return Aligner.from_pretrained(model, method="paper", stages=stages, keep=kept)
            names = names[1:] if network == WITHOUT_STAGE1 else names
        settings = self._run_settings(scheme, names)
        from facemsm.reproduce.runs import TrainedStages

        return TrainedStages(get_scheme(scheme), settings, self.runs(scheme), keep=keep)

    # --- What has been computed --------------------------------------------------------------------------------------

    def output_path(self, scheme: str, network: str, name: str, split: str, condition: str) -> Path:
        """Where the outputs of a network for a split are kept.

        Raises:
            MissingError: faces or weights are not there.
        """
        samples = self.samples(name, split)
        key = {
            "format": _OUTPUT_FORMAT,
            "network": self.network_key(scheme, network),
            "faces": listing(samples),
            "condition": [condition, asdict(PERTURBATION)],
        }
        slug = f"{scheme}-{network}-{name}-{split}-{condition}".replace(" + ", "+").replace(" ", "_").replace("/", "-")
        return self.report / "outputs" / f"{slug}-{digest(key)[:12]}.npz"

    def own_form(self, scheme: str) -> str:
        """The form of stage 3 that the weights ship with, if it is not the paper's and is to be shown; else nothing."""
        model = self._model(scheme) if self.calibrated else None
        calibration = None if model is None else load_model(model).calibration
        return "" if calibration is None or calibration.stage3 == "exemplars" else calibration.stage3

    def outputs(self, scheme: str, network: str, name: str, split: str, condition: str = "as given") -> CachedOutputs:
        """Outputs of stages 1 and 2 for a split, computed if they are not there yet.

        Raises:
            MissingError: faces or weights are not there.
            FacemsmError: a photo cannot be read.
        """
        path = self.output_path(scheme, network, name, split, condition)
        if path not in self._outputs:
            if not path.is_file():
                samples = self.progress(self.samples(name, split), f"{name} {split}, {condition}, {network}")
                locate(self.stages(scheme, network), samples, condition).save(path)
            self._outputs[path] = CachedOutputs.load(path)
        return self._outputs[path]

    def dictionary(self, scheme: str, network: str = MODEL, count: int = EXEMPLARS) -> ShapeDictionary:
        """The shape dictionary of a network: that of given weights; for any other one built from all shapes there.

        Raises:
            MissingError: there are no shapes to build it from.
        """
        if network in (MODEL, WITHOUT_STAGE1) and count == EXEMPLARS:
            model = self._model(scheme)
            if model is not None:
                return load_model(model).dictionary()
        if (scheme, count) not in self._dictionaries:
            shapes = self.shapes(scheme)
            size = min(count, 2 * len(shapes))
            key = digest({"shapes": hashlib.sha256(shapes.tobytes()).hexdigest(), "count": size})
            path = self.report / "dictionaries" / f"{scheme}-{size}-{key[:12]}.safetensors"
            if not path.is_file():
                build_dictionary(shapes, get_scheme(scheme), count=size).save(path)
            self._dictionaries[scheme, count] = ShapeDictionary.load(path)
        return self._dictionaries[scheme, count]

    def prior(self, scheme: str) -> ShapePrior | None:
        """The shape prior of given weights, if these are calibrated."""
        model = self._model(scheme)
        return None if model is None else load_model(model).prior()

    def shapes(self, scheme: str) -> FloatArray:
        """(M, L, 2) complete training shapes: for 68 points 300-W and Menpo, if there, else the training faces'.

        Raises:
            MissingError: there are none.
        """
        choices = [("shapes=300w_train", "shapes=menpo_semifrontal"), ("300w=train", "menpo=semifrontal")]
        found: list[FaceSample] = []
        if scheme == "68":
            for name, _, split in (text.partition("=") for choice in choices for text in choice):
                if found and name == "300w":
                    break  # shapes were those of 300-W already
                try:
                    found += load_dataset(name, self.root(name), split)
                except (MissingError, AbsentError):
                    continue
        if not found:
            for source in self.plan(scheme).sources:
                found += load_dataset(source.name, source.root, source.split)
        points = np.array([face.points for face in found if np.isfinite(face.points).all()], np.float32)
        if not len(points):
            raise MissingError(f"no shapes of {scheme} points: --data needs shapes, 300w or menpo")
        return points

    def shapes_checksum(self, scheme: str) -> str:
        """Of the shapes that dictionaries are built from; nothing without shapes."""
        if scheme not in self._shapes:
            try:
                self._shapes[scheme] = hashlib.sha256(self.shapes(scheme).tobytes()).hexdigest()
            except MissingError:
                self._shapes[scheme] = ""
        return self._shapes[scheme]


@dataclass(frozen=True)
class FullPipeline:
    """All stages as :class:`facemsm.reproduce.outputs.StageRunner`, with the points of the last one."""

    aligner: Aligner

    @property
    def scheme(self) -> LandmarkScheme:
        """The landmarks that are found."""
        return self.aligner.scheme

    def run_stages(self, photos: Sequence[Image], boxes: FloatArray) -> StageOutputs:
        """As :meth:`facemsm.Aligner.run_stages`, with the last points and scores."""
        outputs = self.aligner.run_stages(photos, boxes)
        refined = self.aligner.refine(outputs)
        return outputs._replace(points=refined.points, scores=refined.scores)


def listing(samples: Sequence[FaceSample]) -> str:
    """Checksum of which faces these are, their labels and boxes."""
    digest = hashlib.sha256("\n".join(sample.name for sample in samples).encode())
    digest.update(np.stack([sample.points for sample in samples]).tobytes())
    digest.update(np.stack([sample.box for sample in samples]).tobytes())
    return digest.hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
