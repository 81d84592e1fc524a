"""What one request, and all of them together, may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The defaults hold the memory below about 1 GB, whatever is sent.

    Attributes:
        upload_bytes: the whole body of a request.
        pixels: width times height of a photo, by its header, before anything is decoded.
        faces: boxes in a request, and faces that are taken from the detector, best first.
        requests: photos that wait or are worked on; the next one is answered 503. Uploads on their way may hold as
            many bytes as these.
        seconds: from a request's first byte to the last of its answer.
    """

    upload_bytes: int = 24_000_000
    pixels: int = 64_000_000
    faces: int = 50
    requests: int = 12
    seconds: float = 30.0
