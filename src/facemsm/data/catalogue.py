"""Data sets by name: their reader, landmark scheme, splits and published counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from facemsm.data import annotation_tools, coco, cofw, cofw68, dlib, ibug, jd106, menpo, pack, table, threed, wflw
from facemsm.data.reading import DatasetItem, faces, need_photos
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.errors import FacemsmError
from facemsm.schemes import LandmarkScheme, get_scheme
from facemsm.typing import PathLike

Reader = Callable[[Path, str, BoxSource, LandmarkScheme], Iterator[DatasetItem]]
"""(root, split, box source, landmark scheme) -> faces and errors; see :mod:`facemsm.data.reading`."""


@dataclass(frozen=True)
class DataSet:
    """What is known about a data set before it is opened.

    Attributes:
        read: its reader.
        splits: published number of faces of each split, None where none is published.
        scheme: name of its landmark scheme; None where the user says which.
        provided_boxes: whether it comes with face boxes of its own.
        about: what it is and where it is had; nothing for anybody's own.
    """

    read: Reader
    splits: Mapping[str, int | None]
    scheme: str | None
    provided_boxes: bool = True
    about: str = ""


def _coco_split(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:
    return coco.read_coco(root / f"{split}.json", box_source, scheme)


def _coco_file(root: Path, split: str, box_source: BoxSource, scheme: LandmarkScheme) -> Iterator[DatasetItem]:  # noqa: ARG001
    return coco.read_coco(root, box_source, scheme)


CATALOGUE: Mapping[str, DataSet] = {
    "300w": DataSet(
        ibug.read_300w,
        {
            **{"train": 3148, "common": 554, "challenge": 135, "full": 689},
            **{"afw": 337, "helen/trainset": 2000, "lfpw/trainset": 811},
            **{"helen/testset": 330, "lfpw/testset": 224, "ibug": 135},
        },
        "68",
        about="photos of LFPW, HELEN, AFW and IBUG with points: https://ibug.doc.ic.ac.uk/resources/facial-point-annotations",
    ),
    "300w-private": DataSet(
        ibug.read_private,
        {"indoor": 300, "outdoor": 300, "full": 600},
        "68",
        about="the test set of the 300-W challenge: https://ibug.doc.ic.ac.uk/resources/300-W",
    ),
    "merl-rav": DataSet(
        ibug.read_merl_rav,
        {"train": 15449, "test": 3865},
        "68",
        provided_boxes=False,
        about="AFLW's photos with points and visibility: https://github.com/abhi1kumar/MERL-RAV_dataset",
    ),
    "cofw": DataSet(
        cofw.read_cofw,
        {"train": 1345, "test": 507},
        "29",
        about="faces under occlusion: https://data.caltech.edu/records/20099",
    ),
    "cofw68": DataSet(
        cofw68.read_cofw68,
        {"test": 507},
        "68",
        about="68 points on COFW's test photos: https://github.com/golnazghiasi/cofw68-benchmark; the photos "
        "(COFW_test_color.mat): https://data.caltech.edu/records/20099",
    ),
    "wflw": DataSet(
        wflw.read_wflw,
        {
            **{"train": 7500, "test": 2500},
            **{"pose": 326, "expression": 314, "illumination": 698, "makeup": 206, "occlusion": 736, "blur": 773},
        },
        "98",
        about="WIDER FACE's photos with 98 points: https://wywu.github.io/projects/LAB/WFLW.html",
    ),
    "menpo": DataSet(
        menpo.read_menpo,
        {"semifrontal": 6679},
        "68",
        provided_boxes=False,
        about="shapes for stage 3: https://ibug.doc.ic.ac.uk/resources/2nd-facial-landmark-tracking-competition-menpo-ben",
    ),
    "shapes": DataSet(
        menpo.read_shapes,
        {"300w_train": 3148, "menpo_semifrontal": 6679},
        "68",
        provided_boxes=False,
        about="shapes of 300-W and Menpo without photos, for stage 3, in .npz files that you make of those sets; 300w "
        "and menpo themselves will do",
    ),
    "aflw2000": DataSet(
        _coco_split,
        {"train": None, "val": None},
        "68",
        about="MERL-RAV's labels of AFLW2000's photos as COCO files, which you make ('facemsm data convert merl-rav'): "
        "https://github.com/abhi1kumar/MERL-RAV_dataset",
    ),
    "ytf": DataSet(_coco_split, {"train": None, "val": None}, "68"),
    "300w-lp": DataSet(threed.read_3d, {"all": 122450}, "68", provided_boxes=False),
    "aflw2000-3d": DataSet(threed.read_3d, {"all": 2000}, "68", provided_boxes=False),
    "lapa": DataSet(jd106.read_lapa, {"train": 18176, "val": 2000, "test": 2000}, "68", provided_boxes=False),
    "jd106": DataSet(jd106.read_jd106, {"all": None}, "68", provided_boxes=False),
    "coco": DataSet(_coco_file, {"all": None}, None),
    "csv": DataSet(table.read_csv, {"all": None}, None),
    "pts": DataSet(ibug.read_pts_tree, {"all": None}, None, provided_boxes=False),
    "dlib": DataSet(dlib.read_dlib, {"all": None}, None),
    "hrnet": DataSet(table.read_hrnet, {"all": None}, None, provided_boxes=False),
    "labelme": DataSet(annotation_tools.read_labelme, {"all": None}, None, provided_boxes=False),
    "cvat": DataSet(annotation_tools.read_cvat, {"all": None}, None, provided_boxes=False),
    "label-studio": DataSet(annotation_tools.read_label_studio, {"all": None}, None, provided_boxes=False),
    "pack": DataSet(pack.read_pack, dict.fromkeys((*pack.SETS, "all")), None),
}
"""Data sets by name. ``aflw2000`` and ``ytf`` are folders with train.json and val.json, COCO keypoints; those from
``coco`` on are anybody's own, files or folders of these formats; ``pack`` is a file of :mod:`facemsm.data.pack`, whose
splits are the sets in it."""

OWN = [name for name, entry in CATALOGUE.items() if entry.scheme is None and name != "pack"]
"""Names of formats of anybody's own."""

