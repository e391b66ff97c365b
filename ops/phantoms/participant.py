"""Who is scanned: age, sex, build and the habits of the body that shape a chest CT."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_AGE, MAX_AGE = 30, 90


@dataclass(frozen=True)
class Participant:
    """One simulated person.

    Attributes
    ----------
    age
        Years.
    sex
        DICOM code, ``"F"`` or ``"M"``.
    height
        Metres.
    bmi
        kg/m².
    heart_volume
        Volume of the pericardial contents in mL.
    haematocrit
        Fraction; blood is 2 HU denser for every 2 % or so.
    lung_hu
        Mean attenuation of aerated lung in HU.
    calcium_percentile
        Where this person's coronary calcium lies among people of the same age and sex, 0–1.
    arms_up
        Arms raised out of the field, the usual position for CT.
    seed
        Seeds the person's anatomy.
    """

    age: int
    sex: str
    height: float
    bmi: float
    heart_volume: float
    haematocrit: float
    lung_hu: float
    calcium_percentile: float
    arms_up: bool
    seed: int


def sample_participant(rng: np.random.Generator) -> Participant:
    """Draw a person of a screening population (ages 30–90, BMI 17–45, hearts of 400–1100 mL)."""
    sex = str(rng.choice(["F", "M"]))
    male = sex == "M"
    age = int(np.clip(rng.normal(60, 12), MIN_AGE, MAX_AGE))
    height = float(np.clip(rng.normal(1.77 if male else 1.63, 0.075), 1.45, 2.05))
    bmi = float(np.clip(17 + rng.gamma(3.2, 3.2), 17, 45))
    # Pericardial contents of adults lie near 600–800 mL and grow with body size.
    typical = 700 * (height / 1.70) ** 1.5 * (bmi / 27) ** 0.35 * (1.07 if male else 0.92)
    return Participant(
        age=age,
        sex=sex,
        height=height,
        bmi=bmi,
        heart_volume=float(np.clip(typical * rng.lognormal(0, 0.17), 350, 1150)),
        haematocrit=float(np.clip(rng.normal(0.44 if male else 0.40, 0.04), 0.25, 0.58)),
        lung_hu=float(np.clip(rng.normal(-850, 35), -930, -720)),
        calcium_percentile=float(rng.uniform()),
        arms_up=bool(rng.uniform() < 0.85),
        seed=int(rng.integers(2**31)),
    )
