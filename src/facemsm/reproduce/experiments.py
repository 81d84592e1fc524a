"""Every table and figure by name, the steps that lead to them, and the report that shows them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from facemsm.assets import SAMPLE, SAMPLE_BOX
from facemsm.data.catalogue import find_dataset
from facemsm.evaluation.markdown import markdown_table
from facemsm.files import atomic_write
from facemsm.imaging.io import read_image
from facemsm.provenance import commit, machine
from facemsm.reproduce import figures, known_truth, paper, render, tables
from facemsm.reproduce.ablation import NETWORKS, networks_of, run_kind, run_names
from facemsm.reproduce.outputs import CONDITIONS, DRAWN_OCCLUDERS, GIVEN, PERTURBED_BOXES
from facemsm.reproduce.render import Block
from facemsm.reproduce.tables import Sets
from facemsm.reproduce.workspace import MODEL, TRAINING, WITHOUT_STAGE1, MissingError, Workspace, digest, listing

_FORMAT = 3
"""Of results; those with another number are computed anew, and not shown before that."""


@dataclass(frozen=True)
class Experiment:
    """One table or figure.

    Attributes:
        title: its heading; the faces used are added.
        make: gives the blocks.
        scheme: of the landmarks.
        sets: (data set, split), those that are there are used.
        networks: whose outputs it needs.
        conditions: under which; under none it takes labels only, of faces with photos or without.
        alone: can be made, in part, without any of its sets.
        pictures: consists of pictures of faces.
    """

    title: str
    make: Callable[[Workspace, Sets, str, str], list[Block]]
    scheme: str
    sets: tuple[tuple[str, str], ...]
    networks: tuple[str, ...] = (MODEL,)
    conditions: tuple[str, ...] = (GIVEN,)
    alone: bool = False
    pictures: bool = False


_COFW, _WFLW = (("cofw68", "test"),), (("wflw", "test"),)
_SETS_68 = (*_COFW, ("300w", "full"), ("300w-private", "full"), ("aflw2000", "val"))
_ALL, _EVERY = tuple(NETWORKS), tuple(CONDITIONS)


def _table(name: str, make: Any, scheme: str, sets: Any, **more: Any) -> Experiment:
    return Experiment(paper.paper().tables[name].title, make, scheme, sets, **more)


EXPERIMENTS: dict[str, Experiment] = {
    "table3": _table("table3", tables.compare, "68", (("300w", "full"),)),
    "table4": _table("table4", tables.compare, "68", (("300w-private", "full"),)),
    "table5": _table("table5", tables.cofw, "68", _COFW, alone=True),
    "table6": _table("table6", tables.compare, "98", _WFLW),
    "table7": _table("table7", tables.ablation, "98", _WFLW, networks=_ALL, conditions=_EVERY),
    "table8": _table("table8", tables.ablation, "68", _SETS_68, networks=_ALL, conditions=_EVERY),
    "stages": Experiment(
        "Tables VII and VIII with the weights of Tables III to VI",
        tables.stages,
        "68",
        _SETS_68,
        networks=(MODEL, WITHOUT_STAGE1),
        conditions=_EVERY,
    ),
    "table9": _table("table9", tables.thresholds, "68", _SETS_68),
    "stage3": Experiment(
        "Stage 3 with known truth: readings of Section III-C", known_truth.readings, "68", _COFW, conditions=()
    ),
    "fig5": Experiment("Fig. 5: heatmaps", figures.heatmaps, "68", _SETS_68, conditions=(GIVEN, DRAWN_OCCLUDERS)),
    "fig7": Experiment("Fig. 7: size N of the dictionary, number k of exemplars", figures.neighbours, "68", _SETS_68),
    "fig8": Experiment("Fig. 8: examples on 300-W", figures.examples, "68", (("300w", "full"),), pictures=True),
    "fig9": Experiment("Fig. 9: CED on 300-W private", figures.ced_of_model, "68", (("300w-private", "full"),)),
    "fig10": Experiment("Fig. 10: examples on COFW", figures.examples, "68", _COFW, pictures=True),
    "fig11": Experiment("Fig. 11: CED on COFW", figures.ced_of_model, "68", _COFW, alone=True),
    "fig12": Experiment("Fig. 12: examples on WFLW", figures.examples, "98", _WFLW, pictures=True),
    "fig13": Experiment(
        "Fig. 13: CED on WFLW with parts of the method", figures.ced_of_configurations, "98", _WFLW, networks=_ALL
    ),
    "fig14": Experiment(
        "Fig. 14: faces before and after stage 1",
        figures.normalised,
        "68",
        _SETS_68,
        conditions=(GIVEN, PERTURBED_BOXES),
    ),
    "fig15": Experiment("Fig. 15: score distribution of each landmark", figures.score_distribution, "68", _SETS_68),
    "speed": Experiment("Speed (Section IV-C)", figures.speed, "68", ()),
}
"""In the order of the report."""


@dataclass(frozen=True)
class Step:
    """One thing to do: what it needs, whether it is done, and its time in seconds if it is to be done: here, and of
    training on the paper's GPU."""

    name: str
    needs: str
    state: str
    seconds: float | None = None
    on_gpu: float | None = None


