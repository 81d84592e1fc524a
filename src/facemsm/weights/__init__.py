"""The bundled models, a folder each, and the face detector."""

from pathlib import Path

WEIGHTS = Path(__file__).parent
