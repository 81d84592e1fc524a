from __future__ import annotations

import asyncio
import base64
import csv
import json
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
pytest.importorskip("httpx2")

from fastapi.testclient import TestClient

from facemsm.aligner import Aligner
from facemsm.apps.cli import main
from facemsm.assets import SAMPLE
from facemsm.data.ibug import read_pts
from facemsm.errors import FacemsmError
from facemsm.imaging.io import as_image, read_image
from facemsm.results.jsonl import read_results
from facemsm.schemes import get_scheme
from facemsm.serve.answers import AlignAnswer, Problem
from facemsm.serve.app import STATIC, FewFaces, create_app, load_aligners
from facemsm.serve.guard import HEADERS
from facemsm.serve.limits import Limits
from facemsm.shapes.measures import MEASURES
from facemsm.shapes.reconstruction import Reconstruction, reliable_points
from facemsm.stages import Settings
from facemsm.typing import FloatArray, Image

ORIGIN = "http://127.0.0.1:8000"
BOX = "[[8, 8, 56, 56]]"
PHOTO = SAMPLE.read_bytes()


def encoded(suffix: str, image: Image | None = None) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    data: bytes = cv2.imencode(suffix, noise if image is None else image)[1].tobytes()
    return data


SMALL = {suffix: encoded(suffix) for suffix in (".jpg", ".png", ".webp")}


@contextmanager
def client_of(aligner: Aligner, **limits: Any) -> Iterator[TestClient]:
    with TestClient(create_app([aligner], limits=replace(Limits(), **limits)), base_url=ORIGIN) as client:
        yield client


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return load_aligners(["68"], Limits())[0]


@pytest.fixture(scope="module")
def client(aligner: Aligner) -> Iterator[TestClient]:
    with client_of(aligner) as client:
        yield client


class Blocked(Aligner):
    """Takes until it is let go, at the latest when a ``with`` of it ends: however a test ends, nothing waits."""

    def __init__(self, aligner: Aligner) -> None:
        self.__dict__.update(aligner.__dict__)
        self.begun, self.go = threading.Event(), threading.Event()
        self.calls: list[int] = []

    def align(self, image: Any, boxes: Any = None, *, settings: Any = None) -> Any:  # noqa: ARG002
        self.calls.append(len(self.calls))
        self.begun.set()
        self.go.wait()
        return []

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.go.set()


def post(client: TestClient, photo: bytes = SMALL[".jpg"], **fields: Any) -> Any:
    return client.post("/api/align", files={"photo": ("a.jpg", photo)}, data=fields)


def refused(response: Any, status: int, part: str = "") -> None:
    """It says why in one line, and nothing of the server's insides."""
    assert response.status_code == status, response.text
    detail = Problem.model_validate_json(response.content).detail
    assert set(response.json()) == {"detail"}
    assert part in detail
    assert "\n" not in detail
    assert not re.search(r"Traceback|\.py|site-packages|/home|/tmp|/src", detail)


# --- Answers ---


def test_the_answer_is_the_aligners(client: TestClient, tmp_path: Path) -> None:
    response = post(client, PHOTO, include=["crop", "canonical", "heatmaps"])
    assert response.status_code == 200
    answer = AlignAnswer.model_validate_json(response.content)
    aligner = Aligner.from_pretrained("68", keep=("heatmaps", "canonical"))
    (face,) = aligner.align(SAMPLE)
    (found,) = answer.faces
    assert (answer.width, answer.height, answer.scheme) == (512, 512, "68")
    np.testing.assert_allclose(found.points, face.points, atol=6e-4)
    np.testing.assert_allclose(found.scores, face.scores, atol=6e-4)
    assert found.occluded == face.occluded.tolist()

    def picture(url: str | None) -> Any:
        assert url
        data = np.frombuffer(base64.b64decode(url.removeprefix("data:image/png;base64,")), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)

    assert face.heatmaps is not None
    assert face.canonical is not None
    np.testing.assert_array_equal(picture(found.canonical)[..., ::-1], face.canonical)
    np.testing.assert_allclose(picture(found.heatmaps).reshape(68, 64, 64) / 255, face.heatmaps.clip(0, 1), atol=2e-3)
    assert picture(found.crop).shape == (128, 128, 3)
    # with the photo's name before it, the record is one of landmarks.jsonl
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": "a.jpg", **response.json()}) + "\n")
    (result,) = read_results(tmp_path / "a.jsonl")
    np.testing.assert_allclose(result.faces[0].points, face.points, atol=6e-4)


def test_boxes_and_thresholds_of_a_request(client: TestClient) -> None:
    box = [150.0, 60.0, 300.0, 240.0]
    response = post(client, PHOTO, boxes=json.dumps([box, box]), method="paper", contour="0.95", features="0.9")
    faces = response.json()["faces"]
    (face,) = Aligner.from_pretrained("68", method="paper", thresholds={"contour": 0.95, "features": 0.9}).align(
        SAMPLE, [box]
    )
    assert response.json()["method"] == "paper"
    assert len(faces) == 2
    assert faces[0] == faces[1]
    assert faces[0]["occluded"] == face.occluded.tolist()
    assert face.rebuilt is not None
    assert faces[0]["rebuilt"] == face.rebuilt.tolist()
    settings = Reconstruction(contour_threshold=0.95, feature_threshold=0.9)
    reliable = reliable_points(np.array(faces[0]["intensity"]), get_scheme("68"), settings)
    assert (reliable != face.rebuilt).all()  # the thresholds are for the intensities
    np.testing.assert_allclose(faces[0]["points"], face.points, atol=6e-4)
    assert faces[0]["detection_score"] is None
    assert not {"crop", "canonical", "heatmaps"} & set(faces[0])  # they were not asked for
    plain = post(client, PHOTO, boxes=json.dumps([box]))
    assert plain.json()["method"] == "calibrated"
    plain = plain.json()["faces"][0]
    (default,) = Aligner.from_pretrained("68").align(SAMPLE, [box])
    assert plain["points"] != faces[0]["points"]
    assert plain["rebuilt"] is None  # stage 3 weighs all points
    np.testing.assert_allclose(plain["points"], default.points, atol=6e-4)  # the settings of one request do not stay


