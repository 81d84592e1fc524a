"""Connections that cost nothing while they are idle, and a server that ends when it is told to."""

from __future__ import annotations

import asyncio
import json

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from facemsm.serve.guard import HEADERS


class Connection(H11Protocol):
    """Uvicorn's, with an end for those that send nothing, or their headers slowly, and for those that do not read.

    Uvicorn itself gives a new connection all the time it likes, and counts it against the limit of connections, at
    which everyone is refused.
    """

    seconds = 10.0
    """For the headers of a request, from the connection's begin or the last answer on."""
    stuck = 60.0
    """In which a client must have read something of an answer; the system's own buffers may take that long to drain."""
    most = 200
    """Connections at once. For the next one the oldest is closed that is not being worked for."""
    lines = 256
    """Of what arrives at once, and one more for each 256 bytes: every header and every chunk makes all others wait."""

    _since: float
    _waiting: asyncio.TimerHandle
    _aborted = False

    @property
    def is_idle(self) -> bool:
        """Between two requests, or before the first."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self.most:
            spare = [other for other in self.connections if isinstance(other, Connection) and other._may_be_closed]
            min(spare, key=lambda other: other._since)._abort()

    def data_received(self, data: bytes) -> None:
        """Something has arrived."""
        if data.count(b"\r\n") > self.lines + len(data) // 256:
            self.send_400_response("too many headers, or chunks that are too small")
        else:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._waiting.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """The next request may come."""
        self._waiting.cancel()
        self._wait()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP is answered as all else: as JSON, with the headers."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"detail": msg}).encode()
            size = str(len(body))
            headers = {**HEADERS, "Content-Type": "application/json", "Content-Length": size, "Connection": "close"}
            start = h11.Response(status_code=400, headers=list(headers.items()), reason="Bad Request")
            for event in (start, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    @property
    def _may_be_closed(self) -> bool:
        """Whether it waits for its client: for a request, the rest of one, or that an answer is read."""
        waits = self.is_idle or self.cycle.more_body or self.flow.write_paused or self.transport.is_closing()
        return waits and not self._aborted

    def _wait(self) -> None:
        self._since = self.loop.time()
        self._waiting = self.loop.call_later(self.seconds, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.is_idle:
            self.transport.close()
            self._waiting = self.loop.call_later(
                self.stuck, self._abort_if_stuck, self.transport.get_write_buffer_size()
            )

    def _abort_if_stuck(self, unread: int) -> None:
        """End a connection that is closing and whose client has not read any more of the last answer."""
        left = self.transport.get_write_buffer_size()
        if left >= unread:
            self._abort()
        else:
            self._waiting = self.loop.call_later(self.stuck, self._abort_if_stuck, left)

    def _abort(self) -> None:
        self._aborted = True
        self.transport.abort()


def create_server(application: ASGIApp, connection: type[Connection] = Connection) -> uvicorn.Server:
    """A server for the application, which ends about 5 s after it is told to, whatever it does."""
    config = uvicorn.Config(
        application,
        http=connection,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # no answer depends on what a proxy says of the client
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)
