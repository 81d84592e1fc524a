"""The page without a server: the same faces as in Python, from files alone."""

from __future__ import annotations

import base64
import functools
import io
import json
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageCms

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
pytest.importorskip("onnx", reason="needs the extra 'train'")

from facemsm import Aligner, FacemsmError
from facemsm.apps.cli import main
from facemsm.assets import SAMPLE, SAMPLE_BOX
from facemsm.geometry import box_to_crop, similarity
from facemsm.imaging.io import as_image
from facemsm.imaging.warping import warp
from facemsm.results.jsonl import read_results
from facemsm.serve import page as builder
from facemsm.serve.app import STATIC
from facemsm.stages import Settings
from facemsm.typing import Image

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "color_scheme": "dark"}
UNKEPT = {"service_workers": "block"}  # every file is asked for again
BOX = [float(value) for value in SAMPLE_BOX]


# --- The files ---


def test_nothing_of_the_page_comes_from_elsewhere() -> None:
    for file in builder.BROWSER.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"https?:|//[a-z]+\.|@import|\beval\b", text), file


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page that lacks ONNX Runtime."""
    monkeypatch.setattr(builder, "read_runtime", lambda _: {})
    builder.write_page(tmp_path, ["68"])
    return tmp_path


def test_the_page_is_the_servers(bare: Path) -> None:
    changed = {"api.js", "index.html"}
    for file in STATIC.iterdir():
        assert ((bare / file.name).read_bytes() == file.read_bytes()) == (file.name not in changed)
    index = (bare / "index.html").read_text(encoding="utf-8")
    assert "openapi" not in index
    assert '<button type="button" id="turned" hidden ' in index
    assert "the machine that runs facemsm" not in index
    assert "script-src 'self'" in index
    about = json.loads((bare / "models.json").read_text())
    assert about["first"] == "68"
    assert len(about["all"]["68"]["labels"]) == 68


def test_every_change_is_a_version_of_its_own(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = (bare / "offline.js").read_text()
    assert set(json.loads(first.splitlines()[1].removeprefix("const FILES = ").removesuffix(";"))) == {
        "./",
        *({file.name for file in bare.iterdir()} - {"offline.js"}),
    }
    builder.write_page(bare, ["68"])
    assert (bare / "offline.js").read_text() == first
    monkeypatch.setattr(builder, "read_runtime", lambda _: {"ort.js": b"other"})
    builder.write_page(bare, ["68"])
    assert (bare / "offline.js").read_text() != first


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["facemsm", "page", *words])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_what_is_not_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.tgz").write_bytes(b"something else")
    told = run(monkeypatch, capsys, str(tmp_path / "page"), "--weights", "68", "--ort", str(tmp_path / "x.tgz"))
    assert re.fullmatch(r"facemsm: .*x\.tgz: is not the archive of onnxruntime-web@[\d.]+; npm pack .*\n", told)
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm
    told = run(monkeypatch, capsys, str(tmp_path / "page"), "--weights", "68")
    assert re.fullmatch(r"facemsm: npm cannot get onnxruntime-web@.* as --ort\n", told)
    assert not (tmp_path / "page").exists()


# --- The page in a browser ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The page. npm gets ONNX Runtime once; it stays in pytest's cache."""
    kept = request.config.cache.mkdir("onnxruntime-web") / "archive.tgz"
    if not kept.exists():
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("npm_config_fetch_retries", "0")
            try:
                with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
                    builder.get_runtime(Path(scratch)).replace(kept)
            except FacemsmError as error:
                pytest.skip(f"needs a package of npm: {error}")
    path = tmp_path_factory.mktemp("page")
    builder.write_page(path, ["68", "98"], runtime=kept)
    return path


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a plain server of files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def host(browser: Any, folder: Path) -> Iterator[str]:  # noqa: ARG001  (no page is written where no browser is)
    with serving(folder) as address:
        yield address


def give(page: Any, name: str, data: bytes, kind: str = "image/jpeg") -> None:
    page.set_input_files("#file", [{"name": name, "mimeType": kind, "buffer": data}])
    page.wait_for_function("name => document.querySelector('#status').textContent.startsWith(name + ':')", arg=name)


