"""The work of ``facemsm align`` on a Ray cluster (extra ``ray``)."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facemsm.batch.pipeline import Outcome, Photo, PhotoAligner
from facemsm.errors import FacemsmError

if TYPE_CHECKING:
    from ray.data import Dataset

BLOCK = 64
"""Photos that a worker takes at once, and that are done again if it dies."""

_STORE = 100 << 20  # paths and points are small; Ray would take a third of the memory


def import_ray() -> Any:
    """The module ``ray``, with all of it that is used here.

    Raises:
        FacemsmError: it is not installed.
    """
    try:
        import pyarrow  # noqa: F401
        import ray.data
    except ModuleNotFoundError as error:
        raise FacemsmError(f'Ray needs the module {error.name!r}: pip install "facemsm[ray]"') from error
    return ray


def align_dataset(photos: Dataset, *, workers: int | None = None, **options: Any) -> Dataset:
    """Align the photos of a Ray dataset, lazily, on a pool of workers. A worker that dies is replaced.

    Args:
        photos: rows with ``image``, a path that all nodes can read, and optionally ``boxes``, the ``4 N`` numbers of N
            boxes, or None for the detector; and ``data``, the bytes of the photo, whose path is then just a name.
        workers: one CPU each; all of the cluster's if None.
        options: as for :class:`facemsm.batch.pipeline.PhotoAligner`, except ``threads``.

    Returns:
        A row for each photo, with the fields of :class:`facemsm.batch.pipeline.Outcome`; ``line`` is JSON.

    Raises:
        FacemsmError: Ray is not installed.
    """
    ray = import_ray()
    folder = os.getcwd()  # noqa: PTH109  (relative paths are meant from here, wherever a worker starts)
    aligned: Dataset = photos.map(
        _Worker,
        fn_constructor_args=(folder, options),
        compute=ray.data.ActorPoolStrategy(size=workers or _cpus()),
        num_cpus=1,
    )
    return aligned


def align_photos(
    photos: Iterable[Photo], options: Mapping[str, Any], *, address: str, workers: int | None = None
) -> Generator[Outcome, None, None]:
    """What became of each photo, in their order.

    Args:
        photos: their paths are held in the memory of this process.
        options: as for :class:`facemsm.batch.pipeline.PhotoAligner`.
        address: of a Ray cluster, or "local" for one that lives as long as the iterator. If this process is connected
            to a cluster already, that one is used.
        workers: as for :func:`align_dataset`; for "local" also the cluster's CPUs.

    Raises:
        FacemsmError: Ray is not installed, there is no such cluster, or what is wrong is not one photo's.
    """
    ray = import_ray()
    import pyarrow

    boxes = pyarrow.list_(pyarrow.float32())
    schema = pyarrow.schema({"image": pyarrow.string(), "boxes": boxes, "data": pyarrow.large_binary()})
    photos = iter(photos)
    blocks = []
    while rows := [_row(photo) for photo in islice(photos, BLOCK)]:
        blocks.append(pyarrow.Table.from_pylist(rows, schema=schema))
    if not blocks:
        return
    connected = ray.is_initialized()
    if not connected:
        _connect(address, workers)
    try:
        dataset = align_dataset(ray.data.from_arrow(blocks), workers=min(workers or _cpus(), len(blocks)), **options)
        dataset.context.execution_options.preserve_order = True
        dataset.context.enable_progress_bars = False
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from (Outcome(**row) for row in batch.to_pylist())
    except ray.exceptions.RayError as error:
        raise FacemsmError(f"Ray: {str(error).strip().splitlines()[-1]}") from error
    finally:
        if not connected:
            ray.shutdown()


class _Worker:
    def __init__(self, folder: str, options: Mapping[str, Any]) -> None:
        os.chdir(folder)
        self._align = PhotoAligner(**options)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        boxes = row.get("boxes")
        given = None if boxes is None else np.asarray(boxes, np.float32).reshape(-1, 4)
        try:
            outcome = self._align(Photo(Path(row["image"]), given, row.get("data")))
        except FacemsmError as error:  # its picture; perhaps another node can write it
            outcome = Outcome(row["image"], failure=str(error))
        return asdict(outcome)


def _row(photo: Photo) -> dict[str, Any]:
    boxes = None if photo.boxes is None else photo.boxes.ravel().tolist()
    return {"image": photo.path.as_posix(), "boxes": boxes, "data": photo.data}


def _cpus() -> int:
    return max(1, int(import_ray().cluster_resources().get("CPU", 1)))


def _connect(address: str, workers: int | None) -> None:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what it says of itself is in its own log files
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    settings: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "error"}
    if address == "local":
        settings |= {"num_cpus": workers, "object_store_memory": _STORE, "include_dashboard": False}
    try:
        import_ray().init(**settings)
    except Exception as error:  # Ray raises just that if its own processes do not start in time
        raise FacemsmError(
            f"--ray {address}: cannot reach or start a cluster ({' '.join(str(error).split())[:200]})"
        ) from error
