"""How a run is trained: typed settings, settable one by one from the command line, saved beside the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from facemsm.errors import FacemsmError, check_number, short
from facemsm.files import read_text

T = TypeVar("T")

Decay = Literal["halve", "cosine"]
Precision = Literal["auto", "32-true", "bf16-mixed"]
Optimiser = Literal["adam", "muon"]


@dataclass(frozen=True)
class Schedule:
    """Everything about a run but the network, its examples and its loss. Defaults are the paper's (Section IV-C).

    Attributes:
        epochs: passes over the training faces.
        steps: optimiser steps instead of epochs, where above 0.
        batch_size: faces per step, of all processes together.
        learning_rate: of Adam at the start.
        optimiser: ``adam``, or ``muon``: the hourglass's hidden convolutions by Muon instead, which needs fewer
            steps (see :mod:`facemsm.training.muon`).
        decay: ``halve`` halves the rate every ``halve_every`` epochs, as we read "reduced by half after"; ``cosine``
            rises for ``warmup`` steps and then falls to nearly nothing at the end.
        halve_every, warmup: see ``decay``.
        weight_decay: decoupled from the gradient (AdamW); 0 is plain Adam.
        ema: decay of the weights' running mean, which is then what is validated and saved; less in the first steps (see
            :func:`facemsm.training.run.running_mean`); 0 for none.
        clip: largest norm of the gradient; 0 for no limit.
        precision: ``32-true``, ``bf16-mixed``, or ``auto``: whichever is faster on the machine.
        validate_every: steps between validations.
        patience: validations without a lower error after which the run ends before its time; 0 for never. Algorithm 1
            goes on "until the accuracy of the validation set stop increasing", Section IV-C for a number of epochs.
        keep: checkpoints of the best validations that stay in ``checkpoints/``; 0 for none.
        workers: processes that prepare examples; 0 prepares them between steps.
        threads: CPU threads of PyTorch; 0 is as many as make it faster.
        seed: of weights, order and augmentation.

    Raises:
        FacemsmError: a value is out of range.
    """

    epochs: int = 300
    steps: int = 0
    batch_size: int = 16
    learning_rate: float = 5e-4
    optimiser: Optimiser = "adam"
    decay: Decay = "halve"
    halve_every: int = 100
    warmup: int = 0
    weight_decay: float = 0.0
    ema: float = 0.0
    clip: float = 0.0
    precision: Precision = "32-true"
    validate_every: int = 500
    patience: int = 0
    keep: int = 0
    workers: int = 1
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "halve_every", "validate_every"):
            check_number(f"schedule.{name}", getattr(self, name), 1, 1e9, whole=True)
        for name in ("steps", "warmup", "patience", "keep", "workers", "threads", "seed"):
            check_number(f"schedule.{name}", getattr(self, name), 0, 1e9, whole=True)
        for name, most in (("learning_rate", 1e3), ("weight_decay", 1e3), ("ema", 0.999999), ("clip", 1e9)):
            check_number(f"schedule.{name}", getattr(self, name), 0, most)
        for name, kind in (("optimiser", Optimiser), ("decay", Decay), ("precision", Precision)):
            choices = get_args(kind)
            if (value := getattr(self, name)) not in choices:
                raise FacemsmError(f"schedule.{name} is {short(value)}, choose from {', '.join(choices)}")

    def total_steps(self, epoch_size: int) -> int:
        """Optimiser steps of the whole run over an epoch of so many faces."""
        return self.steps or self.epochs * max(1, epoch_size // self.batch_size)


def override(config: T, settings: Sequence[str], file: Path | None = None) -> T:
    """A configuration with other values in some fields.

    Args:
        config: the configuration.
        settings: ``name=value`` or ``group.name=value``; values are JSON or plain words; ``null`` is no name.
        file: JSON as in a run's ``config.json``, all of it or a part; ``settings`` come after it.

    Raises:
        FacemsmError: the file cannot be read, there is no such field, or a value is of another kind than the field's.
    """
    if file:
        for path, value in _leaves(read_settings(file)):
            config = _replaced(config, path, value, f"{file}: {'.'.join(path)}")
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise FacemsmError(f"--set {setting!r}: expected NAME=VALUE")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        config = _replaced(config, name.split("."), value, f"--set {setting!r}", text)
    return config


def read_settings(file: Path) -> dict[str, Any]:
    """The settings in a run's ``config.json``, or in a part of one.

    Raises:
        FacemsmError: the file cannot be read, or is no JSON object.
    """
    text = read_text(file)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FacemsmError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise FacemsmError(f"{file}: expected settings as in a run's config.json")
    return content


def _leaves(values: Mapping[str, Any], *group: str) -> Iterator[tuple[list[str], Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, *group, name)
        else:
            yield [*group, name], value


def _replaced(config: T, path: list[str], value: Any, where: str, text: str = "") -> T:
    """With another value; ``text`` is what stands for it where words are expected, as in ``conventions=68``."""
    assert is_dataclass(config)
    assert not isinstance(config, type)
    known = [f.name for f in fields(config)]
    if path[0] not in known:
        raise FacemsmError(f"{where}: no field {path[0]!r}; there are {', '.join(known)}")
    old = getattr(config, path[0])
    if len(path) > 1:
        if not is_dataclass(old):
            raise FacemsmError(f"{where}: {path[0]!r} has no fields")
        new: Any = _replaced(old, path[1:], value, where, text)
    elif is_dataclass(old):
        raise FacemsmError(
            f"{where}: is a group of settings, expected one of them, such as {path[0]}.{fields(old)[0].name}"
        )
    else:
        new = tuple(value) if isinstance(old, tuple) and isinstance(value, list) else value
        if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
            new = float(new)
        if isinstance(old, str) and new is None:  # a name may be left out; what must be one of several says so
            new = ""
        elif isinstance(old, str) and text and not isinstance(new, str):
            new = text
        if type(new) is not type(old):
            raise FacemsmError(f"{where}: expected a {type(old).__name__}, such as {old!r}")
    return replace(config, **{path[0]: new})


def as_json(config: Any) -> str:
    """A configuration as indented JSON, for the file beside the weights."""
    return json.dumps(asdict(config), indent=2) + "\n"


def read_config(run: Path) -> dict[str, Any]:
    """What ``config.json`` in a run's folder says, its network's shape under ``network``.

    Raises:
        FacemsmError: there is none, or it is no run's.
    """
    path = run / "config.json"
    try:
        config = read_settings(path)
        if not isinstance(config["network"], dict):
            raise TypeError
    except (FacemsmError, KeyError, TypeError) as error:
        raise FacemsmError(f"{path}: not the configuration of a training run; name the run's folder") from error
    return config


def from_mapping(kind: type[T], values: Mapping[str, Any]) -> T:
    """The inverse of ``asdict`` for a flat configuration; lists become tuples.

    Raises:
        FacemsmError: fields are unknown or of the wrong kind.
    """
    for name, hint in get_type_hints(kind).items():
        if name in values and hint in (int, float, str):
            allowed = (int, float) if hint is float else (hint,)
            if type(values[name]) not in allowed:
                raise FacemsmError(f"{kind.__name__}: {name} is {short(values[name])}, expected a {hint.__name__}")
    try:
        return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
    except TypeError as error:
        raise FacemsmError(f"{kind.__name__}: {error}") from error