# --- Making ----------------------------------------------------------------------------------------------------------


def make(workspace: Workspace, name: str) -> bool:
    """Make one table or figure, unless its result is there already.

    Returns:
        Whether it was computed now.

    Raises:
        MissingError: data or weights are missing.
    """
    experiment, path = EXPERIMENTS[name], workspace.report / "results" / f"{name}.json"
    there = sets_there(workspace, experiment)
    key = _key(workspace, name, there)
    if path.is_file():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            if old.get("key") == key and all((workspace.report / file).is_file() for file in _files(old["section"])):
                return False
        except (ValueError, KeyError):
            pass  # cut short or of an older form: computed again
    start = time.monotonic()
    blocks = experiment.make(workspace, there, name, experiment.scheme)
    weights = {key: value for one in _networks(workspace, experiment, there) for key, value in one.items()}
    if weights:
        named = ", ".join(f"{key} {value[:12]}" for key, value in weights.items())
        blocks.append(render.text(f"Networks (checksums): {named}."))
    shown = dict.fromkeys((*experiment.sets[:1], *_columns(name), *there))
    used = "; ".join(workspace.used(*one, photos=bool(experiment.conditions)) for one in shown)
    heading = experiment.title
    if experiment.pictures and workspace.own_photos:
        heading, used = f"{heading.partition(' on ')[0]} on photos of {workspace.own_photos.name}", ""
    title = f"{heading} ({used})" if used else heading
    _write(
        path,
        {
            "format": _FORMAT,
            "key": key,
            "seconds": round(time.monotonic() - start, 1),
            "commit": commit(),
            "machine": machine(),
            "section": {"heading": heading, "title": title, "blocks": blocks},
        },
    )
    return True


def sets_there(workspace: Workspace, experiment: Experiment) -> Sets:
    """Those of an experiment's sets that can be used.

    Raises:
        MissingError: none, or the networks are missing.
    """
    there = [one for one in experiment.sets if (workspace.has if experiment.conditions else workspace.labelled)(*one)]
    own = experiment.pictures and workspace.own_photos
    if experiment.sets and not there and not experiment.alone and not own:
        (workspace.samples if experiment.conditions else workspace.every)(*experiment.sets[0])  # says what is missing
    if experiment.alone and not there:
        workspace.every(*experiment.sets[0])
    else:
        for network in _used(workspace, experiment):
            workspace.network_key(experiment.scheme, network)
    return there


def _used(workspace: Workspace, experiment: Experiment) -> Sequence[str]:
    """The networks of an experiment; of an ablation those configurations that are trained, if any is."""
    return workspace.configurations(experiment.scheme) if experiment.networks == _ALL else experiment.networks


