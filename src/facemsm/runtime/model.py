"""A trained model on disk: a folder with ``model.json`` and the files it names.

``model.json`` carries the landmark scheme, the settings that inference must share with training, where the weights come
from, and the SHA-256 of every other file. Networks are ONNX, the shape dictionary is safetensors; neither can run code
when it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from facemsm.confidence.model import Calibration
from facemsm.errors import AbsentError, FacemsmError, check_number, short
from facemsm.files import atomic_write, read_bytes
from facemsm.heatmaps import HeatmapCodec
from facemsm.runtime.network_file import LARGEST_FILE
from facemsm.schemes import LandmarkScheme, scheme_from_dict
from facemsm.shapes.conventions import Convention, known_as, load_conventions, save_conventions
from facemsm.shapes.dictionary import ShapeDictionary
from facemsm.shapes.posterior import ShapePrior
from facemsm.typing import PathLike, Provider
from facemsm.weights import WEIGHTS

if TYPE_CHECKING:
    from facemsm.runtime.session import Network

T = TypeVar("T")

FORMAT = 1
MANIFEST = "model.json"
STGAN, HOURGLASS, DICTIONARY = "stgan.onnx", "hourglass.onnx", "dictionary.safetensors"
PRIOR = "prior.safetensors"
"""Only in a calibrated model."""

CONVENTIONS = "conventions.safetensors"
"""Only in a calibrated model whose training sets have enough faces."""

LARGEST_MANIFEST = 1 << 20
"""Bytes of ``model.json``; those that ship have 20 kB."""


@dataclass(frozen=True, eq=False)
class Model:
    """A model folder that has been checked.

    Attributes:
        folder: where it lies.
        name: ``"68"``.
        scheme: the landmarks it finds.
        codec: how its heatmaps are read.
        provenance: preset, commit, data and the like, for reports.
        checksum: of ``model.json``, which holds the checksums of all else; names the model in reports.
        calibration: what turns scores into probabilities; None if the model was not calibrated.
        conventions: how far the labels of each training data set lie from the points that the model finds, the
            consensus: x, y in the photo, in shares of :func:`facemsm.geometry.box_scale`; :meth:`convention` tells
            how that depends on the face's shape.
        files: those it consists of.
        mirror: whether stage 2 looks at the mirror image of each face, too, see :func:`facemsm.stages.mirrored`.
    """

    folder: Path
    name: str
    scheme: LandmarkScheme
    codec: HeatmapCodec
    provenance: Mapping[str, Any]
    checksum: str
    calibration: Calibration | None = None
    conventions: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    files: Collection[str] = ()
    mirror: bool = False

    def path(self, file: str) -> Path:
        """Where one of the model's files lies."""
        return self.folder / file

    def network(self, file: str, outputs: Sequence[str], providers: Sequence[Provider] = ()) -> Network:
        """One of the two networks, as :class:`facemsm.runtime.session.Network` of the model's scheme and codec."""
        from facemsm.runtime.session import Network

        return Network(self.path(file), outputs, landmarks=self.scheme.count, codec=self.codec, providers=providers)

    def dictionary(self) -> ShapeDictionary:
        """Stage 3's exemplars.

        Raises:
            FacemsmError: the file is no shape dictionary, or one of another scheme or size.
        """
        found = ShapeDictionary.load(self.path(DICTIONARY))
        if found.scheme != self.scheme or found.size != self.codec.input_size:
            raise FacemsmError(
                f"{self.path(DICTIONARY)}: shapes are of scheme {found.scheme.name!r} at {found.size} px, not of "
                f"{MANIFEST}'s, {self.scheme.name!r} at {self.codec.input_size} px; export the model again"
            )
        return found

    def prior(self) -> ShapePrior | None:
        """The shape prior of a calibrated model; raises as :meth:`ShapePrior.load`."""
        return ShapePrior.load(self.path(PRIOR), self.scheme.count) if self.calibration else None

    def convention(self, name: str) -> Convention | None:
        """Of a training data set's labels, or of those of a part of it; where the model knows no such part, the set's.

        Returns:
            None if the model knows neither.

        Raises:
            FacemsmError: as :func:`facemsm.shapes.conventions.load_conventions`.
        """
        known = known_as(name, self.conventions)
        if known is None:
            return None
        prior = self.prior() if CONVENTIONS in self.files else None
        weights = load_conventions(self.path(CONVENTIONS), prior).get(known) if prior else None
        return Convention(self.conventions[known], prior if weights is not None else None, weights)


def list_models() -> list[str]:
    """Names of the models that ship with facemsm.

    Example::

        >>> list_models()
        ['68', '68-large', '98']
    """
    return sorted(path.parent.name for path in WEIGHTS.glob(f"*/{MANIFEST}"))


def load_model(name: PathLike) -> Model:
    """A bundled model by name, or a model folder of one's own.

    Raises:
        FacemsmError: there is no such model, or one of its files is missing, truncated or altered.
    """
    bundled = list_models()
    if str(name) not in bundled and not isinstance(name, (str, os.PathLike)):
        raise FacemsmError(f"no model {short(name)}: bundled are {', '.join(bundled)}; or name a folder")
    folder = WEIGHTS / str(name) if str(name) in bundled else Path(name)
    manifest = folder / MANIFEST
    try:
        content = read_bytes(manifest, LARGEST_MANIFEST)
    except AbsentError as error:
        choices = ", ".join(bundled) or "none"
        raise FacemsmError(
            f"no model {str(name)!r}: bundled are {choices}; or name a folder with {MANIFEST}"
        ) from error
    try:
        model, checksums = _parse(folder, content)
    except FacemsmError as error:
        raise FacemsmError(f"{manifest}: {error}") from error
    except RecursionError as error:
        raise FacemsmError(f"{manifest}: not a facemsm model file (nested too deep)") from error
    known = (CONVENTIONS,) if CONVENTIONS in model.files else ()
    for file in (STGAN, HOURGLASS, DICTIONARY, *((PRIOR, *known) if model.calibration else ())):
        if file not in checksums:
            raise FacemsmError(f"{manifest}: files names no checksum for {file}")
        _verify(folder / file, checksums[file])
    return model


