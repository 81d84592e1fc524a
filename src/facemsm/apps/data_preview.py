"""``facemsm data preview``: look at what training sees."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from facemsm.data.augment import Crop
    from facemsm.schemes import LandmarkScheme
    from facemsm.typing import Image


class Setting(str, Enum):
    """What ``--augmentation`` takes."""

    paper = "paper"
    full = "full"


class Boxes(str, Enum):
    """Where face boxes come from."""

    gt = "gt"
    provided = "provided"


def preview(
    name: Annotated[str, typer.Argument(help="Data set, as in facemsm data check.")],
    root: Annotated[Path, typer.Argument(help="The folder it lies in; the file itself for coco and csv.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")] = Path("preview.png"),
    split: Annotated[str | None, typer.Option(help="Which split.", show_default="the first")] = None,
    boxes: Annotated[
        Boxes,
        typer.Option(help="gt: 300-W's own true boxes, else tight around the points; provided: the data set's own."),
    ] = Boxes.gt,
    scheme: Annotated[
        str | None,
        typer.Option(help="Landmark scheme of coco, csv and pts: 29, 68, 98 or a .toml file.", show_default=False),
    ] = None,
    augmentation: Annotated[
        Setting, typer.Option(help="paper: flip, turn, scale and colour; full: occluders and camera faults too.")
    ] = Setting.full,
    count: Annotated[int, typer.Option(min=1, help="How many faces.")] = 40,
    columns: Annotated[int, typer.Option(min=1, help="Faces in a row.")] = 8,
    size: Annotated[int, typer.Option(min=32, max=512, help="Side of the crop in pixels; drawn twice as large.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Another seed shows other faces, augmented differently.")] = 0,
) -> None:
    """Draw augmented faces, as training sees them.

    Green discs are visible points, red rings hidden ones; the white square is the canonical image's outline.
    """
    import numpy as np

    from facemsm.data.augment import Augmentation, augment_crop, jitter_matrix, take_crop
    from facemsm.data.catalogue import dataset_scheme, find_dataset, load_dataset
    from facemsm.geometry import box_to_crop, compose
    from facemsm.imaging.io import write_image

    landmarks = dataset_scheme(name, scheme)
    samples = load_dataset(name, root, split or next(iter(find_dataset(name).splits)), boxes.value, scheme)
    setting = Augmentation.full() if augmentation is Setting.full else Augmentation.paper()
    rng = np.random.default_rng(seed)
    tiles = []
    for i in rng.permutation(len(samples))[:count]:
        sample = samples[i]
        jitter, flipped = jitter_matrix(setting, rng, size)
        matrix = compose(jitter, box_to_crop(sample.box, size))
        crop = take_crop(
            sample.load(), sample.points, sample.visibility, matrix, size, flip_table=landmarks.flip, flipped=flipped
        )
        tiles.append(draw_crop(augment_crop(crop, setting, rng, landmarks), landmarks))
    shown = len(tiles)
    tiles += [np.zeros_like(tiles[0])] * (-shown % columns)
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    write_image(output, np.concatenate(rows))
    print(f"{output}: {shown} faces")


def draw_crop(crop: Crop, scheme: LandmarkScheme, zoom: int = 2) -> Image:
    """A crop, ``zoom`` times as large, with its points and the outline of its canonical image.

    Returns:
        (zoom * S, zoom * S, 3) uint8 RGB.
    """
    import cv2
    import numpy as np

    from facemsm.geometry import apply_affine, canonical_matrix, invert
    from facemsm.schemes import OCCLUDED

    size = len(crop.image)
    canvas = np.asarray(cv2.resize(crop.image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC), np.uint8)
    shift = 4  # OpenCV draws at 1/16 pixel; pixel x of the crop is centred at zoom * x + (zoom - 1) / 2 of the canvas
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * size - 0.5
    outline = apply_affine(invert(canonical_matrix(crop.points, scheme, size)), corners)
    labelled = np.isfinite(crop.points).all(axis=1)
    places = np.concatenate([crop.points[labelled], outline])
    fixed = np.rint((zoom * places + (zoom - 1) / 2) * 2**shift).astype(np.int32)
    cv2.polylines(canvas, [fixed[-4:]], True, (255, 255, 255), 1, cv2.LINE_AA, shift)
    hidden = np.zeros(labelled.sum(), bool) if crop.visibility is None else crop.visibility[labelled] == OCCLUDED
    for centre, ring in zip(fixed[:-4].tolist(), hidden, strict=True):
        if ring:
            cv2.circle(canvas, centre, 40, (255, 50, 50), 1, cv2.LINE_AA, shift)
        else:
            cv2.circle(canvas, centre, 20, (60, 255, 60), cv2.FILLED, cv2.LINE_AA, shift)
    return canvas
