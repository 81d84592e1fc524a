"""The bundled sample photo."""

from pathlib import Path

import numpy as np

SAMPLE = Path(__file__).with_name("sample.jpg")
"""Its path."""

SAMPLE_BOX = np.array([180, 87, 273, 179], np.float32)
"""Box of the face in it, photo pixels."""
