"""Training as a user runs it: settings, data, the commands, stopping and going on, and what goes wrong on the way."""

from __future__ import annotations

import csv
import errno
import json
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from facemsm.aligner import Aligner
from facemsm.apps.cli import main
from facemsm.data.augment import Augmentation
from facemsm.data.coco import write_coco
from facemsm.data.completion import to_68
from facemsm.data.sample import BoxSource, FaceSample
from facemsm.data.sources import Source
from facemsm.errors import FacemsmError
from facemsm.geometry import tight_box
from facemsm.heatmaps import HeatmapCodec
from facemsm.hourglass.losses import gaussians
from facemsm.hourglass.network import HEATMAP_SIZE, INPUT_SIZE, HourglassConfig, StackedHourglass
from facemsm.hourglass.training import HourglassModule, HourglassTraining
from facemsm.resnet50.network import ResNet50, ResNet50Config
from facemsm.schemes import SCHEME_68, SCHEME_98, LandmarkScheme, get_scheme, relation, scheme_from_dict
from facemsm.shapes.dictionary import ShapeDictionary
from facemsm.stgan.training import STGANModule, STGANTraining
from facemsm.training import trial
from facemsm.training.config import Schedule, as_json, from_mapping, override
from facemsm.training.faces import Faces, load_faces, to_consensus
from facemsm.training.run import (
    AtomicCheckpointIO,
    StageModule,
    fit,
    running_mean,
)
from facemsm.training.stream import ExampleStream, ResumableSampler, loader
from facemsm.training.transfer import start_from
from facemsm.training.weights import load_weights, read_notes, save_weights
from synthetic_faces import write_faces

STILL = Augmentation(flip=0, rotation=0, scale=0, brightness=0, contrast=0, saturation=0, hue=0)
TINY = HourglassConfig(68, width=8, stacks=2, depth=2, stem=4, body_size=32, deconvolution=2)
SCHEDULE = Schedule(
    steps=7, batch_size=2, learning_rate=1e-3, decay="cosine", warmup=2, ema=0.3, validate_every=3, workers=0, threads=1
)
"""The running mean warms up for two steps and has its decay from then on."""
CHECKPOINT = "last.ckpt"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of drawn faces, in the form of ``aflw2000``."""
    folder = tmp_path_factory.mktemp("drawn")
    write_faces(folder, 10)
    return folder


@pytest.fixture(autouse=True)
def small_discriminator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Table II's is thirty times the generator and would take most of the tests' time."""
    monkeypatch.setattr("facemsm.stgan.networks.DISCRIMINATOR_WIDTHS", (4, 4, 8, 8, 8, 8))


def faces_of(folder: Path, box_source: BoxSource = "gt") -> Faces:
    return load_faces([Source("aflw2000", str(folder), "train")], box_source=box_source, holdout=0.3)


def hourglass(folder: Path, schedule: Schedule = SCHEDULE, **settings: Any) -> StageModule:
    config = HourglassTraining(TINY, schedule, Augmentation.full(), **settings)
    return HourglassModule(config, get_scheme("68"), faces_of(folder))


def stgan(folder: Path, schedule: Schedule = SCHEDULE) -> StageModule:
    config = STGANTraining(schedule, Augmentation.full(), b=0.1, alone=0.4)  # the discriminator joins at step 4
    return STGANModule(config, get_scheme("68"), faces_of(folder, "provided"))


def muon(folder: Path) -> StageModule:
    return hourglass(folder, replace(SCHEDULE, optimiser="muon"))


def train(module: Any, folder: Path, *, resume: bool = False) -> Path:
    return fit(module, module.config, folder, resume=resume, progress=False)


def at_step(module: StageModule, step: int, act: Callable[[], object]) -> StageModule:
    """Have something happen in the middle of a step, counted from 1."""
    original: Any = module.training_step

    def training_step(batch: Any, batch_idx: int) -> Any:
        if module.batches_done + 1 == step:
            act()
        return original(batch, batch_idx)

    module.training_step = training_step  # type: ignore[method-assign]
    return module


def checkpoint(folder: Path) -> dict[str, Any]:
    return AtomicCheckpointIO().load_checkpoint(folder / CHECKPOINT)


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


# --- Settings --------------------------------------------------------------------------------------------------------


def test_any_field_can_be_set() -> None:
    config = override(
        HourglassTraining.preset("paper", 68),
        [
            *("network.width=64", "schedule.learning_rate=1", "schedule.decay=cosine", "loss=weighted"),
            *("augmentation.gamma_range=[0.5, 2.0]", "augmentation.flip=0", "conventions=68", 'teacher="1"'),
        ],
    )
    assert override(config, ["conventions=null", "teacher=null"]) == replace(config, conventions="", teacher="")
    assert config.network.width == 64
    assert (config.conventions, config.teacher) == ("68", "1")  # names, numbers though they look
    assert config.schedule.learning_rate == 1.0
    assert isinstance(config.schedule.learning_rate, float)
    assert (config.schedule.decay, config.loss) == ("cosine", "weighted")
    assert config.augmentation.gamma_range == (0.5, 2.0)
    assert config.augmentation.flip == 0.0
    assert config.schedule.epochs == 300  # the rest stays


def test_a_file_of_settings_comes_before_those_of_the_command(tmp_path: Path) -> None:
    file, preset = tmp_path / "config.json", HourglassTraining.preset("lite", 68)
    file.write_text(as_json(HourglassTraining.preset("paper", 68)))  # a run's own
    assert override(preset, [], file) == HourglassTraining.preset("paper", 68)
    file.write_text('{"schedule": {"steps": 7, "seed": 3}, "augmentation": {"gamma_range": [0.5, 2]}}')
    config = override(preset, ["schedule.seed=4"], file)
    assert (config.schedule.steps, config.schedule.seed, config.augmentation.gamma_range) == (7, 4, (0.5, 2))
    assert config.network == preset.network
    for content, message in (
        ('{"schedule": {"step": 7}}', r"config\.json: schedule\.step: no field 'step'; there are epochs, steps"),
        ('{"loss": 1}', r"config\.json: loss: expected a str, such as 'weighted'"),
        ("[1]", r"config\.json: expected settings as in a run's config\.json"),
        ("{", r"config\.json: not valid JSON"),
    ):
        file.write_text(content)
        with pytest.raises(FacemsmError, match=message):
            override(preset, [], file)
    with pytest.raises(FacemsmError, match="none"):
        override(preset, [], tmp_path / "none.json")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("schedule.epochs", "expected NAME=VALUE"),
        ("schedule.speed=3", "no field 'speed'; there are epochs, steps"),
        ("loss.name=mse", "'loss' has no fields"),
        ("schedule=3", "is a group of settings, expected one of them, such as schedule.epochs"),
        ("schedule.epochs=ten", "expected a int, such as 300"),
        ("schedule.epochs=2.5", "expected a int"),
        ("schedule.ema=true", "expected a float"),
        ("augmentation.flip=2", "expected a probability"),
        ("schedule.epochs=null", "expected a int, such as 300"),
        ("schedule.decay=null", "schedule.decay is '', choose from halve, cosine"),
        ("schedule.decay=slowly", "schedule.decay is 'slowly', choose from halve, cosine"),
        ("schedule.precision=half", "schedule.precision is 'half', choose from auto, 32-true, bf16-mixed"),
        ("schedule.batch_size=0", "schedule.batch_size is 0, expected a whole number from 1"),
        ("schedule.optimiser=sgd", "schedule.optimiser is 'sgd', choose from adam, muon"),
        ("schedule.learning_rate=NaN", "schedule.learning_rate is nan, expected a number"),
        ("schedule.ema=1", "schedule.ema is 1.0, expected a number from 0 to"),
        ("schedule.seed=-1", "schedule.seed is -1, expected"),
        ("schedule.validate_every=0", "schedule.validate_every is 0, expected"),
        ("network.width=7", "width must be even"),
    ],
)
def test_settings_that_cannot_be(setting: str, message: str) -> None:
    with pytest.raises(FacemsmError, match=message) as caught:
        override(HourglassTraining.preset("paper", 68), [setting])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["network", "schedule", "augmentation"])
@pytest.mark.parametrize("preset", ["paper", "lite"])
def test_settings_survive_their_file(preset: str, part: str) -> None:
    config = HourglassTraining.preset(preset, 98)
    kept = getattr(config, part)
    assert from_mapping(type(kept), json.loads(as_json(config))[part]) == kept


