"""A trained model on disk: a folder with ``model.json`` and the files it names.

``model.json`` carries the landmark scheme, the settings that inference must share with training, where the weights come
from, and the SHA-256 of every other file. Networks are ONNX, the shape dictionary is safetensors; neither can run code
when it is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facemsm.confidence.model import Calibration
from facemsm.errors import FacemsmError
from facemsm.files import atomic_write
from facemsm.heatmaps import HeatmapCodec
from facemsm.schemes import LandmarkScheme, scheme_from_dict
from facemsm.typing import PathLike

FORMAT = 1
MANIFEST = "model.json"
STGAN, HOURGLASS, DICTIONARY = "stgan.onnx", "hourglass.onnx", "dictionary.safetensors"
PRIOR = "prior.safetensors"
"""Only in a calibrated model."""

WEIGHTS = Path(__file__).parents[1] / "weights"


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
            consensus: x, y in the photo, in shares of :func:`facemsm.geometry.box_scale`.
    """

    folder: Path
    name: str
    scheme: LandmarkScheme
    codec: HeatmapCodec
    provenance: Mapping[str, Any]
    checksum: str
    calibration: Calibration | None = None
    conventions: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def path(self, file: str) -> Path:
        """Where one of the model's files lies."""
        return self.folder / file


def list_models() -> list[str]:
    """Names of the models that ship with facemsm.

    Example::

        >>> list_models()
        ['68', '98']
    """
    return sorted(path.parent.name for path in WEIGHTS.glob(f"*/{MANIFEST}"))


def load_model(name: PathLike) -> Model:
    """A bundled model by name, or a model folder of one's own.

    Raises:
        FacemsmError: there is no such model, or one of its files is missing, truncated or altered.
    """
    folder = WEIGHTS / str(name) if str(name) in list_models() else Path(name)
    manifest = folder / MANIFEST
    try:
        content = manifest.read_bytes()
    except OSError as error:
        choices = ", ".join(list_models()) or "none"
        raise FacemsmError(
            f"no model {str(name)!r}: bundled are {choices}; or name a folder with {MANIFEST}"
        ) from error
    try:
        fields: dict[str, Any] = json.loads(content)
        if fields["format"] != FORMAT:
            raise FacemsmError(f"{manifest}: format {fields['format']!r}, this facemsm reads {FORMAT}")
        files: dict[str, str] = fields["files"]
        scheme = scheme_from_dict(fields["scheme"], str(manifest))
        calibration = fields.get("calibration")
        model = Model(
            folder,
            str(fields["name"]),
            scheme,
            HeatmapCodec(**fields["codec"]),
            dict(fields["provenance"]),
            hashlib.sha256(content).hexdigest(),
            None if calibration is None else Calibration.from_dict(calibration, scheme.count),
            {str(name): (float(x), float(y)) for name, (x, y) in fields.get("conventions", {}).items()},
        )
        expected = dict(files.items())
    except FacemsmError as error:
        raise error if str(error).startswith(str(manifest)) else FacemsmError(f"{manifest}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FacemsmError(f"{manifest}: not a facemsm model file ({type(error).__name__}: {error})") from error
    for file in (STGAN, HOURGLASS, DICTIONARY, *((PRIOR,) if model.calibration else ())):
        if file not in expected:
            raise FacemsmError(f"{manifest}: names no checksum for {file}")
        _check(folder / file, expected[file])
    return model


def write_manifest(
    folder: Path,
    *,
    name: str,
    scheme: Mapping[str, Any],
    codec: Mapping[str, Any],
    provenance: Mapping[str, Any],
    conventions: Mapping[str, Sequence[float]] | None = None,
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
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Add a calibration to ``model.json``, or replace the one there; the prior it goes with lies in ``folder``."""
    manifest = folder / MANIFEST
    fields = json.loads(manifest.read_text(encoding="utf-8"))
    fields["calibration"] = calibration.to_dict()
    fields["files"][PRIOR] = _sha256(folder / PRIOR)
    with atomic_write(manifest) as partial:
        partial.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def _check(path: Path, expected: str) -> None:
    try:
        actual = _sha256(path)
    except OSError as error:
        raise FacemsmError(f"{path}: cannot be read ({error.strerror}); install the model again") from error
    if actual != expected:
        raise FacemsmError(f"{path}: truncated or altered, its checksum is not model.json's; install the model again")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
