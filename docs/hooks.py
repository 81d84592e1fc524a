"""Called by MkDocs: the docstrings' Sphinx roles become plain names, names of the package links to the reference."""

from __future__ import annotations

import re


def on_page_content(html: str, **_: object) -> str:
    """Drop ``:class:`` and its kin before names, and the second colon before code; link names that are documented."""
    html = re.sub(r":(?:attr|class|data|func|meth|mod):(?=<(?:a|code)\b)", "", html).replace("::</p>", ":</p>")
    name = r"<code>(facemsm(?:\.\w+)+)</code>"
    return re.sub(name, r'<autoref identifier="\1" optional><code>\1</code></autoref>', html)