def sample(page: Any) -> None:
    page.click(".target [data-do=sample]")
    page.wait_for_function("() => document.querySelector('#status').textContent.startsWith('sample.jpg:')")


def download(page: Any, path: Path) -> Any:
    """The result, by the button."""
    with page.expect_download() as loading:
        page.click("[data-download=json]")
    loading.value.save_as(path)
    (result,) = read_results(path)
    return result


def asked(page: Any, photo: bytes, **fields: Any) -> Any:
    """What the page's ``api.js`` answers."""
    call = """async ([photo, fields]) => {
        const { align } = await import('./api.js');
        const bytes = Uint8Array.from(atob(photo), (c) => c.charCodeAt(0));
        return align(new Blob([bytes], {type: 'image/png'}), fields); }"""
    return page.evaluate(call, [base64.b64encode(photo).decode(), fields])


def as_png(photo: Image) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(photo).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_photo_gives_the_faces_of_python(page: Any, tmp_path: Path) -> None:
    sample(page)
    (face,) = Aligner.from_pretrained("68").align(SAMPLE)
    result = download(page, tmp_path / "a.json")
    assert (result.width, result.height) == (512, 512)
    (found,) = result.faces
    np.testing.assert_allclose(found.box, face.box, atol=0.5)
    np.testing.assert_allclose(found.points, face.points, atol=0.5)
    np.testing.assert_allclose(found.preliminary, face.preliminary, atol=0.5)
    np.testing.assert_allclose(found.scores, face.scores, atol=0.05)
    assert abs(found.score - face.score) < 0.01
    assert [name for name in ("crop", "canonical", "heatmap") if page.is_visible(f"#{name}")] == [
        "crop",
        "canonical",
        "heatmap",
    ]


def test_methods_thresholds_and_models_are_those_of_python(page: Any, tmp_path: Path) -> None:
    sample(page)
    page.check("#methods [value=paper]")
    page.wait_for_function("() => document.querySelector('#ring').textContent === 'rebuilt'")
    for name, value in (("contour", 0.9), ("features", 0.8)):
        change = "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }"
        page.eval_on_selector(f"#{name}", change, value)
    page.wait_for_function("() => /^: [1-9].* points moved/.test(document.querySelector('#moved').textContent)")
    thresholds = {"contour": 0.9, "features": 0.8}
    (found,) = download(page, tmp_path / "paper.json").faces
    aligner = Aligner.from_pretrained("68", method="paper", thresholds=thresholds)
    (face,) = aligner.align(SAMPLE, [found.box])  # another box may bring points to the other side of a threshold
    assert found.occluded.sum() == face.occluded.sum() > 0
    np.testing.assert_allclose(found.points, face.points, atol=0.5)
    page.check("#methods [value=calibrated]")
    page.select_option("#model", "98")
    page.wait_for_function("() => document.querySelectorAll('#main [role=option]').length === 98")
    (face,) = Aligner.from_pretrained("98").align(SAMPLE)
    np.testing.assert_allclose(download(page, tmp_path / "98.json").faces[0].points, face.points, atol=0.5)


