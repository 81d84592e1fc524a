"""Tables III to IX. Each function takes the workspace and the sets that are there, and gives a section's blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facemsm.evaluation import metrics, plots
from facemsm.evaluation.predictions import load_predictions
from facemsm.evaluation.published_curves import Curve
from facemsm.geometry import Normaliser
from facemsm.reproduce.ablation import ARMS, CONFIGURATIONS, NETWORKS, in_arm, networks_of, run_names
from facemsm.reproduce.outputs import CONDITIONS, DRAWN_OCCLUDERS, GIVEN, CachedOutputs
from facemsm.reproduce.paper import Column, paper
from facemsm.reproduce.render import Block, beside, ours, picture, plain, table, text
from facemsm.reproduce.workspace import MODEL, SHIPPED, WITHOUT_STAGE1, MissingError, Workspace
from facemsm.schemes import LandmarkScheme, get_scheme
from facemsm.shapes.reconstruction import Reconstruction
from facemsm.typing import Array, FloatArray

Sets = Sequence[tuple[str, str]]

REBUILT = " + SR"
ALL_CONFIGURATIONS = (*CONFIGURATIONS, f"HG{REBUILT}", f"ST-GAN + HG{REBUILT}")
FULL = ALL_CONFIGURATIONS[-1]

CHOSEN = "0.4 / 0.6"
"""The paper's thresholds, as Table IX names them."""

_PERTURBED = (
    "Perturbed boxes: moved by up to 15 %, scaled by up to 25 %, photos rotated by up to 30°. Drawn occluders: one per "
    "face, of the kinds that preset lite paints over training faces."
)

VERDICTS = ("holds", "the reverse holds", "not decided", "no difference at all")

_INTERVALS = "Square brackets: 95 % interval, bootstrap over faces."
_BRACKETS = (
    f"Round brackets: the figure of **facemsm** less the paper's. {_INTERVALS} "
    "NRMSE and failure rates in per cent of the normaliser and of the faces, AUC as a fraction."
)


# --- Tables III to VI ------------------------------------------------------------------------------------------------


def compare(workspace: Workspace, there: Sets, name: str, scheme: str) -> list[Block]:
    """Our figure of every column beside the figure of every method."""
    printed, landmarks = paper().tables[name], get_scheme(scheme)
    head = ["method", "year", "source", *(column.name for column in printed.columns)]
    if not there:
        rows = [[*_method(row), *map(beside, row.cells)] for row in printed.rows]
        return [table(head, rows, 3), text("No photo of the set is there, so there is no figure of ours.")]
    cached = workspace.outputs(scheme, MODEL, *there[0])
    forms = {
        ("**facemsm**", "stage 3 in the paper's form"): cached.points(workspace.dictionary(scheme)),
        ("facemsm", "stages 1 and 2"): cached.points(),
    }
    if own := workspace.own_form(scheme):
        forms["facemsm", f"as shipped, stage 3 by {own}"] = workspace.outputs(scheme, SHIPPED, *there[0]).points()
    results = [
        [_measured(workspace, cached, points, column, landmarks) for column in printed.columns]
        for points in forms.values()
    ]
    rows = [[*_method(row), *map(beside, row.cells, map(_value, results[0]))] for row in printed.rows]
    for (label, source), cells in zip(forms, results, strict=True):
        rows.append([label, "", source, *(cell or "-" for cell in cells)])
    counts = [len(_rows(workspace, cached, column)) for column in printed.columns]
    rows.append(["faces used", "", "", *(f"{n} of {c.faces}" for n, c in zip(counts, printed.columns, strict=True))])
    notes = [_BRACKETS]
    if any(count < column.faces for count, column in zip(counts, printed.columns, strict=True)):
        notes.append("**The set is not complete here: where fewer faces were used, brackets compare different faces.**")
    if any(not _whole(workspace, column) for column in printed.columns):
        notes.append("There is no figure of ours for a set of which a whole part is missing.")
    return [table(head, rows, 3), text(" ".join(notes))]


