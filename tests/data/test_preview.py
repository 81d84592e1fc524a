from __future__ import annotations

from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from facemsm import load_dataset, load_model, read_image
from facemsm.apps.data import app
from facemsm.data.augment import Augmentation, Crop
from facemsm.data.preview import draw_crop, preview
from facemsm.schemes import OCCLUDED, SCHEME_68, VISIBLE
from official_files import write_300w

SIZE = 128


def test_preview_marks_hidden_points() -> None:
    points = load_model("68").dictionary().shapes[0]
    visibility = np.full(68, VISIBLE, np.int8)
    visibility[60] = OCCLUDED
    start = Crop(np.zeros((SIZE, SIZE, 3), np.uint8), points, visibility)
    drawn = draw_crop(start, SCHEME_68)
    assert drawn.shape == (2 * SIZE, 2 * SIZE, 3)
    assert drawn[..., 0].max() > 200  # a red ring
    x, y = np.rint(2 * points[0] + 0.5).astype(int)
    assert drawn[y, x, 1] > 200  # a green disc


def test_preview_of_real_faces(data_root: Path) -> None:
    samples = load_dataset("aflw2000", data_root / "aflw2000", "val")
    picture = preview(samples, SCHEME_68, Augmentation.full(), count=5, columns=3, size=64)
    assert picture.shape == (256, 384, 3)
    assert picture.std() > 20
    assert not picture[128:, 256:].any()  # the sixth


def test_the_command_draws_a_preview(tmp_path: Path) -> None:
    write_300w(tmp_path / "300w")
    options = ["--count", "2", "--columns", "3", "--size", "32", "--augmentation", "paper"]
    words = ["preview", "300w", str(tmp_path / "300w"), "-o", str(tmp_path / "a.png"), "--split", "afw", *options]
    run = CliRunner().invoke(app, words)
    assert run.output == f"{tmp_path / 'a.png'}: 2 faces\n"
    assert read_image(tmp_path / "a.png").shape == (64, 192, 3)
