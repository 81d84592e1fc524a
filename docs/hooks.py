"""Called by MkDocs: the docstrings' Sphinx roles become plain names."""

from __future__ import annotations

import re


def on_page_content(html: str, **_: object) -> str:
    """Drop ``:class:`` and its kin before names, and the second colon before code."""
    return re.sub(r":(?:attr|class|data|func|meth|mod):(?=<(?:a|code)\b)", "", html).replace("::</p>", ":</p>")
