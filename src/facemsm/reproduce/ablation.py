"""The runs of the ablation by name: stages and baseline, in each arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

RUN_KINDS = ("stgan", "hourglass", "resnet50")
"""What a run trains."""

HEADS = ("hourglass", "hourglass-box", "resnet50", "resnet50-box")

CONFIGURATIONS: Mapping[str, tuple[str, ...]] = {
    "Res-50": ("resnet50-box",),
    "ST-GAN + Res-50": ("stgan", "resnet50"),
    "HG": ("hourglass-box",),
    "ST-GAN + HG": ("stgan", "hourglass"),
}
"""The runs of each configuration of Tables VII and VIII, but for SR, which is stage 3 on top."""

ARMS: Mapping[str, str] = {"none": "no painted occluders", "painted": "painted occluders"}
"""Arms of the ablation: stage 2 and the baseline learn from faces as they are, as in the paper, or with occluders
painted over them, as with preset ``lite``."""


def in_arm(name: str, arm: str) -> str:
    """Name of a run or of a configuration in an arm, which is also the run's folder; stage 1 is that of all arms."""
    return name if name == "stgan" else f"occluders-{arm}/{name}"


def run_kind(run: str) -> str:
    """One of :data:`RUN_KINDS`."""
    return run.rpartition("/")[2].removesuffix("-box")


def run_names(arms: Iterable[str]) -> list[str]:
    """Runs of these arms, in the order in which they are trained."""
    return ["stgan", *(in_arm(head, arm) for arm in arms for head in HEADS)]


def networks_of(arm: str) -> dict[str, tuple[str, ...]]:
    """The configurations of an arm by name, and their runs."""
    return {in_arm(one, arm): tuple(in_arm(run, arm) for run in runs) for one, runs in CONFIGURATIONS.items()}


NETWORKS: Mapping[str, tuple[str, ...]] = {name: runs for arm in ARMS for name, runs in networks_of(arm).items()}
"""The runs of each configuration of each arm."""
