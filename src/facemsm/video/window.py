"""A window that shows frames as they are made: Tk's, as most Pythons have it. OpenCV's headless build has none."""

from __future__ import annotations

import cv2
import numpy as np

from facemsm.errors import FacemsmError
from facemsm.typing import Image

_SHARE = 0.8
"""Of the screen's sides that a frame may take."""

_INSTEAD = "leave --show out, or see the camera live on the page: facemsm serve --open"


class Window:
    """Shows one frame after the other, until it is closed."""

    def __init__(self, title: str) -> None:
        """Open it.

        Raises:
            FacemsmError: this Python has no Tk, or there is no screen.
        """
        try:
            import tkinter as tk

            from PIL import ImageTk
        except ImportError as error:
            raise FacemsmError(
                f"--show needs Tk, which this Python lacks ({error}): apt install python3-tk (Debian, Ubuntu), brew "
                f"install python-tk (macOS); or {_INSTEAD}"
            ) from error
        try:
            self._root = tk.Tk()
        except tk.TclError as error:
            raise FacemsmError(f"--show: there is no screen to open a window on ({error}); {_INSTEAD}") from error
        self._root.title(f"{title} (Esc ends it)")
        self._picture = ImageTk.PhotoImage
        self._label = tk.Label(self._root, borderwidth=0, background="black")
        self._label.pack(fill="both", expand=True)
        self._limit = _SHARE * self._root.winfo_screenwidth(), _SHARE * self._root.winfo_screenheight()
        self._open = True
        self._root.protocol("WM_DELETE_WINDOW", self._end)
        for key in ("<Escape>", "q"):
            self._root.bind(key, lambda _: self._end())

    def _end(self) -> None:
        self._open = False

    def show(self, image: Image) -> bool:
        """Show a frame (H, W, 3) uint8 RGB, made smaller if the screen is. Returns whether the window stays open."""
        from PIL import Image as Pictures

        height, width = image.shape[:2]
        scale = min(1.0, self._limit[0] / width, self._limit[1] / height)
        if scale < 1:
            size = max(1, round(scale * width)), max(1, round(scale * height))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        self._frame = self._picture(Pictures.fromarray(image), master=self._root)  # Tk does not keep it
        self._label.configure(image=self._frame)
        self._root.update()
        return self._open

    def close(self) -> None:
        """Close it, if that has not been done."""
        self._root.destroy()
