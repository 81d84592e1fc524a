"""What stands between the network and the application: who may ask, how much, how many at once, and for how long."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import Collection
from urllib.parse import urlsplit

import anyio
from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facemsm.errors import FacemsmError
from facemsm.serve.limits import Limits

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

HEALTH = "/health"
"""Answered whatever name it is called by: load balancers call by names of their own, and it tells nothing."""

BUSY = "busy: too many photos at once; try again in a moment"

_log = logging.getLogger("uvicorn.error")


class SecurityHeaders:
    """ASGI middleware, outside of all others: ``HEADERS`` for every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class RootPath:
    """ASGI middleware: the application below a path, whether a proxy passes the path on or not.

    Args:
        app: what is shown there.
        path: ``/faces``.
    """

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app, self._path = app, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http":
            path = scope["path"]
            if path == self._path:  # the page's links are relative to the slash
                await RedirectResponse(f"{path}/")(scope, receive, send)
                return
            passed_on = path.startswith(f"{self._path}/")
            scope = {**scope, "root_path": self._path, "path": path if passed_on else self._path + path}
        await self._app(scope, receive, send)


class Guard:
    """ASGI middleware.

    Names other than localhost, ``host`` and ``hosts`` are refused: a page elsewhere whose name is made to point at this
    machine (DNS rebinding) would otherwise read the answers. Pages of other origins may not send photos either.

    What counts as work is a photo that has been received and not yet been answered. Uploads on their way count by their
    bytes only, and where those are too many the oldest upload ends: slow ones do not keep others out.

    Args:
        app: what is guarded.
        host: the name or address that the server is bound to.
        hosts: other names that it may be called by, in lower case; ``*`` for any.
        origins: of pages elsewhere that may ask, ``https://example.org``; ``*`` for any.
        limits: of every request and all together.
    """

    def __init__(
        self, app: ASGIApp, *, host: str, hosts: Collection[str], origins: Collection[str], limits: Limits
    ) -> None:
        self._app, self._hosts, self._origins, self._limits = app, hosts, origins, limits
        self._names = {"localhost", host.lower(), *hosts}
        self._load = _Load(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, self._load, carries_photo=scope["method"] == "POST")
        try:
            refusal = self._refusal(scope, Headers(scope=scope)) or await self._in_time(scope, exchange)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:
            exchange.received = True  # what is still on its way is not waited for
            refusal = _answer(503, "the server is ending; try again later", {"Retry-After": "5"})
        except Exception:
            _log.exception("request failed")
            refusal = _answer(500, "failed unexpectedly; the server's console says why")
        finally:
            exchange.end()
        if refusal and not exchange.answered:
            await refusal(scope, receive, exchange.send)

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        """What is wrong with a request by its headers alone."""
        if scope["path"].removeprefix(scope.get("root_path", "")) == HEALTH:
            return None
        host = headers.get("host", "")
        if not self._is_own_name(host):
            advice = "if it should, start it with --allow-host and the name"
            return _answer(403, f"this server answers to its address and to localhost, not to this name; {advice}")
        if not self._is_own_page(host, headers):
            advice = "if one should, start it with --allow-host (a proxy's name) or --cors-origin (another site)"
            return _answer(403, f"pages of other origins may not use this server; {advice}")
        if int(headers.get("content-length", 0)) > self._limits.upload_bytes:
            return _answer(413, _too_large(self._limits.upload_bytes))
        if scope["method"] == "POST" and self._load.is_full:
            return _answer(503, BUSY, {"Retry-After": "1"})
        return None

    def _is_own_name(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if "*" in self._hosts or name in self._names:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _is_own_page(self, host: str, headers: Headers) -> bool:
        """Whether a request comes from the server's page, from a page that is allowed, or from no page at all."""
        origin = headers.get("origin")
        # Sec-Fetch-Site compares what the browser sees, so it holds behind a proxy that changes the Host.
        if origin is None or headers.get("sec-fetch-site") == "same-origin":
            return True
        if origin in self._origins or "*" in self._origins:
            return True
        try:
            return urlsplit(origin).netloc in {host, *self._hosts}
        except ValueError:
            return False

    async def _in_time(self, scope: Scope, exchange: _Exchange) -> JSONResponse | None:
        with anyio.move_on_after(self._limits.seconds) as exchange.scope:
            await self._app(scope, exchange.receive, exchange.send)
            return None
        if not exchange.received:
            return _answer(408, f"the photo was received too slowly; it has {self._limits.seconds:g} s")
        late = f"busy: took longer than {self._limits.seconds:g} s; try again later"
        return _answer(503, late, {"Retry-After": "5"})


class _Load:
    """What all requests take together."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.working = 0
        self.uploads: list[_Exchange] = []
        """On their way, the oldest first."""

    @property
    def is_full(self) -> bool:
        return self.working >= self.limits.requests

    def make_room(self) -> None:
        """End the oldest uploads where all together hold more bytes than the photos that are worked on may."""
        while sum(upload.bytes for upload in self.uploads) > self.limits.requests * self.limits.upload_bytes:
            self.uploads.pop(0).scope.cancel()


class _Exchange:
    """Both directions of one request: counts what comes in, knows what was answered."""

    def __init__(self, receive: Receive, send: Send, load: _Load, *, carries_photo: bool) -> None:
        self._receive, self._send, self._load = receive, send, load
        self.bytes = 0
        self.received = self.answered = self._works = False
        self.scope = anyio.CancelScope()
        if carries_photo:
            load.uploads.append(self)

    async def receive(self) -> Message:
        message = await self._receive()
        self._count(message)
        limit = self._load.limits.upload_bytes
        if self.bytes > limit:
            # an answer that comes through the application, whose parser is waiting here
            raise HTTPException(413, _too_large(limit))
        if self in self._load.uploads:
            self._load.make_room()
            if self.received:
                self._begin_work()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.answered = True
            self.end()  # a client that reads slowly costs no one else's turn
            await self._discard()
        await self._send(message)

    def end(self) -> None:
        """No longer an upload, nor work."""
        if self in self._load.uploads:
            self._load.uploads.remove(self)
        self._load.working -= self._works
        self._works = False

    def _begin_work(self) -> None:
        self._load.uploads.remove(self)
        if self._load.is_full:
            raise HTTPException(503, BUSY, {"Retry-After": "1"})
        self._load.working += 1
        self._works = True

    def _count(self, message: Message) -> None:
        self.bytes += len(message.get("body", b""))
        self.received = not message.get("more_body", False)

    async def _discard(self) -> None:
        """Read on before an early answer, for most clients only look for one when they have sent everything."""
        with anyio.move_on_after(5):
            while not self.received and self.bytes < 8 * self._load.limits.upload_bytes:
                self._count(await self._receive())


def check_hosts(hosts: Collection[str]) -> list[str]:
    """Names as :class:`Guard` compares them.

    Raises:
        FacemsmError: one is none.
    """
    for name in hosts:
        if name != "*" and not re.fullmatch(r"[\w.-]+", name):
            raise FacemsmError(f"allowed host {name!r}: give a name alone, such as faces.example.org, or * for any")
    return [name.lower() for name in hosts]


def check_origins(origins: Collection[str]) -> list[str]:
    """Origins as browsers send them.

    Raises:
        FacemsmError: one is none.
    """
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"https?://([\w.-]+|\[[0-9a-f:]+\])(:\d+)?/?", origin, re.IGNORECASE):
            raise FacemsmError(
                f"CORS origin {origin!r}: give scheme and name, such as https://example.org, or * for any"
            )
    return [origin.rstrip("/").lower() for origin in origins]


def _answer(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers)


def _too_large(limit: int) -> str:
    return f"photo: the upload is above the limit of {limit / 1e6:g} MB; make it smaller"
