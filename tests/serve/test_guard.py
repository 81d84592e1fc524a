"""Who may ask the server, and what everyone's requests together may take."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
pytest.importorskip("httpx2")

from fastapi import HTTPException
from fastapi.testclient import TestClient

from facemsm.aligner import Aligner
from facemsm.assets import SAMPLE
from facemsm.errors import FacemsmError
from facemsm.serve.app import create_app, load_aligners
from facemsm.serve.guard import HEADERS, Guard
from facemsm.serve.limits import Limits

PROXY = "faces.example.org"
PAGE = "https://app.example.org"


@pytest.fixture(scope="module")
def aligners() -> list[Aligner]:
    return load_aligners(["68"], Limits())


@contextmanager
def client_of(aligners: list[Aligner], **options: Any) -> Iterator[TestClient]:
    with TestClient(create_app(aligners, **options), base_url="http://127.0.0.1:8000") as client:
        yield client


def status(client: TestClient, path: str = "/api/align?boxes=[]", **headers: str) -> int:
    """Of a photo sent with these headers; its answer has those of every answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = client.post(path, content=SAMPLE.read_bytes(), headers=named)
    assert HEADERS.items() <= {name: response.headers.get(name) for name in HEADERS}.items()
    code: int = response.status_code
    return code


def test_a_proxy_is_refused_unless_it_is_named(aligners: list[Aligner]) -> None:
    keeps = {"Host": PROXY, "Origin": f"https://{PROXY}"}
    replaces = {"Host": "127.0.0.1:8000", "Origin": f"https://{PROXY}"}
    with client_of(aligners) as client:
        assert (status(client, **keeps), status(client, **replaces)) == (403, 403)
    with client_of(aligners, allowed_hosts=[PROXY.upper()]) as client:
        assert (status(client, **keeps), status(client, **replaces)) == (200, 200)
        for wrong in (
            {"Host": "evil.example"},
            {"Host": f"{PROXY}.evil.example"},
            {"Host": PROXY, "Origin": "https://evil.example"},
            {"Host": PROXY, "Origin": f"https://{PROXY}:8443"},  # another server of that machine
        ):
            assert status(client, **wrong) == 403
    with client_of(aligners, allowed_hosts=["*"]) as client:
        assert status(client, Host="anything.example") == 200
        assert status(client, Host="anything.example", Origin="https://evil.example") == 403


def test_the_browser_says_that_a_page_is_the_servers_own(aligners: list[Aligner]) -> None:
    with client_of(aligners) as client:
        replaces = {"Host": "127.0.0.1:8000", "Origin": f"https://{PROXY}"}
        assert status(client, **replaces, Sec_Fetch_Site="same-origin") == 200
        for site in ("same-site", "cross-site", "none"):
            assert status(client, **replaces, Sec_Fetch_Site=site) == 403
        assert status(client, Host="evil.example", Sec_Fetch_Site="same-origin") == 403


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://a[b", "//", "", "null", "\x7f"])
def test_an_origin_that_is_none_is_refused_as_any_other(aligners: list[Aligner], origin: str) -> None:
    with client_of(aligners) as client:
        assert status(client, Origin=origin) == 403
        assert client.get("/", headers={"Origin": origin}).status_code == 403


def test_pages_of_named_origins_may_read_the_answers(aligners: list[Aligner]) -> None:
    preflight = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    with client_of(aligners) as client:
        response = client.options("/api/align", headers=preflight)
        assert "access-control-allow-origin" not in response.headers
    with client_of(aligners, cors_origins=[f"{PAGE}/"]) as client:
        response = client.options("/api/align", headers=preflight)
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, PAGE)
        assert HEADERS.keys() <= {name.title() for name in response.headers} | {"X-Content-Type-Options"}
        for data, code in ((SAMPLE.read_bytes(), 200), (b"hello", 415), (b"0" * (Limits().upload_bytes + 1), 413)):
            response = client.post("/api/align?boxes=[]", content=data, headers={"Origin": PAGE})
            assert (response.status_code, response.headers["access-control-allow-origin"]) == (code, PAGE)
        assert status(client, Origin="https://evil.example") == 403
        assert status(client, Origin=PAGE, Host="evil.example") == 403
    with client_of(aligners, cors_origins=["*"]) as client:
        assert status(client, Origin="https://anything.example") == 200
        assert status(client, Host="evil.example") == 403


