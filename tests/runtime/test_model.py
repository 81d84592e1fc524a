"""A model folder is read whole and checked, or refused in one line that names the file and the field."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from facemsm import Aligner, FacemsmError
from facemsm.assets import SAMPLE, SAMPLE_BOX
from facemsm.runtime import model as model_room
from facemsm.runtime.model import MANIFEST, list_models, load_model
from facemsm.weights import WEIGHTS

BUNDLED = WEIGHTS / "68"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED, tmp_path / "model"))


def change(folder: Path, **fields: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **fields}))


def test_the_bundled_model() -> None:
    assert "68" in list_models()
    model = load_model("68")
    assert model.scheme.count == 68
    assert model.codec.input_size == 128
    assert {"preset", "commit", "data"} <= set(model.provenance)
    assert (BUNDLED / "MODEL_CARD.md").is_file()
    size = sum(file.stat().st_size for file in BUNDLED.iterdir() if file.suffix in (".onnx", ".safetensors"))
    assert size <= 12e6


def test_the_large_model_is_the_other_with_mirror_images() -> None:
    large, fast = load_model("68-large"), load_model("68")
    assert large.mirror
    assert not fast.mirror
    assert large.calibration != fast.calibration
    for file in ("stgan.onnx", "hourglass.onnx", "dictionary.safetensors"):
        assert large.path(file).read_bytes() == fast.path(file).read_bytes()
    both = (file for model in (large, fast) for file in model.folder.iterdir())
    assert sum(file.stat().st_size for file in both) <= 14e6


def test_a_model_folder_of_ones_own(copy: Path) -> None:
    assert load_model(copy).checksum == load_model("68").checksum
    assert Aligner.from_pretrained(copy).scheme.count == 68


@pytest.mark.parametrize("file", ["stgan.onnx", "hourglass.onnx", "dictionary.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_damaged_files_are_refused_in_one_line(copy: Path, file: str, damage: str) -> None:
    path = copy / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-7] if damage == "truncated" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(FacemsmError) as raised:
        load_model(copy)
    assert file in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "fields",
    [{"format": 2}, {"scheme": {}}, {"codec": {"sigma_squared": 1}}, {"files": {}}, {"files": 3}, {"provenance": 1}],
)
def test_a_wrong_manifest_is_refused(copy: Path, fields: dict[str, Any]) -> None:
    change(copy, **fields)
    with pytest.raises(FacemsmError, match=MANIFEST):
        load_model(copy)


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=50).map(lambda text: json.dumps([text]).encode()))
def test_any_manifest_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("model")
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(FacemsmError):
        load_model(folder)


def edit(folder: Path, path: str, value: Any) -> None:
    """Set the field at ``a/b/c`` of the manifest."""
    fields = json.loads((folder / MANIFEST).read_text())
    *groups, name = path.split("/")
    group = fields
    for key in groups:
        group = group.setdefault(key, {})
    group[name] = value
    (folder / MANIFEST).write_text(json.dumps(fields))


def replace_file(folder: Path, file: str, write: Callable[[Path], object]) -> None:
    """Another file under a model's name, with the checksum that goes with it."""
    write(folder / file)
    edit(folder, f"files/{file}", hashlib.sha256((folder / file).read_bytes()).hexdigest())


NAN, INF = float("nan"), float("inf")


WRONG: dict[str, list[Any]] = {
    "codec/input_size": [-1, 0, "x", NAN, 128.0, True, 10**9, None],
    "codec/size": [0, 10**9, "64"],
    "codec/sigma": [NAN, INF, 0, -1, "x", 1e308, [1]],
    "codec/radius": [-1, 10**9, "x", 0.5],
    "codec/refinement": ["best", 3, ["mass"]],
    "calibration/noise": [[NAN] * 3, [800, 0, 0], [1e300] * 3, [0, 0], {}, 3, ["0"] * 3],
    "calibration/threshold": [NAN, -5, INF, "0.5", None, True],
    "calibration/method": ["best", 3, []],
    "calibration/correct/weights/variance": [1e308, NAN, "1", None, 10**400],
    "calibration/correct": [[], 3, {}],
    "calibration/hidden/landmarks": [[0.0] * 67, [NAN] * 68, ["0"] * 68, {}, None],
    "calibration": [[], 3, {}],
    "conventions": [3, []],
    "conventions/300w": [[0.1], [NAN, 0], [0, 2], ["0", 0], 3],
    "name": [3, None, "a\nb", "a" * 101],
    "provenance": [[["a", 1]], 3, None],
    "format": [2, "1", True, None],
    "mirror": [1, "true", None, []],
    "files": [[], {}, {"../../x": "0"}],
    "files/hourglass.onnx": [3, None, {}],
    "scheme": [[], 3, {}],
    "scheme/count": [10**9, -1, 68.0],
    "scheme/name": ["a\x1b[2J", 3],
}


