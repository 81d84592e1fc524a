"""The one exception that facemsm raises for input it cannot use, and the check of numbers that come from outside."""

from __future__ import annotations

import math
import re
from numbers import Integral, Real

_UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class FacemsmError(ValueError):
    """Unusable input. ``str(error)`` is one line: which file, line or field is wrong, and what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class AbsentError(FacemsmError):
    """A whole file or folder of a data set is not there: an incomplete copy rather than a broken one."""


class StorageError(FacemsmError):
    """Nothing more can be written there: the disk is full, broken, or may only be read."""


def printable(text: str) -> str:
    r"""``text`` with the characters that command a terminal or end a line as escapes such as ``\n``.

    Names of files may hold them: to move the cursor, to colour, to turn the direction of writing, to forge lines.
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def check_number(name: str, value: object, low: float, high: float = math.inf, *, whole: bool = False) -> None:
    """Refuse a value that is no finite number from ``low`` to ``high``, or not a whole one.

    Raises:
        FacemsmError: names the value, and what is expected.
    """
    number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if number and low <= value <= high and value not in (math.inf, -math.inf):  # type: ignore[operator]
        return
    kind = "a whole number" if whole else "a number"
    limits = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
    raise FacemsmError(f"{name} is {short(value)}, expected {kind} {limits}")


def short(value: object) -> str:
    """A value as an error's line shows it, whatever its length."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def first_line(error: Exception) -> str:
    """Of what somebody else's exception says; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
