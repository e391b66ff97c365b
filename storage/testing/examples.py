"""Valid records and volumes to test with, each field of which can be replaced."""

from __future__ import annotations

from typing import Any

import numpy as np

from ops.verdict import ResultStatus, VerdictStatus
from ops.volume import Grid, Volume
from storage.records import Measurement, ResultRecord, SeriesRecord, VerdictRecord, case_id

# Text that breaks naive storage: NUL (PostgreSQL refuses it), an undecodable file name, quotes, other scripts.
HOSTILE_TEXT = "a\0b \udce9 'quote\" é 心臓 💙"


def example_series(series_uid: str = "1.2.1", **changes: Any) -> SeriesRecord:
    """Make a valid accepted series; ``changes`` replace its fields."""
    fields: dict[str, Any] = {
        "series_uid": series_uid,
        "study_uid": "1.2",
        "modality": "CT",
        "uid_source": "dicom",
        "n_instances": 3,
        "source_digest": "source-1",
        "pixel_digest": "pixels-1",
        "volume_url": f"1.2/{series_uid}/pixels-1",
        "header": {"Modality": "CT", "KVP": 120.0, "SOPInstanceUIDs": ["1.2.3.1", "1.2.3.2", "1.2.3.3"]},
        "sources": ("/in/a.dcm", "/in/b.dcm"),
    }
    return SeriesRecord(**(fields | changes))


def example_verdict(series_uid: str = "1.2.1", **changes: Any) -> VerdictRecord:
    """Make a valid verdict of ingest; ``changes`` replace its fields."""
    fields = {"series_uid": series_uid, "study_uid": "1.2", "programme": "ingest", "status": VerdictStatus.ACCEPTED}
    return VerdictRecord(**(fields | changes))


def example_result(study_uid: str = "1.2", **changes: Any) -> ResultRecord:
    """Make a valid result of programme ``calcium``; ``changes`` replace its fields."""
    status = changes.get("status", ResultStatus.OK)
    fields: dict[str, Any] = {
        "case_id": case_id("calcium", study_uid),
        "programme": "calcium",
        "programme_version": "1",
        "study_uid": study_uid,
        "status": status,
        "fingerprint": "fingerprint-1",
        "reason": None if status is ResultStatus.OK else "worker_error",
        "roles": {"ct": f"{study_uid}.1"},
        "policy": {"connectivity": 8, "minimum_area_mm2": 1.0},
        "models": {"heart-territories": "0123"},
        "stages": [{"name": "measure", "version": "1", "parameters": {}}],
        "inputs": {"ct": "pixels-1"},
        "pictures": [f"calcium/{study_uid}/axial.png"],
        "timings": {"measure": 0.25},
        "created_at": "2026-01-02T03:04:05.678+00:00",
    }
    if status is ResultStatus.OK:
        mass = Measurement("mass_mg", None, "mg", ResultStatus.NOT_EVALUABLE, "not_calibrated")
        fields["measurements"] = [Measurement("agatston_total", 0.0, "1"), mass, Measurement("category", "0")]
    if status is ResultStatus.FAILED:
        fields["error"] = {"class": "ValueError", "message": "no", "traceback": "…"}
    return ResultRecord(**(fields | changes))


def example_volume(shape: tuple[int, int, int] = (40, 70, 66), dtype: str = "int16") -> Volume:
    """Make noise on an oblique, anisotropic, left-handed grid: nothing about it is symmetric."""
    rng = np.random.default_rng(7)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation[:, 0] *= -np.sign(np.linalg.det(rotation))
    affine = np.eye(4)
    affine[:3, :3] = rotation * (2.5, 0.7, 0.8)
    affine[:3, 3] = (-123.4, 56.7, -890.1)
    limits = (0, 255) if dtype == "uint8" else (-1024, 3071)
    voxels = rng.integers(*limits, size=shape).astype(dtype)
    return Volume(voxels, Grid(shape, affine), "HU", slope=1.5, intercept=-1024.0)