def test_a_box_is_drawn_by_hand(page: Any, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Pillow.fromarray(as_image(SAMPLE)[300:]).save(buffer, "PNG")
    give(page, "none.png", buffer.getvalue(), "image/png")
    assert "no face found" in page.text_content("#status")
    give(page, "a.jpg", SAMPLE.read_bytes())
    page.click("#draw")
    place = (
        "([x, y]) => { const s = document.querySelector('#main svg'); const p = s.createSVGPoint(); "
        "[p.x, p.y] = [x, y]; const q = p.matrixTransform(s.getScreenCTM()); return [q.x, q.y]; }"
    )
    for press, corner in ((page.mouse.down, BOX[:2]), (page.mouse.up, BOX[2:])):
        page.mouse.move(*page.evaluate(place, corner))
        press()
    page.wait_for_function("() => document.querySelector('#status').textContent.endsWith('added by hand')")
    found = download(page, tmp_path / "a.json").faces[1]
    assert found.detection_score is None
    np.testing.assert_allclose(found.box, BOX, atol=2)
    (face,) = Aligner.from_pretrained("68").align(SAMPLE, [found.box])
    np.testing.assert_allclose(found.points, face.points, atol=0.5)


def test_the_camera_is_followed(page: Any) -> None:
    status = "document.querySelector('#camera [role=status]').textContent"
    page.click(".target [data-do=camera]")
    page.wait_for_function(f"() => /^No faces, .* pictures a second/.test({status})")  # a test picture
    page.click("#camera form button:not([data-do])")
    sample_stream = """async () => {
        const picture = await createImageBitmap(await (await fetch('sample.jpg')).blob());
        const canvas = Object.assign(document.createElement('canvas'), {width: 512, height: 512});
        setInterval(() => canvas.getContext('2d').drawImage(picture, 0, 0), 50);
        navigator.mediaDevices.getUserMedia = async () => canvas.captureStream(); }"""
    page.evaluate(sample_stream)
    page.click(".target [data-do=camera]")
    page.wait_for_function(f"() => /^1 face, .* pictures a second/.test({status})")
    assert page.locator("#camera svg circle").count() >= 68
    page.click("[data-do=shoot]")
    page.wait_for_function("() => document.querySelector('#status').textContent.startsWith('camera.jpg: 1 face')")


@pytest.mark.parametrize("page", [UNKEPT], indirect=True)
def test_a_broken_runtime_is_told(page: Any, host: str, faults: list[str]) -> None:
    page.context.route("**/ort.js", lambda route: route.abort())
    page.goto(host)
    page.wait_for_selector("body[data-loaded]")
    for _ in range(2):
        page.click(".target [data-do=sample]")
        page.wait_for_function("() => document.querySelector('#problem').textContent.includes('cannot be loaded')")
    faults.clear()


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_no_phone_scrolls_sideways(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    sample(page)
    page.check("#methods [value=paper]")
    page.wait_for_function("() => document.querySelector('#ring').textContent === 'rebuilt'")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_it_works_offline_after_the_first_load(browser: Any, folder: Path) -> None:
    with browser.new_context() as context:
        context.set_default_timeout(60_000)
        page = context.new_page()
        with serving(folder) as address:
            page.goto(address)
            page.evaluate("async () => { await navigator.serviceWorker.ready; }")
        context.set_offline(True)  # and the server has gone
        page.reload()
        page.wait_for_selector("body[data-loaded]")
        assert page.evaluate("crossOriginIsolated")  # whatever the host sends
        sample(page)
        assert page.text_content("#status").startswith("sample.jpg: 1 face")
        page.goto(f"{address}index.html")
        page.wait_for_selector("body[data-loaded]")


def swapped_profile() -> bytes:
    """A colour profile that calls red blue, which nobody who ignores profiles sees."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")


def test_pixels_are_those_of_the_file_upright(page: Any) -> None:
    photo = Pillow.fromarray(as_image(SAMPLE)[:400])
    turned = photo.transpose(Pillow.Transpose.ROTATE_90)
    exif = Pillow.Exif()
    exif[0x112] = 6  # to be turned clockwise
    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=exif, icc_profile=swapped_profile())
    seen = as_image(buffer.getvalue())
    assert np.array_equal(seen, np.asarray(photo))
    answer = asked(page, buffer.getvalue(), boxes=json.dumps([BOX]), include=["crop"])
    assert (answer["width"], answer["height"]) == (512, 400)
    (face,) = answer["faces"]
    crop = as_image(base64.b64decode(face["crop"].partition(",")[2]))
    np.testing.assert_array_equal(crop, warp(seen, box_to_crop(SAMPLE_BOX, 128), 128))


def test_large_photos_and_several_faces(page: Any) -> None:
    photo = np.tile(as_image(SAMPLE)[:360], (1, 2, 1))
    photo = np.asarray(cv2.resize(photo, (1536, 540), interpolation=cv2.INTER_CUBIC))
    answer = asked(page, as_png(photo))
    faces = Aligner.from_pretrained("68").align(photo)
    assert answer["faces_found"] == len(answer["faces"]) == len(faces) == 2
    for found, face in zip(answer["faces"], faces, strict=True):
        np.testing.assert_allclose(found["points"], face.points, atol=0.5)


def test_hidden_points_are_flagged(page: Any) -> None:
    photo = as_image(SAMPLE).copy()
    photo[142:191, 168:226] = 60, 90, 80
    aligner = Aligner.from_pretrained("68")
    (face,) = aligner.align(photo, [BOX])
    (found,) = asked(page, as_png(photo), boxes=json.dumps([BOX]))["faces"]
    assert aligner.model.calibration is not None
    assert face.occlusion is not None
    # the browser's numbers differ by rounding
    clear = np.abs(face.occlusion - aligner.model.calibration.threshold) > 0.05
    np.testing.assert_array_equal(np.array(found["occluded"])[clear], face.occluded[clear])
    assert face.occluded[clear].sum() > 5


def test_faces_with_low_scores_are_tried_at_other_rotations(page: Any) -> None:
    turn = similarity(np.deg2rad(120), centre=(SAMPLE_BOX[:2] + SAMPLE_BOX[2:]) / 2)
    photo = np.asarray(cv2.warpAffine(as_image(SAMPLE), turn, (512, 512)), np.uint8)
    aligner = Aligner.from_pretrained("68")
    (once,) = aligner.align(photo, [BOX], settings=Settings(retry=False))
    for method in ("calibrated", "paper"):  # which tries once
        (face,) = aligner.align(photo, [BOX], settings=Settings(method))
        (found,) = asked(page, as_png(photo), boxes=json.dumps([BOX]), method=method)["faces"]
        np.testing.assert_allclose(found["theta"], face.theta, atol=0.01)
        assert (np.abs(face.theta - once.theta).max() > 0.5) == (method == "calibrated")
        if method == "calibrated":
            np.testing.assert_allclose(found["points"], face.points, atol=0.5)


def test_photos_are_read_in_strips(page: Any) -> None:
    tall = np.zeros((9000, 1000, 3), np.uint8)
    tall[4000:4512, 200:712] = as_image(SAMPLE)
    buffer = io.BytesIO()
    Pillow.fromarray(tall).save(buffer, "PNG", compress_level=1)
    box = SAMPLE_BOX + np.array([200, 4000, 200, 4000], np.float32)
    answer = asked(page, buffer.getvalue(), boxes=json.dumps([[float(value) for value in box]]), include=["crop"])
    crop = as_image(base64.b64decode(answer["faces"][0]["crop"].partition(",")[2]))
    np.testing.assert_array_equal(crop, warp(tall, box_to_crop(box, 128), 128))


@pytest.mark.parametrize("page", [UNKEPT], indirect=True)
def test_what_cannot_be_done_is_told(page: Any, host: str, faults: list[str]) -> None:
    def small(route: Any) -> None:
        about = route.fetch().json()
        about["all"]["68"]["limits"]["pixels"] = 100_000
        route.fulfill(json=about)

    page.context.route("**/models.json", small)
    page.goto(host)
    page.wait_for_selector("body[data-loaded]")
    page.click(".target [data-do=sample]")
    page.wait_for_selector("#problem:not(:empty)")
    assert "512 x 512 pixels, above the limit of 0.1 megapixels" in page.text_content("#problem")
    page.context.unroute("**/models.json")
    page.context.route("**/*.onnx", lambda route: route.abort())
    page.goto(host)
    page.wait_for_selector("body[data-loaded]")
    page.click(".target [data-do=sample]")
    page.wait_for_selector("#problem:not(:empty)")
    assert "The networks cannot be loaded" in page.text_content("#problem")
    assert all("ERR_FAILED" in fault for fault in faults)
    faults.clear()
    page.context.unroute("**/*.onnx")
    page.click(".target [data-do=sample]")  # another try
    page.wait_for_function("() => document.querySelector('#status').textContent.startsWith('sample.jpg: 1 face')")
