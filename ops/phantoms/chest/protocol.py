"""Acquisition protocols: what the scanner was set to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VENDORS = ("SIEMENS", "GE MEDICAL SYSTEMS", "Philips", "Canon Medical Systems")


@dataclass(frozen=True)
class Protocol:
    """One reconstruction of one acquisition.

    Attributes
    ----------
    gated
        ECG-gated calcium scan, or non-gated chest CT.
    kvp
        Tube voltage.
    thickness, increment
        Slice thickness and distance of slice centres in mm.
    fov
        Side of the square field of view in mm.
    matrix
        Rows = columns.
    kernel
        ``soft``, ``medium`` or ``sharp``.
    noise
        Standard deviation in the middle of the body in HU.
    contrast
        Iodinated contrast in the blood (such a scan must be refused for calcium).
    """

    vendor: str
    gated: bool = True
    kvp: int = 120
    thickness: float = 3.0
    increment: float = 3.0
    fov: float = 220.0
    matrix: int = 512
    kernel: str = "medium"
    noise: float = 16.0
    contrast: bool = False
    tin_filter: bool = False

    @property
    def pixel(self) -> float:
        """Pixel spacing in mm."""
        return self.fov / self.matrix


def gated_protocol(rng: np.random.Generator, bmi: float = 27.0) -> Protocol:
    """Draw a calcium-scoring protocol as the vendors deliver it: 120 kV, 3 or 2.5 mm; sometimes overlapping 1.5 mm."""
    vendor = str(rng.choice(VENDORS))
    thickness, increment = 3.0, 3.0
    if vendor.startswith("GE") or rng.uniform() < 0.1:
        thickness = increment = 2.5
    elif rng.uniform() < 0.12:
        increment = 1.5
    return Protocol(
        vendor=vendor,
        kvp=120,
        thickness=thickness,
        increment=increment,
        fov=float(np.round(rng.uniform(185, 250))),
        kernel="medium",
        noise=float(np.clip(rng.normal(15 + 0.6 * (bmi - 27), 3), 8, 30)),
    )


def chest_protocol(rng: np.random.Generator, bmi: float = 27.0) -> Protocol:
    """Draw a non-gated chest CT: whole thorax, 1–5 mm, any kernel."""
    thickness = float(rng.choice([1.0, 1.25, 2.0, 3.0, 5.0], p=[0.05, 0.1, 0.25, 0.4, 0.2]))
    kernel = str(rng.choice(["soft", "medium", "sharp"], p=[0.5, 0.35, 0.15]))
    noise = (
        (18 + 0.6 * (bmi - 27)) * np.sqrt(3.0 / thickness) ** 0.7 * {"soft": 0.8, "medium": 1.0, "sharp": 2.0}[kernel]
    )
    return Protocol(
        vendor=str(rng.choice(VENDORS)),
        gated=False,
        thickness=thickness,
        increment=thickness,
        fov=float(np.round(rng.uniform(320, 420))),
        kernel=kernel,
        noise=float(np.clip(noise, 8, 45)),
    )