def test_a_photo_on_its_side(client: TestClient, aligner: Aligner) -> None:
    lying = np.ascontiguousarray(np.rot90(read_image(SAMPLE)))
    data = encoded(".png", lying[..., ::-1])
    answer = post(client, data, any_rotation="true").json()
    (face,) = answer["faces"]
    assert answer["faces_found"] == 1
    (expected,) = aligner.align(lying, settings=replace(aligner.settings, any_rotation=True))
    np.testing.assert_allclose(face["points"], expected.points, atol=6e-4)
    again = post(client, data, any_rotation="true", boxes=json.dumps([face["box"]]), method="paper").json()["faces"]
    assert np.linalg.norm(np.array(again[0]["points"]) - expected.points, axis=1).mean() < 3
    settings = replace(aligner.settings, any_rotation=True)
    turning = Aligner(aligner.model, settings=settings, keep=aligner.keep, detector=aligner.detector)
    with client_of(turning) as served:  # --any-rotation
        np.testing.assert_allclose(post(served, data).json()["faces"][0]["points"], expected.points, atol=6e-4)
        assert post(served, data, any_rotation="false").json() == post(client, data).json()


def test_the_calls_in_the_documentation(both: TestClient) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "web.md"
    calls = [shlex.split(line) for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("curl ")]
    assert len(calls) == 4
    for call in calls:
        fields = dict(word.split("=", 1) for option, word in pairwise(call) if option == "-F")
        assert call[-1].startswith(ORIGIN)
        if fields:
            assert fields.pop("photo") == "@photo.jpg"
            response = both.post(call[-1], files={"photo": ("photo.jpg", PHOTO)}, data=fields)
        else:
            assert call[1:-1] == ["--data-binary", "@photo.jpg"]
            response = both.post(call[-1], content=PHOTO, headers=CURLS)
        assert response.status_code == 200, response.text
        assert len(response.json()["faces"]) == 1


CURLS = {"Content-Type": "application/x-www-form-urlencoded"}
"""What ``curl --data-binary`` says of any file."""


@pytest.mark.parametrize("headers", [CURLS, {"Content-Type": "image/jpeg"}, {}])
def test_the_photo_may_be_the_whole_body(client: TestClient, headers: dict[str, str]) -> None:
    options = {"method": "paper", "contour": "0.9", "include": ["crop", "canonical"], "boxes": "[[150, 60, 300, 240]]"}
    response = client.post("/api/align", params=options, content=PHOTO, headers=headers)
    assert response.status_code == 200, response.text
    assert response.json() == post(client, PHOTO, **options).json()
    refused(client.post("/api/align", params={"contour": 2}, content=PHOTO, headers=headers), 422, "contour")
    refused(client.post("/api/align", content=b"hello", headers=headers), 415, "not a JPEG")


def test_a_form_goes_before_the_address(client: TestClient) -> None:
    files = {"photo": ("a.jpg", PHOTO)}
    response = client.post("/api/align?method=calibrated&boxes=[]", files=files, data={"method": "paper"})
    assert (response.json()["method"], response.json()["faces"]) == ("paper", [])


def test_thresholds_need_the_method_that_has_them(client: TestClient, aligner: Aligner) -> None:
    refused(post(client, contour="0.5"), 422, "contour: is for method=paper only")
    refused(post(client, method="calibrated", features="0.5"), 422, "features: is for method=paper only")
    by_default = load_aligners(["68"], Limits(), settings=Settings("paper"))[0]
    with client_of(by_default) as paper:
        assert paper.get("/api/model").json()["method"] == "paper"
        assert post(paper, PHOTO, contour="0.5").json()["method"] == "paper"
        assert post(paper, PHOTO, method="calibrated").json() == post(client, PHOTO).json()
    every = Reconstruction(contour_threshold=1.0, feature_threshold=1.0)
    strict = load_aligners(["68"], Limits(), settings=Settings("paper", reconstruction=every))[0]
    with client_of(strict) as paper:  # a request that says nothing takes the server's thresholds
        assert all(paper.get("/api/model").json()["thresholds"][name] == 1 for name in ("contour", "features"))
        answer, own = post(paper, PHOTO).json(), post(paper, PHOTO, contour="0").json()
        assert sum(answer["faces"][0]["rebuilt"]) > sum(own["faces"][0]["rebuilt"])
    uncalibrated = Aligner(replace(aligner.model, calibration=None))
    with client_of(uncalibrated) as plain:
        assert plain.get("/api/model").json()["methods"] == ["paper"]
        refused(post(plain, method="calibrated"), 422, "not calibrated")


@pytest.fixture(scope="module")
def both() -> Iterator[TestClient]:
    """Of a server with two models."""
    with TestClient(create_app(load_aligners(["68", "98"], Limits())), base_url=ORIGIN) as client:
        yield client