def test_settings_of_another_kind_are_refused() -> None:
    with pytest.raises(FacemsmError, match=r"Schedule: .*'speed'"):
        from_mapping(Schedule, {"speed": 1})
    for value in ("128", 128.0, True, None, [128]):
        with pytest.raises(FacemsmError, match=r"HourglassConfig: width is .*, expected a int"):
            from_mapping(HourglassConfig, {"landmarks": 68, "width": value})
    for preset in (STGANTraining.preset, lambda name: HourglassTraining.preset(name, 68)):
        with pytest.raises(FacemsmError, match="no preset 'best': use paper or lite"):
            preset("best")


def test_paper_presets_are_the_paper_s() -> None:
    stage_1, stage_2 = STGANTraining.preset("paper"), HourglassTraining.preset("paper", 68)
    for schedule, epochs, halve in ((stage_1.schedule, 1000, 400), (stage_2.schedule, 300, 100)):
        assert (schedule.epochs, schedule.halve_every, schedule.decay) == (epochs, halve, "halve")
        assert (schedule.batch_size, schedule.learning_rate, schedule.weight_decay) == (16, 5e-4, 0)
    assert (stage_1.a, stage_1.b, stage_1.alone) == (1.0, 0.5, 0.0)
    assert (stage_1.discriminator_rate, stage_1.real_label, stage_1.saturating) == (1.0, 1.0, True)
    assert stage_1.generator_steps == 2
    assert (stage_2.network.width, stage_2.network.stacks, stage_2.loss) == (256, 2, "mse")
    for augmentation in (stage_1.augmentation, stage_2.augmentation):
        assert (augmentation.flip, augmentation.rotation, augmentation.scale) == (0.5, 30.0, 0.1)
        assert augmentation.patch == augmentation.blur == augmentation.shift == 0


@pytest.mark.parametrize("build", [hourglass, stgan])
def test_the_seed_decides_the_first_weights(build: Callable[..., StageModule], drawn: Path) -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.rand(3)  # whatever ran before
        weights.append(next(build(drawn, replace(SCHEDULE, seed=seed)).network.parameters()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_rate_follows_the_schedule(drawn: Path) -> None:
    halving = hourglass(drawn, replace(SCHEDULE, steps=0, epochs=7, decay="halve", halve_every=2))
    steps = halving.faces.epoch_size // SCHEDULE.batch_size
    assert [halving.rate(epoch * steps) for epoch in range(6)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    cosine = hourglass(drawn, replace(SCHEDULE, steps=100, warmup=10))
    rates = [cosine.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[10] == 1.0
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[99] < 0.02


# --- Data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("300w=data/300w:train", Source("300w", "data/300w", "train")),
        ("ytf=D:/ytf:train@0.25", Source("ytf", "D:/ytf", "train", 0.25)),
        ("ytf=data/ytf:train@0.25@0.6", Source("ytf", "data/ytf", "train", 0.25, 0.6)),
        ("aflw2000=data:train@1.6", Source("aflw2000", "data", "train", 1.6)),
        ("300w=a=b:helen/trainset@1", Source("300w", "a=b", "helen/trainset")),
    ],
)
def test_a_source_is_one_word(text: str, source: Source) -> None:
    assert Source.parse(text) == source


@pytest.mark.parametrize(
    "text",
    [
        *("", "300w", "300w=", "300w=data", "300w=data:", "300w=:train", "a=b:c@", "a=b:c@x", "a=b:c@0", "a=b:c@101"),
        *("a=b:c@0.5@0", "a=b:c@0.5@2", "a=b:c@0.5@0.5@0.5", "a=b:c@nan"),
    ],
)
def test_a_source_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(FacemsmError, match="expected NAME=ROOT:SPLIT"):
        Source.parse(text)


def stub_faces(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]]) -> None:
    """Data sets of named faces without photos."""

    def load(name: str, *_: object) -> list[FaceSample]:
        points = np.zeros((68, 2), np.float32)
        return [FaceSample(face, Path(face), np.zeros(4, np.float32), "gt", points) for face in names[name]]

    monkeypatch.setattr("facemsm.training.faces.load_dataset", load)


def test_the_holdout_is_the_same_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"helen/trainset/{i}" for i in range(400)]
    stub_faces(monkeypatch, {"300w": names, "ytf": [f"clip_{i}" for i in range(50)]})
    sources = [Source("300w", "", "train"), Source("ytf", "", "train", share=0.5)]
    faces = load_faces(sources, box_source="gt", holdout=0.25)
    held = [face.name for face in faces.validation]
    assert len(faces.training) + len(held) == 450
    assert 70 < len(held) < 130
    assert not any(name.startswith("clip") for name in held)  # partial sources are for training only
    assert np.bincount(faces.source).tolist() == [400 - len(held), 50]
    assert faces.epoch_size == 400 - len(held) + 25

    stub_faces(monkeypatch, {"300w": [*names[::-1], "new"], "ytf": []})
    again = load_faces(sources[:1], box_source="gt", holdout=0.25)
    assert {face.name for face in again.validation} - {"new"} == set(held)
    assert load_faces(sources[:1], box_source="gt", holdout=0.0).validation == []


def photos_on_both_sides(monkeypatch: pytest.MonkeyPatch, split: str, prefix: str) -> int:
    stub_faces(monkeypatch, {"300w": [f"{prefix}{i}_{k}" for i in range(60) for k in (1, 2, 3)]})
    faces = load_faces([Source("300w", "", split)], box_source="gt", holdout=0.3)
    sides = [{face.name.rsplit("_", 1)[0] for face in side} for side in (faces.training, faces.validation)]
    assert all(sides)
    return len(sides[0] & sides[1])


def test_the_faces_of_a_photo_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert photos_on_both_sides(monkeypatch, "afw", "afw/") == 0


def test_the_faces_of_an_afw_photo_stay_together_in_the_whole_of_300w(monkeypatch: pytest.MonkeyPatch) -> None:
    assert photos_on_both_sides(monkeypatch, "train", "afw/") == 0


def test_the_faces_of_one_file_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.zeros((68, 2), np.float32)
    crowd = [
        FaceSample(f"line {i}", Path(f"photo {i // 4}.jpg"), np.zeros(4, np.float32), "gt", points) for i in range(400)
    ]
    monkeypatch.setattr("facemsm.training.faces.load_dataset", lambda *_: crowd)
    faces = load_faces([Source("wflw", "", "train")], box_source="gt", holdout=0.3)
    sides = [{face.image for face in side} for side in (faces.training, faces.validation)]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_data_of_ones_own_takes_the_scheme_of_the_run(tmp_path: Path) -> None:
    write_faces(tmp_path, 3)
    (file,) = tmp_path.glob("*.json")
    source = Source("coco", str(file), "all")
    assert len(load_faces([source], box_source="gt", scheme="68", holdout=0).training) == 3
    with pytest.raises(FacemsmError):
        load_faces([source], box_source="gt", scheme="98", holdout=0)


def test_98_points_serve_as_68(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).uniform(0, 100, (98, 2)).astype(np.float32)
    face = FaceSample("a", Path("a.jpg"), np.zeros(4, np.float32), "gt", points)
    monkeypatch.setattr("facemsm.training.faces.load_dataset", lambda *_: [face])
    (served,) = load_faces([Source("wflw", "", "train")], box_source="gt", scheme="68", holdout=0).training
    np.testing.assert_array_equal(served.points, to_68(points))


def test_some_source_must_stay_to_the_end() -> None:
    faces = counted([10], [Source("300w", "", "train", until=0.5)])
    with pytest.raises(FacemsmError, match="leaves before the run ends"):
        faces.epoch(3, 0.6, 0)


def test_excluded_faces_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    stub_faces(monkeypatch, {"300w": ["a", "b", "c"]})
    sources = [Source("300w", "", "train")]
    faces = load_faces(sources, box_source="gt", holdout=0, exclude=["b"])
    assert [face.name for face in faces.training] == ["a", "c"]
    with pytest.raises(FacemsmError, match="exclude: no face is called 'd'"):
        load_faces(sources, box_source="gt", holdout=0, exclude=["b", "d"])
    with pytest.raises(FacemsmError, match="no faces to train on"):
        load_faces(sources, box_source="gt", holdout=0, exclude=["a", "b", "c"])


def counted(sizes: list[int], sources: list[Source]) -> Faces:
    owner = np.repeat(np.arange(len(sizes)), sizes)
    points = np.zeros((68, 2), np.float32)
    black = lambda: np.zeros((1, 1, 3), np.uint8)  # noqa: E731
    training = [FaceSample(str(i), black, np.zeros(4, np.float32), "gt", points) for i in range(len(owner))]
    return Faces(training, [], owner, tuple(sources))