def _key(workspace: Workspace, name: str, there: Sets) -> str:
    """Of all that a result depends on."""
    experiment = EXPERIMENTS[name]
    outputs = [
        workspace.output_path(experiment.scheme, network, *one, condition).name
        for one in there
        for network in _used(workspace, experiment)
        for condition in experiment.conditions
    ]
    networks = _networks(workspace, experiment, there)
    own = (
        sorted(str(path) for path in workspace.own_photos.rglob("*"))
        if experiment.pictures and workspace.own_photos
        else []
    )
    subsets = [[*one, listing(workspace.every(*one))] for one in _columns(name) if workspace.has(*one)]
    timed = machine() if experiment.make is figures.speed else ""
    shapes = workspace.shapes_checksum(experiment.scheme) if there else ""
    printed = paper.FILE.read_text(encoding="utf-8")
    rows = [] if workspace.calibrated else ["paper"]
    files = [[file.name, file.stat().st_size] for file in tables.published_files(workspace, name)]
    published = [files] if files else []
    return digest(
        [_FORMAT, name, outputs, networks, own, subsets, shapes, workspace.photos, timed, printed, *rows, *published]
    )


def _networks(workspace: Workspace, experiment: Experiment, there: Sets) -> list[dict[str, Any]]:
    """What names the networks that an experiment uses."""
    return (
        [workspace.network_key(experiment.scheme, one) for one in _used(workspace, experiment)]
        if there or not experiment.alone
        else []
    )


def _columns(name: str) -> list[tuple[str, str]]:
    """Splits that a table of the paper has columns for."""
    table = paper.paper().tables.get(name)
    return [(column.set, column.split) for column in table.columns] if table else []


def _files(section: render.Section) -> list[str]:
    return [block["picture"] for block in section["blocks"] if "picture" in block]


