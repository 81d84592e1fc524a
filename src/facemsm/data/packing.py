"""Faces of data sets, collected to be packed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from facemsm.data.catalogue import dataset_scheme, find_dataset, load_dataset
from facemsm.data.pack import Packed
from facemsm.data.sources import Source, faces_per_photo, photo_key


def packed_faces(sources: Sequence[Source], scheme: str | None = None) -> Iterator[Packed]:
    """The faces of data sets with both of their boxes, in order; photos are not opened.

    Args:
        sources: the data sets; their shares are not used.
        scheme: landmark scheme, for data sets that may have any.

    Raises:
        FacemsmError: a data set cannot be read.
    """
    for source in sources:
        own = scheme if find_dataset(source.name).scheme is None else None
        faces = load_dataset(source.name, source.root, source.split, "gt", own)
        provided = {}
        if find_dataset(source.name).provided_boxes:
            found = load_dataset(source.name, source.root, source.split, "provided", own)
            provided = {face.name: face.box for face in found}
        shared = faces_per_photo(faces)
        for face in faces:
            key = photo_key(face, shared)
            yield Packed(face, source.name, dataset_scheme(source.name, own).name, key, provided.get(face.name))
