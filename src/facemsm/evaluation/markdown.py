"""Tables of reports as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

WIDEST = 80
"""Characters up to which columns line up; longer cells stick out."""


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], sides: str = "<>") -> str:
    """A Markdown table whose columns line up as text, too.

    Args:
        head: names of the columns.
        rows: as many cells each.
        sides: where cells begin, ``<`` or ``>`` for each column; the last one is for all that follow.
    """
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [min(WIDEST, max(3, *map(len, column))) for column in zip(*lines, strict=True)]
    sides = sides.ljust(len(widths), sides[-1])[: len(widths)]
    first, *others = (" | ".join(f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)) for row in lines)
    rules = ["-" * width + ("-" if side == "<" else ":") for side, width in zip(sides, widths, strict=True)]
    return "\n".join([f"| {first} |", f"|-{'|-'.join(rules)}|", *(f"| {line} |" for line in others)])