def _write(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def note_missing(workspace: Workspace, name: str, why: str) -> None:
    """Remember why a table could not be made, unless an earlier run made it; without this machine's folders."""
    for place, called in [(text.partition("=")[2] or text, "DATA") for text in workspace.data] + [
        (str(workspace.report), "REPORT")
    ]:
        if Path(place).is_absolute():
            why = why.replace(place, called)
    path = workspace.report / "results" / f"{name}.json"
    if not path.is_file() or "missing" in json.loads(path.read_text(encoding="utf-8")):
        _write(path, {"missing": why})


# --- The report ------------------------------------------------------------------------------------------------------


_READING = """How to read it: figures in plain type are the paper's, figures in **bold** are ours. Round brackets hold
ours less the paper's, square brackets the 95 % interval of ours. Raised letters mark slips of the paper, explained
below the table. Titles say how many of the published faces were used. Stage 3 is the paper's form unless a row says
otherwise.
"""


def write_index(workspace: Workspace) -> Path:
    """``index.md``: all results there, the claims first."""
    results = {}
    for name in EXPERIMENTS:
        path = workspace.report / "results" / f"{name}.json"
        if path.is_file():
            results[name] = json.loads(path.read_text(encoding="utf-8"))
    made = {name: result for name, result in results.items() if result.get("format") == _FORMAT}
    parts = ["# MSM, reproduced\n"]
    origins = sorted({f"commit {result['commit']} on {result['machine']}" for result in made.values()})
    parts += [f"Made by `facemsm reproduce` with {'; '.join(origins) or 'nothing yet'}.\n", _READING]
    parts.append("\n".join(f"- [{result['section']['heading']}](#{name})" for name, result in made.items()) + "\n")
    found = [
        claim for result in made.values() for block in result["section"]["blocks"] for claim in block.get("claims", ())
    ]
    if found:
        parts += ["## Which of the paper's claims hold here\n", _verdicts(found)]
    for name, result in made.items():
        parts.append(f'<a id="{name}"></a>\n\n{render.markdown(result["section"])}')
    missing = {name: result["missing"] for name, result in results.items() if "missing" in result}
    if missing:
        parts.append("## Not made\n")
        parts.append("\n".join(f"- {name}: {why}" for name, why in missing.items()) + "\n")
    index = workspace.report / "index.md"
    with atomic_write(index) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")
    return index


def _verdicts(found: Sequence[dict[str, Any]]) -> str:
    """A row for each claim and verdict, with where and by how much; the sections say of what."""
    rows = []
    for words in dict.fromkeys(claim["claim"] for claim in found):
        tests = [claim for claim in found if claim["claim"] == words]
        for verdict in tables.VERDICTS:
            where = [f"{one['on']}: {render.difference(one)}" for one in tests if one["verdict"] == verdict]
            if where:
                rows.append([words, f"**{verdict}** ({len(where)} of {len(tests)})", "; ".join(where)])
    lines = [
        "A claim holds where the 95 % interval of its difference lies below 0, and its reverse where it lies above. "
        "The interval, in square brackets, is a bootstrap over faces; the sections say of what it is per cent. Each "
        "network was trained once: the intervals do not know what another training would give. Where the best other is "
        "the rival, it was picked on the same faces, which favours it. (no painted occluders) and (painted occluders): "
        "the arms of the ablation; (weights): the weights of Table III. What is claimed of painted occluders is ours.",
        markdown_table(["claim", "verdict", "on"], rows, "<"),
    ]
    return "\n\n".join(lines) + "\n"


# --- The plan --------------------------------------------------------------------------------------------------------


def steps(workspace: Workspace, names: Sequence[str], schemes: Sequence[str]) -> Iterator[Step]:
    """All that these tables need, in order, with times for this machine; nothing is trained or run for them.

    Args:
        workspace: of the report.
        names: of tables and figures.
        schemes: those to be trained.
    """
    yield from _data_steps(workspace, names, schemes)
    for scheme in schemes:
        yield from _training_steps(workspace, scheme)
    planned: set[tuple[str, ...]] = set()
    per_face: dict[tuple[str, str], float | None] = {}
    for name in names:
        experiment = EXPERIMENTS[name]
        for network in _planned(workspace, experiment):
            for one in (one for one in experiment.sets if workspace.has(*one)):
                new = [c for c in experiment.conditions if (experiment.scheme, network, *one, c) not in planned]
                planned |= {(experiment.scheme, network, *one, condition) for condition in new}
                if new:
                    yield _output_step(workspace, experiment.scheme, network, one, new, per_face)
        try:
            there = sets_there(workspace, experiment)
            path = workspace.report / "results" / f"{name}.json"
            same = path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("key") == _key(
                workspace, name, there
            )
            yield Step(name, "the outputs above", "done" if same else "to do")
        except MissingError as error:
            untrained = "reproduce train" in str(error)
            needs = "the networks above" if untrained and experiment.scheme in schemes else str(error)
            yield Step(name, needs, "after training" if untrained else "data missing")


def _planned(workspace: Workspace, experiment: Experiment) -> Sequence[str]:
    """The networks of an experiment; of an ablation those that are trained and those of the arms to be trained."""
    if experiment.networks != _ALL:
        return experiment.networks
    try:
        trained = workspace.configurations(experiment.scheme)
    except MissingError:
        trained = []
    wanted = [*trained, *(network for arm in workspace.occluders for network in networks_of(arm))]
    return [network for network in NETWORKS if network in wanted]


def _missing(workspace: Workspace, one: tuple[str, str]) -> str:
    """Why a set cannot be used; nothing if it can."""
    try:
        workspace.samples(*one)
    except MissingError as error:
        return str(error)
    return ""


def _output_step(
    workspace: Workspace,
    scheme: str,
    network: str,
    one: tuple[str, str],
    conditions: Sequence[str],
    per_face: dict[tuple[str, str], float | None],
) -> Step:
    """Running a network on a set; ``per_face`` keeps times that were found."""
    label = f"outputs of {network} ({scheme}), {' '.join(one)}, {', '.join(conditions)}"
    try:
        paths = [workspace.output_path(scheme, network, *one, condition) for condition in conditions]
        open_, state = sum(not path.is_file() for path in paths), "to do"
    except MissingError:
        open_, state = len(conditions), "after training"
    if not open_:
        return Step(label, workspace.used(*one), "done")
    if (scheme, network) not in per_face:
        trained = state == "to do"
        able = trained or find_spec("torch") is not None
        per_face[scheme, network] = _seconds_per_face(workspace, scheme, network, trained) if able else None
    seconds = per_face[scheme, network]
    count = open_ * len(workspace.samples(*one))
    return Step(label, workspace.used(*one), state, None if seconds is None else seconds * count)


def _data_steps(workspace: Workspace, names: Sequence[str], schemes: Sequence[str]) -> Iterator[Step]:
    """The data sets, what they are and where they are had."""
    wanted = [one[0] for name in names for one in EXPERIMENTS[name].sets]
    sets = dict.fromkeys(one for name in names if EXPERIMENTS[name].conditions for one in EXPERIMENTS[name].sets)
    for scheme in schemes:
        if not workspace.training:
            first, *rest = TRAINING[scheme]
            wanted += [text.partition(":")[0] for text in (first, *([] if workspace.preset == "paper" else rest))]
        if scheme == "68":  # for stage 3's dictionary
            wanted.append("shapes" if workspace.find("shapes") else "menpo")
    for name in dict.fromkeys(wanted):
        about = f"; {about}" if (about := find_dataset(name).about) else ""
        why = next(filter(None, (_missing(workspace, one) for one in sets if one[0] == name)), "")
        place = workspace.find(name)
        if place is None:
            yield Step(name, f"no folder of this name in --data{about}", "data missing")
        else:
            yield Step(name, f"{why or place}{about}", "data missing" if why else "data there")


def _training_steps(workspace: Workspace, scheme: str) -> Iterator[Step]:
    from facemsm.reproduce import runs

    try:
        plan, folder = workspace.plan(scheme), workspace.runs(scheme)
        faces = plan.faces("hourglass")
    except MissingError as error:
        yield Step(f"train {scheme}", str(error), "data missing")
        return
    for run in run_names(workspace.occluders):
        config = plan.config(run)
        state = runs.state(folder / run)
        total = config.schedule.total_steps(faces.epoch_size)
        needs = f"{len(faces.training)} faces, {total} steps of {config.schedule.batch_size}"
        if start := plan.start(run):
            needs += f" from {runs.about_weights(start)['name']}"
        seconds = on_gpu = None
        if state != "done":
            cost = runs.cost(run_kind(run), config)
            needs += f", {cost.memory / 1e9:.1f} GB of memory"
            seconds = total * cost.operations / runs.operations_per_second()
            on_gpu = total * cost.operations / runs.operations_per_second_on_gpu(run_kind(run))
        done = {"done": "done", "half": "half-finished"}.get(state, "to do")
        yield Step(f"train {run} ({scheme})", needs, done, seconds, on_gpu)


def _seconds_per_face(workspace: Workspace, scheme: str, network: str, trained: bool) -> float:
    """Measured on the bundled sample photo, counted where there are no weights yet."""
    if not trained:
        from facemsm.reproduce import runs

        plan = workspace.plan(scheme)
        names = NETWORKS[network] if network in NETWORKS else run_names(workspace.occluders)[:2]
        return sum(runs.seconds_per_face(run_kind(name), plan.config(name)) for name in names)
    stages = workspace.stages(scheme, network)
    photo, boxes = read_image(SAMPLE), np.stack([SAMPLE_BOX] * 4)
    seconds = 0.0
    for _ in range(2):  # the first one warms up
        start = time.perf_counter()
        stages.run_stages([photo] * 4, boxes)
        seconds = (time.perf_counter() - start) / 4
    return seconds


def train(workspace: Workspace, schemes: Sequence[str], *, progress: bool) -> None:
    """Train every network of the arms to be trained for these schemes; finished ones stay, half-finished ones go on.

    Raises:
        MissingError: there are no faces to train on.
        FacemsmError: as :func:`facemsm.reproduce.runs.train`.
    """
    from facemsm.reproduce import runs

    for scheme in schemes:
        plan = workspace.plan(scheme)
        for run in run_names(workspace.occluders):
            folder = workspace.runs(scheme) / run
            print(f"{folder}: {runs.state(folder).replace('none', 'begins').replace('half', 'goes on')}", flush=True)
            runs.train(plan, run, folder, progress=progress)
