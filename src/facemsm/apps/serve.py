"""``facemsm serve``: a page in the browser, and an HTTP API. Needs the extra ``serve``."""

from __future__ import annotations

import socket
import webbrowser
from typing import Annotated

import typer

from facemsm.errors import FacemsmError

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets every machine of the network in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")] = 8000,
    weights: Annotated[str, typer.Option(help="Which trained weights to use; 68 finds 68 landmarks.")] = "68",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Start a page in the browser that finds the landmarks of photos, and an HTTP API beside it.

    It answers this machine only, unless --host says otherwise. Photos are not kept. Ctrl-C ends it.
    """
    try:
        import uvicorn

        from facemsm.serve.app import create_app, load_aligner
        from facemsm.serve.limits import Limits
    except ModuleNotFoundError as error:
        raise FacemsmError(f"serve needs the module {error.name!r}: pip install 'facemsm[serve]'") from error

    listener = _listener(host, port)
    limits = Limits()
    application = create_app(load_aligner(weights, limits, threads), host=host, limits=limits)
    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=10 * limits.requests,
        timeout_graceful_shutdown=5,
    )
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{listener.getsockname()[1]}"
    print(f"facemsm: {url} (Ctrl-C ends it)", flush=True)
    if browser:
        webbrowser.open(url)
    uvicorn.Server(config).run(sockets=[listener])


def _listener(host: str, port: int) -> socket.socket:
    """A socket that is bound before anything is loaded, so that a port in use is told at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise FacemsmError(f"cannot listen on {host} port {port} ({error.strerror}); choose another --port") from error
