"""``facemsm data``: look at annotated faces and convert them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from facemsm.apps.data_label import label
from facemsm.apps.data_preview import preview
from facemsm.data.catalogue import CATALOGUE, dataset_scheme, load_dataset
from facemsm.data.check import Check, check_dataset
from facemsm.data.coco import write_coco
from facemsm.data.contact_sheet import contact_sheet
from facemsm.data.pack import QUALITY, SIDE, write_pack
from facemsm.data.packing import packed_faces
from facemsm.data.reading import NoPhoto
from facemsm.data.sources import Source
from facemsm.errors import FacemsmError
from facemsm.imaging.io import write_image

app = typer.Typer(
    name="data", add_completion=False, help="Look at annotated faces and convert them.", no_args_is_help=True
)

T = TypeVar("T")


class Boxes(str, Enum):
    """Where face boxes come from."""

    gt = "gt"
    provided = "provided"


Name = Annotated[str, typer.Argument(help=f"Data set: {', '.join(CATALOGUE)}.")]
Root = Annotated[
    Path,
    typer.Argument(help="The folder it lies in, or the file: coco, csv, dlib, hrnet, cvat, label-studio."),
]
Scheme = Annotated[
    str | None,
    typer.Option(help="Landmark scheme of one's own data: 29, 68, 98 or a .toml file.", show_default=False),
]


@app.command()
def check(
    name: Name,
    root: Root,
    split: Annotated[list[str] | None, typer.Option(help="Look at this split only; may be repeated.")] = None,
    scheme: Scheme = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--contact-sheet",
            help="The picture to draw faces with their points into.",
            show_default="facemsm-out/NAME-contact-sheet.jpg",
        ),
    ] = None,
) -> None:
    """Read all of a data set, list every fault (missing, broken, short of the published count), and draw its faces.

    Ends with exit code 1 if there is a fault. An incomplete data set is not a fault.
    """
    console = Console(markup=False)  # names may look like it
    found = check_dataset(name, root, split or (), scheme, lambda samples: _track(samples, "photos"))
    _print_check(console, found, name)
    samples = [sample for sample in found.samples if not isinstance(sample.image, NoPhoto)]
    if sheet is not None and not samples:
        raise FacemsmError(f"{root}: no face with a photo, so there is nothing to draw into {sheet}")
    if samples:
        sheet = sheet or Path("facemsm-out") / f"{name}-contact-sheet.jpg"
        write_image(sheet, contact_sheet(samples, dataset_scheme(name, scheme)))
        console.print(f"drawn: {sheet}", highlight=False, soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)


@app.command()
def convert(
    name: Name,
    root: Root,
    output: Annotated[Path, typer.Argument(help="The COCO keypoints file to write, such as faces.json.")],
    split: Annotated[str | None, typer.Option(help="Which split; may be left out if there is only one.")] = None,
    boxes: Annotated[
        Boxes,
        typer.Option(help="gt: 300-W's own true boxes, else tight around the points; provided: the data set's own."),
    ] = Boxes.gt,
    scheme: Scheme = None,
    copy_photos: Annotated[
        bool,
        typer.Option(
            "--copy-photos", help="Copy the photos to images/ beside the file, instead of naming where they are."
        ),
    ] = False,
) -> None:
    """Write a data set, or one's own annotations in another format, as COCO keypoints.

    Folders: pts, labelme. Files: csv, dlib (XML of imglab), hrnet (CSV), cvat (CVAT for images 1.1), label-studio.

    Columns of a CSV file: image, x0, y0, x1, y1, ... (0-based pixels, empty where unlabelled); optional v0, v1, ...
    (2 visible, 1 occluded, 0 unlabelled), x_min, y_min, x_max, y_max, and attributes.
    """
    splits = list(CATALOGUE[name].splits) if name in CATALOGUE else [""]
    if split is None and len(splits) > 1:
        raise FacemsmError(f"{name} has several splits: say --split {', '.join(splits)}")
    samples = load_dataset(name, root, split or splits[0], boxes.value, scheme)
    if not samples:
        raise FacemsmError(f"{root}: no face to convert; facemsm data check says what was left out and why")
    photo_root = (root if root.is_dir() else root.parent) if copy_photos else None
    write_coco(_track(samples, "faces"), output, dataset_scheme(name, scheme), photo_root=photo_root)
    Console(markup=False).print(f"{output}: {len(samples)} faces", highlight=False, soft_wrap=True)


@app.command()
def pack(
    data: Annotated[list[str], typer.Argument(metavar="NAME=ROOT:SPLIT...", help="Data sets, as for 'facemsm train'.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .tar file to write.")],
    scheme: Scheme = None,
    side: Annotated[int, typer.Option(min=64, help="Largest side of a crop, px.")] = SIDE,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of the crops' JPEG compression.")] = QUALITY,
) -> None:
    """Write training faces into one file of crops (WebDataset's form), to train on elsewhere.

    Train with --data pack=FILE:NAME for each set in it. The same faces are held out as from the data sets themselves.
    """
    faces = list(packed_faces([Source.parse(text) for text in data], scheme))
    count = write_pack(_track(faces, "faces"), output, side=side, quality=quality)
    typer.echo(f"{output}: {count} faces, {output.stat().st_size / 1e6:.1f} MB")


app.command()(label)
app.command()(preview)


def _track(items: Sequence[T], what: str) -> Iterable[T]:
    return track(items, what, console=Console(stderr=True), transient=True)


def _print_check(console: Console, found: Check, name: str) -> None:
    table = Table("split", "faces", "published", "with provided box", title=name, title_justify="left")
    for split, faces in found.faces.items():
        published = found.published[split]
        short = " (short)" if split in found.short else ""
        table.add_row(split, f"{faces}{short}", str(published or "not known"), str(found.boxes.get(split, "none")))
    console.print(table)
    lines = [f"{len(found.samples)} faces, {found.photos} photos read"]
    if found.without_photo:
        lines.append(f"{found.without_photo} faces without photo")
    lines += [f"{count} x {reason}, skipped" for reason, count in found.skipped.items()]
    lines.append(f"{sum(found.outside.values())} points of {len(found.outside)} faces lie outside their photo")
    lines.append("points: " + (", ".join(f"{count} {kind}" for kind, count in found.visibility.items()) or "none"))
    lines += [f"doubtful: {doubt}" for doubt in found.doubts]
    count = len(found.problems)
    lines.append(f"{count or 'no'} fault{'s' if count > 1 else ''}")
    for line in lines + found.problems:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