def cofw(workspace: Workspace, there: Sets, name: str, scheme: str) -> list[Block]:
    """Table V, with what published predictions give when they are measured here."""
    blocks = compare(workspace, there, name, scheme)
    columns, rows = paper().tables[name].columns, []
    for file, (cached, points) in published_predictions(workspace).items():
        cells = [_measured(workspace, cached, points, column, get_scheme(scheme)) for column in columns]
        rows.append([file, *(cell or "-" for cell in cells)])
    if rows:
        blocks.append(text("Published predictions, measured here; they test the measures against the rows above."))
        blocks.append(table(["file", *(column.name for column in columns)], rows))
    return blocks


def published_predictions(workspace: Workspace) -> dict[str, tuple[CachedOutputs, FloatArray]]:
    """Result files of the COFW-68 benchmark: name -> truth, and points of all 507 faces."""
    samples, scheme = workspace.every("cofw68", "test"), get_scheme("68")
    truth = CachedOutputs(
        tuple(sample.name for sample in samples),
        np.stack([sample.points for sample in samples]),
        np.stack([np.zeros(scheme.count, np.int8) if s.visibility is None else s.visibility for s in samples]),
        np.stack([sample.box for sample in samples]),
        np.zeros((0, scheme.count, 2), np.float32),
        np.zeros((0, scheme.count), np.float32),
        np.zeros((0, 2, 3)),
    )
    files = published_files(workspace, "fig11")
    return {file.stem: (truth, load_predictions(file, scheme.count).for_faces(truth.names).points) for file in files}


def published_files(workspace: Workspace, name: str) -> list[Path]:
    """Files beside the data sets with what others published for a table or figure: predictions on COFW-68 for
    ``table5`` and ``fig11``, curves on 300-W private for ``fig9``."""
    if name in ("table5", "fig11"):
        return sorted((workspace.root("cofw68") / "Results").glob("*.txt")) if workspace.find("cofw68") else []
    if name != "fig9":
        return []
    places = (("300w-private", "300W_test_all.mat"), ("MenpoBenchmark", "Evaluation/300W/300W_test_all.mat"))
    files = (folder / file for place, file in places if (folder := workspace.find(place)))
    return [file for file in files if file.is_file()][:1]


def _whole(workspace: Workspace, column: Column) -> bool:
    """Whether there are faces of every part of a column's set."""
    return all(workspace.has(column.set, part) for part in column.parts)


def _rows(workspace: Workspace, cached: CachedOutputs, column: Column) -> list[int]:
    """Rows of the faces of a column's split."""
    try:
        subset = {sample.name for sample in workspace.every(column.set, column.split)}
    except MissingError:
        return []
    return [i for i, name in enumerate(cached.names) if name in subset]


def _measured(
    workspace: Workspace, cached: CachedOutputs, points: FloatArray, column: Column, scheme: LandmarkScheme
) -> dict[str, Any] | None:
    """A column's figure of ours, None without faces of each of its parts."""
    rows = _rows(workspace, cached, column)
    if not rows or not _whole(workspace, column):
        return None
    errors = metrics.nme(points[rows], cached.truth[rows], scheme, column.normaliser)
    if not np.isfinite(errors).any():
        return None
    limit = column.threshold / 100
    if column.measure == "nme":
        return ours(100 * mean_of(errors), interval_of(100 * errors))
    if column.measure == "fr":
        failed = np.where(np.isnan(errors), np.nan, errors >= limit)
        return ours(100 * metrics.failure_rate(errors, limit), interval_of(100 * failed))
    return ours(metrics.auc(errors, limit), interval_of(np.maximum(0, limit - errors) / limit), 4)


def _value(cell: Mapping[str, Any] | None) -> float | None:
    return None if cell is None else cell["ours"]


