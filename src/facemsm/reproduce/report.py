"""From the names of tables and figures to the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from facemsm.errors import FacemsmError
from facemsm.reproduce.ablation import ARMS
from facemsm.reproduce.experiments import EXPERIMENTS, Step, make, note_missing, steps, train, write_index
from facemsm.reproduce.workspace import TRAINING, MissingError, Workspace


@dataclass
class Report:
    """What is to be made.

    Attributes:
        workspace: where it is made, and from what.
        names: tables and figures.
        schemes: whose networks are to be trained.
        everything: whether all was asked for; then what is missing is not an error.
        missing: why some of it cannot be made, by name.
    """

    workspace: Workspace
    names: Sequence[str]
    schemes: Sequence[str]
    everything: bool
    missing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, workspace: Workspace, what: Sequence[str], schemes: Sequence[str] = ()) -> Report:
        """Look up names.

        Args:
            workspace: the workspace.
            what: names of tables and figures, ``train`` or ``all``.
            schemes: train for these only.

        Raises:
            FacemsmError: an unknown name or setting, no data to train on, no weights to start from, or a face to leave
                out that is not there.
        """
        if wrong := [name for name in what if name not in (*EXPERIMENTS, "train", "all")]:
            raise FacemsmError(f"nothing is called {wrong[0]!r}: use {', '.join(EXPERIMENTS)}, train or all")
        if workspace.preset not in ("paper", "lite"):
            raise FacemsmError(f"no preset {workspace.preset!r}: use paper or lite")
        if workspace.own_photos and not workspace.own_photos.is_dir():
            raise FacemsmError(f"{workspace.own_photos}: no such folder of photos")
        for text in workspace.data:
            if not Path(text.partition("=")[2] or text).exists():
                raise FacemsmError(f"--data {text}: no such folder")
        if unknown := [name for name in schemes if name not in TRAINING]:
            raise FacemsmError(f"--scheme {unknown[0]}: use {' or '.join(TRAINING)}")
        if unknown := [name for name in workspace.occluders if name not in ARMS]:
            raise FacemsmError(f"--occluders {unknown[0]}: use {' or '.join(ARMS)}")
        everything = "all" in what
        trained: list[str] = []
        report = cls(workspace, [name for name in EXPERIMENTS if everything or name in what], trained, everything)
        unknown_names = set(workspace.exclude)
        if everything or "train" in what:
            for scheme in schemes or TRAINING:
                with report._noted(f"train {scheme}"):
                    plan = workspace.plan(scheme)
                    plan.check_starts()
                    unknown_names -= set(plan.exclude)
                    trained.append(scheme)
            if not trained and not everything:
                raise FacemsmError(next(iter(report.missing.values())))
            if trained and unknown_names:
                raise FacemsmError(f"--exclude: no face is called {min(unknown_names)!r} in the training data")
        return report

    def steps(self) -> Iterator[Step]:
        """All that is to be done, with times measured here."""
        return steps(self.workspace, self.names, self.schemes)

    def make(self, *, progress: bool = True, say: Callable[[str], None], warn: Callable[[str], None]) -> None:
        """Train what is to be trained, make the tables and figures, and write the report.

        Args:
            progress: whether training shows bars.
            say: takes a line for each thing made.
            warn: takes a line for each thing that cannot be made, and why.

        Raises:
            FacemsmError: nothing could be made, or a fault in the data.
        """
        train(self.workspace, self.schemes, progress=progress)
        for name in self.names:
            with self._noted(name):
                say(f"{name}: {'made' if make(self.workspace, name) else 'there already'}")
            if name in self.missing:
                note_missing(self.workspace, name, self.missing[name])
        if self.names:
            index = write_index(self.workspace)
            if self.everything or len(self.missing) < len(self.names):
                say(f"report: {index}")
        for name, why in self.missing.items():
            if self.everything or len(self.names) > 1:
                warn(f"facemsm: {name}: {why}")
        if self.names and len(self.missing) >= len(self.names):
            raise FacemsmError(self.missing[self.names[0]])

    @contextmanager
    def _noted(self, name: str) -> Iterator[None]:
        """What is missing stops one table, not the others."""
        try:
            yield
        except MissingError as error:
            self.missing[name] = str(error)
