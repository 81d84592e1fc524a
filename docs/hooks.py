"""Called by MkDocs: files of the repository are inserted into pages, docstrings' Sphinx roles become plain names, names
of the package links to the reference."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
INSERTION = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Any, **_: object) -> str:
    """Put the file ``path`` in place of the line ``--8<-- "path"``; its links are relative to where it lies."""
    here = (DOCS / page.file.src_uri).parent
    pages = {
        (ROOT / path).resolve(): f"{name.as_posix()}#{_anchor(path)}"
        for name in DOCS.rglob("*.md")
        for path in INSERTION.findall(name.read_text(encoding="utf-8"))
    }

    def insert(match: re.Match[str]) -> str:
        source = ROOT / match[1]

        def relink(link: re.Match[str]) -> str:
            target = (source.parent / link[1]).resolve()
            return f"]({Path(os.path.relpath(pages.get(target, target), here)).as_posix()}"

        text = re.sub(r"\]\((?![a-z]+:|#)([^)#\s]+)", relink, source.read_text(encoding="utf-8"))
        return f'<a id="{_anchor(match[1])}"></a>\n\n{text}'

    return INSERTION.sub(insert, markdown)


def _anchor(path: str) -> str:
    return path.removesuffix(".md").replace("/", "-").lower()


def on_page_content(html: str, **_: object) -> str:
    """Drop ``:class:`` and its kin before names, and the second colon before code; link names that are documented."""
    html = re.sub(r":(?:attr|class|data|func|meth|mod):(?=<(?:a|code)\b)", "", html).replace("::</p>", ":</p>")
    name = r"<code>(facemsm(?:\.\w+)+)</code>"
    return re.sub(name, r'<autoref identifier="\1" optional><code>\1</code></autoref>', html)