def _method(row: Any) -> list[str]:
    return [row.method, str(row.year), row.source]


def mean_of(values: Array) -> float:
    """Of the faces that can be scored."""
    return float(np.mean(values[np.isfinite(values)]))


def interval_of(values: Array) -> tuple[float, float]:
    """The 95 % interval of :func:`mean_of`."""
    return metrics.bootstrap_interval(values[np.isfinite(values)])


# --- Tables VII and VIII ---------------------------------------------------------------------------------------------


def ablation(workspace: Workspace, there: Sets, name: str, scheme: str) -> list[Block]:
    """The six configurations of each arm on every set there: as given, perturbed boxes, drawn occluders; what of the
    paper's claims holds in which arm; and what stage 3 gains in each."""
    printed, landmarks = paper().tables[name], get_scheme(scheme)
    arms = arms_of(workspace, scheme)
    none: list[float | None] = [None] * len(printed.columns)
    rows = [[row.method, "", *map(beside, row.cells, none)] for row in printed.rows]
    if printed.columns[0].set in (dataset for dataset, _ in there):
        column, rows = printed.columns[0], []
        for arm, networks in arms.items():
            outputs = outputs_of(workspace, scheme, column.set, column.split, GIVEN, networks)
            for row in printed.rows:
                values = none
                if found := outputs.get(row.method):
                    cells = [_measured(workspace, *found, column, landmarks) for column in printed.columns]
                    values = [_value(cell) for cell in cells]
                rows.append([row.method, ARMS[arm], *map(beside, row.cells, values)])
    by_arm = {
        arm: _compared(workspace, there, f"{name}-{arm}", scheme, networks, f" ({ARMS[arm]})")
        for arm, networks in arms.items()
    }
    return [
        text(_training(workspace, scheme)),
        table(["method", "trained with", *(column.name for column in printed.columns)], rows, 2),
        text("The paper's figures; round brackets: ours less the paper's, where faces of its set are there."),
        *_gains(workspace, there, scheme, arms),
        *_held(by_arm),
        *(block for blocks in by_arm.values() for block in blocks),
    ]


def arms_of(workspace: Workspace, scheme: str) -> dict[str, dict[str, str]]:
    """Arms of which something is trained, and the network of each configuration that is.

    Raises:
        MissingError: nothing is.
    """
    trained = workspace.configurations(scheme)
    arms = {
        arm: {config: in_arm(config, arm) for config in CONFIGURATIONS if in_arm(config, arm) in trained}
        for arm in ARMS
    }
    return {arm: networks for arm, networks in arms.items() if networks}


def _held(by_arm: Mapping[str, Sequence[Block]]) -> list[Block]:
    """How often each claim holds in each arm."""
    claims = {arm: [one for block in blocks for one in block.get("claims", ())] for arm, blocks in by_arm.items()}
    rows = []
    for words in dict.fromkeys(one["claim"] for found in claims.values() for one in found):
        cells = []
        for found in claims.values():
            verdicts = [one["verdict"] for one in found if one["claim"] == words]
            counts = [f"{verdict} {n}" for verdict in VERDICTS if (n := verdicts.count(verdict))]
            cells.append(", ".join(counts) or "-")
        rows.append([words, *cells])
    head = ["claim", *(ARMS[arm] for arm in by_arm)]
    words = "**What holds in which arm**: in how many of the tests below, which are on all sets and conditions."
    return [text(words), table(head, rows, len(head))] if rows else []


