"""The paper's tables and figures: its numbers, the way from faces to a report, resuming, and what is said to lack."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from facemsm.aligner import Aligner
from facemsm.apps.cli import main
from facemsm.assets import SAMPLE, SAMPLE_BOX
from facemsm.data.augment import Augmentation
from facemsm.data.occluders import OCCLUDERS
from facemsm.data.sample import FaceSample
from facemsm.errors import FacemsmError
from facemsm.evaluation.plots import plot_ced
from facemsm.evaluation.published_curves import read_curves
from facemsm.geometry import CANONICAL_MARGIN, apply_affine, box_to_crop, compose, invert, normaliser, theta_to_matrix
from facemsm.hourglass.network import HourglassConfig
from facemsm.imaging.io import read_image
from facemsm.reproduce import runs
from facemsm.reproduce.ablation import ARMS, run_kind, run_names
from facemsm.reproduce.experiments import EXPERIMENTS
from facemsm.reproduce.figures import ced_of_configurations
from facemsm.reproduce.known_truth import READINGS, readings
from facemsm.reproduce.outputs import CONDITIONS, DRAWN_OCCLUDERS, GIVEN, PERTURBED_BOXES, SIZE, CachedOutputs, locate
from facemsm.reproduce.paper import Figure, Paper, paper
from facemsm.reproduce.render import beside, markdown, ours, table
from facemsm.reproduce.runs import BoxExamples, Plan
from facemsm.reproduce.tables import ALL_CONFIGURATIONS, claim, published_files
from facemsm.reproduce.workspace import MODEL, SHIPPED, MissingError, Workspace
from facemsm.resnet50.network import ResNet50Config
from facemsm.schemes import OCCLUDED, get_scheme
from facemsm.stages import StageOutputs
from facemsm.typing import FloatArray, Image
from official_files import write_300w, write_cofw68
from synthetic_faces import write_faces

SCHEME = get_scheme("68")


# --- The paper's numbers ---------------------------------------------------------------------------------------------


def test_every_table_is_complete() -> None:
    """Method and column counts, and sums of all figures, as counted in the paper."""
    found: Paper = paper()
    sizes = {name: (len(t.rows), len(t.columns), _total(t)) for name, t in found.tables.items()}
    assert sizes == {
        "table3": (17, 6, 66),
        "table4": (7, 3, 18),
        "table5": (9, 4, 22),
        "table6": (7, 21, 147),
        "table7": (6, 7, 42),
        "table8": (6, 2, 12),
        "table9": (12, 1, 12),
    }
    assert all(len(row.cells) == len(t.columns) for t in found.tables.values() for row in t.rows)
    assert found.text["frames per second"] == 14
    assert set(EXPERIMENTS) >= set(found.tables)


def _total(printed: Any) -> int:
    return sum(cell is not None for row in printed.rows for cell in row.cells)


def test_impossible_rates_are_marked_and_no_others() -> None:
    """A rate is possible if some number of faces gives it, rounded or cut off at the digits printed."""
    for printed in paper().tables.values():
        for row in printed.rows:
            for column, cell in zip(printed.columns, row.cells, strict=True):
                if column.measure == "fr" and cell is not None:
                    rates = 100 * np.arange(column.faces + 1) / column.faces
                    possible = np.abs(rates - cell.value).min() < cell.unit
                    assert possible == ("b" not in cell.marks), (printed.title, row.method, column.name, cell)


def test_full_sets_that_do_not_add_up_are_marked_and_no_others() -> None:
    for row in paper().tables["table3"].rows:
        for common, challenge, full in (row.cells[:3], row.cells[3:]):
            if common and challenge and full:
                combined = (554 * common.value + 135 * challenge.value) / 689
                assert (abs(combined - full.value) < 0.0151) == ("c" not in full.marks), row.method


def test_methods_better_than_msm_are_marked_where_the_text_says_otherwise() -> None:
    """Section IV-F: MSM is best on WFLW but for 3DDE's 5.77; Section IV-D: DCFE's AUC is better."""
    *others, msm = paper().tables["table6"].rows
    for row in others:
        for column, cell, own in zip(paper().tables["table6"].columns, row.cells, msm.cells, strict=True):
            assert cell
            assert own
            better = cell.value > own.value if column.measure == "auc" else cell.value < own.value
            named = (row.method, cell.printed) == ("3DDE", "5.77")
            assert (better and not named) == ("g" in cell.marks), (row.method, column.name, column.measure)
    cells = [cell for row in paper().tables["table4"].rows for cell in row.cells if cell]
    assert [cell.printed for cell in cells if "h" in cell.marks] == ["0.5242"]


def test_every_mark_is_explained() -> None:
    cells = [cell for printed in paper().tables.values() for row in printed.rows for cell in row.cells if cell]
    assert {mark for cell in cells for mark in cell.marks} == set(paper().slips)
    shown = markdown({"title": "T", "blocks": [table(["m", "x"], [["r", beside(c)] for c in cells])]})
    for mark, raised in zip("abcdefgh", "ᵃᵇᶜᵈᵉᶠᵍʰ", strict=True):
        assert f"\n{raised} {paper().slips[mark]}" in shown


def test_the_whole_method_is_one_row_in_every_table() -> None:
    tables = paper().tables
    last = tables["table6"].rows[-1].cells[:7]
    assert [cell.printed for cell in tables["table7"].rows[-1].cells if cell] == [c.printed for c in last if c]
    assert tables["table5"].rows[-1].cells[0] == Figure("5.50")
    assert min(row.cells[0].value for row in tables["table9"].rows if row.cells[0]) == 5.50


@pytest.mark.parametrize(
    ("method", "file"),
    [
        ("RCPR", "RCPR-occ_300w"),
        ("TCDCN", "TCDCN_CFOW68"),
        ("HPM", "HPM_HelenLfpw_COFW68test"),
        ("CFSS", "CFSS_CFOW68"),
    ],
)
def test_published_predictions_give_the_papers_figures(method: str, file: str, data_root: Path, tmp_path: Path) -> None:
    from facemsm.reproduce.tables import cofw

    if not (data_root / "cofw68/Results" / f"{file}.txt").is_file():
        pytest.skip(f"no {file}.txt")
    *_, block = cofw(Workspace(tmp_path, [str(data_root)]), [], "table5", "68")
    (measured,) = (row[1:4] for row in block["table"] if row[0] == file)
    (printed,) = (row.cells[:3] for row in paper().tables["table5"].rows if row.method == method)
    assert [f"{cell['ours']:.2f}" for cell in measured] == [cell.printed for cell in printed if cell]


def test_published_curves_are_found_and_drawn(tmp_path: Path) -> None:
    """MenpoBenchmark's form: a row of errors, a column of shares for each method, a cell of names."""
    savemat = pytest.importorskip("scipy.io").savemat
    matplotlib = pytest.importorskip("matplotlib")
    x = np.linspace(0, 0.1, 11)
    y = np.column_stack((np.minimum(1, 12 * x), np.linspace(0, 0.5, 11)))
    file = tmp_path / "data/MenpoBenchmark/Evaluation/300W/300W_test_all.mat"
    file.parent.mkdir(parents=True)
    savemat(file, {"x": x[:, None], "y": y, "methods": np.array([["Fan", "Zhou"]], dtype=object)})
    exp = Workspace(tmp_path / "report", [str(tmp_path / "data")])
    assert published_files(exp, "fig9") == [file]
    assert published_files(exp, "fig11") == published_files(exp, "table9") == []
    curves = read_curves(file)
    assert list(curves) == ["Fan", "Zhou"]
    np.testing.assert_allclose(curves["Zhou"][1], y[:, 1])
    picture, ours_only = tmp_path / "ced.svg", {"facemsm": np.array([0.03, 0.09])}
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plot_ced(ours_only, picture, normaliser="inter-ocular", threshold=8, published=curves)
    assert "Zhou: FR@8 60.00 %" in picture.read_text()
    savemat(file, {"x": x, "y": y[::-1], "methods": np.array([["Fan", "Zhou"]], dtype=object)})
    with pytest.raises(FacemsmError, match=r"300W_test_all\.mat: expected ascending errors"):
        read_curves(file)