def test_an_epoch_takes_each_source_s_share() -> None:
    faces = counted([40, 20], [Source("a", "", ""), Source("b", "", "", share=0.25, until=0.5)])
    first, again, second = faces.epoch(0, 0.0, 7), faces.epoch(0, 0.0, 7), faces.epoch(1, 0.1, 7)
    assert first.tolist() == again.tolist() != second.tolist()
    assert sorted(first[first < 40]) == list(range(40))
    assert len(set(first[first >= 40])) == 5
    assert set(first[first >= 40]) != set(second[second >= 40])  # drawn anew
    assert first.tolist() != sorted(first)
    assert faces.epoch(0, 0.0, 8).tolist() != first.tolist()
    assert sorted(faces.epoch(5, 0.5, 7)) == list(range(40))  # b has left
    often = counted([4, 10], [Source("a", "", ""), Source("b", "", "", share=2.5)])
    assert often.epoch_size == 4 + 25
    seen = np.bincount(often.epoch(0, 0.0, 7))
    assert sorted(seen[:4]) == [1] * 4
    assert sorted(seen[4:]) == [2] * 5 + [3] * 5


def test_example_n_depends_on_the_seed_and_n_alone() -> None:
    faces = counted([12], [Source("a", "", "")])

    def make(face: FaceSample, rng: np.random.Generator) -> dict[str, Any]:
        return {"face": face.name, "chance": rng.random()}

    stream = ExampleStream(faces, make, total=40, seed=3)
    in_order = [stream[n] for n in range(40)]
    assert [stream[n] for n in reversed(range(40))] == in_order[::-1]
    assert [ExampleStream(faces, make, total=40, seed=3)[n] for n in (39, 0, 17)] == [in_order[n] for n in (39, 0, 17)]
    for first in (0, 12, 24):  # every face once an epoch
        assert {example["face"] for example in in_order[first : first + 12]} == {str(i) for i in range(12)}
    assert len({example["chance"] for example in in_order}) == 40
    other = ExampleStream(faces, make, total=40, seed=4)
    assert [other[n]["face"] for n in range(40)] != [example["face"] for example in in_order]


def test_a_source_that_leaves_makes_later_epochs_shorter() -> None:
    faces = counted([10, 10], [Source("a", "", ""), Source("b", "", "", until=0.5)])
    stream = ExampleStream(faces, lambda face, _: {"face": int(face.name)}, total=80, seed=0)
    seen = [stream[n]["face"] >= 10 for n in range(80)]
    assert sum(seen[:40]) == 20
    assert not any(seen[40:])


def test_processes_share_every_batch() -> None:
    numbers = [list(ResumableSampler(0, 24, batch=3, rank=rank, world=2)) for rank in (0, 1)]
    assert numbers[0] == [0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20]
    assert sorted(numbers[0] + numbers[1]) == list(range(24))
    resumed = ResumableSampler(12, 24, batch=3, rank=1, world=2)
    assert list(resumed) == numbers[1][6:]
    assert len(resumed) == len(numbers[1])  # of the whole run, as the trainer counts


# --- The commands ----------------------------------------------------------------------------------------------------