@pytest.mark.parametrize("name", ["https://a.example", "a.example:80", "", "a/b", "*.example"])
def test_allowed_hosts_that_are_none(aligners: list[Aligner], name: str) -> None:
    with pytest.raises(FacemsmError, match="give a name alone"):
        create_app(aligners, allowed_hosts=[name])


@pytest.mark.parametrize("origin", ["a.example", "https://a.example/path", "", "null", "http://[", "ftp://a.example"])
def test_origins_that_are_none(aligners: list[Aligner], origin: str) -> None:
    with pytest.raises(FacemsmError, match="give scheme and name"):
        create_app(aligners, cors_origins=[origin])


@pytest.mark.parametrize("prefix", ["", "/faces"])
def test_a_path_that_a_proxy_shows_it_under(aligners: list[Aligner], prefix: str) -> None:
    with client_of(aligners, root_path="/faces/") as client:
        assert "<title>" in client.get(f"{prefix}/").text
        assert client.get(f"{prefix}/app.js").status_code == 200
        assert client.get(f"{prefix}/health").status_code == 200
        assert status(client, f"{prefix}/api/align?boxes=[]") == 200
        assert client.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/faces"}]
        response = client.get("/faces", follow_redirects=False)
        assert (response.status_code, response.headers["location"]) == (307, "/faces/")
        assert client.get("/facesful").status_code == 404
    with pytest.raises(FacemsmError, match="slash"):
        create_app(aligners, root_path="faces")


# --- Uploads on their way ---


class Requests:
    """A guarded application that reads bodies, and requests to it whose bodies come by hand."""

    def __init__(self, **limits: Any) -> None:
        self.answers = asyncio.Event()

        async def take(_: Any, receive: Any, send: Any) -> None:
            try:
                while (await receive()).get("more_body"):
                    pass
                await self.answers.wait()
                status = 200
            except HTTPException as error:
                status = error.status_code
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": json.dumps({}).encode()})

        self.guard = Guard(take, host="127.0.0.1", hosts=(), origins=(), limits=replace(Limits(), **limits))

    def begin(self) -> tuple[asyncio.Queue[Any], asyncio.Task[int]]:
        """A request: the parts of its body, and the status of its answer."""
        body: asyncio.Queue[Any] = asyncio.Queue()
        statuses: list[int] = []

        async def send(message: Any) -> None:
            statuses.append(message.get("status"))

        async def run() -> int:
            scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"localhost")]}
            await self.guard(scope, body.get, send)
            return statuses[0]

        return body, asyncio.create_task(run())


def part(size: int, *, last: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": b"0" * size, "more_body": not last}


def test_uploads_on_their_way_keep_no_one_out() -> None:
    async def run() -> None:
        requests = Requests(requests=2, upload_bytes=100)
        slow = [requests.begin() for _ in range(30)]
        for body, _ in slow:
            body.put_nowait(part(1))
        body, answer = requests.begin()
        requests.answers.set()
        body.put_nowait(part(100, last=True))
        assert await asyncio.wait_for(answer, 5) == 200
        for body, answer in slow:  # and none of them was ended for that
            body.put_nowait(part(1, last=True))
            assert await asyncio.wait_for(answer, 5) == 200

    asyncio.run(run())


def test_the_oldest_of_too_many_bytes_ends() -> None:
    async def run() -> None:
        requests = Requests(requests=2, upload_bytes=100)
        requests.answers.set()
        uploads = [requests.begin() for _ in range(3)]
        for body, _ in uploads:
            body.put_nowait(part(80))
            await asyncio.sleep(0)
        for body, _ in uploads:
            body.put_nowait(part(0, last=True))
        assert [await asyncio.wait_for(answer, 5) for _, answer in uploads] == [408, 200, 200]

    asyncio.run(run())


def test_photos_that_arrive_at_once_wait_or_are_told_so() -> None:
    async def run() -> None:
        requests = Requests(requests=2, upload_bytes=100)
        uploads = [requests.begin() for _ in range(3)]
        for body, _ in uploads:
            body.put_nowait(part(5, last=True))
        assert await asyncio.wait_for(uploads[2][1], 5) == 503
        requests.answers.set()
        assert [await answer for _, answer in uploads[:2]] == [200, 200]
        body, answer = requests.begin()
        body.put_nowait(part(5, last=True))
        assert await asyncio.wait_for(answer, 5) == 200

    asyncio.run(run())