@pytest.mark.parametrize(("path", "value"), [(path, value) for path, values in WRONG.items() for value in values])
def test_every_field_is_checked(copy: Path, path: str, value: Any) -> None:
    edit(copy, path, value)
    with pytest.raises(FacemsmError) as caught:
        load_model(copy)
    line = str(caught.value)
    assert line.startswith(f"{copy / MANIFEST}: ")
    assert path.split("/")[-1] in line or path.split("/")[0] in line
    assert "\n" not in line
    assert len(line) < 300 + len(str(copy))


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "[1]", "null", "", "\x00"])
def test_a_manifest_that_is_no_table_of_fields(copy: Path, content: str) -> None:
    (copy / MANIFEST).write_text(content)
    with pytest.raises(FacemsmError, match="not a facemsm model file"):
        load_model(copy)


@pytest.mark.parametrize("file", [MANIFEST, "hourglass.onnx"])
def test_files_of_any_size_take_little_memory(copy: Path, file: str) -> None:
    with (copy / file).open("r+b") as opened:
        opened.truncate(1 << 40)  # a hole
    with pytest.raises(FacemsmError, match=rf"{file}: has 1099511627776 bytes, more than the"):
        load_model(copy)


@pytest.mark.parametrize("name", ["no such folder", "a\0b", "", str(BUNDLED / MANIFEST), "."])
def test_what_is_no_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FacemsmError) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["posterior", "exemplars"])
def test_shapes_of_another_scheme_are_refused(copy: Path, method: str) -> None:
    edit(copy, "calibration/method", method)
    replace_file(copy, "dictionary.safetensors", lambda path: shutil.copyfile(WEIGHTS / "98" / path.name, path))
    with pytest.raises(FacemsmError, match=r"dictionary\.safetensors: shapes are of scheme '98' at 128 px"):
        Aligner.from_pretrained(copy)


@pytest.mark.parametrize("value", [NAN, INF, 1e30])
@pytest.mark.parametrize(
    ("file", "tensor"),
    [("dictionary", "shapes"), ("prior", "mean"), ("prior", "modes"), ("prior", "residual")],
)
def test_shapes_are_numbers(copy: Path, file: str, tensor: str, value: float) -> None:
    name = f"{file}.safetensors"

    def write(path: Path) -> None:
        tensors = load_file(path)
        metadata = json.loads(path.read_bytes()[8:].split(b"\0")[0][: int.from_bytes(path.read_bytes()[:8], "little")])
        tensors[tensor] = tensors[tensor].copy()
        tensors[tensor].flat[-1] = value
        save_file(tensors, path, metadata.get("__metadata__"))

    replace_file(copy, name, write)
    with pytest.raises(FacemsmError, match=rf"{file}\.safetensors: .*numbers"):
        Aligner.from_pretrained(copy)


def test_networks_of_another_scheme_are_refused(copy: Path) -> None:
    replace_file(copy, "hourglass.onnx", lambda path: shutil.copyfile(WEIGHTS / "98" / path.name, path))
    with pytest.raises(FacemsmError, match=r"hourglass\.onnx: 'points' is .* where \['any', 68, 2\] is needed"):
        Aligner.from_pretrained(copy)


def test_models_of_before_the_features_were_renamed_still_load(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    for part in ("correct", "hidden"):
        del manifest["calibration"][part]["limits"]  # which came later
    text = json.dumps(manifest)
    old = text.replace('"uncertainty', '"doubt').replace('"mahalanobis', '"surprise')
    assert old != text
    found = []
    for written in (text, old):
        (copy / MANIFEST).write_text(written)
        found += Aligner.from_pretrained(copy).align(SAMPLE, [SAMPLE_BOX])
    new, before = found
    np.testing.assert_array_equal(new.scores, before.scores)
    np.testing.assert_array_equal(new.points, before.points)
    assert set(model_room.load_model(copy).calibration.to_dict()["hidden"]["weights"]) == set(  # type: ignore[union-attr]
        manifest["calibration"]["hidden"]["weights"]
    )
