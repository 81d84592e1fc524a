"""Muon for the hourglass's hidden convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from facemsm import FacemsmError  # noqa: E402
from facemsm.data.augment import Augmentation  # noqa: E402
from facemsm.data.sources import Source  # noqa: E402
from facemsm.hourglass.network import HourglassConfig  # noqa: E402
from facemsm.hourglass.training import HourglassModule, HourglassTraining  # noqa: E402
from facemsm.resnet50.network import ResNet50Config  # noqa: E402
from facemsm.resnet50.training import ResNet50Module, ResNet50Training  # noqa: E402
from facemsm.schemes import SCHEME_68  # noqa: E402
from facemsm.training.config import Schedule  # noqa: E402
from facemsm.training.faces import Faces, load_faces  # noqa: E402
from facemsm.training.muon import RATE, Muon, orthogonalised  # noqa: E402
from facemsm.training.run import fit  # noqa: E402
from synthetic_faces import write_faces  # noqa: E402

SCHEDULE = Schedule(steps=4, batch_size=2, optimiser="muon", workers=0, threads=1)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Faces:
    folder = tmp_path_factory.mktemp("drawn")
    write_faces(folder, 10)
    return load_faces([Source("aflw2000", str(folder), "train")], box_source="gt", holdout=0.3)


@pytest.mark.parametrize("shape", [(3, 64, 576), (2, 128, 64), (1, 16, 16)])
def test_singular_values_become_one_and_vectors_stay(shape: tuple[int, ...]) -> None:
    matrices = (
        torch.randn(shape, generator=torch.Generator().manual_seed(1)) * torch.logspace(-6, 3, shape[0])[:, None, None]
    )
    found = orthogonalised(matrices)
    u, values, v = torch.linalg.svd(matrices, full_matrices=False)
    some = (
        values > 0.05 * values.norm(dim=1, keepdim=True) / values.shape[1] ** 0.5
    )  # smaller ones need more iterations
    inner = u.mT @ found @ v.mT
    values = inner.diagonal(dim1=1, dim2=2)
    assert values[some].min() > 0.5
    assert values.max() < 1.3
    assert (inner - torch.diag_embed(values)).abs().max() < 0.01


def test_a_matrix_of_zeros_stays_one() -> None:
    assert torch.equal(orthogonalised(torch.zeros(2, 8, 5)), torch.zeros(2, 8, 5))


def test_hidden_weights_move_as_far_whatever_their_gradient_and_others_by_adamw() -> None:
    def moved(scale: float, kind: Any) -> list[Any]:
        weights = [
            torch.nn.Parameter(torch.ones(8, 4, 3, 3)),
            torch.nn.Parameter(torch.ones(8)),
            torch.nn.Parameter(torch.ones(3)),
        ]
        optimiser = kind(weights)
        for i, weight in enumerate(weights[:2]):  # the third has none
            weight.grad = scale * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
        assert optimiser.step(lambda: 5.0) == 5.0
        return [weight.detach() - 1 for weight in weights]

    def of_muon(weights: list[Any]) -> Any:
        return Muon(weights, weights[:1], lr=0.01, weight_decay=0.1)

    (first, bias, still), (again, *_) = moved(1, of_muon), moved(1024, of_muon)
    _, expected, _ = moved(1, lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.1))
    torch.testing.assert_close(first, again, atol=1e-6, rtol=0)
    step = first + RATE * 0.01 * 0.1  # the decay of ones
    assert float(step.square().mean().sqrt()) == pytest.approx(RATE * 0.01 * 0.2, rel=0.2)
    torch.testing.assert_close(bias, expected)
    assert torch.equal(still, torch.zeros(3))


def test_weights_at_either_end_of_the_network_are_left_to_adam(faces: Faces) -> None:
    """Landmarks as many as channels: it is not by their shape that they are known."""
    config = HourglassTraining(HourglassConfig(68, width=68, depth=1, stem=4, body_size=32), SCHEDULE, Augmentation())
    module = HourglassModule(config, SCHEME_68, faces)
    hidden = {id(weight) for weight in module.hidden()}
    kept = [name for name, p in module.network.named_parameters() if p.ndim == 4 and id(p) not in hidden]
    assert kept == ["stem.0.weight", "heads.0.2.weight", "heads.1.5.weight", "from_heatmaps.0.weight"]
    rest, muon = module.optimiser(module.network).param_groups
    assert muon["lr"] == RATE * rest["lr"]
    assert len(rest["params"]) + len(muon["params"]) == len(list(module.network.parameters()))


def test_other_stages_have_no_weights_for_it(faces: Faces, tmp_path: Path) -> None:
    config = ResNet50Training(ResNet50Config(68, width=4), SCHEDULE, Augmentation())
    with pytest.raises(FacemsmError, match="muon, which is for the hourglass; leave it at adam"):
        fit(ResNet50Module(config, SCHEME_68, faces), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
