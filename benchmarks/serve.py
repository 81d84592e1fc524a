"""How ``facemsm serve`` bears many clients at once. Prints Markdown.

    python benchmarks/serve.py [--clients 8 24] [--seconds 30] [--threads 1]

Starts a server of its own on this machine. Every client sends the sample photo as soon as its last one is answered; a
503 is waited out and tried again, as the server asks for. The server's memory is read from /proc (Linux).
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import date
from pathlib import Path

import httpx2
import numpy as np

from facemsm.assets import SAMPLE
from facemsm.provenance import commit, machine

EXTRAS = ["crop", "canonical", "heatmaps"]


def memory(process: int) -> float:
    """Resident memory of a process, MB."""
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def run_client(url: str, until: float, waits: list[float], outcomes: Counter[str]) -> None:
    """Send photos until the time is over; what became of them goes into ``outcomes``, seconds each into ``waits``."""
    photo = SAMPLE.read_bytes()
    with httpx2.Client(base_url=url, timeout=60) as client:
        while (start := time.monotonic()) < until:
            try:
                while True:
                    answer = client.post("/api/align", files={"photo": photo}, data={"include": EXTRAS})
                    if answer.status_code != 503:
                        break
                    outcomes["busy"] += 1
                    time.sleep(float(answer.headers["Retry-After"]))
                outcomes["good" if answer.status_code == 200 and len(answer.json()["faces"]) == 1 else "error"] += 1
            except httpx2.HTTPError as error:
                outcomes["error"] += 1
                print(repr(error), file=sys.stderr)
            waits.append(time.monotonic() - start)


def measure(url: str, process: int, count: int, seconds: float) -> str:
    """One row of the table."""
    waits: list[float] = []
    outcomes: Counter[str] = Counter()
    until = time.monotonic() + seconds
    clients = [threading.Thread(target=run_client, args=(url, until, waits, outcomes)) for _ in range(count)]
    start = time.monotonic()
    for client in clients:
        client.start()
    used = []
    while any(client.is_alive() for client in clients):
        used.append(memory(process))
        time.sleep(0.5)
    rate = outcomes["good"] / (time.monotonic() - start)
    median, high, most = np.percentile(waits, [50, 95, 100])
    third = max(1, len(used) // 3)
    return (
        f"| {count} | {outcomes['good']} | {outcomes['error']} | {outcomes['busy']} | {rate:.1f} | {median:.2f} | "
        f"{high:.2f} | {most:.2f} | {np.median(used[third : 2 * third]):.0f} | {np.median(used[2 * third :]):.0f} | "
        f"{max(used):.0f} |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="facemsm serve under load")
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 24], help="clients at once, one row each")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each row")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the server's networks")
    args = parser.parse_args()
    command = [sys.executable, "-c", "from facemsm.apps.cli import main; main()", "serve", "--port", "0"]
    server = subprocess.Popen([*command, "--threads", str(args.threads)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().split()[1]
        print(
            f"Sample photo (512 x 512 px, one face) with all extras, {args.seconds:g} s a row, {args.threads} thread;"
        )
        print(f"{machine()}; commit {commit()}; {date.today()}.\n")
        print(
            "| clients | answered | errors | 503 | photos/s | median s | 95 % s | slowest s | MB, second third | "
            "MB, last third | MB, most |"
        )
        print("|" + "---:|" * 11)
        for count in args.clients:
            print(measure(url, server.pid, count, args.seconds), flush=True)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


if __name__ == "__main__":
    main()
