"""Conformance suites: what every ledger, volume store and object store must do.

Subclass one and give its abstract fixture; pytest runs the whole contract against your backend::

    class TestMemory(ObjectStoreConformance):
        @pytest.fixture
        def location(self):
            return Location("memory://objects")

Needs pytest, which Popscan itself does not.
"""

from storage.testing.arrivals import ArrivalsConformance
from storage.testing.examples import (
    HOSTILE_TEXT,
    example_result,
    example_series,
    example_verdict,
    example_volume,
)
from storage.testing.lanes import LanesConformance
from storage.testing.ledger import LedgerConformance
from storage.testing.objects import ObjectStoreConformance
from storage.testing.volumes import VolumeStoreConformance

__all__ = [
    "HOSTILE_TEXT",
    "ArrivalsConformance",
    "LanesConformance",
    "LedgerConformance",
    "ObjectStoreConformance",
    "VolumeStoreConformance",
    "example_result",
    "example_series",
    "example_verdict",
    "example_volume",
]