WAY_IN = (
    f"formats of one's own that are read: {', '.join(OWN)}; "
    "any other can be written as a csv table with the columns image, x0, y0, x1, y1, ..."
)
"""What is said of files in no format that is known."""

_SIGNS: Sequence[tuple[str, str]] = (
    ("hrnet", r"image_name,.*\boriginal_0_x\b"),
    ("csv", r"(.*,)?image,.*\bx0\b|.*\bx0,y0,.*\bimage\b"),
    ("pts", r"version:\s*1"),
    ("jd106", r"106\s*\n\s*-?[\d.]+\s+-?[\d.]+\s*\n"),
    ("dlib", r"(<\?[^>]*>\s*)*<dataset\b"),
    ("cvat", r"(<\?[^>]*>\s*)*<annotations\b"),
    ("label-studio", r"\[\s*\{(?s:.*?)\"(annotations|data)\""),
    ("labelme", r"\{(?s:.*?)\"shapes\"\s*:\s*\["),
    ("coco", r"\{(?s:.*?)\"(images|annotations|categories)\"\s*:\s*\["),
)
"""How the files of a format begin."""


def recognise(path: Path) -> str | None:
    """Which format a file is in, or the first file that is known in a folder; None where nothing is known."""
    if path.is_dir():
        files = (file for file in sorted(islice(path.rglob("*"), 1000)) if file.suffix.lower() in _SUFFIXES)
        return next((name for file in files if (name := recognise(file))), None)
    if path.is_fifo():  # which may never begin
        return None
    try:
        with path.open("rb") as file:
            start = file.read(4096).decode("utf-8-sig", errors="replace").lstrip()
    except OSError:
        return None
    return next((name for name, sign in _SIGNS if re.match(sign, start)), None)


_SUFFIXES = {".csv", ".json", ".pts", ".txt", ".xml"}