@pytest.mark.slow
def test_a_plan_counts_and_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Also for the paper's networks, of which one step on a processor takes most of a minute."""
    monkeypatch.setattr(runs, "operations_per_second", lambda: 1e10)
    write_faces(tmp_path / "aflw2000", 10)
    faces = ("--train", f"aflw2000={tmp_path}/aflw2000:train", "--data", tmp_path)
    run(monkeypatch, "train", "fig9", *faces, "-o", tmp_path / "r", "--dry-run", "--preset", "paper", "--scheme", "68")
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match("data missing   300w-private: .*https://ibug", line) for line in lines)
    (hourglass,) = (line for line in lines if "train occluders-none/hourglass (68)" in line)
    assert re.search(
        r"\d+ faces, \d+ steps of 16, 5.0 GB of memory, about .* here, .* on the paper's GTX 1080", hourglass
    )
    for kind, epochs, hours in (("stgan", 1000, 8), ("hourglass", 300, 6)):
        operations = runs.cost(kind, Plan(SCHEME, "paper", ()).config(kind)).operations * epochs * (3148 // 16)
        assert operations / runs.operations_per_second_on_gpu(kind) == pytest.approx(hours * 3600)
    lite, paper_s = (Plan(SCHEME, preset, ()) for preset in ("lite", "paper"))
    assert [one.boxes("hourglass-box") for one in (lite, paper_s)] == ["provided", "gt"]
    assert {one.boxes(name) for one in (lite, paper_s) for name in ("hourglass", "resnet50")} == {"gt"}
    assert len([line for line in lines if " train " in line]) == 5  # with preset paper no arm with painted occluders


def test_runs_of_one_network_are_counted_once() -> None:
    plan = Plan(SCHEME, "lite", ())
    none, painted = (plan.config(f"occluders-{arm}/resnet50") for arm in ("none", "painted"))
    assert none != painted
    cost, counted = runs.cost("resnet50", none), runs._count.cache_info().misses
    assert runs.cost("resnet50", painted) == cost
    assert runs._count.cache_info().misses == counted


# --- Rendering -------------------------------------------------------------------------------------------------------


def test_cells_show_the_paper_the_difference_and_the_slip() -> None:
    row = ["CFSS", beside(Figure("9.07", "a"), 8.5), beside(Figure("0.4132"), 0.5), beside(None), ours(3.456, (3, 4))]
    shown = markdown({"title": "T", "blocks": [table(["method", "x", "y", "z", "ours"], [row])]})
    for part in ("9.07ᵃ (−0.57)", "0.4132 (+0.0868)", "**3.46** [3.00, 4.00]", f"ᵃ {paper().slips['a']}"):
        assert part in shown
    assert "ᵇ" not in shown


def test_a_claim_holds_only_if_its_interval_lies_below_zero() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, 200)
    verdicts = [claim("c", "s", noise + shift)["verdict"] for shift in (-0.01, 0.01, 0.0)]
    assert verdicts == ["holds", "the reverse holds", "not decided"]
    assert claim("c", "s", np.zeros(5))["verdict"] == "no difference at all"
    assert claim("c", "s", np.full(3, np.nan)) == {}
    known = claim("c", "s", np.array([-0.01, np.nan, -0.02]))
    assert known["faces"] == 2
    assert known["difference"] == pytest.approx(-1.5)


