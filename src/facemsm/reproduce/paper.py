"""What the paper prints, from ``paper.toml``."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from facemsm.geometry import Normaliser

FILE = Path(__file__).with_name("paper.toml")


@dataclass(frozen=True)
class Column:
    """What a column's figures are.

    Attributes:
        name: its head.
        set, split: in the catalogue of data sets.
        faces: how many the paper evaluates on.
        measure: ``nme`` (the paper's NRMSE) and ``fr`` in per cent, ``auc`` in [0, 1].
        normaliser: of the errors.
        threshold: of ``fr`` and ``auc``, in per cent of the normaliser.
        parts: splits that the set consists of; without faces of each there is no figure that compares.
        ours: not one of the paper's.
    """

    name: str
    set: str
    split: str
    faces: int
    measure: Literal["nme", "fr", "auc"]
    normaliser: Normaliser
    threshold: float = 0.0
    ours: bool = False
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """One figure of the paper: digits as printed, and the letters of its slips."""

    printed: str
    marks: str = ""

    @property
    def value(self) -> float:
        """As a number."""
        return float(self.printed)

    @property
    def unit(self) -> float:
        """One unit of the last digit printed."""
        return 10.0 ** -len(self.printed.partition(".")[2])


@dataclass(frozen=True)
class MethodRow:
    """A method's figures, None where the paper has none."""

    method: str
    year: int
    source: str
    cells: tuple[Figure | None, ...]


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[MethodRow, ...]


@dataclass(frozen=True)
class Paper:
    """Tables by name (``table3``), figures of the text by what they are, slips by letter."""

    tables: dict[str, PaperTable]
    text: dict[str, float]
    slips: dict[str, str]


@cache
def paper() -> Paper:
    """All of it."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    content: dict[str, Any] = tomllib.loads(FILE.read_text(encoding="utf-8"))
    tables = {}
    for name, table in content["tables"].items():
        rows = []
        for method, number, cells in table["rows"]:
            source, year = content["sources"][number]
            cited = source if number == "-" else f"{source} [{number}]"
            rows.append(MethodRow(method, year, cited, tuple(_figure(cell) for cell in cells.split())))
        columns = [Column(**{**column, "parts": tuple(column.get("parts", ()))}) for column in table["columns"]]
        tables[name] = PaperTable(table["title"], tuple(columns), tuple(rows))
    return Paper(tables, content["text"], content["slips"])


def _figure(cell: str) -> Figure | None:
    if cell == "-":
        return None
    found = re.fullmatch(r"([\d.]+)([a-z]*)", cell)
    assert found, cell
    return Figure(found[1], found[2])