def _gains(workspace: Workspace, there: Sets, scheme: str, arms: Mapping[str, Mapping[str, str]]) -> list[Block]:
    """What stage 3 changes in each arm, and by how much less with painted occluders."""
    landmarks, rows, claims = get_scheme(scheme), [], []
    seen_as = [(GIVEN, "all"), (GIVEN, "hidden"), (DRAWN_OCCLUDERS, "all"), (DRAWN_OCCLUDERS, "hidden")]
    for dataset, split in there:
        for base in ("HG", "ST-GAN + HG"):
            changes: dict[str, list[Array]] = {}
            for arm, networks in arms.items():
                if base not in networks:
                    continue
                only = {base: networks[base]}
                outputs = {c: outputs_of(workspace, scheme, dataset, split, c, only) for c in (GIVEN, DRAWN_OCCLUDERS)}
                kind = outputs[GIVEN][base][0].normaliser(landmarks)
                before, after = (
                    [_nme(*outputs[c][config], landmarks, kind, which) for c, which in seen_as]
                    for config in (base, base + REBUILT)
                )
                changes[arm] = [b - a for a, b in zip(before, after, strict=True)]
                where = f"{dataset} {split}, {base}, % of {kind}"
                rows.append([where, ARMS[arm], _mean_cell(before[-1]), *map(_mean_cell, changes[arm])])
            if len(changes) == 2:
                less = [one - other for one, other in zip(changes["none"], changes["painted"], strict=True)]
                rows.append([where, "difference", ours(None), *map(_mean_cell, less)])
                words = f"Stage 3 helps {base} more without painted occluders in training"
                for (condition, which), difference in zip(seen_as, less, strict=True):
                    points = "all points" if which == "all" else "hidden points"
                    claims.append(claim(words, f"{dataset} {split}, {condition}, {points}", difference, kind))
    head = ["set", "trained with", "covered points before stage 3", "as given: all points", "as given: occluded points"]
    head += ["drawn occluders: all points", "drawn occluders: covered points"]
    words = (
        "**What stage 3 changes**: the error after it less the error before it, so less than 0 is a gain. Before them "
        f"the error of stage 2 under drawn occluders. {_INTERVALS} Difference: no painted occluders in training less "
        "painted ones, on the same faces; less than 0 is what painted occluders take away from stage 3."
    )
    found = [one for one in claims if one]
    return [text(words), table(head, rows, 2), *([{"claims": found}] if found else [])] if rows else []


def _mean_cell(errors: Array) -> dict[str, Any]:
    """Of fractions, in per cent; empty where no face counts."""
    some = np.isfinite(errors).any()
    return ours(100 * mean_of(errors), interval_of(100 * errors)) if some else ours(None)


def stages(workspace: Workspace, there: Sets, name: str, scheme: str) -> list[Block]:
    """The same comparison for the weights shown in Tables III to VI, which need no training."""
    note = (
        "HG is here the same stage 2 on crops by the boxes. It was trained on canonical faces only, so that it needs "
        "stage 1 more than a network trained on such crops does. The claims say (weights) where they are about these. "
        f"SR: stage 3 in the paper's form, {_settings()}. {_PERTURBED} The bundled weights have learned to guess under "
        "them."
    )
    networks = {"HG": WITHOUT_STAGE1, "ST-GAN + HG": MODEL}
    return [text(note), *_compared(workspace, there, name, scheme, networks, " (weights)")]


