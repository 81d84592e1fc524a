"""Print the results of the bundled 68-point weights as their model card gives them.

    python docs/make_card.py DATA [--weights 68] [-o facemsm-out/card]

DATA holds the data sets ``300w`` and ``aflw2000``, and ``300w_private`` and ``ytf`` if they are to be reported. Every
figure comes from a report of ``facemsm evaluate``, which stays in the output folder; what is there already, of the same
weights, is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from facemsm.runtime.model import load_model

SETS = (
    ("LFPW test (224 of the 554 faces of 300-W common), inter-ocular", "300w", "lfpw/testset", "inter-ocular"),
    (
        "AFLW2000 val (156 faces, profiles included; points that have coordinates), box (root of the tight box's area)",
        *("aflw2000", "val", "box"),
    ),
)
BOXES = {
    "provided": ["--boxes", "provided"],
    "detector": ["--boxes", "detector"],
    "perturbed": ["--boxes", "provided", "--perturb", "0.15,0.25,30"],
    "provided, any rotation": ["--boxes", "provided", "--perturb", "0,0,180"],
    "provided, a mask, hand or dark glasses painted over (`--occlude`)": ["--boxes", "provided", "--occlude"],
}


class Reports:
    """Reports of ``facemsm evaluate`` for one model, run when they are first asked for."""

    def __init__(self, data: Path, weights: str, output: Path) -> None:
        self.data, self.weights, self.output = data, weights, output
        self.checksum = load_model(weights).checksum

    def __call__(self, dataset: str, split: str, *options: str) -> dict[str, Any]:
        """The report of a data set's split."""
        folder = self.output / "_".join([dataset, *options]).replace("--", "").replace(",", "-")
        reports = sorted(folder.glob("*.json"))
        if not reports or self._of(reports[0]) != self.checksum:
            name = dataset.replace("_", "-")
            command = [sys.executable, "-m", "facemsm", "evaluate", name, str(self.data / dataset), "--split", split]
            command += ["--weights", self.weights, "-o", str(folder), *options]
            print(" ".join(command[2:]), file=sys.stderr, flush=True)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            reports = sorted(folder.glob("*.json"))
        return dict(json.loads(reports[0].read_text(encoding="utf-8")))

    @staticmethod
    def _of(report: Path) -> str:
        fields = json.loads(report.read_text(encoding="utf-8"))
        return str(fields["run"]["predictions"]["weights"]["checksum"])


def boxes(reports: Reports, title: str, dataset: str, split: str, kind: str) -> None:
    """Errors by boxes, with stage 1 and without."""
    print(f"{title}:\n\n| boxes | NME % | interval | FR@8 % | AUC@8 | without stage 1 |\n|---|---|---|---|---|---|")
    for name, options in BOXES.items():
        error = reports(dataset, split, *options)["errors"][kind]["final"]["summary"]
        without = ""
        if name in ("provided", "perturbed"):
            alone = reports(dataset, split, *options, "--stages", "2,3")["errors"][kind]["final"]["summary"]
            without = f"{alone['nme']:.2f}"
        print(
            f"| {name} | {error['nme']:.2f} | {error['nme low']:.2f} to {error['nme high']:.2f} | {error['fr@8']:.2f} "
            f"| {error['auc@8']:.3f} | {without} |"
        )
    own = reports(dataset, split, "--boxes", "provided")["errors"][kind].get("in the set's convention")
    if own:
        print(f"\nIn the set's own convention, provided boxes: {_line(own['summary'])}.")
    print()


def private(reports: Reports) -> None:
    """300-W private, which comes without boxes."""
    found = reports("300w_private", "full", "--boxes", "gt")["errors"]["inter-ocular"]
    summaries = [found[name]["summary"] for name in ("final", "in the set's convention") if name in found]
    print(
        f"300-W private ({summaries[0]['faces']} of 600 faces, `--boxes gt`, tight around the points), inter-ocular: "
    )
    print("; in 300-W's convention ".join(map(_line, summaries)) + ".\n")


def _line(error: dict[str, Any]) -> str:
    interval = f"{error['nme low']:.2f} to {error['nme high']:.2f}"
    return f"{error['nme']:.2f} % ({interval}), FR@8 {error['fr@8']:.2f} %, AUC@8 {error['auc@8']:.3f}"


def stage_3(reports: Reports) -> None:
    """What stage 3 changes."""
    print("Stage 3, provided boxes, NME %:\n\n| | without | the paper's form | posterior (used) |\n|---|---|---|---|")
    for title, dataset, split, kind in SETS:
        ours, paper = (
            reports(dataset, split, "--boxes", "provided", *more)["errors"][kind]
            for more in ([], ["--method", "paper"])
        )
        rows = [(title.partition(" (")[0] + f", {kind}", "summary", "nme")]
        if dataset == "aflw2000":
            rows += [(f"its {group} points", "groups", group) for group in ("visible", "occluded")]
        for name, part, key in rows:
            found = (report[part][key] for report in (ours["before stage 3"], paper["final"], ours["final"]))
            print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in found) + " |")
    print()


def main() -> None:
    """Run what is missing, and print."""
    parser = argparse.ArgumentParser(description="results for the model card")
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", default="68")
    parser.add_argument("-o", "--output", type=Path, default=Path("facemsm-out/card"))
    args = parser.parse_args()
    reports = Reports(args.data, args.weights, args.output)
    for name, *where in SETS:
        boxes(reports, name, *where)
    if (args.data / "300w_private").is_dir():
        private(reports)
    if (args.data / "ytf").is_dir():
        report = reports("ytf", "val", "--boxes", "provided")
        nme = report["errors"]["inter-ocular"]["final"]["summary"]
        print(
            f"YouTube Faces val ({nme['faces']} faces, noisy labels of another convention): inter-ocular "
            f"{nme['nme']:.2f} %, calibration error {100 * report['calibration']['ece']:.0f} %.\n"
        )
    stage_3(reports)
    lfpw, aflw = (reports(dataset, split, "--boxes", "provided") for _, dataset, split, _ in SETS)
    eces = [100 * report["calibration"]["ece"] for report in (lfpw, aflw)]
    print(f"Expected calibration error {eces[0]:.2f} % on LFPW test, {eces[1]:.2f} % on AFLW2000 val.\n")
    found = aflw["occlusion"]
    flags, scores = found["flags"], found["scores"]
    print(
        f"`occluded` on AFLW2000 val ({100 * found['occluded'] / found['points']:.0f} % of points are occluded): "
        f"precision {100 * flags['precision']:.1f} %, recall {100 * flags['recall']:.1f} %; average precision "
        f"{100 * scores['average precision']:.1f} %, recall {100 * scores['recall@80P']:.1f} % at 80 % precision and "
        f"{100 * scores['recall@90P']:.1f} % at 90 %.\n"
    )
    run = lfpw["run"]
    print(f"Weights {reports.checksum[:12]}; measured with commit {run['commit']}; {run['machine']}.")


if __name__ == "__main__":
    main()