def facemsm(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["facemsm", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


ONE_BATCH = [f"--set=schedule.{s}" for s in ("steps=1", "batch_size=2", "workers=0", "threads=1")]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "lite"])
@pytest.mark.parametrize(
    "command",
    [
        ["stgan"],
        ["hourglass", "--set", "network.width=8", "--set", "network.stem=4"],
        ["resnet50", "--set", "network.width=4"],
    ],
    ids=["stgan", "hourglass", "resnet50"],
)
def test_each_command_runs_a_batch(
    command: list[str], preset: str, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    data = ["--data", f"aflw2000={drawn}:train", "--holdout", "0.3", "--preset", preset, "--no-progress"]
    arguments = ["train", *command, *data, *ONE_BATCH, "-o", tmp_path / "run"]
    assert facemsm(monkeypatch, *arguments) == 0
    assert {file.name for file in (tmp_path / "run").iterdir()} == {
        *("best.safetensors", "config.json", "history.csv", "last.ckpt", "tensorboard")
    }
    assert json.loads((tmp_path / "run/config.json").read_text())["schedule"]["steps"] == 1
    assert len(history(tmp_path / "run")) == 1
    out, err = capfd.readouterr()
    assert err == ""  # neither tips nor warnings
    chosen = ["on"] if preset == "lite" else []
    assert [line.split()[0] for line in out.splitlines()] == ["6", *chosen, "step", "ended:", "best"]
    asked = json.loads((tmp_path / "run/config.json").read_text())["schedule"]["precision"]
    assert asked == {"paper": "32-true", "lite": "auto"}[preset]

    assert facemsm(monkeypatch, *arguments) == 2
    assert "holds a run already; resume it with --resume" in capfd.readouterr().err
    assert facemsm(monkeypatch, *arguments, "--resume") == 0
    assert "ended before: all 1 steps are done" in capfd.readouterr().out
    assert len(history(tmp_path / "run")) == 1


def test_the_dictionary_command(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    output = tmp_path / "shapes.safetensors"
    arguments = ["train", "dictionary", "--data", f"aflw2000={drawn}:train", "--count", 6, "-o", output]
    assert facemsm(monkeypatch, *arguments) == 0
    assert "6 shapes from 10 faces" in capfd.readouterr().out
    assert ShapeDictionary.load(output).shapes.shape[0] == 6
    few = write_faces(tmp_path / "few", 3)
    few[0].points[4] = np.nan
    write_coco(few, tmp_path / "few/train.json", SCHEME_68)
    assert facemsm(monkeypatch, "train", "dictionary", "--data", f"aflw2000={tmp_path}/few:train", "-o", output) == 0
    assert "4 shapes from 2 faces, 1 with unlabelled points left out" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "aflw2000=nowhere:train"], "nowhere"),
        (["--data", "aflw2000"], "expected NAME=ROOT:SPLIT"),
        (["--data", "aflw2000={drawn}:train", "--preset", "best"], "no preset 'best'"),
        (["--data", "aflw2000={drawn}:train", "--exclude", "x"], "no face is called 'x'"),
        (["--data", "aflw2000={drawn}:train", "--init", "x.safetensors"], "x.safetensors"),
        (["--data", "aflw2000={drawn}:train", "--resume"], "no last.ckpt to resume from"),
        (["--data", "aflw2000={drawn}:train", "--holdout", "0"], "no faces are held out"),
        (["--data", "aflw2000={drawn}:train", "--config", "x.json"], "x.json"),
    ],
)
def test_bad_arguments_get_one_line(
    arguments: list[str], message: str, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    filled = [argument.format(drawn=drawn) for argument in arguments]
    assert facemsm(monkeypatch, "train", "stgan", *filled, "-o", tmp_path / "run") == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    assert message in lines[0]


# --- Stopping and going on -------------------------------------------------------------------------------------------

STAGES = pytest.mark.parametrize("build", [hourglass, stgan, muon])


@pytest.fixture(scope="module")
def whole_runs(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    """A run of each stage that nothing stopped."""
    runs = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("facemsm.stgan.networks.DISCRIMINATOR_WIDTHS", (4, 4, 8, 8, 8, 8))
        for build in (hourglass, stgan, muon):
            runs[build] = tmp_path_factory.mktemp(build.__name__)
            train(build(drawn), runs[build])
    return runs


@pytest.mark.slow
@STAGES
def test_a_run_validates_its_last_step_too(build: Callable[..., StageModule], whole_runs: dict[Any, Path]) -> None:
    assert [row["step"] for row in history(whole_runs[build])] == ["3", "6", "7"]
    assert checkpoint(whole_runs[build])["batches_done"] == 7


def test_a_short_run_shows_its_loss_too(whole_runs: dict[Any, Path]) -> None:
    assert [e.step for e in events(whole_runs[hourglass]).Scalars("train/loss")] == [6]  # Lightning counts from 0


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 3, 5])
@STAGES
def test_a_stopped_run_ends_as_one_that_was_not(
    build: Callable[..., StageModule], step: int, whole_runs: dict[Any, Path], drawn: Path, tmp_path: Path
) -> None:
    """Stopped before a validation, where one is due (step 3), and after one; stage 1 without and with its adversary."""
    stopped = at_step(build(drawn), step, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(FacemsmError, match=f"stopped and saved after step {step} of 7; .*--resume") as caught:
        train(stopped, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert checkpoint(tmp_path)["batches_done"] == step

    train(build(drawn), tmp_path, resume=True)
    expected, resumed = checkpoint(whole_runs[build]), checkpoint(tmp_path)
    for weights in ("state_dict", "current_model_state", "averaging_state"):  # running mean, latest, count
        assert expected[weights].keys() == resumed[weights].keys()
        for name, tensor in expected[weights].items():
            assert torch.equal(tensor, resumed[weights][name]), name
    assert str(expected["lr_schedulers"]) == str(resumed["lr_schedulers"])
    assert history(tmp_path) == history(whole_runs[build])
    assert (tmp_path / "best.safetensors").read_bytes() == (whole_runs[build] / "best.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_stopped_in_its_validation_leaves_no_process_behind(drawn: Path, tmp_path: Path) -> None:
    module: Any = hourglass(drawn, replace(SCHEDULE, workers=1))
    original = module.validation_step

    def validation_step(batch: Any, batch_idx: int) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return original(batch, batch_idx)

    module.validation_step = validation_step
    with pytest.raises(FacemsmError, match="stopped and saved"):
        train(module, tmp_path)
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_run_ends_when_its_error_stops_falling_and_keeps_its_best(drawn: Path, tmp_path: Path, capfd: Any) -> None:
    schedule = replace(SCHEDULE, steps=20, validate_every=1, patience=2, keep=2)
    module = hourglass(drawn, schedule)
    errors = iter([3.0, 2.0, 2.5, 2.25, 1.0])
    module.take_errors = lambda: {"box": next(errors)}  # type: ignore[method-assign]
    fit(module, module.config, tmp_path / "run", loggers=["csv"], progress=False)
    assert [row["box"] for row in history(tmp_path / "run")] == ["3.0", "2.0", "2.5", "2.25"]
    assert module.batches_done == checkpoint(tmp_path / "run")["batches_done"] == 4
    kept = {file.name for file in (tmp_path / "run/checkpoints").iterdir()}
    assert kept == {"step-2-error-2.000.ckpt", "step-4-error-2.250.ckpt"}
    assert (
        AtomicCheckpointIO().load_checkpoint(tmp_path / "run/checkpoints/step-2-error-2.000.ckpt")["batches_done"] == 2
    )
    (logged,) = (tmp_path / "run/csv").rglob("metrics.csv")
    assert "val/box" in logged.read_text().splitlines()[0]
    assert not (tmp_path / "run/tensorboard").exists()
    end = capfd.readouterr().out.splitlines()[-1]
    assert end.startswith("ended early, after step 4 of 20: no lower error in 2 validations (schedule.patience)")

    more = hourglass(drawn, replace(schedule, patience=4))  # of which two are over
    more.take_errors = lambda: {"box": 3.0}  # type: ignore[method-assign]
    fit(more, more.config, tmp_path / "run", resume=True, loggers=["csv"], progress=False)
    assert more.batches_done == 6


@pytest.mark.slow
def test_a_run_whose_error_is_no_number_says_so(drawn: Path, tmp_path: Path, capfd: Any) -> None:
    module = hourglass(drawn, replace(SCHEDULE, validate_every=1, patience=2))
    errors = iter([3.0, float("nan")])
    module.take_errors = lambda: {"box": next(errors)}  # type: ignore[method-assign]
    train(module, tmp_path)
    assert "ended early, after step 2 of 7: the validation's error is no number" in capfd.readouterr().out


def test_loggers_that_cannot_be(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = hourglass(drawn)
    monkeypatch.setattr("facemsm.training.run.find_spec", lambda _: None)
    for name, message in (
        ("mlflow", "no logger 'mlflow': use tensorboard, csv, wandb"),
        ("wandb", "pip install wandb"),
    ):
        with pytest.raises(FacemsmError, match=message):
            fit(module, module.config, tmp_path / "run", loggers=cast(Any, [name]), progress=False)
    assert not (tmp_path / "run").exists()


def test_ctrl_c_is_a_request_and_signals_are_given_back(drawn: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(FacemsmError, match="stopped and saved after step 1 of 7"):
        train(at_step(hourglass(drawn), 1, lambda: signal.raise_signal(signal.SIGINT)), tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert checkpoint(tmp_path)["batches_done"] == 1


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(drawn: Path, tmp_path: Path) -> None:
    def press_twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(FacemsmError, match="stopped at once, after step 4; the same command with --resume goes on"):
        train(at_step(hourglass(drawn), 5, press_twice), tmp_path)
    assert checkpoint(tmp_path)["batches_done"] == 3  # of the last validation


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_refused(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(FacemsmError):
        train(at_step(hourglass(drawn), 1, lambda: signal.raise_signal(signal.SIGTERM)), tmp_path)
    settings = (tmp_path / "config.json").read_bytes()
    with pytest.raises(FacemsmError, match=r"another run, stage is .*; resume with the settings in .*config\.json"):
        train(stgan(drawn), tmp_path, resume=True)
    assert (tmp_path / "config.json").read_bytes() == settings
    (tmp_path / CHECKPOINT).write_bytes(b"PK half a file")
    with pytest.raises(FacemsmError, match=r"last\.ckpt: not a checkpoint"):
        train(hourglass(drawn), tmp_path, resume=True)


def interrupted(folder: Path, drawn: Path, step: int = 3, **settings: Any) -> dict[str, Any]:
    """The checkpoint of a run that was stopped."""
    with pytest.raises(FacemsmError, match="stopped and saved"):
        train(at_step(hourglass(drawn, **settings), step, lambda: signal.raise_signal(signal.SIGTERM)), folder)
    return checkpoint(folder)


@pytest.mark.slow
def test_a_checkpoint_of_another_run_is_refused(drawn: Path, tmp_path: Path) -> None:
    """Though its networks have the same shapes."""
    interrupted(tmp_path, drawn)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}

    def refused(module: StageModule, message: str) -> None:
        with pytest.raises(FacemsmError, match=rf"last\.ckpt: holds another run, {message}.* resume with") as caught:
            train(module, tmp_path, resume=True)
        assert "\n" not in str(caught.value)

    refused(hourglass(drawn, replace(SCHEDULE, seed=5)), "schedule.seed is 0 there and 5 here")
    refused(hourglass(drawn, replace(SCHEDULE, ema=0.0)), "schedule.ema above 0 is True there and False here")
    refused(hourglass(drawn, replace(SCHEDULE, batch_size=1)), "schedule.batch_size is 2 there and 1 here")
    refused(muon(drawn), "schedule.optimiser is 'adam' there and 'muon' here")
    part = hourglass(drawn)
    part.faces = replace(part.faces, sources=(Source("aflw2000", str(drawn), "train", 0.5),))
    refused(part, r"data is \['aflw2000:train@1@1'\] there and \['aflw2000:train@0.5@1'\] here")
    renamed: Any = hourglass(drawn)
    renamed.scheme = replace(SCHEME_68, name="own")
    refused(renamed, "scheme is")
    wider = HourglassModule(
        HourglassTraining(replace(TINY, width=16), SCHEDULE, Augmentation.full()), SCHEME_68, faces_of(drawn)
    )
    refused(wider, "network.width is 8 there and 16 here")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


@pytest.mark.slow
def test_a_teacher_fills_in_what_labels_leave_open(drawn: Path, tmp_path: Path) -> None:
    teacher = StackedHourglass(replace(TINY, width=16)).eval()
    saved(teacher, tmp_path / "large/best.safetensors", SCHEME_68)
    (tmp_path / "large/config.json").write_text(as_json(HourglassTraining(teacher.config)))
    taught: Any = hourglass(drawn, teacher=str(tmp_path / "large"), distil=0.25, coordinate=0.1)
    assert taught.state_dict().keys() == hourglass(drawn).state_dict().keys()

    images = torch.rand(2, 3, 128, 128)
    maps = taught._taught(images)
    with torch.inference_mode():
        for expected, mirrored in zip(teacher(images), teacher(images.flip(3)), strict=True):
            both = (expected + mirrored.flip(3)[:, SCHEME_68.flip.tolist()]) / 2
            torch.testing.assert_close(maps[expected.shape[-1]], both.clamp(min=0))
    points, peak = torch.full((2, 68, 2), 60.0), torch.ones(2, 68)
    labelled = torch.ones(2, 68)
    labelled[:, ::2] = 0
    seen = torch.zeros(2, 68, 64, 64, requires_grad=True)
    taught._loss(seen, labelled, points, peak, maps[64]).backward()
    assert seen.grad is not None
    label = gaussians((points + 0.5) / 2 - 0.5, 64, taught.config.sigma)
    for place, target in ((slice(0, None, 2), maps[64]), (slice(1, None, 2), 0.75 * label + 0.25 * maps[64])):
        wanted = -target[:, place].detach()  # where the loss pulls a dark map
        cosine = torch.nn.functional.cosine_similarity(seen.grad[:, place].flatten(2), wanted.flatten(2), dim=2)
        assert cosine.min() > 0.99

    train(taught, tmp_path / "run")
    assert history(tmp_path / "run")
    with pytest.raises(FacemsmError, match="large: finds 68 landmarks, expected 12"):
        HourglassModule(replace(taught.config, network=replace(TINY, landmarks=12)), TWELVE, taught.faces)
    with pytest.raises(FacemsmError, match=r"distil is 2\.0, expected a number from 0 to 1"):
        replace(taught.config, distil=2.0)


@pytest.mark.slow
def test_a_checkpoint_of_an_earlier_version_is_resumed(drawn: Path, tmp_path: Path) -> None:
    old = interrupted(tmp_path, drawn)
    del old["identity"]["schedule.optimiser"]
    torch.save(old, tmp_path / CHECKPOINT)
    with pytest.raises(FacemsmError, match=r"schedule\.optimiser is 'adam' there and 'muon' here"):
        train(muon(drawn), tmp_path, resume=True)
    train(hourglass(drawn), tmp_path, resume=True)
    del old["identity"], old["chosen"]
    torch.save(old, tmp_path / CHECKPOINT)
    train(hourglass(drawn), tmp_path, resume=True)
    assert [row["step"] for row in history(tmp_path)] == ["3", "6", "7"]


FOREIGN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda saved: [saved],
    "weights alone": lambda saved: saved["state_dict"],
    "no steps": lambda saved: {**saved, "batches_done": None},
    "steps below 0": lambda saved: {**saved, "batches_done": -3},
    "no tensors": lambda saved: {**saved, "state_dict": dict.fromkeys(saved["state_dict"], 1.0)},
    "no optimiser": lambda saved: {name: value for name, value in saved.items() if name != "optimizer_states"},
    "none of the optimisers": lambda saved: {**saved, "optimizer_states": []},
    "an optimiser of another network": lambda saved: {**saved, "optimizer_states": [{"state": {}, "param_groups": []}]},
    "no loops": lambda saved: {**saved, "loops": {}},
    "not finite": lambda saved: {
        **saved,
        "state_dict": {name: t * torch.nan if t.is_floating_point() else t for name, t in saved["state_dict"].items()},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_checkpoint_gets_one_line(kind: str, drawn: Path, tmp_path: Path) -> None:
    saved = interrupted(tmp_path, drawn)
    torch.save(FOREIGN[kind](saved), tmp_path / CHECKPOINT)
    with pytest.raises(FacemsmError, match=r"last\.ckpt: ") as caught:
        train(hourglass(drawn), tmp_path, resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("torn", "kept"),
    [
        (b"step,seconds,box\r\n3,1,40.1\r\n6,2,3", ["3"]),
        (b"step,seconds,box\r\n3,1,40.1\r\n6", ["3"]),
        (b"step,seconds,box\r\n3,1,40.1\r\n64,20,39.0\r\n", ["3"]),
        (b"step,seconds,box\r\n3,1,40.1\r\n2,6,2,38\r\n", ["3"]),
        (b"step,seconds,box", []),
        (b"", []),
    ],
)
def test_a_torn_history_gets_whole_lines(torn: bytes, kept: list[str], drawn: Path, tmp_path: Path) -> None:
    interrupted(tmp_path, drawn)
    (tmp_path / "history.csv").write_bytes(torn)
    train(hourglass(drawn), tmp_path, resume=True)
    rows = history(tmp_path)
    assert [row["step"] for row in rows] == [*kept, "6", "7"]
    assert all(float(row["box"]) for row in rows)


def test_a_file_that_is_no_history_is_left_alone(drawn: Path, tmp_path: Path) -> None:
    interrupted(tmp_path, drawn)
    (tmp_path / "history.csv").write_text("my,notes\n1,2\n")
    with pytest.raises(FacemsmError, match=r"history\.csv: not the history of a run, .*; move it away"):
        train(hourglass(drawn), tmp_path, resume=True)
    assert (tmp_path / "history.csv").read_text() == "my,notes\n1,2\n"


@pytest.mark.slow
def test_a_new_run_has_a_new_history(drawn: Path, tmp_path: Path) -> None:
    train(hourglass(drawn), tmp_path)
    (tmp_path / CHECKPOINT).unlink()
    train(hourglass(drawn), tmp_path)
    assert [row["step"] for row in history(tmp_path)] == ["3", "6", "7"]


# --- What is chosen for the machine ----------------------------------------------------------------------------------


def timed(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[str, int], float]) -> None:
    """Training steps that take so long at a precision, on a number of threads."""
    clock = [0.0]

    def step(precision: str, threads: int) -> None:
        clock[0] += seconds(precision, threads)

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(trial, "_step", lambda: step)


@pytest.mark.parametrize(("gain", "expected"), [(2.0, "bf16-mixed"), (1.05, "32-true"), (0.1, "32-true")])
def test_less_precision_is_chosen_where_it_is_faster(
    gain: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, lambda precision, _: 1 / gain if precision == "bf16-mixed" else 1.0)
    assert trial._precision.__wrapped__() == expected


@pytest.mark.parametrize(("gain", "expected"), [(1.0, 4), (0.5, 4), (0.0, 1), (-0.2, 1)])
def test_as_many_threads_as_help(gain: float, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On six cores, of which four are idle."""
    timed(monkeypatch, lambda _, threads: 1 / (1 + gain * (min(threads, 4) - 1)))
    assert trial._threads.__wrapped__(6, "32-true") == expected


def test_what_is_named_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_step", lambda: pytest.fail("tried"))
    assert trial.choose(Schedule(threads=1)) == ("32-true", 1)
    assert trial.choose(Schedule(precision="bf16-mixed", threads=1)) == ("bf16-mixed", 1)
    assert trial.choose(Schedule(precision="auto"), alone=False) == ("32-true", 0)
    assert trial.choose(Schedule(precision="auto"), {"precision": "bf16-mixed", "threads": 1}) == ("bf16-mixed", 1)


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), "bf16-mixed"), ((8, 0), "bf16-mixed"), ((7, 5), "32-true")]
)
def test_a_gpu_takes_what_it_has_instructions_for(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_step", lambda: pytest.fail("tried"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert trial.choose(Schedule(precision="auto")) == (expected, 0)


@pytest.mark.slow
def test_a_resumed_run_keeps_what_was_chosen(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it computes the same numbers as one that was not stopped."""
    free = replace(SCHEDULE, precision="auto", threads=0)
    monkeypatch.setattr(trial, "_precision", lambda: "bf16-mixed")
    monkeypatch.setattr(trial, "_threads", lambda *_: 1)
    module = at_step(hourglass(drawn, free), 2, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(FacemsmError, match="stopped and saved"):
        train(module, tmp_path)
    assert checkpoint(tmp_path)["chosen"] == {"precision": "bf16-mixed", "threads": 1}
    monkeypatch.setattr(trial, "_precision", lambda: pytest.fail("tried"))
    monkeypatch.setattr(trial, "_threads", lambda *_: pytest.fail("tried"))
    train(hourglass(drawn, free), tmp_path, resume=True)
    assert checkpoint(tmp_path)["chosen"] == {"precision": "bf16-mixed", "threads": 1}


def test_a_short_trial_finds_something() -> None:
    threads = torch.get_num_threads()
    try:
        precision, chosen = trial.choose(Schedule(precision="auto"))
        assert precision in ("32-true", "bf16-mixed")
        assert chosen == torch.get_num_threads() <= (os.cpu_count() or 1)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_running_mean_is_short_at_first(drawn: Path, tmp_path: Path) -> None:
    kept = [1 - running_mean(0.3)(torch.zeros(1), torch.ones(1), torch.tensor(n)).item() for n in (1, 2, 3, 1000)]
    assert kept == pytest.approx([2 / 11, 3 / 12, 0.3, 0.3])
    assert running_mean(0.999)(torch.zeros(1), torch.ones(1), torch.tensor(8990)).item() == pytest.approx(
        0.001, rel=1e-3
    )

    module = hourglass(drawn)
    weight = module.network.get_parameter("stem.0.weight")
    weights: list[Any] = []
    for step in range(1, 8):
        at_step(module, step, lambda: weights.append(weight.detach().clone()))
    train(module, tmp_path)
    latest = checkpoint(tmp_path)["current_model_state"]["network.stem.0.weight"]
    assert not torch.equal(latest, weights[-1])
    mean = weights[1]
    for n, after in enumerate([*weights[2:], latest], 1):  # n means behind it
        decay = min(0.3, (1 + n) / (10 + n))
        mean = decay * mean + (1 - decay) * after
    torch.testing.assert_close(checkpoint(tmp_path)["state_dict"]["network.stem.0.weight"], mean)


@pytest.mark.slow
def test_the_bar_shows_the_loss_and_validations(drawn: Path, tmp_path: Path, capfd: Any) -> None:
    module: Any = hourglass(drawn)
    fit(module, module.config, tmp_path, progress=True)
    shown = "".join(capfd.readouterr())
    assert shown.rpartition("\r")[2].startswith("training: 100%")
    assert "loss=" in shown
    assert "v_num" not in shown
    assert re.findall(r"step (\d)  seconds \d+  box", shown) == ["3", "6", "7"]


# --- Starting from other weights -------------------------------------------------------------------------------------

SAID = LandmarkScheme("own", 3, ((0, 1),), (0,), (1,), (2,), from_68=((36, 39), (42, 45), ()))
SILENT = replace(SAID, name="silent", from_68=())


def saved(network: torch.nn.Module, path: Path, scheme: LandmarkScheme | None) -> Path:
    """Weights that are not as they begin."""
    torch.manual_seed(11)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
    save_weights(network, path, scheme)
    return path


@pytest.mark.parametrize("name", ["29", "98"])
def test_related_landmarks_mirror_each_other(name: str) -> None:
    scheme = get_scheme(name)
    to, back = relation(SCHEME_68, scheme), relation(scheme, SCHEME_68)
    assert to.shape == back.T.shape == (scheme.count, 68)
    np.testing.assert_allclose(to.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(to[scheme.flip][:, SCHEME_68.flip], to)
    assert set(back.sum(1).tolist()) <= {0.0, 1.0}
    for group in ("contour", "mouth"):
        related = np.flatnonzero(to[list(getattr(scheme, group))].any(0))
        assert set(related.tolist()) <= set(getattr(SCHEME_68, group))
    centres = [to[list(eye)].mean(0) for eye in (scheme.right_eye, scheme.left_eye)]
    assert [np.flatnonzero(c).tolist() for c in centres] == [list(SCHEME_68.right_eye), list(SCHEME_68.left_eye)]
    if name == "98":
        np.testing.assert_array_equal(back @ to, np.eye(68))
        corners, shown = [60, 72, 76, 82, 16, 54], [36, 45, 48, 54, 8, 30]
        assert to[corners].argmax(1).tolist() == shown
        assert (to.max(1) == 1).sum() == 68 + 8  # the brows' lower edges have their upper edges' relatives


def test_schemes_are_related_by_what_they_say_of_the_68() -> None:
    np.testing.assert_array_equal(relation(SCHEME_68, SCHEME_68), np.eye(68))
    own = relation(SCHEME_98, SAID)
    assert [np.flatnonzero(row).tolist() for row in own] == [[60, 64], [68, 72], []]
    for source, target in ((SCHEME_68, SILENT), (SILENT, SCHEME_68)):
        with pytest.raises(FacemsmError, match=r"'silent' does not say .*: add from_68 to its .toml file"):
            relation(source, target)
    with pytest.raises(FacemsmError, match="from_68 has 2 entries for 3 points"):
        replace(SAID, from_68=((0,), (1,)))
    with pytest.raises(FacemsmError, match="from_68 names point 68"):
        replace(SAID, from_68=((0,), (1,), (68,)))


@pytest.mark.parametrize(("said_by", "stored"), [("weights", torch.float32), ("config", torch.float16)])
def test_a_hourglass_starts_from_another_scheme(said_by: str, stored: torch.dtype, tmp_path: Path) -> None:
    """Its heatmaps are means of those it was trained for, in every stack: so the next one sees what it knows."""
    old, new = StackedHourglass(TINY).eval(), StackedHourglass(replace(TINY, landmarks=98)).eval()
    path = saved(old.to(stored), tmp_path / "best.safetensors", SCHEME_68 if said_by == "weights" else None)
    old.float()
    if said_by == "config":
        (tmp_path / "config.json").write_text(as_json(HourglassTraining(TINY)))
    line = start_from(new, path, SCHEME_98)
    tensors = len(old.state_dict())
    assert line.endswith(
        f"{tensors - 5} tensors as they are, 5 from 68 to 98 landmarks, of which 98 have relatives and 0 start anew"
    )
    assert "\n" not in line
    faces, weights = torch.rand(2, 3, 128, 128), torch.from_numpy(relation(SCHEME_68, SCHEME_98))
    with torch.inference_mode():
        for before, after in zip(old(faces), new(faces), strict=True):
            assert before.std() > 0.02
            torch.testing.assert_close(after, torch.einsum("ts,nshw->nthw", weights, before), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("levels", [1, 2])
def test_an_hourglass_starts_from_a_deeper_one(tmp_path: Path, levels: int) -> None:
    """As if what the deeper one's innermost levels add were nothing."""
    torch.manual_seed(0)
    deep = StackedHourglass(replace(TINY, depth=3)).eval()
    shallow = StackedHourglass(replace(TINY, depth=3 - levels)).eval()
    line = start_from(shallow, saved(deep, tmp_path / "w.safetensors", SCHEME_68), SCHEME_68)
    count = len(shallow.state_dict())
    assert line.endswith(
        f"{count} tensors, all as they are; {len(deep.state_dict()) - count} of deeper levels left out"
    )
    for name, module in deep.named_modules():
        if isinstance(module, torch.nn.Sequential) and name.endswith("up") and name.count(".inner") == 3 - levels:
            torch.nn.init.zeros_(module[-1].weight)  # type: ignore[arg-type]
    faces = torch.rand(2, 3, 128, 128)
    with torch.inference_mode():
        for before, after in zip(deep(faces), shallow(faces), strict=True):
            torch.testing.assert_close(after, before)


@pytest.mark.parametrize("deconvolution", [2, 4])
def test_a_wider_network_starts_as_the_one_it_was(tmp_path: Path, deconvolution: int) -> None:
    """Its new channels are read by nothing yet, but they see the face: they teach from the first step."""
    narrow = StackedHourglass(replace(TINY, deconvolution=deconvolution))
    path = saved(narrow, tmp_path / "w.safetensors", SCHEME_68)
    wide = StackedHourglass(replace(TINY, width=12, stem=6, deconvolution=deconvolution))
    assert start_from(wide, path, SCHEME_68).endswith("widened")
    faces = torch.rand(2, 3, 128, 128)
    with torch.inference_mode():
        for before, after in zip(narrow.eval()(faces), wide.eval()(faces), strict=True):
            assert before.std() > 0.02
            torch.testing.assert_close(after, before)
    wide.train()(faces)[-1].square().sum().backward()
    reading = wide.heads[-1][-1].weight  # type: ignore[index]
    assert reading.grad[:, 8:].abs().min() > 0
    with pytest.raises(FacemsmError, match="not this network's weights"):
        start_from(StackedHourglass(replace(TINY, width=4)), path, SCHEME_68)


def test_a_res_50_starts_from_another_scheme(tmp_path: Path) -> None:
    old, new = ResNet50(ResNet50Config(98, width=4)).eval(), ResNet50(ResNet50Config(3, width=4)).eval()
    path = saved(old, tmp_path / "w.safetensors", SCHEME_98)
    first = new.points.weight.detach().clone()
    line = start_from(new, path, SAID)
    assert "2 from 98 to 3 landmarks, of which 2 have relatives and 1 start anew" in line
    faces = torch.rand(2, 3, 128, 128)
    with torch.inference_mode():
        before, after = old(faces), new(faces)
    torch.testing.assert_close(after[:, 0], before[:, [60, 64]].mean(1))
    torch.testing.assert_close(after[:, 1], before[:, [68, 72]].mean(1))
    assert torch.equal(new.points.weight[4:], first[4:])


def test_a_hourglass_starts_from_a_scheme_of_ones_own(tmp_path: Path) -> None:
    """Its weights say what the points are: no file of the scheme is needed."""
    old, new = StackedHourglass(replace(TINY, landmarks=3)).eval(), StackedHourglass(TINY).eval()
    corners = replace(SAID, from_68=((36,), (45,), ()))
    path = saved(old, tmp_path / "w.safetensors", corners)
    assert scheme_from_dict(read_notes(path)["own scheme"], "here").from_68 == corners.from_68
    line = start_from(new, path, SCHEME_68)
    assert "5 from 3 to 68 landmarks, of which 2 have relatives" in line
    faces = torch.rand(2, 3, 128, 128)
    with torch.inference_mode():
        torch.testing.assert_close(new(faces)[0][:, 36], old(faces)[0][:, 0], rtol=1e-3, atol=1e-3)


def test_weights_that_cannot_start_another_scheme(tmp_path: Path) -> None:
    path = saved(StackedHourglass(TINY), tmp_path / "w.safetensors", None)
    other = StackedHourglass(replace(TINY, landmarks=98))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(FacemsmError, match=r"w\.safetensors: does not say which .*; put the config\.json of its run"):
        start_from(other, path, SCHEME_98)
    saved(StackedHourglass(TINY), path, SCHEME_68)
    with pytest.raises(FacemsmError, match=r"'silent' does not say .*, or train without --init"):
        start_from(StackedHourglass(replace(TINY, landmarks=3)), path, SILENT)
    with pytest.raises(
        FacemsmError, match=r"w\.safetensors: not .*: \S+weight is \(8, 8, 2, 2\), expected \(8, 8, 4, 4"
    ):
        start_from(StackedHourglass(replace(TINY, landmarks=98, deconvolution=4)), path, SCHEME_98)
    with pytest.raises(FacemsmError, match=r"w\.safetensors: not this network's weights"):
        start_from(StackedHourglass(replace(TINY, landmarks=98, stacks=1)), path, SCHEME_98)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    same = StackedHourglass(TINY)
    assert start_from(same, path, SCHEME_68).endswith(f"{len(same.state_dict())} tensors, all as they are")


def test_the_command_starts_from_68_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    weights = relation(SCHEME_68, SCHEME_98)
    faces = [replace(face, points=weights @ face.points) for face in write_faces(tmp_path / "data", 4)]
    write_coco(faces, tmp_path / "data/own.json", SCHEME_98)
    path = saved(StackedHourglass(TINY), tmp_path / "best.safetensors", SCHEME_68)
    shape = [f"--set=network.{name}={value}" for name, value in vars(TINY).items() if name != "landmarks"]
    data = ["--data", f"coco={tmp_path / 'data/own.json'}:all", "--holdout", "0.5", "--no-progress"]
    arguments = ["train", "hourglass", "--scheme", 98, *data, *shape, *ONE_BATCH, "-o", tmp_path / "run"]
    assert facemsm(monkeypatch, *arguments, "--init", path) == 0
    out = capfd.readouterr().out.splitlines()
    assert out[0].startswith(f"start: {path}, ")
    assert "5 from 68 to 98 landmarks" in out[0]
    again = StackedHourglass(replace(TINY, landmarks=68))
    assert "from 98 to 68" in start_from(again, tmp_path / "run/best.safetensors", SCHEME_68)


# --- What goes wrong -------------------------------------------------------------------------------------------------


@STAGES
@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run(build: Callable[..., Any], drawn: Path, tmp_path: Path) -> None:
    module = build(drawn)

    def spoil() -> None:
        with torch.no_grad():
            next(module.network.parameters()).fill_(torch.nan)

    with pytest.raises(
        FacemsmError, match=r"step 5: the loss is nan on the faces \S+_\d\.png, \S+_\d\.png; "
    ) as caught:
        train(at_step(module, 5, spoil), tmp_path)
    assert "\n" not in str(caught.value)
    kept = checkpoint(tmp_path)
    assert kept["batches_done"] == 3
    assert all(tensor.isfinite().all() for tensor in kept["current_model_state"].values())
    train(build(drawn), tmp_path, resume=True)
    assert history(tmp_path)[-1]["step"] == "7"


@pytest.mark.slow
def test_weights_that_are_not_finite_are_not_saved(drawn: Path, tmp_path: Path) -> None:
    module = hourglass(drawn)
    original = module.on_validation_epoch_end

    def spoil() -> None:
        original()
        if module.batches_done == 6:
            with torch.no_grad():
                next(module.network.parameters()).fill_(torch.inf)

    module.on_validation_epoch_end = spoil  # type: ignore[method-assign]
    with pytest.raises(FacemsmError, match=r"step 6: network\.stem\.0\.weight is no longer finite"):
        train(module, tmp_path)
    assert checkpoint(tmp_path)["batches_done"] == 3


@pytest.mark.parametrize("when", ["before it is trained on", "before it is validated"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_vanishes_is_named(workers: int, when: str, tmp_path: Path) -> None:
    """Photos that were trained on stay in memory; validation reads them anew."""
    samples = write_faces(tmp_path / "data", 4)
    schedule = replace(SCHEDULE, steps=2, validate_every=2, workers=workers, batch_size=4)
    lost = samples[2].image
    assert isinstance(lost, Path)
    faces = Faces(samples, samples, np.zeros(4, np.int64), (Source("aflw2000", "", "train"),))
    module = HourglassModule(HourglassTraining(TINY, schedule, STILL), get_scheme("68"), faces)
    if when == "before it is validated":
        at_step(module, 2, lost.unlink)
    else:
        lost.unlink()
    with pytest.raises(FacemsmError) as caught:
        train(module, tmp_path / "run")
    assert str(caught.value) == f"{lost}: no such file"
    assert module.batches_done == (2 if when == "before it is validated" else 0)


class Killed(BaseException):
    """Stands for a signal that no handler sees."""


def half_written(monkeypatch: pytest.MonkeyPatch, end: BaseException) -> None:
    original = Path.write_bytes

    def write_half(path: Path, content: Any) -> int:
        original(path, bytes(content)[: len(bytes(content)) // 2])
        raise end

    monkeypatch.setattr(Path, "write_bytes", write_half)


@pytest.mark.parametrize("file", ["last.ckpt", "best.safetensors"])
def test_a_full_disk_leaves_the_file_that_was_there(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / file
    network = torch.nn.Linear(3, 3)

    def write() -> None:
        if file == CHECKPOINT:
            AtomicCheckpointIO().save_checkpoint({"state_dict": network.state_dict()}, path)
        else:
            save_weights(network, path)

    write()
    before = path.read_bytes()
    half_written(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(FacemsmError, match=rf"{file}: cannot be written \(No space left on device\)"):
        write()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]  # nothing half-written beside it either


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_leaves_the_checkpoint_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / CHECKPOINT
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    child = os.fork()
    if child == 0:  # dies in the middle of the second write, as by kill -9: nothing is cleaned up
        original = Path.write_bytes

        def write_half(target: Path, content: Any) -> int:
            original(target, bytes(content)[:100])
            os.kill(os.getpid(), signal.SIGKILL)
            return 0

        monkeypatch.setattr(Path, "write_bytes", write_half)
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert AtomicCheckpointIO().load_checkpoint(path) == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 2  # it did die while writing


@pytest.mark.slow
def test_a_full_disk_stops_the_run_with_one_line(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = hourglass(drawn)
    full = lambda: half_written(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))  # noqa: E731
    with pytest.raises(FacemsmError, match="cannot be written"):
        train(at_step(module, 5, full), tmp_path)
    monkeypatch.undo()
    assert checkpoint(tmp_path)["batches_done"] == 3
    with (tmp_path / "history.csv").open("a") as file:
        file.write("6,1,0,0\n")  # as if the disk had been full a little later
    (tmp_path / f".{CHECKPOINT}.1.part").write_bytes(b"half")  # as if a writer had been killed, too
    train(hourglass(drawn), tmp_path, resume=True)
    assert [row["step"] for row in history(tmp_path)] == ["3", "6", "7"]
    assert not list(tmp_path.glob(".*.part"))


def test_a_folder_that_cannot_be_gets_one_line(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FacemsmError, match=r"file/run: Not a directory$|file: (File exists|Not a directory)$"):
        train(hourglass(drawn), tmp_path / "file" / "run")


def test_a_history_that_cannot_be_written_gets_one_line(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "history.csv").mkdir()
    with pytest.raises(FacemsmError, match=r"history\.csv: ") as caught:
        train(hourglass(drawn), tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    small, path = StackedHourglass(TINY), tmp_path / "w.safetensors"
    save_weights(small, path)
    twin = StackedHourglass(TINY)
    load_weights(twin, path)
    assert all(torch.equal(a, b) for a, b in zip(small.state_dict().values(), twin.state_dict().values(), strict=True))
    with pytest.raises(FacemsmError, match=r"w\.safetensors: not this network's weights: size mismatch") as caught:
        load_weights(StackedHourglass(replace(TINY, width=12)), path)
    assert len(str(caught.value)) < 400
    path.write_bytes(b"something else")
    with pytest.raises(FacemsmError, match=r"w\.safetensors: not this network's weights"):
        load_weights(twin, path)


# --- Learning --------------------------------------------------------------------------------------------------------


def test_every_stack_is_supervised(drawn: Path) -> None:
    module: Any = hourglass(drawn, loss="weighted")
    module.log = lambda *_: None
    examples = ExampleStream(module.faces, module._training, total=2, seed=0)
    batch = next(iter(loader(examples, batch=2, workers=0)))
    whole = module.training_step(batch, 0)
    whole.backward()
    assert all(head[-1].weight.grad.abs().max() > 0 for head in module.network.heads)
    parts = []
    for i in range(2):  # with the other stack's points masked by a target that it predicts itself
        module.zero_grad()
        heatmaps = module.network((batch["image"].permute(0, 3, 1, 2) / 255).contiguous())[i]
        size = heatmaps.shape[-1]
        codec = HeatmapCodec(INPUT_SIZE, size, 1.5 * size / HEATMAP_SIZE)
        target = torch.from_numpy(codec.encode(batch["points"].numpy()) * batch["peak"].numpy()[..., None, None])
        error = ((heatmaps - target).square() * (1 + 10 * target)).mean((2, 3)) * batch["labelled"]
        parts.append(error.sum() / batch["labelled"].sum())
    assert whole.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-4)


def test_the_shift_of_a_data_sets_labels_is_learned(drawn: Path) -> None:
    """Two sets of the same faces, one of them labelled to the right: half of the offset to each side, and none in y."""
    module: Any = hourglass(drawn, adapt=0.2)
    module.faces = replace(
        module.faces, training=[replace(module.faces.training[0], convention=name) for name in ("300w", "wflw")]
    )
    module.shifts = torch.zeros(2, 2)
    module._share = torch.tensor([0.5, 0.5])
    size = HEATMAP_SIZE
    truth = torch.rand(8, 68, 2) * 60 + 34
    heatmaps = gaussians((truth + 0.5) * size / INPUT_SIZE - 0.5, size, 1.5)
    mirrored = torch.diag(torch.tensor([-1.0, 1.0]))
    frames = torch.stack([100 * (mirrored if i % 4 > 1 else torch.eye(2)) for i in range(8)])  # every other pair is
    batch = {
        "convention": torch.arange(8) % 2,
        "shift": frames,
        "labelled": torch.ones(8, 68),
        "peak": torch.ones(8, 68),
        "points": truth + (frames @ torch.tensor([[0.01, 0.004], [0.03, 0.008]])[torch.arange(8) % 2, :, None]).mT,
    }
    for _ in range(60):
        module._adapt(batch, module._consensus(batch), heatmaps)
    learned = module.conventions
    assert learned["300w"] == pytest.approx([0.01, -0.002], abs=1e-3)
    assert learned["wflw"] == pytest.approx([0.03, 0.002], abs=1e-3)
    points = module._consensus(batch)
    torch.testing.assert_close(points[..., 0], truth[..., 0], atol=0.1, rtol=0)


@pytest.mark.slow
def test_labels_are_moved_to_the_consensus_of_a_model(drawn: Path) -> None:
    """The bundled model knows how aflw2000 is labelled; of a set that it does not know, labels stay."""
    before = faces_of(drawn)
    after = cast(Any, hourglass(drawn, conventions="68")).faces
    aligner = Aligner.from_pretrained("68", stages=(1, 2))
    convention = aligner.model.convention("aflw2000")
    assert convention is not None
    for old, new in zip((*before.training, *before.validation), (*after.training, *after.validation), strict=True):
        (found,) = aligner.align(old.load(), tight_box(old.points)[None])
        wanted = old.points - (convention.to_labels(found.points[None])[0] - found.points)
        np.testing.assert_allclose(new.points, wanted, atol=0.02)
        assert np.abs(new.points - old.points).mean() > 0.1
    own = [replace(face, convention="own") for face in before.training]
    strange = replace(before, training=own, validation=own[:2])
    for old, new in zip(strange.training, to_consensus(strange, "68", SCHEME_68).training, strict=True):
        assert new is old
    held_out = replace(before, training=own, validation=before.validation[:1])  # a set of which none is trained on
    assert to_consensus(held_out, "68", SCHEME_68).validation[0] is not held_out.validation[0]
    with pytest.raises(FacemsmError, match="no model 'nowhere'"):
        hourglass(drawn, conventions="nowhere")
    with pytest.raises(FacemsmError, match="68: knows conventions of scheme 68, the faces have mine"):
        to_consensus(strange, "68", replace(SCHEME_68, name="mine"))


@pytest.mark.parametrize("notes", ["[", "[1]", "3", "[" * 100_000])
def test_notes_of_another_kind_are_refused(notes: str, tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors", {"facemsm": notes})
    with pytest.raises(FacemsmError, match=r"w\.safetensors: cannot be read as weights"):
        read_notes(tmp_path / "w.safetensors")


def test_conventions_travel_with_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(StackedHourglass(TINY), path, conventions={"300w": [0.0052, 0.0015]})
    assert read_notes(path) == {"scheme": None, "conventions": {"300w": [0.0052, 0.0015]}}
    save_weights(StackedHourglass(TINY), path)
    assert read_notes(path)["conventions"] == {}


CHOSEN = [0, 8, 16, 19, 24, 30, 36, 39, 42, 45, 48, 54]
TWELVE = LandmarkScheme("12", 12, ((0, 2), (3, 4), (6, 9), (7, 8), (10, 11)), (6, 7), (8, 9), (10, 11), (6, 9))
"""Twelve points of the 68: targets are most of the work of a small network."""


@pytest.fixture
def eight(tmp_path: Path) -> list[FaceSample]:
    return write_faces(tmp_path / "data", 8)


def both(samples: list[FaceSample]) -> Faces:
    return Faces(samples, samples, np.zeros(len(samples), np.int64), (Source("aflw2000", "", "train"),))


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    return EventAccumulator(str(folder / "tensorboard")).Reload()


@pytest.mark.slow
def test_a_small_hourglass_learns_eight_faces_by_heart(eight: list[FaceSample], tmp_path: Path) -> None:
    samples = [replace(sample, points=sample.points[CHOSEN]) for sample in eight]
    schedule = replace(SCHEDULE, steps=100, batch_size=8, learning_rate=5e-3, warmup=5, ema=0, validate_every=50)
    network = HourglassConfig(12, width=32, stacks=1, depth=4, stem=8, body_size=32, deconvolution=2)
    module = HourglassModule(HourglassTraining(network, schedule, STILL, loss="weighted"), TWELVE, both(samples))
    train(module, tmp_path / "run")
    assert float(history(tmp_path / "run")[-1]["box"]) < 1.0  # per cent
    shown = events(tmp_path / "run")
    assert {"train/loss", "val/box", "val/inter-ocular"} <= set(shown.Tags()["scalars"])
    assert [(i.step, i.width, i.height) for i in shown.Images("val/faces")] == [(50, 8 * 256, 256), (100, 8 * 256, 256)]


@pytest.mark.slow
def test_a_generator_learns_eight_faces_by_heart(eight: list[FaceSample], tmp_path: Path) -> None:
    schedule = replace(SCHEDULE, steps=100, batch_size=8, learning_rate=2e-3, warmup=5, ema=0, validate_every=100)
    module = STGANModule(STGANTraining(schedule, STILL, b=0.01, alone=0.98), get_scheme("68"), both(eight))
    train(module, tmp_path / "run")
    assert float(history(tmp_path / "run")[-1]["corners"]) < 1.0  # crop pixels; the identity is 26 off
    shown = events(tmp_path / "run")
    scalars = {"train/theta", "train/log D(real)", "train/log D(fake)", "val/corners", "val/theta"}
    assert scalars <= set(shown.Tags()["scalars"])
    assert [(i.width, i.height) for i in shown.Images("val/faces")] == [(8 * 128, 2 * 128)]
