"""The server as a process and at its socket: slow and silent clients, and its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the extra 'serve'")

from facemsm.apps import serve
from facemsm.assets import SAMPLE
from facemsm.serve.connections import Connection, create_server
from facemsm.serve.guard import HEADERS


async def hello(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def reads(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await hello(scope, receive, send)


@contextmanager
def served(app: Any, **limits: Any) -> Iterator[int]:
    """The port of a server with other limits of connections."""
    server = create_server(app, type("Limited", (Connection,), limits))
    server.config.lifespan = "off"
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


def ask(port: int) -> bytes:
    client = HTTPConnection("127.0.0.1", port, timeout=10)
    client.request("GET", "/")
    return client.getresponse().read()


def ended(client: socket.socket) -> bool:
    """Whether the server ends a connection, within 10 s."""
    client.settimeout(10)
    with suppress(ConnectionError):
        return client.recv(1000) == b""
    return True


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "], ids=["silent", "half a header"])
def test_connections_that_ask_nothing_end(begun: bytes) -> None:
    with served(hello, seconds=0.2) as port, socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(begun)
        assert ended(client)


def test_half_a_header_after_an_answer_ends() -> None:
    with served(hello, seconds=0.2) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET / HTTP/1.1\r\n")
        while client.recv(1000):
            pass


def test_a_request_that_takes_longer_is_none_of_them() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        import asyncio

        await asyncio.sleep(0.5)
        await hello(scope, receive, send)

    with served(slow, seconds=0.1) as port:
        assert ask(port) == b"hello"


@pytest.mark.parametrize(
    ("app", "begun"),
    [
        (hello, b""),
        (hello, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "),
        (reads, b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n0"),
    ],
    ids=["silent", "half a header", "half a body"],
)
def test_many_connections_keep_no_one_out(app: Any, begun: bytes) -> None:
    with served(app, most=8) as port:
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        for client in idle:
            with suppress(ConnectionError):
                client.sendall(begun)
        assert ask(port) == b"hello"
        assert ended(idle[0])
        for client in idle:
            client.close()


LONG = bytes(8 << 20)  # more than the system keeps for a client that does not read


async def long(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": LONG})


async def parts(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(128):
        await send({"type": "http.response.body", "body": LONG[: 1 << 16], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def deaf(port: int) -> socket.socket:
    """A client that asks and does not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    return client


def talk(client: socket.socket) -> None:
    """Send until the server has gone, for 20 s at most."""
    for _ in range(1000):
        client.sendall(b"x")
        time.sleep(0.02)


@pytest.mark.parametrize("app", [long, parts])
@pytest.mark.parametrize("seconds", [0.3, 60])  # before the last one asks, or after
def test_clients_that_do_not_read_keep_no_one_out(app: Any, seconds: float) -> None:
    with served(app, most=8, seconds=seconds) as port:
        clients = [deaf(port) for _ in range(20)]
        time.sleep(0.5)
        assert ask(port) == LONG
        for client in clients:
            client.close()


@pytest.mark.slow
def test_an_answer_that_nobody_reads_is_dropped_and_one_that_is_read_slowly_is_not() -> None:
    with (
        served(long, seconds=0.1, stuck=2) as port,
        deaf(port) as silent,
        socket.create_connection(("127.0.0.1", port), timeout=10) as slow,
    ):
        slow.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        received = 0
        while received < len(LONG):
            part = slow.recv(1 << 16)
            assert part
            received += len(part)
            time.sleep(0.03)
        with pytest.raises(ConnectionError):
            talk(silent)


@pytest.mark.parametrize("sent", [b"hello\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nA b: c\r\n\r\n"])
def test_what_is_not_http_is_refused_with_the_headers(sent: bytes) -> None:
    with served(hello) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(sent)
        answer = b""
        while received := client.recv(10_000):
            answer += received
    head, body = answer.decode().split("\r\n\r\n")
    assert head.startswith("HTTP/1.1 400 ")
    assert set(json.loads(body)) == {"detail"}
    lines = {line.lower() for line in head.split("\r\n")}
    assert {f"{name}: {value}".lower() for name, value in HEADERS.items()} <= lines


@pytest.mark.parametrize(("chunk", "status"), [(1, 400), (20, 400), (1024, 200)])
def test_chunks_that_take_longer_to_count_than_to_send(chunk: int, status: int) -> None:
    body = (b"%x\r\n" % chunk + bytes(chunk) + b"\r\n") * (200_000 // chunk) + b"0\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with served(reads) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        with suppress(ConnectionError):
            client.sendall(head + body)
        assert client.recv(1000).startswith(b"HTTP/1.1 %d" % status)


BUSY = """
import sys, time
from facemsm.aligner import Aligner
from facemsm.apps.cli import main

def never(*_, **__):
    print("begun", flush=True)
    time.sleep(600)

Aligner.align = never
sys.argv = ["facemsm", "serve", "--port", "0"]
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_a_signal_ends_the_server_whatever_it_does(sent: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline().split()[1].rpartition(":")[2])
    answers: list[int] = []

    def post() -> None:
        client = HTTPConnection("127.0.0.1", port, timeout=60)
        client.request("POST", "/api/align", SAMPLE.read_bytes())
        answers.append(client.getresponse().status)

    threads = [threading.Thread(target=post) for _ in range(2)]  # one is worked on, one waits
    for thread in threads:
        thread.start()
    half = socket.create_connection(("127.0.0.1", port))
    half.sendall(b"POST /api/align HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n0")
    assert process.stdout.readline() == "begun\n"
    start = time.monotonic()
    process.send_signal(sent)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - start < 10  # what orchestrators grant before they kill
    assert "Traceback" not in errors
    for thread in threads:
        thread.join(10)
    assert answers == [503, 503]
    half.close()


def test_everyone_is_told_the_address_of_the_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "_network_address", lambda _: "192.168.1.7")
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        assert serve._announce(listener) == f"http://127.0.0.1:{port}"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"facemsm: http://127.0.0.1:{port} (Ctrl-C ends it)"
    assert lines[1].startswith(f"facemsm: http://192.168.1.7:{port} from every machine of the network")
    assert len(lines) == 2  # no QR code into a file
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serve._announce(listener)
    assert len(capsys.readouterr().out.splitlines()) == 1
