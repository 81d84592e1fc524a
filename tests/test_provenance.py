from __future__ import annotations

from pathlib import Path

import pytest

from facemsm.provenance import instruction_sets


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (
            "processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_tile amx_int8\n\n",
            "avx2, avx512, vnni, amx",
        ),
        ("flags\t: avx avx2 avx_vnni\n", "avx2, vnni"),
        ("Features\t: fp asimd asimddp i8mm\n", "neon, dotprod, i8mm"),
        ("Features\t: half thumb neon vfpv4\n", "neon"),
        ("flags\t: fpu sse2\n", "unknown"),
        ("", "unknown"),
    ],
)
def test_instruction_sets_are_read_from_what_linux_says(cpuinfo: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert instruction_sets(tmp_path / "cpuinfo") == expected


def test_instruction_sets_of_another_system_are_unknown(tmp_path: Path) -> None:
    assert instruction_sets(tmp_path / "cpuinfo") == "unknown"
