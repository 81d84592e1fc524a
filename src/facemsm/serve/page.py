"""The page as a folder for any host of files, which does in the browser what the server does.

Its files are those of ``facemsm serve``, but for ``api.js``, which hands the work to ONNX Runtime's WebAssembly.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from facemsm.assets import SAMPLE
from facemsm.detectors import centerface
from facemsm.errors import FacemsmError
from facemsm.export.boxes import detector_graph
from facemsm.export.steps import steps_graph
from facemsm.files import atomic_write, read_bytes
from facemsm.serve.answers import model_answer
from facemsm.serve.app import STATIC, by_name, load_aligners
from facemsm.serve.guard import HEADERS
from facemsm.serve.limits import Limits
from facemsm.typing import PathLike

RUNTIME = "onnxruntime-web@1.30.0"
"""The package of npm; a version that the tests have seen."""

RUNTIME_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of its archive, as npm writes checksums."""

BROWSER = Path(__file__).with_name("browser")

_RUNTIME_FILES = {
    "ort.js": "ort.wasm.min.mjs",
    "ort-wasm.js": "ort-wasm-simd-threaded.mjs",
    "ort-wasm.wasm": "ort-wasm-simd-threaded.wasm",
}
"""Ours and the archive's names. Some hosts do not know that ``.mjs`` is JavaScript."""

_INSTEAD = {
    "<title>": f"""<meta http-equiv="Content-Security-Policy" content="{
        HEADERS["Content-Security-Policy"].removesuffix("; frame-ancestors 'none'")
    }">\n<title>""",
    "Photos go only to the machine that runs facemsm, and are not kept.": "Photos stay in this browser; they are sent "
    "nowhere. It works without a network, too, once it has been loaded.",
    ' <a href="openapi.json">HTTP API (OpenAPI)</a>': "",
    " The HTTP API works without: see openapi.json.": "",
    'id="turned"': 'id="turned" hidden',  # the networks try one orientation
}
"""Of ``index.html``, which speaks of the server."""


def write_page(folder: Path, weights: Sequence[PathLike], *, runtime: Path | None = None) -> int:
    """Write the page; its size in bytes.

    Args:
        folder: to be written; files of an older page in it are replaced.
        weights: bundled models' names or folders, the default first.
        runtime: the archive of ``RUNTIME``, as ``npm pack`` writes it; None to have npm get it.

    Raises:
        FacemsmError: a model cannot be used, the archive cannot be had or is another one, or a file cannot be written.
    """
    limits = Limits()
    models = by_name(load_aligners(weights, limits))
    content = {file.name: file.read_bytes() for file in (*STATIC.iterdir(), SAMPLE)}
    content |= {file.name: file.read_bytes() for file in BROWSER.iterdir()}
    content["index.html"] = _index().encode()
    content |= read_runtime(runtime)
    content["detector.onnx"] = detector_graph(adjustable=True).SerializeToString()
    about: dict[str, dict[str, Any]] = {}
    for number, (name, aligner) in enumerate(models.items(), 1):
        file = f"model-{number}.onnx"
        content[file] = steps_graph(aligner.model).SerializeToString()
        threshold = aligner.model.calibration.threshold if aligner.model.calibration else 0.5
        about[name] = {**model_answer(aligner, models, limits).model_dump(), "file": file, "occluded_from": threshold}
    look = {
        "size": centerface.SIZE,
        "threshold": centerface.THRESHOLD,
        "glance": round(centerface.GLANCE * centerface.SIZE),
        "doubt": centerface.DOUBT * centerface.THRESHOLD,
        "smallest": centerface.SMALLEST,
        "pays_from": centerface.PAYS_FROM,
    }
    content["models.json"] = json.dumps({"first": next(iter(models)), "all": about, "detector": look}).encode()
    content["offline.js"] = _worker(content).encode()
    for name, data in content.items():
        with atomic_write(folder / name) as partial:
            partial.write_bytes(data)
    return sum(map(len, content.values()))


def read_runtime(archive: Path | None = None) -> dict[str, bytes]:
    """The files of ``RUNTIME`` that the page needs, by name; see :func:`write_page`."""
    with tempfile.TemporaryDirectory() as scratch:
        path = archive or get_runtime(Path(scratch))
        data = read_bytes(path)
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != RUNTIME_SHA512:
        raise FacemsmError(f"{path}: is not the archive of {RUNTIME}; npm pack {RUNTIME} gets it")
    with tarfile.open(fileobj=io.BytesIO(data)) as files:
        members = {name: files.extractfile(f"package/dist/{theirs}") for name, theirs in _RUNTIME_FILES.items()}
        return {name: member.read() for name, member in members.items() if member}


def get_runtime(folder: Path) -> Path:
    """Let npm write the archive of ``RUNTIME`` to a folder.

    Raises:
        FacemsmError: there is no npm, or it cannot get the package.
    """
    try:
        command = [shutil.which("npm") or "npm", "pack", RUNTIME, "--loglevel", "error"]
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
        (path,) = folder.glob("*.tgz")
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        why = (getattr(error, "stderr", "") or str(error)).strip().partition("\n")[0]
        raise FacemsmError(
            f"npm cannot get {RUNTIME} ({why}); run npm pack {RUNTIME} elsewhere and give the file as --ort"
        ) from error
    return path


def _index() -> str:
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    for old, new in _INSTEAD.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def _worker(content: dict[str, bytes]) -> str:
    """The service worker, with the list of files and a version that changes with any of them."""
    version = hashlib.sha256()
    for name in sorted(content):
        version.update(name.encode() + hashlib.sha256(content[name]).digest())
    files = ["./", *sorted(name for name in content if name != "offline.js")]
    head = f"const VERSION = {json.dumps(version.hexdigest()[:16])};\nconst FILES = {json.dumps(files)};\n"
    return head + content["offline.js"].decode()