def _compared(
    workspace: Workspace, there: Sets, name: str, scheme: str, networks: Mapping[str, str], which: str
) -> list[Block]:
    """Configurations side by side on every set and condition, and what follows for the paper's claims.

    Args:
        workspace: the workspace.
        there: the sets.
        name: begins the names of the pictures.
        scheme: of the landmarks.
        networks: that of each configuration.
        which: these networks are, to be said behind each set's name.
    """
    landmarks, threshold = get_scheme(scheme), 10 if scheme == "98" else 8
    claims: list[Block] = []
    shown: list[Block] = []
    curves: list[Block] = []
    for dataset, split in there:
        outputs = {
            condition: outputs_of(workspace, scheme, dataset, split, condition, networks) for condition in CONDITIONS
        }  # condition -> configuration -> cached, points
        configs = tuple(outputs[GIVEN])
        kind = outputs[GIVEN][configs[0]][0].normaliser(landmarks)
        errors = {
            condition: {config: _nme(*found, landmarks, kind) for config, found in by_config.items()}
            for condition, by_config in outputs.items()
        }
        hidden = {
            condition: {config: _nme(*found, landmarks, kind, "hidden") for config, found in by_config.items()}
            for condition, by_config in outputs.items()
        }
        seen = {config: _nme(*found, landmarks, kind, "seen") for config, found in outputs[DRAWN_OCCLUDERS].items()}
        head = ["configuration", *(f"{condition}: NME" for condition in CONDITIONS)]
        head += [f"{condition}: FR@{threshold}" for condition in CONDITIONS]
        head += ["occluded points: NME", "under drawn occluders: NME"]
        rows = []
        for config in configs:
            cells = [_mean_cell(errors[c][config]) for c in CONDITIONS]
            cells += [ours(100 * metrics.failure_rate(errors[c][config], threshold / 100)) for c in CONDITIONS]
            cells += [_mean_cell(hidden[condition][config]) for condition in (GIVEN, DRAWN_OCCLUDERS)]
            rows.append([config, *cells])
        shown += [
            text(
                f"**{workspace.used(dataset, split)}{which}**, NME and FR in per cent of {kind}, per cent of the faces."
            ),
            table(head, rows),
        ]
        claims += _claims(f"{dataset} {split}{which}", kind, errors, hidden, seen)
        for condition, by_config in errors.items():
            file = f"plots/{name}-{dataset}-{split.replace('/', '-')}-{condition.replace(' ', '-')}.png"
            worst = max(float(np.nanmedian(one)) for one in by_config.values())
            draw_ced(
                workspace, by_config, file, kind, max(10, 10 * np.ceil(10 * worst))
            )  # the middle of every curve is seen
            curves.append(picture(file, f"CED, {dataset} {split}{which}, {condition}"))
    words = (
        "**What the paper claims**, tested on differences between errors of the same faces; less than 0 is in favour."
    )
    return [*shown, text(words), {"claims": claims}, *curves]


def outputs_of(
    workspace: Workspace,
    scheme: str,
    dataset: str,
    split: str,
    condition: str,
    networks: Mapping[str, str],
) -> dict[str, tuple[CachedOutputs, FloatArray]]:
    """Outputs and points of each configuration of these networks, without and with stage 3."""
    dictionary = workspace.dictionary(scheme, next(iter(networks.values())))
    found = {}
    for config in ALL_CONFIGURATIONS:
        network = networks.get(config.removesuffix(REBUILT))
        if network is not None:
            cached = workspace.outputs(scheme, network, dataset, split, condition)
            found[config] = cached, cached.points(dictionary if config.endswith(REBUILT) else None)
    return found


def _nme(
    cached: CachedOutputs, points: FloatArray, scheme: LandmarkScheme, kind: Normaliser, which: str = "all"
) -> Array:
    """(N,) errors of all, of the ``hidden`` or of the ``seen`` points; NaN for a face that has none."""
    counted = {"all": None, "hidden": cached.hidden, "seen": ~cached.hidden}[which]
    return metrics.nme(points, cached.truth, scheme, kind, counted)


