"""The one exception that facemsm raises for input it cannot use."""


class FacemsmError(ValueError):
    """Unusable input. ``str(error)`` is one line: which file, line or field is wrong, and what to do about it."""
