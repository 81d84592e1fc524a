"""``facemsm data``: look at annotated faces and convert them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from facemsm.apps.console import track, warn
from facemsm.apps.options import SOURCE, DataBoxes, DataScheme, Root, Split, Weights, finite
from facemsm.data.catalogue import CATALOGUE, dataset_scheme, find_dataset, load_dataset, only_split
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


Name = Annotated[str, typer.Argument(help=f"Data set: {', '.join(CATALOGUE)}.")]


@app.command()
def check(
    name: Name,
    root: Root,
    split: Annotated[list[str] | None, typer.Option(help="Look at this split only; may be repeated.")] = None,
    scheme: DataScheme = None,
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
    found = check_dataset(name, root, split or (), scheme, track)
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
    split: Split = None,
    boxes: DataBoxes = "gt",
    scheme: DataScheme = None,
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
    samples = load_dataset(name, root, split or only_split(name), boxes, scheme)
    if not samples:
        raise FacemsmError(f"{root}: no face to convert; facemsm data check says what was left out and why")
    photo_root = (root if root.is_dir() else root.parent) if copy_photos else None
    write_coco(track(samples, "faces"), output, dataset_scheme(name, scheme), photo_root=photo_root)
    Console(markup=False).print(f"{output}: {len(samples)} faces", highlight=False, soft_wrap=True)


@app.command()
def pack(
    data: Annotated[list[str], typer.Argument(metavar=f"{SOURCE}...", help="Data sets, as for 'facemsm train'.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .tar file to write.")],
    scheme: DataScheme = None,
    side: Annotated[int, typer.Option(min=64, help="Largest side of a crop, px.")] = SIDE,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of the crops' JPEG compression.")] = QUALITY,
) -> None:
    """Write training faces into one file of crops (WebDataset's form), to train on elsewhere.

    Train with --data pack=FILE:NAME for each set in it. The same faces are held out as from the data sets themselves.
    """
    faces = list(packed_faces([Source.parse(text) for text in data], scheme))
    count = write_pack(track(faces, "faces"), output, side=side, quality=quality)
    typer.echo(f"{output}: {count} faces, {output.stat().st_size / 1e6:.1f} MB")


@app.command()
def label(
    output: Annotated[Path, typer.Option("--output", "-o", help="The COCO keypoints file to write.")],
    photos: Annotated[
        list[Path] | None, typer.Argument(help="Photos or folders; every face that the detector finds.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar=SOURCE, help="Faces of a data set, to be labelled anew; may be given several times."),
    ] = None,
    weights: Weights = "68",
    views: Annotated[int, typer.Option(min=2, help="Views of each face that are averaged.")] = 6,
    spread: Annotated[
        float,
        typer.Option(callback=finite, help="Leave a face out if its views differ by more than this share of its size."),
    ] = 0.02,
    score: Annotated[float, typer.Option(callback=finite, help="Leave a face out if its mean score is lower.")] = 0.5,
    change: Annotated[
        float,
        typer.Option(callback=finite, help="Leave a face out if its points move by more than this share of its size."),
    ] = 0.08,
    smallest: Annotated[
        float, typer.Option(callback=finite, help="Leave out boxes of the detector with shorter sides, px.")
    ] = 40.0,
) -> None:
    """Label faces by a model, to learn from or to correct by hand: faces without labels, or with poor ones.

    Each face is aligned in several views, mirrored ones too, and their mean is the label. Faces whose views differ or
    whose scores are low are left out and counted. Points that are probably hidden are written as hidden (v = 1).
    """
    from facemsm.batch.photos import find_photos
    from facemsm.evaluation.pseudo_labels import Rejection, label_files

    found = label_files(
        output,
        list(find_photos(photos or [], warn, lambda line, _: warn(line))),
        [Source.parse(text) for text in data or []],
        weights=weights,
        views=views,
        rejection=Rejection(spread, score, change),
        smallest=smallest,
        warn=warn,
        progress=track,
    )
    left_out = f"{found.doubtful} left out as doubtful, {found.broken} because of their photo"
    typer.echo(f"{output}: {found.kept} faces; {left_out}")


@app.command()
def preview(
    name: Name,
    root: Root,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")] = Path("preview.png"),
    split: Annotated[str | None, typer.Option(help="Which split.", show_default="the first")] = None,
    boxes: DataBoxes = "gt",
    scheme: DataScheme = None,
    augmentation: Annotated[
        Literal["paper", "full"],
        typer.Option(help="paper: flip, rotation, scale and colour; full: occluders and camera faults too."),
    ] = "full",
    count: Annotated[int, typer.Option(min=1, help="How many faces.")] = 40,
    columns: Annotated[int, typer.Option(min=1, help="Faces in a row.")] = 8,
    size: Annotated[int, typer.Option(min=32, max=512, help="Side of the crop in pixels; drawn twice as large.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Another seed shows other faces, augmented differently.")] = 0,
) -> None:
    """Draw augmented faces, as training sees them.

    Green discs are visible points, red rings hidden ones; the white square is the canonical image's outline.
    """
    from facemsm.data.augment import Augmentation
    from facemsm.data.preview import preview as draw

    samples = load_dataset(name, root, split or next(iter(find_dataset(name).splits)), boxes, scheme)
    if not samples:
        raise FacemsmError(f"{root}: holds no face to draw")
    setting = Augmentation.full() if augmentation == "full" else Augmentation.paper()
    landmarks = dataset_scheme(name, scheme)
    write_image(output, draw(samples, landmarks, setting, columns=columns, size=size, seed=seed, count=count))
    print(f"{output}: {min(count, len(samples))} faces")


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
    lines += [f"warning: {warning}" for warning in found.warnings]
    count = len(found.problems)
    lines.append(f"{count or 'no'} fault{'s' if count > 1 else ''}")
    for line in lines + found.problems:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
