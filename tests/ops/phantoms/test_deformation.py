from __future__ import annotations

import numpy as np

from ops.phantoms.deformation import Deformation


def test_inverse_and_lattice_agree_with_the_displacement() -> None:
    rng = np.random.default_rng(1)
    deformation = Deformation.sample(rng, 9.0)
    points = rng.uniform(-200, 200, (200, 3))
    patient = deformation.to_patient(points)
    np.testing.assert_allclose(patient + deformation.displacement(patient), points, atol=0.01)
    x, y, z = (np.linspace(-150, 150, n).astype(np.float32) for n in (5, 4, 3))
    lattice = deformation.template_coordinates(x, y, z)
    node = np.array([[x[3], y[1], z[2]]], dtype=np.float64)
    expected = node + deformation.displacement(node)
    np.testing.assert_allclose([c[2, 1, 3] for c in lattice], expected[0], atol=1e-3)


def test_displacement_stays_within_its_reach() -> None:
    deformation = Deformation.sample(np.random.default_rng(2), 9.0)
    points = np.random.default_rng(3).uniform(-300, 300, (5000, 3))
    assert deformation.reach <= 9.0 + 1e-9
    assert 2.0 < np.abs(deformation.displacement(points)).max() <= deformation.reach
