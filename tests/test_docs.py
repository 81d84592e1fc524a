"""What README and docs tell to type exists: Python blocks run, commands have their options, names can be imported."""

from __future__ import annotations

import ast
import doctest
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import facemsm
from facemsm import Aligner, Face, HeatmapCodec, LandmarkScheme, list_models
from facemsm.apps import cli
from facemsm.imaging.io import read_image
from facemsm.results.tables import write_pts
from facemsm.runtime.model import load_model
from facemsm.shapes.reconstruction import reconstruct
from facemsm.video.io import VideoWriter
from official_files import write_300w

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
TEXTS = sorted({*PAGES, *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("checkpoints/**/*.md")})
TEXTS += sorted((ROOT / "src/facemsm/weights").rglob("*.md"))
"""All that is written for readers: the pages, the reference, the report of the reproduction, the models' cards."""

SAMPLE = ROOT / "src/facemsm/assets/sample.jpg"
CARD = (ROOT / "src/facemsm/weights/68/MODEL_CARD.md").read_text(encoding="utf-8")
STANDS_FOR = dict(re.findall(r"\b([A-Z]+)\s(?:stands\s)?for\s`([^`]+)`", CARD))
"""Options that the recipes of the cards repeat."""

OPTIONAL = {"h5py", "lightning", "matplotlib", "onnx", "onnxscript", "pandas", "ray", "scipy", "sklearn", "torch"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def with_blocks(language: str) -> list[Any]:
    return [pytest.param(page, id=page.name) for page in PAGES if blocks(page, language)]


def given(page: Path, folder: Path) -> dict[str, Any]:
    """The files that a page's blocks read, and the variables that they take from the reader."""
    shutil.copy(SAMPLE, folder / "photo.jpg")
    (folder / "src").symlink_to(ROOT / "src", target_is_directory=True)
    write_300w(folder / "data/300w")
    for text in blocks(page, "toml"):
        name = re.search(r'^name = "(.*)"', text, re.MULTILINE)
        assert name
        (folder / f"{name[1]}.toml").write_text(text, encoding="utf-8")
    if page.name == "own-data.md":
        shutil.copytree(ROOT / "src/facemsm/weights/68", folder / "runs/model")  # in place of the trained one
        return {"photo": read_image(SAMPLE)}
    if page.name == "onnx.md":
        write_whole(folder)
    if page.name == "evaluation.md":
        points, occluded = np.zeros((1, 68, 2), np.float32), np.zeros((1, 68), np.bool_)
        return {"path": folder / "mine.npz", "names": ["a"], "points": points, "occluded": occluded}
    return {}


def write_whole(folder: Path) -> None:
    """What the examples of onnx.md read."""
    pytest.importorskip("onnx")
    from facemsm.export.boxes import export_detector
    from facemsm.export.whole import export_whole

    export_whole(load_model("68"), folder / "facemsm-68.onnx")
    export_detector(folder / "facemsm-detector.onnx")
    photo = read_image(SAMPLE)
    (folder / "photo.ppm").write_bytes(b"P6\n%d %d\n255\n" % photo.shape[1::-1] + photo.tobytes())


def in_node(folder: Path, text: str) -> list[str]:
    """The command that runs a JavaScript example."""
    node = shutil.which("node")
    check = [node or "node", "-e", "require('onnxruntime-node')"]
    if not node or subprocess.run(check, cwd=folder, capture_output=True, check=False).returncode:
        pytest.skip("needs Node.js with onnxruntime-node, found by NODE_PATH or in a parent of the temporary folder")
    return [node, "-e", text]


def compiled(folder: Path, text: str) -> list[str]:
    """The command that runs a C++ example."""
    path = folder / "example.cpp"
    path.write_text(text, encoding="utf-8")
    command = ["c++", "-std=c++17", "-I/usr/include/onnxruntime", str(path)]
    probe = [*command[:-1], "-fsyntax-only", "-include", "onnxruntime_cxx_api.h", "-x", "c++", "/dev/null"]
    if not shutil.which("c++") or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("needs a C++ compiler and ONNX Runtime (Debian's libonnxruntime-dev, or CPATH and LIBRARY_PATH)")
    subprocess.run([*command, "-o", str(folder / "example"), "-lonnxruntime"], check=True)
    return [str(folder / "example")]


@pytest.mark.slow
@pytest.mark.parametrize(("language", "command"), [("js", in_node), ("cpp", compiled)])
def test_the_examples_of_one_onnx_file_agree(
    language: str,
    command: Callable[[Path, str], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = ROOT / "docs/onnx.md"
    words = command(tmp_path, blocks(page, language)[0])
    monkeypatch.chdir(tmp_path)
    write_whole(tmp_path)
    exec(blocks(page, "python")[0], {})
    expected = capsys.readouterr().out
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    assert run.stdout == expected
    assert re.fullmatch(r"nose \d+\.\d \d+\.\d score 0\.\d\d occlusion 0\.\d\d\n", expected)


@pytest.mark.slow
@pytest.mark.parametrize("page", with_blocks("python"))
def test_python_blocks_run_one_after_the_other(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    monkeypatch.chdir(tmp_path)
    names = given(page, tmp_path)
    for number, block in enumerate(blocks(page, "python"), 1):
        with subtests.test(block=number):
            code = compile(block, f"{page.name}, block {number}", "exec")
            for library in OPTIONAL & set(re.findall(r"^(?:import|from) (\w+)", block, re.MULTILINE)):
                pytest.importorskip(library)
            if "import ray" not in block:  # a cluster and the folder /data are the reader's
                exec(code, names)


@pytest.mark.parametrize("name", ["index.md", "large-jobs.md", "own-data.md", "video.md"])
def test_commands_that_need_no_training_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / name
    given(page, tmp_path)
    for folder in ("holiday", "photos"):
        (tmp_path / folder).mkdir()
        shutil.copy(SAMPLE, tmp_path / folder / "a.jpg")
    write_pts(tmp_path / "photos/a.pts", np.array([[200, 90], [250, 90], [225, 120], [205, 145], [245, 145]], float))
    video = VideoWriter(tmp_path / "talk.mp4", 30.0, 512, 512)
    for number in range(3):
        video.write(read_image(SAMPLE), number / 30)
    video.finish()
    if name == "own-data.md":  # the reader has the file
        run_command(shlex.split("facemsm data convert pts photos/ faces.json --scheme five.toml"), monkeypatch)
    ran = 0
    for words in commands(page):
        text = " ".join(words)
        if not re.match(r"facemsm (align|data|video)\b", text) or re.search(
            r"--ray|--camera|--show|--provider| /data/|=data/", text
        ):
            continue
        run_command(words, monkeypatch)
        ran += 1
    assert ran


def run_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code, " ".join(words)


def commands(page: Path) -> Iterator[list[str]]:
    """The commands of the page's shell blocks, as words; comments, redirections and variables of the shell left out."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for name, options in STANDS_FOR.items():
                line = re.sub(rf"\b{name}\b", options.replace("\n", " "), line)
            words = shlex.split(re.split(r" [>|&] ", line)[0], comments=True)
            if words:
                yield words


def test_facemsm_commands_exist_with_their_options() -> None:
    known = 0
    for page in TEXTS:
        for words in commands(page):
            starts = [i for i, word in enumerate(words) if word == "facemsm"]
            if not starts or words[0] not in ("facemsm", "torchrun", "python3"):
                continue
            check_command(words[starts[0] + 1 :], f"{page.name}: {' '.join(words)}")
            known += 1
    assert known > 20


def check_command(words: list[str], where: str) -> None:
    """Let typer parse the words as it would before it calls the command: options, values, what is required."""
    command: Any = typer.main.get_command(cli.app)
    parent = None
    while hasattr(command, "list_commands"):
        parent = command.make_context(command.name, [], parent=parent, resilient_parsing=True)
        parent.resilient_parsing = False  # which only kept it from asking for a command
        assert words, where
        assert words[0] in command.list_commands(parent), where
        _, command, words = command.resolve_command(parent, words)
    if "--help" in words:
        return
    try:
        command.make_context(command.name, list(words), parent=parent)
    except Exception as error:
        raise AssertionError(f"{where}: {error}") from error


@pytest.mark.parametrize(
    "words",
    [["aligne", "x"], ["align", "--drw"], ["train", "stage1"], ["train", "stgan", "-o", "x"], ["align", "-f", "xml"]],
)
def test_the_check_sees_faults(words: list[str]) -> None:
    with pytest.raises(AssertionError, match="here"):
        check_command(words, "here")


def test_scripts_exist_with_their_options() -> None:
    for page in TEXTS:
        for words in commands(page):
            if words[0] in ("python", "python3") and words[1].endswith(".py"):
                text = (ROOT / words[1]).read_text(encoding="utf-8")
                for option in (word for word in words[2:] if word.startswith("--")):
                    name = option.removeprefix("--").replace("-", "_")
                    assert option in text or re.search(rf"\b{name}\b", text), f"{page.name}: {' '.join(words)}"


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in TEXTS])
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)#?([^)\s]*)\)", text):
        goal = page.parent / target if target else page
        assert goal.exists(), f"{page.name}: {target}"
        if anchor and goal.suffix == ".md":
            known = anchor in anchors(goal.read_text(encoding="utf-8")) or exists(anchor)
            assert known, f"{page.name}: {target}#{anchor}"


def anchors(text: str) -> set[str]:
    """Names of the headings, as GitHub and MkDocs make them, and those that are written out."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
    return made | set(re.findall(r'(?:id="|\{#)([\w.-]+)', text))


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in TEXTS])
def test_names_in_the_text_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in sorted(set(re.findall(r"`(facemsm(?:\.\w+)+)", text)) - {"facemsm.toml"}):
        assert exists(name), f"{page.name}: {name}"
    for file in re.findall(r"`((?:docs|src|benchmarks|tests)/[\w./-]+)`", text):
        assert (ROOT / file).exists(), f"{page.name}: {file}"


def test_each_equation_is_named_where_it_is_computed() -> None:
    rows = re.findall(
        r"^\| (Eq\. \d+|Algorithm 1)\b[^|]*\|.*\|(.*)\|$", (ROOT / "docs/method.md").read_text("utf-8"), re.MULTILINE
    )
    assert {name for name, _ in rows} == {*(f"Eq. {n}" for n in range(1, 12)), "Algorithm 1"}
    for equation, places in rows:
        for dotted in re.findall(r"`(facemsm[\w.]+)`", places):
            assert re.search(rf"{re.escape(equation)}\b", source_of(dotted)), f"{dotted} does not name {equation}"


def source_of(dotted: str) -> str:
    """The text of a module, or of a class or function in one, without importing it."""
    parts = dotted.split(".")
    end = next(i for i in range(len(parts), 0, -1) if (ROOT / "src" / "/".join(parts[:i])).with_suffix(".py").is_file())
    text = (ROOT / "src" / "/".join(parts[:end])).with_suffix(".py").read_text("utf-8")
    node: Any = ast.parse(text)
    for part in parts[end:]:
        node = next(each for each in node.body if getattr(each, "name", None) == part)
    return ast.get_source_segment(text, node) or "" if parts[end:] else text


def exists(name: str) -> bool:
    """Whether a dotted name is a module or something in one; libraries that are missing excuse it."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:i]))
        except ModuleNotFoundError as error:
            if error.name and error.name.split(".")[0] != "facemsm":
                return True
            continue
        for part in parts[i:]:
            fields = getattr(found, "__dataclass_fields__", {})
            if part in fields:
                return True
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_the_check_of_names_sees_faults() -> None:
    assert exists("facemsm.heatmaps.HeatmapCodec.decode")
    assert exists("facemsm.heatmaps.HeatmapCodec.refinement")
    assert not exists("facemsm.heatmaps.HeatmapCodec.decoded")
    assert not exists("facemsm.heatmap")


def test_every_picture_is_made_by_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {name for page in PAGES for name in re.findall(r"\(pictures/([\w.-]+)\)", page.read_text(encoding="utf-8"))}
    for name in ("make_pictures.py", "make_gallery.py"):
        script = runpy.run_path(str(ROOT / "docs" / name))
        monkeypatch.setitem(script["main"].__globals__, "PICTURES", tmp_path)
        monkeypatch.setitem(script["main"].__globals__, "photograph_page", lambda path: path.touch())  # needs a browser
        script["main"]()
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {path.name for path in (ROOT / "docs/pictures").iterdir() if path.is_file()}
    assert shown <= made


def test_each_photo_of_the_gallery_is_small_and_credited() -> None:
    page = (ROOT / "docs/gallery.md").read_text(encoding="utf-8")
    photos = sorted((ROOT / "docs/pictures/gallery").iterdir())
    for photo in photos:
        assert f"{photo.stem}.png" in page, photo.name
    pictures = [*photos, *(ROOT / "docs/pictures").glob("gallery-*")]
    assert sum(path.stat().st_size for path in pictures) < 600_000


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs the extra docs")
    pytest.importorskip("mkdocstrings")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    page = (tmp_path / "api/use/index.html").read_text(encoding="utf-8")
    assert 'id="facemsm.aligner.Aligner.align"' in page
    method = (tmp_path / "method/index.html").read_text(encoding="utf-8")
    assert re.search(r'<a [^>]*href="../api/method/#facemsm.heatmaps.HeatmapCodec.decode"', method)
    assert "V*D_S" in method  # asterisks are not taken for emphasis


@pytest.mark.parametrize("example", [Aligner, Face, HeatmapCodec, LandmarkScheme, list_models, reconstruct])
def test_examples_of_docstrings_run(example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, "photo.jpg")
    module = sys.modules[example.__module__]
    names = {**vars(module), "facemsm": facemsm, "np": np}
    (test,) = [test for test in doctest.DocTestFinder(recurse=False).find(example, globs=names) if test.examples]
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_docs_import_public_names_only() -> None:
    listed = set(
        re.findall(r"^::: (\S+)", "".join(p.read_text() for p in (ROOT / "docs/api").glob("*.md")), re.MULTILINE)
    )
    code = {page: blocks(page, "python") for page in TEXTS}
    for page in (ROOT / "docs/notebooks").glob("*.ipynb"):
        cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
        code[page] = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for page, texts in code.items():
        for block in texts:
            for module, names in re.findall(r"^from (facemsm[\w.]*) import (.*)$", block, re.MULTILINE):
                public = facemsm.__all__ if module == "facemsm" else names.split(", ") if module in listed else []
                assert set(names.split(", ")) <= set(public), f"{page.name}: {module}: {names}"
    for name in set(facemsm.__all__) - {"align_dataset"}:  # which needs Ray
        assert getattr(facemsm, name) is not None
    for name, home in facemsm._HOME.items():
        assert listed & {home, f"{home}.{name}"}, f"no API page lists {home}"
