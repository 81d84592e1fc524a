"""``facemsm data label``: labels made by a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

T = TypeVar("T")


def label(
    output: Annotated[Path, typer.Option("--output", "-o", help="The COCO keypoints file to write.")],
    photos: Annotated[
        list[Path] | None, typer.Argument(help="Photos or folders; every face that the detector finds.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=ROOT:SPLIT", help="Faces of a data set, to be labelled anew; may be repeated."),
    ] = None,
    weights: Annotated[str, typer.Option(help="Bundled model or model folder.")] = "68",
    views: Annotated[int, typer.Option(min=2, help="Views of each face that are averaged.")] = 6,
    spread: Annotated[
        float, typer.Option(help="Leave a face out if its views differ by more than this share of its size.")
    ] = 0.02,
    score: Annotated[float, typer.Option(help="Leave a face out if its mean score is lower.")] = 0.5,
    change: Annotated[
        float, typer.Option(help="Leave a face out if its points move by more than this share of its size.")
    ] = 0.08,
    smallest: Annotated[float, typer.Option(help="Leave out boxes of the detector with shorter sides, px.")] = 40.0,
) -> None:
    """Label faces by a model, to learn from or to correct by hand: faces without labels, or with poor ones.

    Each face is aligned in several views, mirrored ones too, and their mean is the label. Faces whose views differ or
    whose scores are low are left out and counted. Points that are probably hidden are written as hidden (v = 1).
    """
    import numpy as np
    from rich.console import Console
    from rich.progress import track

    from facemsm.aligner import Aligner
    from facemsm.batch.photos import find_photos
    from facemsm.data.catalogue import load_dataset
    from facemsm.data.coco import write_coco
    from facemsm.data.reading import try_read
    from facemsm.data.sample import FaceSample
    from facemsm.data.sources import Source
    from facemsm.errors import FacemsmError
    from facemsm.evaluation.pseudo_labels import Rejection
    from facemsm.evaluation.pseudo_labels import label as label_faces
    from facemsm.imaging.io import read_image

    if not photos and not data:
        raise FacemsmError("nothing to label: name photos, or a data set with --data NAME=ROOT:SPLIT")
    console = Console(stderr=True, markup=False)

    def shown(items: Sequence[T], what: str) -> Iterable[T]:
        return track(items, what, console=console, transient=True)

    aligner = Aligner.from_pretrained(weights)
    sources = [Source.parse(text) for text in data or []]
    samples = [s for at in sources for s in load_dataset(at.name, at.root, at.split, "gt", aligner.scheme.name)]
    nothing = np.full((aligner.scheme.count, 2), np.nan, np.float32)

    def say(line: str) -> None:
        console.print(line, highlight=False)

    found = list(find_photos(photos or [], say, say))
    for photo in shown(found, "photos"):
        try:
            boxes = aligner.detector.detect(read_image(photo))[:, :4]
        except FacemsmError as error:
            console.print(str(error), highlight=False, soft_wrap=True)
            continue
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).min(1) >= smallest]
        samples += [FaceSample(f"{photo.stem}_{i}", photo, box, "detector", nothing) for i, box in enumerate(boxes)]
    rejection = Rejection(spread, score, change)
    kept, broken = [], 0
    for sample in shown(samples, "faces"):
        face = try_read(next, label_faces(aligner, [sample], views, rejection))
        if isinstance(face, FacemsmError):
            console.print(str(face), highlight=False, soft_wrap=True)
            broken += 1
        elif face:
            kept.append(face)
    if not kept:
        raise FacemsmError(f"{output}: not written, all of the {len(samples)} faces were left out")
    write_coco(kept, output, aligner.scheme)
    doubtful = len(samples) - len(kept) - broken
    typer.echo(f"{output}: {len(kept)} faces; {doubtful} left out as doubtful, {broken} because of their photo")
