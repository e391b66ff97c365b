"""Registration against SimpleITK in the same run: seconds and mean target registration error (TRE).

With ``--benchmark-enable`` on heads of 180 × 256 × 256 voxels of 1 mm, else small ones. Run with ``-s`` for the table.
``python -m benchmarks.registration_peers`` compares more peers and settings, at equal error.
"""

from __future__ import annotations

import pytest
import torch

from ops.registration.linear import LinearModel
from ops.registration.quality import RegistrationPolicy
from ops.registration.register import RegistrationPlan, register
from ops.registration.similarity import Metric
from ops.registration.transforms import Affine, chain
from ops.volume import Volume
from tests.benchmarks.timing import best_of
from tests.ops.registration.heads import Heads, moved_by
from tests.ops.registration.peers import sitk_linear

# SimpleITK needs minutes at full size where others use the cores too.
pytestmark = pytest.mark.timeout(1800)
TRUTH = Affine.rigid([7, -6, 9], [9, -12, 8])
STRETCHED = chain(TRUTH, Affine.about([[1.05, 0.02, 0], [0, 0.96, 0.02], [0.01, 0, 1.03]], (0, 0, 0), (0, 0, 0)))


@pytest.fixture(scope="module")
def heads(measuring: bool) -> Heads:
    return Heads(1.0 if measuring else 3.0, seed=4)


@pytest.fixture(scope="module")
def images(heads: Heads) -> dict[str, Volume]:
    fixed, moving = heads.grid(0.0), heads.grid(0.37)
    return {"fixed": heads.image("CT", fixed), "CT": heads.image("CT", moving), "MR": heads.image("MR", moving)}


@pytest.mark.parametrize(("kind", "model"), [("CT", "rigid"), ("MR", "rigid"), ("CT", "affine"), ("MR", "affine")])
def test_linear(heads: Heads, images: dict[str, Volume], kind: str, model: str, measuring: bool) -> None:
    truth = TRUTH if model == "rigid" else STRETCHED
    at = images[kind]
    moving = moved_by(at, truth) if model == "rigid" else heads.painted_through(kind, truth, at.grid)
    plan = RegistrationPlan(LinearModel(model), Metric.MI)
    found, ours = best_of(2, lambda: register(images["fixed"], moving, plan))
    error = heads.tre(found.transform, truth)
    assert error < heads.size / 4
    if measuring:
        peer, theirs = best_of(1, lambda: sitk_linear(images["fixed"], moving, rigid=model == "rigid"))
        print(
            f"\n{model} CT–{kind}, {torch.get_num_threads()} threads: Popscan {ours:.2f} s, TRE {error:.3f} mm; "
            f"SimpleITK {theirs:.2f} s, TRE {heads.tre(peer, truth):.3f} mm; {theirs / ours:.1f} times"
        )
        assert ours < theirs


def test_unlike_heads_are_told_from_noise(heads: Heads, images: dict[str, Volume]) -> None:
    """The shared information of one head in two modalities is far above the limit."""
    found = register(images["fixed"], images["MR"], RegistrationPlan())
    assert found.quality.shared_information > 2 * RegistrationPolicy().least_shared_information
