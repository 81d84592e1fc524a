"""What a run makes its results with, kept beside them: ``landmarks.run.json`` beside ``landmarks.jsonl``.

It holds a run to one way of making them when it is resumed, or shared out between machines that write into one folder;
and it tells folders that facemsm wrote from those with photos.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from facemsm.errors import FacemsmError
from facemsm.files import atomic_write, read_text

SUFFIX = ".run.json"
DRAWN, PTS = "drawn", "pts"
"""Subfolders of the output folder, for pictures with landmarks and for ``.pts`` files."""


@dataclass(frozen=True)
class Run:
    """How a run's results are made.

    Attributes:
        folder: where photos' relative names start.
        common: the folder that holds all photos; the names of pictures and ``.pts`` files are relative to it.
        draw: whether pictures are drawn.
        settings: all that decides the numbers: weights, method, stages, detector; as JSON holds it.
    """

    folder: Path
    common: Path
    draw: bool
    settings: Mapping[str, Any]

    def settle(self, record: Path, *, empty: bool) -> Run:
        """The run that writes to ``record``: this one, or the earlier one that it continues; kept beside ``record``.

        Args:
            record: a ``landmarks.jsonl`` that nobody else writes to.
            empty: whether nothing was written to it so far.

        Raises:
            FacemsmError: the folder's other results were made otherwise, finished photos have no pictures and this run
                draws, or the folder holds what may not be results of ours.
        """
        own = record.with_suffix(SUFFIX)
        runs = [(path, _read(path)) for path in sorted(record.parent.glob(f"*{SUFFIX}"), key=lambda path: path != own)]
        for path, run in runs:
            for name, value in self.settings.items():
                if (before := run.settings.get(name, value)) != value:
                    raise FacemsmError(
                        f"{record}: results there were made with {name} {_shown(before)} ({path.name}), not "
                        f"{_shown(value)}; choose another --output"
                    )
        settled = self
        if runs and not empty:
            earlier = runs[0][1]
            if self.draw and not earlier.draw:
                raise FacemsmError(
                    f"{record}: was begun without --draw, its photos would have no picture; choose another --output"
                )
            settled = replace(  # folders of another machine, or that were moved, say nothing here
                self,
                folder=earlier.folder if earlier.folder.is_dir() else self.folder,
                common=earlier.common if earlier.common.is_dir() else self.common,
                draw=earlier.draw,
            )
        elif empty and not runs:
            for path in (record.with_suffix(".csv"), record.with_name(DRAWN), record.with_name(PTS)):
                if path.exists():
                    raise FacemsmError(f"{path}: is there already; choose another --output")
        content = {"folder": str(settled.folder), "common": str(settled.common), "draw": settled.draw}
        with atomic_write(own) as temporary:
            temporary.write_text(json.dumps(content | {"settings": settled.settings}, indent=1) + "\n", "utf-8")
        return settled


def is_drawn(folder: str, beside: Sequence[str]) -> bool:
    """Whether a folder of that name holds drawn pictures, by the names of the files beside it."""
    return folder == DRAWN and any(name.endswith(SUFFIX) for name in beside)


def _read(path: Path) -> Run:
    try:
        content = json.loads(read_text(path))
        return Run(Path(content["folder"]), Path(content["common"]), bool(content["draw"]), dict(content["settings"]))
    except FacemsmError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FacemsmError(f"{path}: is not what a run was made with; choose another --output") from error


def _shown(value: Any) -> str:
    return json.dumps(value)[:60]
