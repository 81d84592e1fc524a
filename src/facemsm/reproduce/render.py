"""A report as blocks of plain values, which are its JSON, and the one place that turns them into Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from facemsm.evaluation.markdown import markdown_table
from facemsm.reproduce.paper import Figure, paper

Block = dict[str, Any]
"""One of ``{"text"}``, ``{"table": [head, *rows], "left"}``, ``{"picture", "caption"}``, ``{"claims"}``."""

Section = dict[str, Any]
"""``title`` and ``blocks`` of one table or figure."""

_RAISED = str.maketrans("abcdefgh", "ᵃᵇᶜᵈᵉᶠᵍʰ")


def text(words: str) -> Block:
    """A paragraph."""
    return {"text": words}


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> Block:
    """A table; the first ``left`` columns are text. Cells are text or made by :func:`ours` and :func:`beside`."""
    return {"table": [list(head), *(list(row) for row in rows)], "left": left}


def picture(file: str, caption: str) -> Block:
    """A picture in the report's folder."""
    return {"picture": file, "caption": caption}


def ours(value: float | None, interval: tuple[float, float] | None = None, digits: int = 2) -> dict[str, Any]:
    """A figure of ours with its 95 % interval."""
    cell: dict[str, Any] = {"ours": plain(value), "digits": digits}
    return cell if interval is None else {**cell, "low": plain(interval[0]), "high": plain(interval[1])}


def beside(figure: Figure | None, value: float | None = None) -> dict[str, Any]:
    """A figure of the paper and, if there is one, ours beside it."""
    if figure is None:
        return {"paper": None}
    cell = {"paper": figure.value, "printed": figure.printed, "marks": figure.marks}
    return cell if value is None else {**cell, "ours": plain(value), "digits": len(figure.printed.partition(".")[2])}


def plain(value: float | None) -> float | None:
    """As JSON holds it: None for what is not finite, rounded, as later digits are noise."""
    return None if value is None or not math.isfinite(value) else round(float(value), 6)


def markdown(section: Section, level: int = 2) -> str:
    """One section. Slips of the paper that its tables show are explained at its end."""
    parts = [f"{'#' * level} {section['title']}"]
    marks: set[str] = set()
    for block in section["blocks"]:
        if "text" in block:
            parts.append(block["text"])
        elif "table" in block:
            head, *rows = block["table"]
            marks |= {m for row in rows for cell in row if isinstance(cell, Mapping) for m in cell.get("marks", "")}
            cells = [[_cell(cell) for cell in row] for row in rows]
            parts.append(markdown_table(head, cells, "<" * block["left"] + ">"))
        elif "picture" in block:
            parts.append(f"![{block['caption']}]({block['picture']})\n\n*{block['caption']}*")
        else:
            parts.append(claims(block["claims"]))
    parts += [f"{mark.translate(_RAISED)} {paper().slips[mark]}" for mark in sorted(marks)]
    return "\n\n".join(parts) + "\n"


def claims(found: Sequence[Mapping[str, Any]]) -> str:
    """What the paper claims, the difference that tests it, and whether it holds."""
    head = ["claim", "tested on", "difference", "95 % interval", "per cent of", "faces", "verdict"]
    rows = [
        [
            claim["claim"],
            claim["on"],
            _number(claim["difference"], 3, "+"),
            f"{_number(claim['low'], 3, '+')} to {_number(claim['high'], 3, '+')}",
            claim["of"],
            str(claim["faces"]),
            f"**{claim['verdict']}**",
        ]
        for claim in found
    ]
    return markdown_table(head, rows, "<<>")


def difference(claim: Mapping[str, Any], digits: int = 2) -> str:
    """Of a claim, with its interval."""
    low, high = (_number(claim[end], digits, "+") for end in ("low", "high"))
    return f"{_number(claim['difference'], digits, '+')} [{low}, {high}]"


def _cell(cell: Any) -> str:
    if not isinstance(cell, Mapping):
        return str(cell)
    own, digits = cell.get("ours"), cell.get("digits", 2)
    if "paper" in cell:
        if cell["paper"] is None:
            return "-"
        printed = cell["printed"] + cell["marks"].translate(_RAISED)
        return printed if own is None else f"{printed} ({_number(own - cell['paper'], digits, '+')})"
    if own is None:
        return "-"
    value = f"**{_number(own, digits)}**"
    return f"{value} [{_number(cell['low'], digits)}, {_number(cell['high'], digits)}]" if "low" in cell else value


def _number(value: float | None, digits: int = 2, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}".replace("-", "−")
