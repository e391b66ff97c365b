"""Write a simulated cohort: DICOM folders and ``truth.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from ops.phantoms.anatomies import ANATOMIES, sample_study
from ops.phantoms.chest.calcification import coronary_calcium, other_calcium
from ops.phantoms.chest.protocol import Protocol, chest_protocol, gated_protocol
from ops.phantoms.chest.scan import Scan, simulate_scan
from ops.phantoms.chest.thorax import thorax
from ops.phantoms.dicom.chest import Encoding, dicom_series, dose_report, localiser
from ops.phantoms.dicom.common import Identity
from ops.phantoms.dicom.study import study_datasets
from ops.phantoms.participant import sample_participant

# Shares of a "screening" cohort; the rest are gated calcium scans that can be scored.
NON_GATED_SHARE = 0.10
REFUSED_SHARE = 0.12
REFUSALS = ("contrast_enhanced", "missing_slice", "heart_truncated", "kvp_out_of_table")

CALCIUM = "calcium"
PROGRAMMES = (CALCIUM, *ANATOMIES)

FILE_NAMES: tuple[Callable[[Dataset, int], str], ...] = (
    lambda ds, i: f"IM{i:04d}",
    lambda ds, i: f"{ds.SOPInstanceUID}.dcm",
    lambda ds, i: f"1-{i:03d}.dcm",
    lambda ds, i: f"I{1000 + i}.IMA",
)


def write_truth(out: Path, studies: dict[str, Any]) -> dict[str, Any]:
    """Write ``truth.json`` for studies simulated one by one; return its document."""
    document = {"studies": studies}
    out.mkdir(parents=True, exist_ok=True)
    (out / "truth.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return document


def simulate_study(
    out: Path, index: int, seed: int, screening: bool = False, programme: str = CALCIUM
) -> tuple[str, dict[str, Any]]:
    """Simulate and write participant ``index``; independent of the others, so studies can be made in parallel.

    Parameters
    ----------
    out
        Folder; the study gets a folder of its own below it.
    screening
        Calcium only: mix in non-gated chests and a few studies that must be refused, as a screening programme receives
        them; by default every study is a gated calcium scan that can be scored.
    programme
        One of `PROGRAMMES`.

    Returns
    -------
    tuple
        StudyInstanceUID and its entry of ``truth.json``.
    """
    rng = np.random.default_rng([seed, index])
    if programme == CALCIUM:
        identity, datasets, truth = _calcium_study(index, seed, rng, screening)
    else:
        study = sample_study(programme, rng)
        identity = Identity(f"{programme}/{seed}/{index}", study.participant, time=_time(index))
        datasets, truth = study_datasets(study, identity), study.truth
    write_study(out / f"participant-{index:04d}", datasets, rng)
    return str(identity.study_uid), truth | {"age": identity.participant.age, "sex": identity.participant.sex}


def _time(index: int) -> str:
    return f"{8 + index % 9:02d}{index % 60:02d}00"


def _calcium_study(
    index: int, seed: int, rng: np.random.Generator, screening: bool
) -> tuple[Identity, Iterator[tuple[str, Dataset]], dict[str, Any]]:
    person = sample_participant(rng)
    chest = thorax(person)
    kind = _kind(rng) if screening else "gated"
    protocol = _protocol(kind, rng, person.bmi)
    lesions = coronary_calcium(chest, rng)
    scan = simulate_scan(chest, protocol, rng, lesions, other_calcium(chest, lesions, rng))
    identity = Identity(f"{seed}/{index}/{kind}", person, time=_time(index))
    return identity, _datasets(scan, identity, kind, rng), _truth(scan, kind)


def _kind(rng: np.random.Generator) -> str:
    draw = rng.uniform()
    if draw < REFUSED_SHARE:
        return str(rng.choice(REFUSALS))
    return "non_gated" if draw < REFUSED_SHARE + NON_GATED_SHARE else "gated"


def _protocol(kind: str, rng: np.random.Generator, bmi: float) -> Protocol:
    if kind == "non_gated":
        return chest_protocol(rng, bmi)
    protocol = gated_protocol(rng, bmi)
    if kind == "contrast_enhanced":
        return replace(protocol, contrast=True)
    if kind == "kvp_out_of_table":
        return replace(protocol, kvp=110)
    return protocol


def _truth(scan: Scan, kind: str) -> dict[str, Any]:
    if kind in REFUSALS:
        return {"expected": "not_evaluable", "expected_reason": kind}
    truth = asdict(scan.truth)
    volume, mass = truth.pop("volume_mm3"), truth.pop("mass_mg")
    per_artery = {"volume_mm3_by_artery": volume, "mass_mg_by_artery": mass}
    return truth | {"volume_mm3": volume["total"], "mass_mg": mass["total"], "gated": scan.protocol.gated} | per_artery


def _datasets(scan: Scan, identity: Identity, kind: str, rng: np.random.Generator) -> Iterator[tuple[str, Dataset]]:
    """Folder name and dataset of every instance of a study, companions included."""
    images = list(dicom_series(scan.volume, scan.protocol, identity, Encoding.sample(rng)))
    if kind == "missing_slice":
        del images[len(images) // 2]
    if kind == "heart_truncated":
        images = images[: len(images) // 3]
    for image in images:
        yield "S2", image
    if rng.uniform() < 0.4:
        yield "S1", localiser(scan.volume, scan.protocol, identity)
    if rng.uniform() < 0.25:
        yield "S999", dose_report(identity)


def write_study(folder: Path, datasets: Iterator[tuple[str, Dataset]], rng: np.random.Generator) -> None:
    """Save datasets under file names that tell nothing of their order, in one of the layouts archives use."""
    name = FILE_NAMES[int(rng.integers(len(FILE_NAMES)))]
    flat = bool(rng.uniform() < 0.3)
    listed = list(datasets)
    for position, number in enumerate(rng.permutation(len(listed))):
        series, dataset = listed[position]
        path = folder / name(dataset, int(number) + 1) if flat else folder / series / name(dataset, int(number) + 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
