from __future__ import annotations

import numpy as np
import pytest

from ops.phantoms.chest.thorax import Thorax, thorax
from ops.phantoms.participant import sample_participant
from ops.volume import Grid


@pytest.fixture(scope="session")
def chest() -> Thorax:
    return thorax(sample_participant(np.random.default_rng(5)))


@pytest.fixture(scope="session")
def chest_grid() -> Grid:
    return Grid.from_spacing((84, 96, 96), (4, 4, 4), (-192, -170, -150))