def _claims(
    where: str,
    kind: Normaliser,
    errors: Mapping[str, Mapping[str, Array]],
    hidden: Mapping[str, Mapping[str, Array]],
    seen: Any,
) -> list[Block]:
    """The paper's claims as differences that are below 0 where the claim holds."""
    given, perturbed, drawn = (errors[condition] for condition in CONDITIONS)
    found = []
    for base in ("HG", "Res-50"):
        staged = f"ST-GAN + {base}"
        if not {base, staged} <= given.keys():
            continue
        gain, gain_perturbed = given[staged] - given[base], perturbed[staged] - perturbed[base]
        found += [
            claim(f"Stage 1 lowers the error of {base}", f"{where}, boxes as given", gain),
            claim(f"Stage 1 lowers the error of {base}", f"{where}, perturbed boxes", gain_perturbed),
            claim(
                f"Stage 1 helps {base} more the worse the boxes",
                f"{where}, perturbed less given",
                gain_perturbed - gain,
            ),
        ]
    for base in ("HG", "ST-GAN + HG"):
        rebuilt = base + REBUILT
        if base not in given:
            continue
        gain, gain_drawn = given[rebuilt] - given[base], drawn[rebuilt] - drawn[base]
        under = hidden[DRAWN_OCCLUDERS][rebuilt] - hidden[DRAWN_OCCLUDERS][base]
        found += [
            claim(f"Stage 3 lowers the error of {base}", where, gain),
            claim(f"Stage 3 lowers the error of {base}", f"{where}, drawn occluders", gain_drawn),
            claim(f"Stage 3 helps {base} more under occlusion", f"{where}, drawn less none", gain_drawn - gain),
            claim(f"Stage 3 lowers the error of {base} at covered points", f"{where}, drawn occluders", under),
            claim(
                f"Stage 3 helps {base} more at covered points than at others",
                f"{where}, drawn occluders",
                under - (seen[rebuilt] - seen[base]),
            ),
            claim(
                f"Stage 3 lowers the error of {base} at points occluded in the photo",
                where,
                hidden[GIVEN][rebuilt] - hidden[GIVEN][base],
            ),
        ]
    for condition, by_config in errors.items():
        others = {config: mean_of(one) for config, one in by_config.items() if config != FULL}
        if FULL not in by_config or "HG" not in by_config:
            continue
        best = min(others, key=others.__getitem__)
        found.append(
            claim("All stages beat HG alone", f"{where}, {condition}", by_config[FULL] - by_config["HG"]),
        )
        found.append(
            claim(
                "All stages beat every other configuration",
                f"{where}, {condition}, against {best}",
                by_config[FULL] - by_config[best],
            )
        )
    return [{**one, "of": kind} for one in found if one]


def claim(words: str, on: str, differences: Array, of: str = "") -> Block:
    """Mean difference in per cent of something, its interval and what follows; empty where no face counts."""
    known = 100 * differences[np.isfinite(differences)]
    if not len(known):
        return {}
    low, high = metrics.bootstrap_interval(known)
    holds, reverse, undecided, same = VERDICTS
    verdict = same if not known.any() else holds if high < 0 else reverse if low > 0 else undecided
    return {
        "claim": words,
        "on": on,
        "of": of,
        "difference": plain(float(known.mean())),
        "low": plain(low),
        "high": plain(high),
        "faces": len(known),
        "verdict": verdict,
    }


def _training(workspace: Workspace, scheme: str) -> str:
    """What the runs were trained on, from what and for how long, and what lacks."""
    trained = workspace.configurations(scheme)
    used = {run for network in trained for run in NETWORKS[network]}
    done = {run: workspace.finished(scheme, run) for run in run_names(ARMS) if run in used}
    starts: dict[str, list[str]] = {}
    for run, one in done.items():
        steps = f"{run} {one['steps']} steps of {one['config']['schedule']['batch_size']}"
        starts.setdefault(_start(one.get("start")), []).append(steps)
    parts = [f"{', '.join(steps)} from {start}" for start, steps in starts.items()]
    faces = {one.get("listing"): one["faces"] for one in done.values()}
    same = f"the same {next(iter(faces.values()))} faces" if len(faces) == 1 else "**faces that are not all the same**"
    lacking = ""
    for arm in arms_of(workspace, scheme):
        if untrained := [kind for kind in networks_of(arm) if kind not in trained]:
            names = ", ".join(network.rpartition("/")[2] for network in untrained)
            lacking += f" **Not trained with {ARMS[arm]}: {names}; `facemsm reproduce train` goes on.**"
    return (
        f"Trained on {same}: {'; '.join(parts)}. Without ST-GAN a network sees crops by the boxes, in training and "
        "here; with it, canonical faces. No painted occluders: as in the paper; painted occluders: those of preset "
        "lite, drawn over the faces that stage 2 and Res-50 learn from; stage 1 is the same. SR: stage 3 in the "
        f"paper's form, {_settings()}. {_PERTURBED}{lacking}"
    )


