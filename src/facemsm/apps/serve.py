"""``facemsm serve``: a page in the browser, and an HTTP API. Needs the extra ``serve``."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import webbrowser
from contextlib import suppress
from typing import Annotated

import typer

from facemsm.apps import options
from facemsm.errors import FacemsmError

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets every machine of the network in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")] = 8000,
    weights: options.WeightsToChoose = None,
    stages: options.Stages = "1,2,3",
    method: options.MethodOption = None,
    threshold_contour: options.ContourThreshold = None,
    threshold_features: options.FeatureThreshold = None,
    detector: options.Detector = None,
    detector_model: options.DetectorModel = None,
    any_rotation: options.AnyRotation = False,
    min_score: options.MinScore = 0,
    min_size: options.MinSize = 0,
    threads: options.Threads = 1,
    provider: options.Provider = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name that the server may be called by, such as a proxy's or a container's, besides localhost and "
            "addresses. Repeat it for several; * for any.",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="A site whose pages may use the API, such as https://example.org. Repeat it for several; * for any.",
        ),
    ] = None,
    root_path: Annotated[str, typer.Option(metavar="PATH", help="Where a proxy shows it, such as /faces.")] = "",
    browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Start a page in the browser that finds the landmarks of photos, and an HTTP API beside it.

    It answers this machine only, unless --host says otherwise. Photos are not kept. Ctrl-C ends it.
    """
    from facemsm.runtime.model import list_models

    try:
        from facemsm.serve.app import create_app, load_aligners
        from facemsm.serve.connections import create_server
        from facemsm.serve.limits import Limits
    except ModuleNotFoundError as error:
        raise FacemsmError(f'serve needs the module {error.name!r}: pip install "facemsm[serve]"') from error

    listener = _listener(host, port)
    limits = Limits()
    application = create_app(
        load_aligners(
            weights or list_models(),
            limits,
            settings=options.read_settings(
                method, stages, threshold_contour, threshold_features, any_rotation=any_rotation
            ),
            detector=detector,
            detector_model=detector_model,
            min_size=min_size,
            threads=threads,
            providers=provider or (),
        ),
        host=host,
        allowed_hosts=allow_host or (),
        cors_origins=cors_origin or (),
        root_path=root_path,
        min_score=min_score,
        limits=limits,
    )
    url = _announce(listener)
    if browser:
        webbrowser.open(url)
    with suppress(KeyboardInterrupt):
        create_server(application).run(sockets=[listener])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a photo that is still worked on has a thread that nothing else ends


def _listener(host: str, port: int) -> socket.socket:
    """A socket that is bound before anything is loaded, so that a port in use is told at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise FacemsmError(f"cannot listen on {host} port {port} ({error.strerror}); choose another --port") from error


def _announce(listener: socket.socket) -> str:
    """Say where the page is: on this machine, and on others if they are let in. Returns the first."""
    host, port = listener.getsockname()[:2]
    everyone = ipaddress.ip_address(host.partition("%")[0]).is_unspecified
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url = _url(local, port)
    print(f"facemsm: {url} (Ctrl-C ends it)", flush=True)
    address = _network_address(listener.family) if everyone else None
    if address:
        print(f"facemsm: {_url(address, port)} from every machine of the network, without a password", flush=True)
        _print_qr_code(_url(address, port))
    return url


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _network_address(family: socket.AddressFamily) -> str | None:
    """This machine's own address on its network; None without one."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe, suppress(OSError):
        # an address for documentation: choosing the way there sends nothing
        probe.connect(("2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1", 9))
        address: str = probe.getsockname()[0]
        return None if ipaddress.ip_address(address).is_loopback else address
    return None


def _print_qr_code(url: str) -> None:
    """For a phone's camera, where the terminal can show it."""
    if not sys.stdout.isatty() or "utf" not in (sys.stdout.encoding or "").lower():
        return
    with suppress(ModuleNotFoundError):
        import segno

        segno.make(url, micro=False).terminal(compact=True)