def _parse(folder: Path, content: bytes) -> tuple[Model, dict[str, str]]:
    """What ``model.json`` says, and its checksums of the other files."""
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise FacemsmError(f"not a facemsm model file ({type(error).__name__}: {error})") from error
    if not isinstance(fields, dict) or _field(fields, "format", int) != FORMAT:
        raise FacemsmError(f"not a facemsm model file of format {FORMAT}, which this facemsm reads")
    name, checksums = _field(fields, "name", str), _field(fields, "files", dict)
    if not name.isprintable() or len(name) > 100:
        raise FacemsmError("name: at most 100 printable characters are expected")
    for file in checksums:
        if file not in (STGAN, HOURGLASS, DICTIONARY, PRIOR, CONVENTIONS):
            raise FacemsmError(f"files: {short(file)} is no file of a model")
        _field(checksums, file, str, "files.")
    scheme = scheme_from_dict(_field(fields, "scheme", dict), "scheme")
    try:
        codec = HeatmapCodec(**_field(fields, "codec", dict))
    except TypeError as error:
        raise FacemsmError(f"codec: {error}") from error
    provenance, calibration = _field(fields, "provenance", dict), None
    if fields.get("calibration") is not None:
        calibration = Calibration.from_dict(_field(fields, "calibration", dict), scheme.count)
    conventions = {}
    for known, shift in (_field(fields, "conventions", dict) if "conventions" in fields else {}).items():
        if not isinstance(shift, list) or len(shift) != 2:
            raise FacemsmError(f"conventions[{short(known)}] is {short(shift)}, expected two numbers")
        for value in shift:
            check_number(f"conventions[{short(known)}]", value, -1, 1)
        conventions[known] = (float(shift[0]), float(shift[1]))
    mirror = fields.get("mirror", False)
    if not isinstance(mirror, bool):
        raise FacemsmError(f"mirror is {short(mirror)}, expected true or false")
    checksum, files = hashlib.sha256(content).hexdigest(), tuple(checksums)
    model = Model(folder, name, scheme, codec, provenance, checksum, calibration, conventions, files, mirror)
    return model, checksums


def _field(fields: Mapping[str, Any], name: str, kind: type[T], within: str = "") -> T:
    value = fields.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise FacemsmError(f"{within}{name} is {short(value)}, expected {_KINDS[kind]}")
    return value


_KINDS: Mapping[type, str] = {int: "a whole number", str: "text", dict: "fields in braces"}


def write_manifest(
    folder: Path,
    *,
    name: str,
    scheme: Mapping[str, Any],
    codec: Mapping[str, Any],
    provenance: Mapping[str, Any],
    conventions: Mapping[str, Sequence[float]] | None = None,
    mirror: bool = False,
) -> None:
    """Write ``model.json`` for the files that lie in ``folder``."""
    files = {file: _sha256(folder / file) for file in (STGAN, HOURGLASS, DICTIONARY)}
    fields = {
        "format": FORMAT,
        "name": name,
        "scheme": scheme,
        "codec": codec,
        "provenance": provenance,
        **({"conventions": conventions} if conventions else {}),
        **({"mirror": True} if mirror else {}),
        "files": files,
    }
    _write_fields(folder, fields)


def write_calibration(
    folder: Path,
    calibration: Calibration,
    prior: ShapePrior,
    conventions: Mapping[str, Convention] | None = None,
) -> None:
    """Give a model a calibration, or another one. If it is interrupted, the model is whole, but without any.

    Args:
        folder: of the model.
        calibration: what was fitted.
        prior: the shape prior that it goes with.
        conventions: written too, in place of those there; None leaves their shifts as they are.
    """
    fields = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for file in (PRIOR, CONVENTIONS):  # what the latter says is said with the prior's modes
        fields["files"].pop(file, None)
    _write_fields(folder, {**fields, "calibration": None})
    prior.save(folder / PRIOR)
    fields["calibration"] = calibration.to_dict()
    if conventions is not None:
        fields["conventions"] = {name: [round(x, 5) for x in one.shift] for name, one in conventions.items()}
    if save_conventions(folder / CONVENTIONS, conventions or {}):
        fields["files"][CONVENTIONS] = _sha256(folder / CONVENTIONS)
    fields["files"][PRIOR] = _sha256(folder / PRIOR)
    _write_fields(folder, fields)


def _write_fields(folder: Path, fields: Mapping[str, Any]) -> None:
    with atomic_write(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def _verify(path: Path, expected: str) -> None:
    try:
        actual = _sha256(path)
    except FacemsmError as error:
        raise FacemsmError(f"{error}; install the model again") from error
    if actual != expected:
        raise FacemsmError(f"{path}: truncated or altered, its checksum is not model.json's; install the model again")


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path, LARGEST_FILE)).hexdigest()
