"""What a figure must say about where it comes from: the commit, the machine and its instruction sets."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def commit() -> str:
    """Short hash of the checkout that runs, with ``+`` if files differ from it; ``"installed"`` outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        return run.stdout.strip() if run.returncode == 0 else ""

    try:
        head = git("rev-parse", "--short", "HEAD")
        inside = git("ls-files", "--error-unmatch", Path(__file__).name)
        return head + ("+" if git("status", "--porcelain", "--untracked-files=no") else "") if inside else "installed"
    except OSError:  # no git on this machine
        return "installed"


def machine() -> str:
    """Processor and number of cores, one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"


_FLAGS = {
    "avx2": ("avx2",),
    "avx512": ("avx512f",),
    "vnni": ("avx_vnni", "avx512_vnni"),
    "amx": ("amx_int8",),
    "neon": ("neon", "asimd"),
    "dotprod": ("asimddp",),
    "i8mm": ("i8mm",),
}
"""Instruction sets that the networks' speed depends on, and what Linux calls them."""


def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Those of the processor that multiply bytes or floats, such as ``"avx2, avx512, vnni"``; ``"unknown"`` where the
    system does not list them."""
    if not cpuinfo.is_file():
        return "unknown"
    lines = (line.partition(":") for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines())
    flags = next((rest.split() for name, _, rest in lines if name.strip() in ("flags", "Features")), [])
    return ", ".join(name for name, known in _FLAGS.items() if set(known) & set(flags)) or "unknown"
