"""What stands between the network and the application: who may ask, how much, how many at once, and for how long."""

from __future__ import annotations

import ipaddress
import logging
from urllib.parse import urlsplit

import anyio
from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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

_log = logging.getLogger("uvicorn.error")


class Guard:
    """ASGI middleware.

    Names other than localhost and ``host`` are refused: a page elsewhere whose name is made to point at this machine
    (DNS rebinding) would otherwise read the answers. Other origins may not send photos either.

    Args:
        app: what is guarded.
        host: the name or address that the server is bound to.
        limits: of every request and all together.
    """

    def __init__(self, app: ASGIApp, host: str, limits: Limits) -> None:
        self._app, self._host, self._limits = app, host.lower(), limits
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, self._limits.upload_bytes)
        refusal = self._refusal(Headers(scope=scope)) or (
            await self._limited(scope, exchange) if scope["method"] == "POST" else await self._run(scope, exchange)
        )
        if refusal and not exchange.answered:
            await refusal(scope, receive, exchange.send)

    def _refusal(self, headers: Headers) -> JSONResponse | None:
        """What is wrong with a request by its headers alone."""
        host = headers.get("host", "")
        if not self._known(host):
            return _answer(403, "this server is called by its address or as localhost, not by this name")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return _answer(403, "pages of other origins may not use this server")
        if int(headers.get("content-length", 0)) > self._limits.upload_bytes:
            return _too_large(self._limits.upload_bytes)
        return None

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in ("localhost", self._host):
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    async def _limited(self, scope: Scope, exchange: _Exchange) -> JSONResponse | None:
        """One of the few requests at once that carry a photo."""
        if self._requests >= self._limits.requests:
            return _answer(503, "busy: too many photos at once; try again in a moment", {"Retry-After": "1"})
        self._requests += 1
        try:
            with anyio.move_on_after(self._limits.seconds):
                return await self._run(scope, exchange)
            if not exchange.received:
                return _answer(408, f"the photo was not received within {self._limits.seconds:g} s")
            late = f"busy: took longer than {self._limits.seconds:g} s; try again later"
            return _answer(503, late, {"Retry-After": "5"})
        finally:
            self._requests -= 1

    async def _run(self, scope: Scope, exchange: _Exchange) -> JSONResponse | None:
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:
            _log.exception("request failed")
            return _answer(500, "failed unexpectedly; the server's console says why")
        return None


class _Exchange:
    """Both directions of one request: counts what comes in, adds the headers to what goes out."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive, self._send, self._limit = receive, send, limit
        self._bytes = 0
        self.received = self.answered = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        self.received = not message.get("more_body", False)
        if self._bytes > self._limit:
            # an answer that comes through the application, whose parser is waiting here
            raise HTTPException(413, _too_large_detail(self._limit))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.answered = True
            await self._discard()
            MutableHeaders(scope=message).update(HEADERS)
        await self._send(message)

    async def _discard(self) -> None:
        """Read on before an early answer, for most clients only look for one when they have sent everything."""
        with anyio.move_on_after(5):
            while not self.received and self._bytes < 8 * self._limit:
                message = await self._receive()
                self._bytes += len(message.get("body", b""))
                self.received = not message.get("more_body", False)


def _answer(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers)


def _too_large(limit: int) -> JSONResponse:
    return _answer(413, _too_large_detail(limit))


def _too_large_detail(limit: int) -> str:
    return f"photo: the upload is above the limit of {limit / 1e6:g} MB; make it smaller"
