"""Runs a command as if the processor were an older one, so that libraries take the code that they have for those.

    python benchmarks/older_processor.py avx2|sse4 COMMAND...

``avx2`` hides AVX-512, VNNI, AMX and bfloat16, ``sse4`` AVX, AVX2 and FMA, too. Times are those of this processor's
clock and caches, and glibc has chosen before. A command that handles SIGSEGV itself, such as pytest, does not work.
Needs Linux on x86-64 with cpuid faulting, a C compiler, and ``unshare``, by which the command sees an older
``/proc/cpuinfo``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HIDDEN = {
    "avx2": r"avx512\w*|avx_vnni\w*|amx_\w+",
    "sse4": r"avx\w*|amx_\w+|fma|f16c|bmi[12]|vaes|vpclmulqdq",
}
SOURCE = Path(__file__).with_suffix(".c")


def main() -> int:
    """Run the command; its exit status."""
    level, *command = sys.argv[1:] or [""]
    if level not in HIDDEN or not command:
        sys.exit("usage: python benchmarks/older_processor.py avx2|sse4 COMMAND...")
    for tool in ("cc", "unshare"):
        if not shutil.which(tool):
            sys.exit(f"older_processor: {tool} is needed and not here")
    with tempfile.TemporaryDirectory() as scratch:
        library, cpuinfo = Path(scratch) / "older.so", Path(scratch) / "cpuinfo"
        if subprocess.run(["cc", "-O2", "-shared", "-fPIC", SOURCE, "-o", library]).returncode:
            sys.exit(f"older_processor: {SOURCE.name} cannot be compiled here; it needs Linux on x86-64")
        cpuinfo.write_text(re.sub(rf" ({HIDDEN[level]})\b", "", Path("/proc/cpuinfo").read_text()))
        script = 'mount --bind "$0" /proc/cpuinfo && LD_PRELOAD="$OLDER_LIBRARY" exec "$@"'
        environment = {**os.environ, "OLDER_PROCESSOR": level, "OLDER_LIBRARY": str(library)}
        return subprocess.run(["unshare", "-rm", "sh", "-c", script, cpuinfo, *command], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
