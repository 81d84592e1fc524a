"""Faces as a stream of training examples that can be entered at any step.

Example number n of a run is a function of the seed and n alone: which face, which augmentation. A run that is resumed
at step k asks for the examples from ``k * batch_size`` on and sees what it would have seen without the stop.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from facemsm.data.sample import FaceSample
from facemsm.training.faces import Faces

Example = dict[str, Any]
MakeExample = Callable[[FaceSample, np.random.Generator], Example]
"""Turns a face into one example (arrays by name) with the given source of chance."""


PHOTO_MEMORY = 1 << 30
"""Bytes of decoded photos that each process which prepares examples keeps."""


class ExampleStream(Dataset[Example]):
    """Example n, for n from 0 to ``total``.

    Decoding a JPEG costs more than any other step of preparing an example, so the photos seen first stay in memory as
    long as ``memory`` bytes suffice. To replace old ones by new ones would not help: each is seen once per epoch.
    """

    def __init__(self, faces: Faces, make: MakeExample, *, total: int, seed: int, memory: int = PHOTO_MEMORY) -> None:
        self.faces, self.make, self.total, self.seed = faces, make, total, seed
        self._kept: dict[int, FaceSample] = {}
        self._room = memory
        # Where each epoch begins: sources may leave on the way, which makes later epochs shorter.
        self._orders: list[np.ndarray] = []
        self._starts = [0]
        while self._starts[-1] < total:
            order = faces.epoch(len(self._orders), self._starts[-1] / total, seed)
            self._orders.append(order)
            self._starts.append(self._starts[-1] + len(order))

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, n: int) -> Example:
        epoch = int(np.searchsorted(self._starts, n, side="right")) - 1
        face = self._face(int(self._orders[epoch][n - self._starts[epoch]]))
        return self.make(face, np.random.default_rng((self.seed, 1, n)))

    def _face(self, i: int) -> FaceSample:
        """Training face ``i``, with its photo in memory while there is room."""
        face = self._kept.get(i, self.faces.training[i])
        if self._room > 0 and i not in self._kept:
            photo = face.load()
            self._room -= photo.nbytes
            face = self._kept[i] = replace(face, image=lambda: photo)
        return face


class FixedExamples(Dataset[Example]):
    """One example of each validation face, the same every time."""

    def __init__(self, samples: list[FaceSample], make: MakeExample) -> None:
        self.samples, self.make = samples, make

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, n: int) -> Example:
        return self.make(self.samples[n], np.random.default_rng((0, 2, n)))


class ResumableSampler(Sampler[int]):
    """Counts from ``start`` to ``total``, this process's share of every batch.

    Its length is the whole run's wherever it starts: a resumed trainer adds the batches done before.
    """

    def __init__(self, start: int, total: int, *, batch: int, rank: int = 0, world: int = 1) -> None:
        self.start, self.total, self.batch, self.rank, self.world = start, total, batch, rank, world

    def __len__(self) -> int:
        return self.total // self.world

    def __iter__(self) -> Iterator[int]:
        for first in range(self.start, self.total - self.batch * self.world + 1, self.batch * self.world):
            yield from range(first + self.rank * self.batch, first + (self.rank + 1) * self.batch)


def loader(dataset: Dataset[Example], *, batch: int, workers: int, sampler: Sampler[int] | None = None) -> Any:
    """A DataLoader whose workers leave the cores to training (one OpenCV thread each) and signals to its process."""
    return DataLoader(
        dataset,
        batch_size=batch,
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=_quiet_worker,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )


def stop_workers(data: Any) -> None:
    """End a DataLoader's processes. They ignore signals, so a run that is stopped amid a validation would wait for them
    for ever."""
    iterator = getattr(data, "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()


def _quiet_worker(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes of a run; the step under way needs its batch
        signal.signal(number, signal.SIG_IGN)
