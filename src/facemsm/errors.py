"""The one exception that facemsm raises for input it cannot use."""


class FacemsmError(ValueError):
    """Unusable input. ``str(error)`` is one line: which file, line or field is wrong, and what to do about it."""


class AbsentError(FacemsmError):
    """A whole file or folder of a data set is not there: an incomplete copy rather than a broken one."""
