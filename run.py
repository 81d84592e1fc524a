#!/usr/bin/env python3
"""Run facemsm from a fresh clone: each command first builds the environment it needs, once.

    python3 run.py align [PHOTO ...]      find the landmarks of every face; a sample photo if none is named
    python3 run.py test [ARGUMENT ...]    run the tests, on all cores; arguments go to pytest instead

Needs Python 3.10 to 3.14 and a network for the first call of each. What follows ``align`` goes to ``facemsm align``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CPU_TORCH = "https://download.pytorch.org/whl/cpu"


def main(arguments: list[str]) -> int:
    """Run the command that the arguments name; return its exit code."""
    command, rest = (arguments or [""])[0], arguments[1:]
    if command not in ("align", "test"):
        print(__doc__)
        return 0 if command in ("-h", "--help") else 2
    if not (3, 10) <= sys.version_info[:2] <= (3, 14):
        sys.exit("run.py: needs Python 3.10 to 3.14, this is {}.{}".format(*sys.version_info[:2]))
    if command == "align":
        programs = environment(".venv-align", ".")
        words, folder = ["facemsm", "align", "--draw", *rest], Path.cwd()
    else:
        programs = environment(".venv-test", ".[train,serve,dev,browser,docs]", *cpu_torch())
        words, folder = ["pytest", *(rest or ["-n", "auto"])], ROOT
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is the command's to answer
    return subprocess.call([str(programs / words[0]), *words[1:]], cwd=str(folder))


def environment(name: str, package: str, *options: str) -> Path:
    """The folder of programs of the environment ``name``, built if it is missing, incomplete or out of date."""
    folder = ROOT / name
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    stamp, log = folder / "complete", folder / "pip.log"
    inputs = [(ROOT / file).read_bytes() for file in ("pyproject.toml", "constraints.txt")]
    wanted = hashlib.sha256(b"".join([*inputs, f"{ROOT} {sys.version}".encode()])).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return programs

    print(f"building {folder} (once; takes a while) ...", flush=True)
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        sys.exit("run.py: this Python lacks its venv module; on Debian and Ubuntu: apt install python3-venv")
    shutil.rmtree(folder, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if made.returncode:
        sys.exit(f"run.py: could not make {folder}:\n{made.stdout.decode(errors='replace').strip()}")
    if sys.version_info >= (3, 11):  # 3.10 takes the newest releases that still support it
        options = ("-c", "constraints.txt", *options)
    install = [str(programs / "python"), "-m", "pip", "install", "--no-input", *options, "-e", package]
    with log.open("wb") as output:
        status = subprocess.call(install, cwd=ROOT, stdout=output, stderr=output)
    if status:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
        sys.exit("\n".join([f"run.py: pip failed; {log} ends with", *last]))
    stamp.write_text(wanted)  # last, so that an interrupted build is not taken for a finished one
    return programs


def cpu_torch() -> list[str]:
    """Options that let pip find PyTorch's CPU build.

    On Linux the package index has only the CUDA build, of several gigabytes. PyTorch's own index has the CPU build, and
    pip prefers it (``+cpu`` sorts higher). Where that index cannot be reached, pip uses what it is configured to find.
    """
    if not sys.platform.startswith("linux"):
        return []
    try:
        urllib.request.urlopen(CPU_TORCH, timeout=5).close()
    except OSError:
        return []
    return ["--extra-index-url", CPU_TORCH]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("run.py: interrupted; the next call starts the build anew")