def test_a_request_may_choose_among_the_models(both: TestClient) -> None:
    assert both.get("/api/model").json()["models"] == ["68", "98"]
    assert len(both.get("/api/model?model=98").json()["labels"]) == 98
    for model, count in ((None, 68), ("68", 68), ("98", 98)):
        answer = post(both, PHOTO, **({"model": model} if model else {})).json()
        assert len(answer["faces"][0]["points"]) == int(answer["scheme"]) == count
    refused(post(both, model="29"), 422, "model: is not one of 68, 98")
    refused(both.get("/api/model?model=29"), 422, "model: is not one of 68, 98")
    with pytest.raises(FacemsmError, match="one name"):
        create_app(load_aligners(["68", "68"], Limits()))


def test_health_is_cheap_and_answers_to_any_name(client: TestClient) -> None:
    response = client.get("/health", headers={"Host": "probe.internal", "Origin": "http://elsewhere.example"})
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_boxes_of_an_answer_give_the_same_face_again(client: TestClient) -> None:
    found = post(client, PHOTO).json()["faces"]
    again = post(client, PHOTO, boxes=json.dumps([face["box"] for face in found])).json()["faces"]
    assert [face | {"detection_score": None} for face in found] == again


def test_no_boxes_no_faces(client: TestClient) -> None:
    assert post(client, PHOTO, boxes="[]").json()["faces"] == []


def test_only_the_best_faces_of_a_crowd() -> None:
    class Crowd:
        name = "crowd"

        def detect(self, image: Image) -> FloatArray:  # noqa: ARG002
            return np.arange(50, dtype=np.float32).reshape(10, 5)

    few = FewFaces(Crowd(), 3)
    assert (
        few.detect(np.zeros((4, 4, 3), np.uint8)).tolist() == Crowd().detect(np.zeros((4, 4, 3), np.uint8))[:3].tolist()
    )
    assert few.found == 10


def test_scores_and_measures_of_faces(client: TestClient) -> None:
    (face,) = post(client, PHOTO).json()["faces"]
    assert face["score"] == pytest.approx(np.mean(face["scores"]), abs=1e-3)
    assert "measures" not in face
    (face,) = post(client, PHOTO, include="measures").json()["faces"]
    assert set(face["measures"]) == set(MEASURES)
    assert 0.2 < face["measures"]["right_eye_openness"] < 0.5
    answer = post(client, PHOTO, min_score=0.99).json()
    assert (answer["faces"], answer["faces_found"]) == ([], 1)
    given = json.dumps([face["box"]])
    assert len(post(client, PHOTO, min_score=0.99, boxes=given).json()["faces"]) == 1, "a given box is asked for"
    refused(post(client, PHOTO, min_score=2), 422, "min_score")


def test_the_server_leaves_out_low_scores(aligner: Aligner) -> None:
    with TestClient(create_app([aligner], min_score=0.99), base_url=ORIGIN) as client:
        assert post(client, PHOTO).json()["faces"] == []
        assert len(post(client, PHOTO, min_score=0).json()["faces"]) == 1


def test_the_answer_says_how_many_faces_were_left_out() -> None:
    with client_of(load_aligners(["68"], replace(Limits(), faces=1))[0]) as client:
        answer = post(client, TWO_FACES).json()
        assert (len(answer["faces"]), answer["faces_found"]) == (1, 2)
        assert post(client, TWO_FACES, boxes="[]").json()["faces_found"] is None


def test_model_and_description(client: TestClient) -> None:
    model = client.get("/api/model").json()
    assert len(model["labels"]) == 68
    assert [model["labels"][i] for i in (0, 8, 17, 30, 36, 47, 60)] == [
        *("right jaw 1", "chin", "right brow 1", "nose tip", "right eye outer corner", "left lower lid 2"),
        "right inner mouth corner",
    ]
    assert model["thresholds"] == {"contour": 0.4, "features": 0.6, "minimum_reliable": 0.2}
    assert "checksum" in model
    described = client.get("/openapi.json").json()["paths"]
    assert set(described) == {"/api/align", "/api/model", "/health"}
    assert {"200", "413", "415", "422", "503"} <= set(described["/api/align"]["post"]["responses"])


# --- Refusals ---


def huge_png() -> bytes:
    header = b"IHDR" + struct.pack(">II", 100_000, 100_000) + SMALL[".png"][24:29]
    return SMALL[".png"][:12] + header + struct.pack(">I", zlib.crc32(header)) + SMALL[".png"][33:]


@pytest.mark.parametrize(
    ("photo", "status", "part"),
    [
        (b"", 422, "empty"),
        (b"hello", 415, "not a JPEG, PNG or WebP"),
        (b"GIF89a" + b"\0" * 40, 415, "not a JPEG, PNG or WebP"),
        (SMALL[".png"][:-60], 422, "damaged"),
        (b"\xff\xd8\xff\xe0\0\x10", 422, "damaged"),
        (huge_png(), 413, "64 megapixels"),
    ],
)
def test_photos_that_are_none(client: TestClient, photo: bytes, status: int, part: str) -> None:
    refused(post(client, photo), status, part)


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"boxes": "here"}, "boxes"),
        ({"boxes": "[[1, 2, 3]]"}, "boxes.0"),
        ({"boxes": "[[1, 2, 3, NaN]]"}, "boxes.0.3"),
        ({"boxes": "[[1, 2, 3, 1e300]]"}, "boxes.0.3"),
        ({"boxes": "[[30, 20, 10, 40]]"}, "no area"),
        ({"boxes": "[[1000, 20, 1010, 40]]"}, "outside the 80x64 photo"),
        ({"boxes": "[" * 100_000}, "boxes"),
        ({"boxes": json.dumps([[1, 2, 30, 40]] * 51)}, "above the limit of 50"),
        ({"boxes": "[[0.2, 0.1, 0.5, 0.6]]"}, "give pixels"),
        ({"contour": "1.5"}, "contour"),
        ({"features": "nan"}, "features"),
        ({"include": "weights"}, "include"),
        ({"method": "best"}, "method"),
        ({"contor": "0.5"}, "contor"),
    ],
)
def test_fields_out_of_range(client: TestClient, fields: dict[str, Any], part: str) -> None:
    refused(post(client, **fields), 422, part)