# --- Faces and conditions --------------------------------------------------------------------------------------------


class ByBox:
    """Stages that put an average face into the box, as a stand-in for networks."""

    scheme = SCHEME

    def run_stages(self, photos: Sequence[Image], boxes: FloatArray) -> StageOutputs:
        points, scores = np.random.default_rng(0).uniform(0.1, 0.9, (2, 68, 2)).astype(np.float32)
        theta = np.tile(np.array([[0.7, 0.1, 0.05], [-0.1, 0.7, 0.0]]), (len(boxes), 1, 1))
        to_photo = compose(invert(box_to_crop(boxes, SIZE)), theta_to_matrix(theta, SIZE))
        shown = np.zeros((len(photos), SIZE, SIZE, 3), np.uint8)
        every = (len(boxes), 1, 1)
        return StageOutputs(theta, to_photo, shown, np.tile(SIZE * points, every), np.tile(scores[:, 0], every[:2]))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with drawn faces in the form of ``aflw2000``, train and val."""
    root = tmp_path_factory.mktemp("root")
    write_faces(root / "aflw2000", 10)
    content = (root / "aflw2000" / "train.json").read_text(encoding="utf-8")
    (root / "aflw2000" / "val.json").write_text(content, encoding="utf-8")
    return root


@pytest.fixture
def samples(drawn: Path) -> list[FaceSample]:
    return Workspace(drawn / "report", [str(drawn)]).samples("aflw2000", "val")


@pytest.mark.parametrize("condition", CONDITIONS)
def test_kept_outputs_are_the_points_that_were_found(samples: list[FaceSample], condition: str, tmp_path: Path) -> None:
    stages = ByBox()
    cached = locate(stages, samples, condition)
    shown = [CONDITIONS[condition](sample, SCHEME) for sample in samples]
    found = stages.run_stages([face.image for face in shown], np.stack([face.box for face in shown]))
    expected = apply_affine(found.to_photo, found.points)
    np.testing.assert_allclose(cached.points(), expected, atol=1e-2)
    np.testing.assert_array_equal(cached.truth, [face.points for face in shown])
    cached.save(tmp_path / "x.npz")
    again = CachedOutputs.load(tmp_path / "x.npz")
    np.testing.assert_array_equal(again.points(), cached.points())
    assert again.names == cached.names
    assert again.take([samples[3].name, "nobody"]).names == (samples[3].name,)


def test_conditions_move_photo_box_and_points_together(samples: list[FaceSample]) -> None:
    for sample in samples:
        given, drawn_on = (CONDITIONS[condition](sample, SCHEME) for condition in (GIVEN, DRAWN_OCCLUDERS))
        eye = [normaliser(face.points[None], SCHEME, "inter-ocular")[0] for face in (given, drawn_on)]
        grown = eye[1] / eye[0]
        np.testing.assert_allclose(np.diff(drawn_on.box[::2]), np.diff(given.box[::2]) * grown, rtol=1e-4)
        perturbed = CONDITIONS[PERTURBED_BOXES](sample, SCHEME)
        np.testing.assert_allclose(normaliser(perturbed.points[None], SCHEME, "inter-ocular")[0], eye[0], rtol=1e-4)
    covered = [CONDITIONS[DRAWN_OCCLUDERS](sample, SCHEME).visibility == OCCLUDED for sample in samples]
    assert np.mean([one.any() for one in covered]) > 0.5
    assert np.mean(covered) < 0.6


def test_examples_without_stage_1_are_crops_by_the_box(samples: list[FaceSample]) -> None:
    maker = BoxExamples(SCHEME, SIZE, None)
    for sample in samples[:3]:
        example = maker(sample, np.random.default_rng(0))
        matrix = box_to_crop(sample.box, SIZE, CANONICAL_MARGIN)
        np.testing.assert_allclose(apply_affine(invert(matrix), example["points"]), sample.points, atol=1e-2)
    turned = BoxExamples(SCHEME, SIZE, Augmentation.paper())
    first, second = (turned(samples[0], np.random.default_rng(seed)) for seed in (1, 2))
    assert np.abs(first["points"] - second["points"]).max() > 1


# --- From faces to the report ----------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that train within a second."""
    original = Plan.config

    def config(self: Plan, name: str) -> Any:
        full = original(self, name)
        schedule = replace(full.schedule, batch_size=2, workers=0, threads=1, precision="32-true")
        full = replace(full, schedule=schedule)
        if run_kind(name) == "hourglass":
            network = HourglassConfig(68, width=8, stacks=2, depth=2, stem=4, body_size=32, deconvolution=2)
            return replace(full, network=network)
        return full if name == "stgan" else replace(full, network=ResNet50Config(68, width=2))

    monkeypatch.setattr(Plan, "config", config)
    monkeypatch.setattr("facemsm.stgan.networks.DISCRIMINATOR_WIDTHS", (4, 4, 8, 8, 8, 8))
    monkeypatch.setattr("facemsm.reproduce.figures.SIZES", (6, 12))
    monkeypatch.setattr("facemsm.reproduce.figures.NEIGHBOURS", (3, 6, 12))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path, code: int = 0) -> None:
    monkeypatch.setattr(sys, "argv", ["facemsm", "reproduce", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert (stop.value.code or 0) == code


def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line on stderr."""
    capsys.readouterr()
    run(monkeypatch, *arguments, code=2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_one_command_trains_all_and_tables_follow(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    faces = ("--train", f"aflw2000={drawn / 'aflw2000'}:train", "--data", drawn)
    where = (*faces, "-o", report)
    line = fails(monkeypatch, capsys, "table8", *where)
    assert "occluders-none/resnet50-box is not trained; train it with: facemsm reproduce train --scheme 68" in line

    train = ("train", "--scheme", "68", *where, "--occluders", "none", "--budget", "2", "--no-progress")
    run(monkeypatch, *train)
    done = {name: report / "runs" / "68" / name / "done.json" for name in run_names(["none"])}
    assert {json.loads(path.read_text())["steps"] for path in done.values()} == {2}
    stamps = [path.stat().st_mtime_ns for path in done.values()]
    run(monkeypatch, *train)
    assert [path.stat().st_mtime_ns for path in done.values()] == stamps
    other = fails(monkeypatch, capsys, *train[:-2], "3", "--no-progress")
    assert "stgan: trained with other settings (schedule.steps was 2, is 3)" in other
    plan = Workspace(report, [str(drawn)], training=[str(faces[1])]).plan("68")
    fewer = fails(monkeypatch, capsys, *train, "--exclude", plan.faces("stgan").training[0].name)
    assert "other settings (faces was" in fewer
    assert "no face is called 'nobody'" in fails(monkeypatch, capsys, *train, "--exclude", "nobody")

    items = ("table8", "stages", "table9", "fig7", "fig14", "fig15", "fig5")
    monkeypatch.setattr("facemsm.reproduce.workspace.EXEMPLARS", 12)
    run(monkeypatch, *items, *where, "--no-photos")
    assert capsys.readouterr().out.count("made") == len(items)
    index = (report / "index.md").read_text(encoding="utf-8")
    for part in ("Which of the paper's claims hold here", "Table VIII", "aflw2000 val: 10 faces", "5.23ᵇ"):
        assert part in index
    assert "aflw2000 val (no painted occluders), perturbed boxes: " in index
    assert "(painted occluders)" not in index.partition("<a id")[0].partition("the arms of the ablation")[2]
    result = json.loads((report / "results" / "table8.json").read_text(encoding="utf-8"))
    claims = next(block["claims"] for block in result["section"]["blocks"] if "claims" in block)
    assert any("worse the boxes" in one["claim"] for one in claims)
    blocks = json.loads((report / "results" / "stages.json").read_text(encoding="utf-8"))["section"]["blocks"]
    ((_, *measured),) = (block["table"] for block in blocks if "table" in block)
    with_stage_1, without = (next(row for row in measured if row[0] == name) for name in ("ST-GAN + HG", "HG"))
    assert with_stage_1[1]["ours"] != without[1]["ours"]
    assert "aflw2000 val (weights), perturbed boxes: " in index
    assert {path.stem for path in (report / "plots").glob("*.jpg")} == {"fig5", "fig14"}
    assert index.count("*The bundled photo") == 2
    for block in (block for block in result["section"]["blocks"] if "picture" in block):
        assert (report / block["picture"]).is_file()

    run(monkeypatch, *items, *where, "--no-photos")
    assert capsys.readouterr().out.count("there already") == len(items)
    config = report / "runs" / "68" / "occluders-none" / "hourglass" / "config.json"
    config.rename(tmp_path / "kept")
    assert "hourglass: damaged; remove it and train again" in fails(monkeypatch, capsys, *train)
    (tmp_path / "kept").rename(config)
    done["occluders-none/resnet50-box"].rename(tmp_path / "kept")
    run(monkeypatch, "table8", *where, "--no-photos")
    part = json.loads((report / "results" / "table8.json").read_text(encoding="utf-8"))["section"]["blocks"]
    assert "Not trained with no painted occluders: Res-50;" in part[0]["text"]
    _, gains, _, measured = (block["table"] for block in part if "table" in block)
    assert [row[1] for row in gains[1:]] == ["no painted occluders"] * 2
    assert [row[0] for row in measured[1:]] == [c for c in ALL_CONFIGURATIONS if c != "Res-50"]
    assert not any("Res-50" in one["claim"] for block in part for one in block.get("claims", ()))
    (tmp_path / "kept").rename(done["occluders-none/resnet50-box"])

    (report / done["stgan"]).unlink()
    assert "half-finished; go on with" in fails(monkeypatch, capsys, "fig15", *where, "--preset", "paper")
    run(monkeypatch, "train", "table8", *where, "--dry-run", "--scheme", "68", "--budget", "2")
    said = capsys.readouterr().out
    assert "half-finished  train stgan (68)" in said
    assert "done           train occluders-none/hourglass (68)" in said
    assert "to do          train occluders-painted/hourglass (68)" in said
    assert "after training outputs of occluders-painted/HG (68), aflw2000 val" in said
    assert "in all about" in said


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_arms_start_from_one_trunk_and_are_shown_side_by_side(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("facemsm.reproduce.ablation.HEADS", ("hourglass", "hourglass-box"))
    monkeypatch.setattr("facemsm.reproduce.workspace.EXEMPLARS", 12)
    faces = ("--train", f"aflw2000={drawn / 'aflw2000'}:train", "--data", drawn, "--scheme", "68", "--no-progress")
    first = tmp_path / "first"
    run(monkeypatch, "train", *faces, "-o", first, "--occluders", "painted", "--budget", "2")
    assert not (first / "runs" / "68" / "occluders-none").exists()
    trunk = (first / "runs" / "68" / "occluders-painted" / "hourglass").rename(tmp_path / "trunk")

    report, still = tmp_path / "report", ("--budget", "1", "--set", "schedule.learning_rate=0")
    train = ("train", *faces, "-o", report, *still)
    start = ("--init", f"hourglass={trunk}")
    stages = "stgan, hourglass, resnet50"
    for wrong, what in (("hg=x", f"expected KIND=RUN with a KIND of {stages}"), ("stgan=x", "no file x")):
        assert fails(monkeypatch, capsys, *train, "--init", wrong).endswith(f"--init {wrong}: {what}")
    assert "not this network's weights" in fails(monkeypatch, capsys, *train, "--init", f"stgan={trunk}")
    history = trunk / "history.csv"
    sound = history.read_text()
    history.write_text(re.sub(r"\n(\d+),(\d+),[^,]+", r"\n\1,\2,x", sound))
    assert "history.csv: damaged (could not convert" in fails(monkeypatch, capsys, *train, *start, "--dry-run")
    history.write_text(sound)
    assert "--init hourglass=...: given more than once" in fails(monkeypatch, capsys, *train, *start, *start)
    assert "--occluders all: use none or painted" in fails(monkeypatch, capsys, *train, "--occluders", "all")
    assert not report.exists()
    run(monkeypatch, *train, *start, "--dry-run")
    assert capsys.readouterr().out.count("1 steps of 2 from trunk") == 4
    run(monkeypatch, *train, *start)
    before = load_file(trunk / "best.safetensors")
    for name in run_names(ARMS)[1:]:
        after = load_file(report / "runs" / "68" / name / "best.safetensors")
        for key, tensor in before.items():
            if "running" not in key and "num_batches" not in key:
                torch.testing.assert_close(after[key], tensor)
    assert "trained with other settings (other weights to start from)" in fails(monkeypatch, capsys, *train)
    (report / "runs" / "68" / "occluders-none" / "hourglass" / "done.json").rename(tmp_path / "kept")
    assert "half-finished with other settings (other weights" in fails(monkeypatch, capsys, *train)
    run(monkeypatch, *train, *start)  # goes on: there was only the end to write
    ended = json.loads((report / "runs" / "68" / "occluders-none" / "hourglass" / "done.json").read_text())
    assert ended["start"] == json.loads((tmp_path / "kept").read_text())["start"]

    run(monkeypatch, "table8", *faces[:4], "-o", report, "--no-photos")
    said, *blocks = json.loads((report / "results" / "table8.json").read_text())["section"]["blocks"]
    assert "stgan 1 steps of 2 from random weights; occluders-none/hourglass 1 steps of 2" in said["text"]
    begun = r"from the weights trunk \(checksum \w{12}; held-out errors in its history: box \S+, .* at step 2 "
    assert re.search(begun, said["text"])
    _, gains, held, *_ = (block["table"] for block in blocks if "table" in block)
    assert held[0] == ["claim", *ARMS.values()]
    rows = [row[:2] for row in gains[1:]]
    assert [row[1] for row in rows] == ["no painted occluders", "painted occluders", "difference"] * 2
    none, painted, difference = (row[-1]["ours"] for row in gains[1:4])
    assert difference == pytest.approx(none - painted, abs=1e-5)
    index = (report / "index.md").read_text(encoding="utf-8")
    for part in ("(no painted occluders), drawn occluders: ", "(painted occluders), drawn occluders: "):
        assert part in index
    assert "Stage 3 helps HG more without painted occluders in training" in index
    drawn_curves: list[str] = []
    monkeypatch.setattr("facemsm.reproduce.figures.draw_ced", lambda _, curves, *__: drawn_curves.extend(curves))
    workspace = Workspace(report, [str(drawn)], training=[str(faces[1])])
    ced_of_configurations(workspace, [("aflw2000", "val")], "fig13", "68")
    shown = ("HG", "ST-GAN + HG", "ST-GAN + HG + SR")
    assert drawn_curves == [f"{config}, {arm}" for arm in ARMS.values() for config in shown]


def test_arms_differ_in_painted_occluders_alone() -> None:
    plan = Plan(SCHEME, "lite", ())
    none, painted = (plan.config(f"occluders-{arm}/hourglass") for arm in ARMS)
    odds = {*OCCLUDERS, "cut"}
    assert {getattr(none.augmentation, name) for name in odds} == {0}
    assert all(getattr(painted.augmentation, name) > 0 for name in odds)
    assert (none.occluded_peak, painted.occluded_peak) == (1, 0.4)
    same = replace(painted, augmentation=replace(painted.augmentation, **dict.fromkeys(odds, 0.0)), occluded_peak=1.0)
    assert same == none
    assert none.adapt == 0
    assert plan.config("stgan").augmentation.mask > 0  # stage 1 is the preset's
    assert Plan(SCHEME, "paper", ()).config("occluders-none/hourglass") == Plan(SCHEME, "paper", ()).config("hourglass")
    own = replace(plan, settings=("hourglass:occluded_peak=0.7",))
    assert {own.config(f"occluders-{arm}/hourglass-box").occluded_peak for arm in ARMS} == {0.7}


def test_runs_of_the_time_before_arms_are_refused_with_the_way_out(drawn: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, [str(drawn)])
    (tmp_path / "runs" / "68" / "hourglass").mkdir(parents=True)
    with pytest.raises(MissingError, match=r"move hourglass to .*occluders-painted if they are of preset lite"):
        workspace.configurations("68")
    with pytest.raises(MissingError, match="earlier version"):
        workspace.network_key("68", "occluders-none/HG")


def test_threads_and_workers_make_no_other_run() -> None:
    """Nor do settings that there were not when it was trained."""
    old = {"config": {"schedule": {"threads": 1, "workers": 0, "steps": 2}, "sigma": 1.5}, "listing": "a"}
    new = {"config": {"schedule": {"threads": 2, "workers": 1, "steps": 2, "keep": 0}, "sigma": 1.5}, "listing": "a"}
    assert runs._differences(old, new) == []
    new["listing"] = "b"
    assert runs._differences(old, new) == ["other training faces"]


def test_a_setting_may_be_for_one_kind_of_run() -> None:
    plan = Plan(SCHEME, "lite", (), 9, ("hourglass:network.width=64", "schedule.threads=3"))
    assert [plan.config(name).network.width for name in ("hourglass", "hourglass-box", "resnet50")] == [64, 64, 24]
    assert {plan.config(name).schedule.threads for name in run_names(ARMS)} == {3}
    with pytest.raises(FacemsmError, match="no run is called 'hg'"):
        replace(plan, settings=("hg:network.width=64",)).config("stgan")


def test_scores_are_eq_9s_whatever_the_weights_ship_with(tmp_path: Path) -> None:
    workspace, whole, photo = Workspace(tmp_path), Aligner.from_pretrained("68"), read_image(SAMPLE)
    seen = whole.run_stages([photo], SAMPLE_BOX[None])
    found = workspace.stages("68", MODEL).run_stages([photo], SAMPLE_BOX[None])
    np.testing.assert_array_equal(found.scores, seen.scores)
    shipped = workspace.stages("68", SHIPPED).run_stages([photo], SAMPLE_BOX[None])
    points = apply_affine(shipped.to_photo, shipped.points)[0]
    np.testing.assert_allclose(points, whole.align(photo, SAMPLE_BOX[None])[0].points, atol=1e-4)
    assert workspace.own_form("68") == "posterior"


def test_the_papers_method_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_300w(tmp_path / "300w")
    where = ("table3", "--data", tmp_path, "-o", tmp_path / "report")
    shown = []
    for method in ((), ("--method", "paper"), ()):
        run(monkeypatch, *where, *method)
        shown.append((tmp_path / "report" / "index.md").read_text(encoding="utf-8"))
    assert ["as shipped, stage 3 by posterior" in text for text in shown] == [True, False, True]
    assert all("stage 3 in the paper's form" in text for text in shown)


def test_stage_3_with_known_truth_needs_labels_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("stage3", "--data", tmp_path, "-o", tmp_path / "report")
    assert "--data cofw68=FOLDER" in fails(monkeypatch, capsys, *where)
    write_cofw68(tmp_path / "cofw68", 6)
    run(monkeypatch, *where, "--dry-run")
    assert "stage3: the outputs above" in capsys.readouterr().out
    run(monkeypatch, *where)
    index = (tmp_path / "report" / "index.md").read_text(encoding="utf-8")
    assert "cofw68 test: 6 of 507 faces" in index
    assert "| Gaussian, hidden points ignored" in index


@pytest.mark.slow
def test_alignment_takes_away_what_stage_1_leaves(data_root: Path, tmp_path: Path) -> None:
    """The figures of docs/method.md, from COFW-68's labels."""
    shown, _ = readings(Workspace(tmp_path, [str(data_root)]), [("cofw68", "test")], "stage3", "68")
    head, *rows = shown["table"]
    found = {row[0]: dict(zip(head[1:], (cell["ours"] for cell in row[1:]), strict=True)) for row in rows}
    printed, aligned, *_ = READINGS
    perfect, off = "moved, perfect stage 1", "moved, stage 1 off"
    assert found[printed][off] > 1.3 * found[printed][perfect]
    assert found[aligned][off] == pytest.approx(found[aligned][perfect], rel=0.02)
    assert all(found[aligned][column] < found["no stage 3"][column] for column in head[1:])


def test_300w_private_comes_without_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {f"{part}": [f"{part[3:].lower()}_{i}.png" for i in (1, 2)] for part in ("01_Indoor", "02_Outdoor")}
    write_300w(tmp_path / "private", parts)
    for boxes in (tmp_path / "private").glob("*.mat"):
        boxes.unlink()
    (tmp_path / "empty").mkdir()
    where = ("--data", tmp_path / "empty", "--data", f"300w-private={tmp_path / 'private'}", "-o", tmp_path / "report")
    run(monkeypatch, "table4", "fig9", *where)
    index = (tmp_path / "report" / "index.md").read_text(encoding="utf-8")
    assert index.count("(300w-private full: 4 of 600 faces (tight boxes))") == 2
    assert "4 of 600 |" in index
    assert (tmp_path / "report" / "plots" / "fig9.png").is_file()


def test_what_is_missing_is_said_in_one_line(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--data", drawn, "-o", tmp_path)
    assert "nothing is called 'table1'" in fails(monkeypatch, capsys, "table1", *where)
    assert "--data 300w=FOLDER" in fails(monkeypatch, capsys, "table3", *where)
    assert fails(monkeypatch, capsys, "table3", "--data", "300w=nowhere").endswith(
        "--data 300w=nowhere: no such folder"
    )
    (drawn / "wflw").mkdir(exist_ok=True)
    assert "wflw test" in fails(monkeypatch, capsys, "table6", *where)
    assert "300w: no folder" in fails(monkeypatch, capsys, "train", "--scheme", "68", *where)
    with pytest.raises(MissingError, match="--weights 68 finds 68 points"):
        Workspace(tmp_path, [str(drawn)], ["68"]).network_key("98", "model")
    two = ("--weights", "68", "--weights", "68-large", "--data", "300w=nowhere", "--dry-run")
    assert "--weights 68 and 68-large find the same points" in fails(monkeypatch, capsys, "table3", *two)


@pytest.mark.slow
def test_an_incomplete_set_is_named_in_the_title(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "table3", "--data", data_root, "-o", tmp_path, "--limit", "4", "--weights", "68")
    index = (tmp_path / "index.md").read_text(encoding="utf-8")
    assert "300w full: 4 of 689 faces" in index
    assert "300w challenge: 0 of 135 faces" in index
    assert "4 of 554" in index
    (ours_row,) = (line.split("|") for line in index.splitlines() if line.startswith("| **facemsm**"))
    common, challenge, full = (cell.strip() for cell in ours_row[4:7])
    assert common.startswith("**")
    assert (challenge, full) == ("-", "-")  # no face of the challenge subset: nothing to say of the full set
    assert "a whole part is missing" in index
