"""The rooms of the package stand on floors: each imports only what stands before it, deferred imports included."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src/facemsm"

FLOORS = """
    errors < typing < files < provenance < assets, weights < schemes < geometry < heatmaps < imaging < shapes
    < confidence < runtime < detectors < stages < face < aligner < results < video < batch < data < evaluation
    < training < stgan, hourglass, resnet50 < export < reproduce < serve < __init__ < apps < __main__
"""
"""Subpackages and root modules from the lowest to the highest. Rooms of one floor do not import each other either."""

ROOTS = {"errors", "typing", "files", "provenance", "schemes", "geometry", "heatmaps", "stages", "face", "aligner"}
"""Rooms that are one module in the package's folder; modules that are on no floor belong into a subpackage."""

TORCH = {"torch", "lightning", "torchmetrics"}

RANK = {room.strip(): floor for floor, rooms in enumerate(FLOORS.split("<")) for room in rooms.split(",")}


def room(path: Path) -> str:
    """The subpackage or root module that a file of the package belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def statements(source: str) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]


def imports(source: str, package: str = "facemsm") -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that a module of ``package`` imports, wherever it does."""
    for node in statements(source):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        else:
            parts = package.split(".")
            base = ".".join([*parts[: len(parts) + 1 - node.level], *([node.module] if node.module else [])])
            base = base if node.level else node.module or ""
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def back_arrows(source: str, home: str) -> list[str]:
    """Imports of a module of the room ``home`` that reach a room of its own floor or a higher one."""
    arrows = []
    for line, name in imports(source, "facemsm" if home in {*ROOTS, "__init__", "__main__"} else f"facemsm.{home}"):
        parts = name.split(".")
        if parts[0] == "facemsm":
            target = parts[1] if len(parts) > 1 and parts[1] in RANK else "__init__"
            if target != home and RANK[target] >= RANK[home]:
                arrows.append(f"line {line}: {home} imports {name}")
    return arrows


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_every_module_has_a_room() -> None:
    assert {room(path) for path in modules()} == set(RANK)
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*ROOTS, "__init__", "__main__"}


def test_no_import_runs_back() -> None:
    found = {str(path.relative_to(PACKAGE)): back_arrows(path.read_text("utf-8"), room(path)) for path in modules()}
    assert {path: arrows for path, arrows in found.items() if arrows} == {}


def test_no_modules_of_a_room_import_each_other() -> None:
    paths = {
        ".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): p for p in modules()
    }
    graph = {}
    for name, path in paths.items():
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        found = [imported for _, imported in imports(path.read_text("utf-8"), package)]
        graph[name] = {name if name in paths else name.rpartition(".")[0] for name in found} & set(paths)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names them


def test_no_module_imports_what_is_private_to_another() -> None:
    for path in modules():
        names = [name for _, name in imports(path.read_text("utf-8")) if name.startswith("facemsm.")]
        assert not [name for name in names if re.search(r"\._[a-z]", name)], path


def test_only_training_and_what_stands_on_it_know_torch() -> None:
    for path in modules():
        names = {name.split(".")[0] for _, name in imports(path.read_text("utf-8"))}
        assert RANK[room(path)] >= RANK["training"] or not names & TORCH, path


def test_data_knows_no_aligner() -> None:
    for path in modules():
        if room(path) == "data":
            names = {name for _, name in imports(path.read_text("utf-8"), "facemsm.data")}
            assert not any(name.startswith(("facemsm.aligner", "facemsm.stages", "facemsm.Aligner")) for name in names)


@pytest.mark.parametrize(
    ("source", "home", "back"),
    [
        ("from facemsm.geometry import invert", "heatmaps", False),
        ("from facemsm.heatmaps import HeatmapCodec", "geometry", True),
        ("from facemsm import heatmaps", "geometry", True),
        ("import facemsm.heatmaps", "geometry", True),
        ("from facemsm import Aligner", "geometry", True),
        ("from facemsm import Aligner", "apps", False),
        ("from .posterior import Noise", "shapes", False),
        ("from ..data import sample", "shapes", True),
        ("from . import heatmaps", "geometry", True),
        ("from .apps import cli", "__init__", True),
        ("from facemsm import *", "geometry", True),
        ("import facemsm.weights as w", "files", True),
        ("def late():\n    from facemsm.aligner import Aligner", "batch", False),
        ("def late():\n    from facemsm.data import sample", "aligner", True),
        ("if TYPE_CHECKING:\n    from facemsm.face import Face", "schemes", True),
        ("from facemsm.hourglass.losses import x", "stgan", True),
        ("import json", "errors", False),
    ],
)
def test_the_check_sees_faults(source: str, home: str, back: bool) -> None:
    assert bool(back_arrows(source, home)) == back