def _start(start: Mapping[str, Any] | None) -> str:
    """What a run started from, and how good it was."""
    if not start:
        return "random weights"
    held_out = ""
    if "errors" in start:
        errors = ", ".join(f"{kind} {value:.2f}" for kind, value in start["errors"].items())
        held_out = f"; held-out errors in its history: {errors}, at step {start['steps']} of its own run"
    return f"the weights {start['name']} (checksum {start['weights'][:12]}{held_out})"


def _settings() -> str:
    form = Reconstruction()
    return f"k = {form.k}, λ = {form.ridge:g}, thresholds {form.contour_threshold:g} and {form.feature_threshold:g}"


def draw_ced(
    workspace: Workspace,
    curves: Mapping[str, Array],
    file: str,
    kind: Normaliser,
    threshold: float,
    published: Mapping[str, Curve] | None = None,
) -> None:
    """Cumulative error curves, as a file of the report."""
    path: Path = workspace.report / file
    path.parent.mkdir(parents=True, exist_ok=True)
    plots.plot_ced(curves, path, normaliser=kind, threshold=threshold, published=published)


# --- Table IX --------------------------------------------------------------------------------------------------------


def thresholds(workspace: Workspace, there: Sets, name: str, scheme: str) -> list[Block]:
    """Stage 3 at each pair of thresholds, on kept outputs of stage 2."""
    printed, landmarks, dictionary = paper().tables[name], get_scheme(scheme), workspace.dictionary(scheme)
    columns: list[list[dict[str, Any]]] = []
    claims: list[Block] = []
    head = ["contour / features", "paper, COFW"]
    for dataset, split in there:
        cached = workspace.outputs(scheme, MODEL, dataset, split)
        kind: Normaliser = "inter-pupil" if cached.normaliser(landmarks) == "inter-ocular" else "box"
        head.append(f"{dataset} {split}, {kind}")
        settings = [Reconstruction(contour_threshold=c, feature_threshold=f) for c, f in _pairs(name)]
        found = [cached.points(dictionary, one) for one in settings]
        errors = [metrics.nme(points, cached.truth, landmarks, kind) for points in [*found, cached.points()]]
        columns.append([ours(100 * mean_of(one), interval_of(100 * one)) for one in errors])
        pairs = [row.method for row in printed.rows]
        chosen = errors[pairs.index(CHOSEN)]
        rival = min((i for i, pair in enumerate(pairs) if pair != CHOSEN), key=lambda i: mean_of(errors[i]))
        where = f"{dataset} {split}"
        claims += [
            claim("Stage 3 lowers the error of the weights shown", where, chosen - errors[-1], kind),
            claim(
                f"Thresholds {CHOSEN} are the best pair",
                f"{where}, against {pairs[rival]}",
                chosen - errors[rival],
                kind,
            ),
        ]
    cells = [beside(row.cells[0]) for row in printed.rows]
    labels = [row.method for row in printed.rows]
    rows = [
        [label, cell, *(column[i] for column in columns)]
        for i, (label, cell) in enumerate(zip(labels, cells, strict=True))
    ]
    rows.append(["no stage 3", "-", *(column[-1] for column in columns)])
    return [table(head, rows), text(f"NRMSE in per cent. {_INTERVALS} The paper chose {CHOSEN}."), {"claims": claims}]


def _pairs(name: str) -> list[tuple[float, float]]:
    pairs = [row.method.split(" / ") for row in paper().tables[name].rows]
    return [(float(contour), float(features)) for contour, features in pairs]