def load_dataset(
    name: str,
    root: PathLike,
    split: str,
    box_source: BoxSource = "gt",
    scheme: PathLike | LandmarkScheme | None = None,
    *,
    photos: bool = True,
) -> list[FaceSample]:
    """The faces of one split. Photos are not opened until a sample's ``load``.

    Args:
        name: a name in ``CATALOGUE``.
        root: the folder (or file) the data set lies in.
        split: one of the data set's splits; their parts are read as far as they are there.
        box_source: ``gt`` for ground-truth boxes (300-W's own where its box files are there, else tight around the
            labelled points), ``provided`` for the data set's own.
        scheme: landmark scheme (its name, its ``.toml`` file or itself), where the data set does not fix it.
        photos: whether photos must be there; without them, labels can still be compared with predictions.

    Raises:
        FacemsmError: unknown name or split, nothing there, or the first fault in its files.
    """
    return faces(read_items(name, root, split, box_source, scheme, photos=photos))


def read_items(
    name: str,
    root: PathLike,
    split: str,
    box_source: BoxSource = "gt",
    scheme: PathLike | LandmarkScheme | None = None,
    *,
    photos: bool = True,
) -> Iterator[DatasetItem]:
    """As :func:`load_dataset`, but everything that is there, errors and skipped faces included.

    Raises:
        FacemsmError: unknown name, split or scheme, or a combination that cannot be.
    """
    dataset = find_dataset(name)
    if split not in dataset.splits:
        raise FacemsmError(f"{name} has no split {split!r}: use one of {', '.join(dataset.splits)}")
    if box_source == "detector":
        raise FacemsmError(
            "data sets hold no detector boxes: use boxes 'gt' or 'provided' and run the detector on them"
        )
    if box_source == "provided" and not dataset.provided_boxes:
        raise FacemsmError(f"{name} provides no face boxes: use boxes 'gt'")
    items = dataset.read(Path(root), split, box_source, dataset_scheme(name, scheme))
    return _naming_the_way_in(need_photos(items) if photos else items, name, Path(root))


def _naming_the_way_in(items: Iterator[DatasetItem], name: str, root: Path) -> Iterator[DatasetItem]:
    """The items. An error that ends them says which name reads the file if another one does, or which formats are
    read if nobody knows the file's."""
    try:
        for item in items:
            yield replace(item, convention=item.convention or name) if isinstance(item, FaceSample) else item
    except FacemsmError as error:
        other = recognise(root)
        if other and other != name:
            raise type(error)(f"{error}; it looks like the format that is read by the name {other!r}") from error
        if other is None and root.exists() and name in OWN:
            raise type(error)(f"{error}; {WAY_IN}") from error
        raise


def find_dataset(name: str) -> DataSet:
    """The entry called ``name``.

    Raises:
        FacemsmError: there is none.
    """
    if name not in CATALOGUE:
        raise FacemsmError(f"no data set {name!r}: use one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def only_split(name: str) -> str:
    """The split of a data set that has one only.

    Raises:
        FacemsmError: it has several, or there is no such data set.
    """
    splits = list(find_dataset(name).splits)
    if len(splits) > 1:
        raise FacemsmError(f"{name} has several splits: say --split {', '.join(splits)}")
    return splits[0]


def dataset_scheme(name: str, scheme: PathLike | LandmarkScheme | None = None) -> LandmarkScheme:
    """The landmark scheme of a data set; ``scheme`` is needed where the data set has any.

    Raises:
        FacemsmError: ``scheme`` is missing, unknown, or not the data set's.
    """
    fixed = find_dataset(name).scheme
    if fixed is None and scheme is None:
        raise FacemsmError(f"{name} may have any landmark scheme: say which, 29, 68, 98 or a .toml file")
    asked = scheme.name if isinstance(scheme, LandmarkScheme) else scheme
    if fixed and asked and str(asked) != fixed:
        raise FacemsmError(f"{name} has scheme {fixed}, not {asked}")
    return get_scheme(fixed or scheme or "")
