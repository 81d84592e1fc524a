"""How long the page without a server takes in Chromium. Prints Markdown.

    facemsm page build/page
    python benchmarks/page.py build/page [--threads 1 2] [--rounds 20]

Serves the folder on this machine with the headers that threads need. A page for each number of threads is asked in
turns, so that other work on the machine touches all alike. Milliseconds are from the call of ``api.js`` to its answer.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from facemsm.assets import SAMPLE_BOX
from facemsm.provenance import commit, machine

ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
BOX = f"[{[float(value) for value in SAMPLE_BOX]}]"
WORK: dict[str, dict[str, Any]] = {
    "face, 68 points": {"boxes": BOX},
    "face, the paper's method": {"boxes": BOX, "method": "paper"},
    "face, 98 points": {"boxes": BOX, "model": "98"},
    "face found in a photo of 512 px": {},
}
"""What is asked for, and its fields."""

TIME = """async (fields) => {
    window.sample ??= await (await fetch("sample.jpg")).blob();
    const { align } = await import("./api.js");
    const start = performance.now();
    await align(window.sample, fields);
    return performance.now() - start; }"""


class Handler(SimpleHTTPRequestHandler):
    """Files with the headers that threads need."""

    def end_headers(self) -> None:
        """Add them."""
        for name, value in ISOLATION.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: str) -> Iterator[str]:
    """The folder's address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="the page without a server, in Chromium")
    parser.add_argument("folder", help="written by facemsm page")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    path = os.environ.get("FACEMSM_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with serving(options.folder) as address, sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path)
        pages = {count: browser.new_page() for count in options.threads}
        for count, page in pages.items():
            page.goto(f"{address}?threads={count}")
            page.wait_for_selector("body[data-loaded]")
        times: dict[tuple[str, int], list[float]] = {(what, count): [] for what in WORK for count in pages}
        for turn in range(options.rounds + 2):  # the first two load and warm up
            for what, count in times:
                taken = pages[count].evaluate(TIME, WORK[what])
                if turn >= 2:
                    times[what, count].append(taken)
        version = browser.version
        browser.close()
    print(f"Chromium {version}, {options.rounds} rounds; {machine()}; commit {commit()}; {date.today()}.\n")
    heads = [
        f"{'1 thread' if count == 1 else f'{count} threads'}: {part}" for count in pages for part in ("least", "median")
    ]
    print(f"| ms | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for what in WORK:
        cells = [f"{value:.0f}" for count in pages for value in np.percentile(times[what, count], [0, 50])]
        print(f"| {what} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