def test_forms_that_are_none(client: TestClient) -> None:
    refused(client.post("/api/align"), 422, "photo: is empty")
    refused(client.post("/api/align", files={"boxes": (None, "[]")}), 422, "photo: is missing")
    refused(client.post("/api/align", files={"photo": (None, "text")}), 422, "photo: is missing, or no file")
    refused(client.post("/api/align", data={"photo": "text"}), 415, "not a JPEG")
    refused(client.post("/api/align", json={"photo": 1}), 415, "not a JPEG")
    refused(client.post("/api/align", content=b"x", headers={"Content-Type": "multipart/form-data"}), 400)
    refused(client.get("/nothing"), 404)
    allowed = {("GET", "/api/align"): {"POST"}, ("POST", "/api/model"): {"GET"}, ("PUT", "/"): {"GET", "HEAD"}}
    for (method, path), right in allowed.items():
        response = client.request(method, path)
        refused(response, 405)
        assert set(response.headers["Allow"].split(", ")) == right
    refused(client.get("/../pyproject.toml"), 404)
    refused(client.get("/%2e%2e/app.py"), 404)


def test_uploads_above_the_limit(aligner: Aligner) -> None:
    with client_of(aligner, upload_bytes=20_000) as client:
        refused(post(client, b"\xff" * 20_001), 413, "0.02 MB")
        parts = (b"\xff" * 1000 for _ in range(21))  # no Content-Length
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        refused(client.post("/api/align", content=parts, headers=headers), 413, "0.02 MB")
        assert post(client, SMALL[".webp"], boxes="[]").status_code == 200


def test_nothing_goes_to_the_disk(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1000, 1200, 3), dtype=np.uint8)
    photo = encoded(".png", image)
    assert len(photo) > 3_000_000
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", lambda _: pytest.fail("written to the disk"))
    assert post(client, photo, boxes="[]").status_code == 200


def test_every_answer_has_the_headers(client: TestClient) -> None:
    responses = [
        client.get("/"),
        client.get("/api/model"),
        client.get("/nothing"),
        post(client, b"hello"),
        post(client),
    ]
    for response in [*responses, client.get("/", headers={"Host": "evil.example"})]:
        for name, value in HEADERS.items():
            assert response.headers[name] == value
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "", "localhost.evil.example", "[::1", "127.0.0.1.a"]
)
def test_foreign_names_are_refused(client: TestClient, host: str) -> None:
    refused(client.get("/api/model", headers={"Host": host}), 403, "localhost")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "192.168.1.7:8000", "LOCALHOST"])
def test_own_names_are_served(client: TestClient, host: str) -> None:
    assert client.get("/api/model", headers={"Host": host}).status_code == 200


def test_pages_of_other_origins_are_refused(client: TestClient) -> None:
    files = {"photo": ("a.jpg", SMALL[".jpg"])}
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9"):
        refused(client.post("/api/align", files=files, headers={"Origin": origin}), 403, "origins")
    assert client.post("/api/align", files=files, data={"boxes": "[]"}, headers={"Origin": ORIGIN}).status_code == 200


def test_a_fault_is_not_told_to_the_client(aligner: Aligner, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise IndexError("/home/someone/secret.py")

    with client_of(aligner) as client:
        with monkeypatch.context() as patch:
            patch.setattr(Aligner, "align", fail)
            refused(post(client), 500, "unexpectedly")
        assert post(client, boxes="[]").status_code == 200


# --- Many at once ---


def test_a_full_queue_says_so_and_the_rest_is_served(aligner: Aligner) -> None:
    blocked = Blocked(aligner)
    with client_of(blocked, requests=3, seconds=600) as client, ThreadPoolExecutor(4) as pool, blocked:
        jobs = [pool.submit(post, client) for _ in range(4)]
        (response, *others), waiting = wait(jobs, return_when=FIRST_COMPLETED)
        assert others == []
        refused(response.result(), 503, "busy")
        assert int(response.result().headers["Retry-After"]) >= 1
        refused(post(client), 503, "busy")  # before it is received
        assert client.get("/api/model").status_code == 200  # the event loop is free
        blocked.go.set()
        assert [job.result().status_code for job in waiting] == [200] * 3
        assert post(client).status_code == 200


def test_the_time_limit_frees_the_queue(aligner: Aligner) -> None:
    blocked = Blocked(aligner)
    with client_of(blocked, requests=1, seconds=0.3) as client, blocked:
        while not blocked.begun.is_set():  # on a busy machine the time may be over before
            refused(post(client), 503, "longer than 0.3 s")
        refused(post(client), 503, "longer than 0.3 s")
        assert blocked.calls == [0]  # the second never began
        blocked.go.set()
        assert any(post(client).status_code == 200 for _ in range(100))


def test_a_slow_upload_ends(aligner: Aligner) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"", "more_body": len(sent) == 0 and not done.is_set()}

    async def send(message: Any) -> None:
        sent.append(message)

    done = asyncio.Event()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/api/align",
        "raw_path": b"/api/align",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=b")],
    }

    async def run() -> None:
        asyncio.get_running_loop().call_later(0.6, done.set)
        await create_app([aligner], limits=replace(Limits(), seconds=0.3))(scope, receive, send)

    asyncio.run(run())
    assert sent[0]["status"] == 408


# --- Fuzz, from the description ---

ANYTHING = st.text(max_size=40) | st.from_regex(r"-?[0-9]{1,400}(\.[0-9]+)?(e[0-9]{1,4})?", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda x: st.lists(x, max_size=5)
)
BOXES = st.lists(st.lists(st.floats(-200, 200), min_size=4, max_size=4), max_size=3)


def values_of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a form field, right and wrong, by its description."""
    options = schema.get("anyOf", [schema])
    strategies: list[st.SearchStrategy[Any]] = [ANYTHING]
    for option in options:
        if option["type"] == "number":
            strategies.append(st.floats(option["minimum"], option["maximum"]).map(str))
            strategies.append(st.sampled_from([option["minimum"], option["maximum"], 1.0001, -1e-9]).map(str))
        elif option["type"] == "array":
            strategies.append(st.lists(st.sampled_from(option["items"]["enum"]), max_size=4))
        elif "enum" in option:
            strategies.append(st.sampled_from(option["enum"]))
        elif option["type"] == "boolean":
            strategies.append(st.sampled_from(["true", "false", "maybe"]))
        elif option["type"] == "string":
            strategies.append((JSON | BOXES).map(json.dumps))
    return st.one_of(strategies)


@pytest.fixture(scope="module")
def fields(client: TestClient) -> dict[str, st.SearchStrategy[Any]]:
    description = client.get("/openapi.json").json()
    content = description["paths"]["/api/align"]["post"]["requestBody"]["content"]
    properties = content["multipart/form-data"]["schema"]["properties"]
    options = {"boxes", "model", "method", "contour", "features", "any_rotation", "min_score", "include"}
    assert set(properties) == {"photo", *options}
    return {name: values_of(schema) for name, schema in properties.items() if name != "photo"}


@pytest.fixture(scope="module")
def documented(client: TestClient) -> set[int]:
    return {int(s) for s in client.get("/openapi.json").json()["paths"]["/api/align"]["post"]["responses"]} - {500}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzz_fields(
    client: TestClient, fields: dict[str, st.SearchStrategy[Any]], documented: set[int], data: st.DataObject
) -> None:
    chosen = data.draw(st.fixed_dictionaries({}, optional=fields))
    photo = data.draw(st.sampled_from(list(SMALL.values())) | st.binary(max_size=60))
    name = data.draw(st.text(max_size=10))
    response = client.post("/api/align", files={"photo": (name, photo)}, data=chosen)
    assert response.status_code in documented, response.text
    if response.status_code == 200:
        AlignAnswer.model_validate_json(response.content)
    else:
        refused(response, response.status_code)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzz_bodies(client: TestClient, documented: set[int], data: st.DataObject) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="photo"; filename="a"\r\n\r\n'
    body = bytearray(
        head + SMALL[".webp"][:300] + b'\r\n--b\r\nContent-Disposition: form-data; name="boxes"\r\n\r\n[]\r\n--b--\r\n'
    )
    for _ in range(data.draw(st.integers(0, 5))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    kind = data.draw(
        st.sampled_from(["multipart/form-data; boundary=b", "multipart/form-data", "application/json", ""])
    )
    response = client.post("/api/align", content=bytes(body), headers={"Content-Type": kind})
    assert response.status_code in documented, response.text


# --- The command, and the page in a browser ---


def test_a_port_in_use_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(sys, "argv", ["facemsm", "serve", "--port", str(taken.getsockname()[1])])
        with pytest.raises(SystemExit) as exit_:
            main()
    assert exit_.value.code == 2
    assert re.fullmatch(
        r"facemsm: cannot listen on 127.0.0.1 port \d+ \(.*\); choose another --port\n", capsys.readouterr().err
    )


def test_nothing_on_the_page_comes_from_elsewhere() -> None:
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.|@import", text), file
        assert not re.search(r"<script>|\son\w+=|style=", text), file


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """The address of ``facemsm serve``, which ends on Ctrl-C without a traceback."""
    command = [sys.executable, "-c", "from facemsm.apps.cli import main; main()", "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first, process.communicate()[1]
    yield first.split()[1]
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == ""


def give(page: Any, name: str, data: bytes, kind: str = "image/jpeg") -> None:
    page.set_input_files("#file", [{"name": name, "mimeType": kind, "buffer": data}])


def ready(page: Any, name: str) -> None:
    page.wait_for_function("name => document.querySelector('#status').textContent.startsWith(name + ':')", arg=name)


def slide(page: Any, name: str, value: float) -> None:
    page.eval_on_selector(
        f"#{name}", "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


TWO_FACES = encoded(".jpg", np.ascontiguousarray(np.tile(read_image(SAMPLE)[:300, 90:410, ::-1], (1, 2, 1))))


def test_page_shows_faces_and_downloads_them(page: Any, tmp_path: Path) -> None:
    give(page, "two, faces.jpg", TWO_FACES)
    ready(page, "two, faces.jpg")
    assert page.locator("#faces input").count() == 2
    assert page.locator("#main [role=option]").count() == 68  # of the chosen face
    page.locator("#faces input").nth(1).check()

    def downloaded(kind: str) -> Path:
        with page.expect_download() as download:
            page.click(f"[data-download={kind}]")
        path: Path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return path

    path = downloaded("json")
    (result,) = read_results(path)
    expected = Aligner.from_pretrained("68").align(as_image(TWO_FACES))
    assert (path.name, result.image, result.width, result.height) == ("two, faces.json", "two, faces.jpg", 640, 300)
    for face, other in zip(result.faces, expected, strict=True):
        np.testing.assert_allclose(face.points, other.points, atol=2e-3)
    np.testing.assert_allclose(read_pts(downloaded("pts")), result.faces[1].points, atol=2e-3)
    with downloaded("csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["face"] for row in rows] == ["1", "2"]
    assert rows[0]["image"] == "two, faces.jpg"
    assert float(rows[1]["y_67"]) == pytest.approx(float(result.faces[1].points[67, 1]))
    drawn = read_image(downloaded("png"))
    assert drawn.shape == (900, 1920, 3)
    plain = as_image(TWO_FACES)
    x, y = np.round(result.faces[0].points[30]).astype(int)
    assert np.abs(drawn[3 * y + 1, 3 * x + 1].astype(int) - plain[y, x]).max() > 20


def test_photo_may_be_chosen_before_the_page_has_heard_from_the_server(page: Any) -> None:
    held: list[Any] = []
    page.route("**/api/model", lambda route: held.append(route))
    with page.expect_request("**/api/model"):
        page.reload()
    page.click(".target [data-do=sample]")
    page.wait_for_function("() => document.querySelector('#status').textContent === 'Finding faces …'")
    for route in held:
        route.continue_()
    ready(page, "sample.jpg")
    assert page.text_content("#problem") == ""


PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "color_scheme": "dark"}
MARKED = "document.querySelector('#marked').textContent"
NOSE = "document.querySelector('#point-30 circle').getAttribute('cx')"


def by_paper(page: Any) -> None:
    page.check("#methods [value=paper]")
    page.wait_for_function("() => document.querySelector('#ring').textContent === 'rebuilt'")


def test_page_thresholds_act_at_once_and_points_follow(page: Any) -> None:
    page.click(".target [data-do=sample]")
    ready(page, "sample.jpg")
    by_paper(page)
    before = page.evaluate(MARKED)
    held: list[Any] = []
    page.route("**/api/align", lambda route: held.append(route))
    with page.expect_request("**/api/align"):
        slide(page, "contour", 1)
    assert page.evaluate(MARKED) == "17 of 68 points are rebuilt."  # the server has not answered yet
    rings = "document.querySelectorAll('#main circle[fill=none]:not(.selected)').length / 2"
    assert page.evaluate(rings) == 17
    slide(page, "features", 1)
    assert page.evaluate(MARKED) == "54 of 68 points are rebuilt."  # a fifth is kept, the best
    slide(page, "features", 0.8)
    at_once = page.evaluate(MARKED)
    for route in held:
        route.continue_()
    page.unroute("**/api/align")
    with page.expect_response("**/api/align"):
        slide(page, "features", 0.81)
        slide(page, "features", 0.8)
    page.wait_for_function(
        "() => /^: (1[7-9]|[2-5].) of 68 points moved, by [0-9.]+ px/"
        ".test(document.querySelector('#moved').textContent)"
    )
    assert page.text_content("#problem") == ""
    photo = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": PHOTO}
    fields = {"photo": photo, "method": "paper", "contour": "1", "features": "0.8"}
    answer = page.request.post("/api/align", multipart=fields).json()
    assert page.evaluate(MARKED) == at_once == f"{sum(answer['faces'][0]['rebuilt'])} of 68 points are rebuilt."
    page.click("[data-do=reset]")
    page.wait_for_function(f"before => {MARKED} === before", arg=before)
    assert page.text_content("output[for=contour]") == "0.40"


def test_page_method_is_a_choice_with_controls_of_its_own(page: Any) -> None:
    assert page.is_checked("#methods [value=calibrated]")
    page.click(".target [data-do=sample]")
    ready(page, "sample.jpg")
    assert (page.text_content("#ring"), page.text_content("#disc")) == ("hidden", "not hidden")
    assert page.text_content("#marked").endswith((" is hidden.", " are hidden."))
    assert not page.is_visible("#thresholds")  # none is in use
    calibrated = page.evaluate(NOSE)
    by_paper(page)
    assert page.is_visible("#thresholds")
    assert page.text_content("output[for=features]") == "0.60"
    assert page.text_content("#marked").endswith((" is rebuilt.", " are rebuilt."))
    (face,) = Aligner.from_pretrained("68", method="paper").align(SAMPLE)
    assert float(page.evaluate(NOSE)) == pytest.approx(float(face.points[30, 0]), abs=2e-3)
    assert f"score {face.scores[0]:.2f}, kept" in page.text_content("#readout")
    page.check("#methods [value=calibrated]")
    page.wait_for_function("() => document.querySelector('#ring').textContent === 'hidden'")
    assert page.evaluate(NOSE) == calibrated


def test_page_takes_a_photo_on_its_side(page: Any) -> None:
    lying = np.ascontiguousarray(np.rot90(read_image(SAMPLE)))
    (face,) = Aligner.from_pretrained("68", any_rotation=True).align(lying)
    give(page, "lying.png", encoded(".png", lying[..., ::-1]), "image/png")
    ready(page, "lying.png")
    page.click("#turned")
    page.wait_for_function(f"() => Math.abs({NOSE} - {face.points[30, 0]}) < 0.1")
    assert page.get_attribute("#turned", "aria-pressed") == "true"
    by_paper(page)  # the boxes that were found are sent along, and tell how the photo lies
    assert abs(float(page.evaluate(NOSE)) - face.points[30, 0]) < 8
    page.click("#turned")
    ready(page, "lying.png")
    assert page.get_attribute("#turned", "aria-pressed") == "false"


def test_page_calls_no_point_seen_that_is_not(page: Any) -> None:
    def answer(route: Any) -> None:
        given = route.fetch().json()
        given["faces"][0]["scores"][:3] = [0, 0.3, 0.9]
        given["faces"][0]["occluded"][:3] = [0, 0, 0]
        route.fulfill(json=given)

    page.route("**/api/align", answer)
    page.click(".target [data-do=sample]")
    ready(page, "sample.jpg")
    for point, text in enumerate(("score 0.00, unsure", "score 0.30, unsure", "score 0.90, seen")):
        assert text in page.get_attribute(f"#point-{point}", "aria-label")


def test_page_offers_every_model(page: Any) -> None:
    page.click(".target [data-do=sample]")
    ready(page, "sample.jpg")
    page.select_option("#model", "98")
    page.wait_for_function("() => document.querySelectorAll('#main [role=option]').length === 98")
    page.locator("#main svg").focus()
    page.keyboard.press("End")
    assert page.text_content("#readout").startswith("97 ·")
    page.select_option("#model", "68")
    page.wait_for_function("() => document.querySelectorAll('#main [role=option]').length === 68")
    assert page.text_content("#readout").startswith("67 ·")


@pytest.mark.parametrize("page", [{}, PHONE], indirect=True, ids=["desktop", "phone"])
def test_page_takes_a_box_drawn_around_a_missed_face(page: Any) -> None:
    page.route("**/api/align", nothing_found)
    give(page, "a.jpg", PHOTO)
    ready(page, "a.jpg")
    assert "no face found" in page.text_content("#status")
    page.unroute("**/api/align")
    page.click("#draw")
    assert page.get_attribute("#draw", "aria-pressed") == "true"
    page.keyboard.press("Escape")
    assert page.get_attribute("#draw", "aria-pressed") == "false"
    page.click("#draw")
    for _ in range(2):
        drag(page, [170, 70, 290, 220])  # pixels of the photo
        page.wait_for_function("() => document.querySelector('#status').textContent.includes('added by hand')")
        if page.is_hidden("#faces"):
            (expected,) = Aligner.from_pretrained("68").align(SAMPLE)
            assert float(page.evaluate(NOSE)) == pytest.approx(float(expected.points[30, 0]), abs=4)
            page.click("#draw")
    page.wait_for_function("() => document.querySelectorAll('#faces input').length === 2")
    page.click("[data-do=remove]")
    assert page.is_hidden("#faces")
    assert page.locator("#main [role=option]").count() == 68


def nothing_found(route: Any) -> None:
    route.fulfill(json=route.fetch().json() | {"faces": [], "faces_found": 0})


def drag(page: Any, box: list[float]) -> None:
    """Draw a box on the sample photo, which is square and as high as its panel or as wide."""
    panel = page.locator("#main").bounding_box()
    side = min(panel["width"], panel["height"])
    left, top = (panel["x"] + (panel["width"] - side) / 2, panel["y"] + (panel["height"] - side) / 2)
    x0, y0, x1, y1 = (value * side / 512 for value in box)
    page.mouse.move(left + x0, top + y0)
    page.mouse.down()
    page.mouse.move(left + x1, top + y0)
    page.mouse.move(left + x1, top + y1)
    page.mouse.up()


def test_page_says_how_many_faces_were_left_out(page: Any) -> None:
    page.route("**/api/align", lambda route: route.fulfill(json=route.fetch().json() | {"faces_found": 80}))
    page.click(".target [data-do=sample]")
    ready(page, "sample.jpg")
    assert "1 of 80 faces" in page.text_content("#status")


def test_page_shows_faces_with_low_scores_faintly(page: Any) -> None:
    def unsure(route: Any) -> None:
        answer = route.fetch().json()
        route.fulfill(json=answer | {"faces": [face | {"score": 0.1} for face in answer["faces"]]})

    page.route("**/api/align", unsure)
    page.click(".target [data-do=sample]")
    ready(page, "sample.jpg")
    assert "1 face (1 with a low score)" in page.text_content("#status")
    assert page.text_content("#face-score") == "Score of the face: 0.10, low: perhaps it is none."
    assert page.get_attribute("#main svg > g", "opacity") == "0.3"


def test_page_says_what_to_do_without_a_server(page: Any, faults: list[str]) -> None:
    page.click(".target [data-do=sample]")
    ready(page, "sample.jpg")
    page.route("**/*", lambda route: route.abort())
    page.click("#methods [value=paper]")
    page.wait_for_function("() => document.querySelector('#problem').textContent.includes('facemsm serve')")
    assert page.is_checked("#methods [value=calibrated]")  # what is still shown
    assert page.text_content("#ring") == "hidden"
    give(page, "b.jpg", PHOTO)
    page.wait_for_function("() => document.querySelector('#status').textContent === ''")
    assert "facemsm serve" in page.text_content("#problem")
    page.unroute("**/*")
    page.click("#methods [value=paper]")
    page.wait_for_function("() => document.querySelector('#ring').textContent === 'rebuilt'")
    assert page.text_content("#problem") == ""
    assert all("ERR_FAILED" in fault for fault in faults)
    faults.clear()


def test_page_behind_a_proxy_that_refuses(page: Any, faults: list[str]) -> None:
    page.route("**/api/align", lambda route: route.fulfill(status=413, body="<html>too large</html>"))
    page.click(".target [data-do=sample]")
    page.wait_for_function("() => document.querySelector('#problem').textContent.includes('proxy')")
    assert all("413" in fault for fault in faults)
    faults.clear()


def test_page_by_keyboard_and_pointer(page: Any) -> None:
    page.keyboard.press("Tab")  # the name
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.do") == "choose"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    ready(page, "sample.jpg")
    stage = page.locator("#main svg")
    stage.focus()
    for key, point in (("ArrowRight", 1), ("End", 67), ("ArrowRight", 0), ("ArrowLeft", 67), ("Home", 0)):
        page.keyboard.press(key)
        assert stage.get_attribute("aria-activedescendant") == f"point-{point}"
        assert page.text_content("#readout").startswith(f"{point} ·")
        assert f"point {point}," in page.text_content("#heatmap-of")
    label = page.get_attribute("#point-30", "aria-label")
    assert re.fullmatch(r"30 · .+, score \d\.\d\d, (seen|unsure|hidden)", label)
    page.locator("#point-30").hover()
    assert re.fullmatch(r"30 · .+ · score \d\.\d\d( · .+)?", page.text_content("#tip"))
    page.click("#zoom")
    assert page.get_attribute("#zoom", "aria-pressed") == "true"


def test_page_takes_dropped_pasted_and_camera_photos(page: Any) -> None:
    make = """(event, data, name) => {
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name, {type: 'image/jpeg'}));
        return transfer; }"""
    data = base64.b64encode(PHOTO).decode()
    page.evaluate(
        f"([data]) => document.body.dispatchEvent(new DragEvent('drop', "
        f"{{bubbles: true, cancelable: true, dataTransfer: ({make})('drop', data, 'dropped.jpg')}}))",
        [data],
    )
    ready(page, "dropped.jpg")
    page.evaluate(
        f"([data]) => document.dispatchEvent(new ClipboardEvent('paste', "
        f"{{clipboardData: ({make})('paste', data, 'pasted.jpg')}}))",
        [data],
    )
    ready(page, "pasted.jpg")
    page.click("header [data-do=camera]")
    page.wait_for_function("() => document.querySelector('#camera video').readyState >= 2")
    page.click("[data-do=shoot]")
    ready(page, "camera.jpg")
    assert page.text_content("#status").startswith("camera.jpg: no face found")
    assert page.evaluate("document.querySelector('#camera video').srcObject") is None


def test_page_follows_faces_in_the_camera_s_picture(page: Any, faults: list[str]) -> None:
    page.evaluate(
        """async (data) => {
            const [photo, canvas] = [new Image(), document.createElement('canvas')];
            photo.src = `data:image/jpeg;base64,${data}`;
            await photo.decode();
            [canvas.width, canvas.height] = [1280, 960];
            setInterval(() => canvas.getContext('2d').drawImage(photo, 0, 0, 960, 960), 50);
            navigator.mediaDevices.getUserMedia = async () => canvas.captureStream(20); }""",
        base64.b64encode(PHOTO).decode(),
    )
    page.click(".target [data-do=camera]")
    page.wait_for_selector("#camera svg circle", state="attached")
    page.wait_for_function("() => document.querySelector('#camera [role=status]').textContent.startsWith('1 face, ')")
    assert page.text_content("#camera [role=status]").endswith("pictures a second")
    assert page.get_attribute("#camera svg", "viewBox") == "-0.5 -0.5 640 480"
    nose = page.evaluate("[...document.querySelectorAll('#camera svg > g > g')][30].firstChild.getAttribute('cx')")
    (face,) = Aligner.from_pretrained("68").align(SAMPLE)
    assert float(nose) == pytest.approx(float(face.points[30, 0]) * 480 / 512, abs=3)
    page.route("**/api/align", lambda route: route.abort())
    page.wait_for_function(
        "() => document.querySelector('#camera [role=status]').textContent.includes('facemsm serve')"
    )
    page.unroute("**/api/align")
    page.click("[data-do=shoot]")  # photos are not smaller for it
    ready(page, "camera.jpg")
    assert page.locator("#camera svg circle").count() == 0
    assert page.evaluate("document.querySelector('#main svg').viewBox.baseVal.width") >= 1280
    assert all("ERR_FAILED" in fault for fault in faults)
    faults.clear()


def test_page_takes_kinds_that_only_the_browser_reads(page: Any) -> None:
    give(page, "a.bmp", encoded(".bmp", np.ascontiguousarray(read_image(SAMPLE)[..., ::-1])), "image/bmp")
    ready(page, "a.bmp")
    assert "1 face" in page.text_content("#status")
    give(page, "notes.txt", b"hello", "text/plain")
    page.wait_for_selector("#problem:not(:empty)")
    assert "notes.txt" in page.text_content("#problem")


def test_page_says_which_of_several_files_it_takes(page: Any) -> None:
    drop = """([data]) => {
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File(['hello'], 'notes.txt', {type: 'text/plain'}));
        for (const name of ['a.jpg', 'b.jpg']) dataTransfer.items.add(new File([bytes], name, {type: 'image/jpeg'}));
        document.body.dispatchEvent(new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer})); }"""
    page.evaluate(drop, [base64.b64encode(PHOTO).decode()])
    ready(page, "a.jpg")
    assert "one of 3 files" in page.text_content("#status")


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_page_on_a_phone_in_the_dark(page: Any) -> None:
    give(page, f"{'a' * 200}.jpg", PHOTO)
    ready(page, f"{'a' * 200}.jpg")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    give(page, "sample.jpg", PHOTO)
    ready(page, "sample.jpg")
    by_paper(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", background))) < 60
    small = page.evaluate(
        "[...document.querySelectorAll('button, select, label:has([type=radio]), input[type=range]')]"
        ".filter((e) => e.checkVisibility())"
        ".map((e) => e.getBoundingClientRect().height).filter((h) => h < 24)"
    )
    assert small == []
    page.tap("#zoom")
    page.locator("#point-8").tap()
    assert page.text_content("#readout").startswith("8 ·")
