"""A programme small enough to see through: the mean of a volume, with one number that fails and one that is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flows.home import Home
from flows.programmes.programme import Programme, Selection
from ops.verdict import ResultStatus, VerdictStatus
from ops.volume import Grid, Volume
from storage.ledger import Ledger
from storage.records import Measurement, SeriesRecord, VerdictRecord, case_id
from tasks.case import Findings, Work, end_not_evaluable, load, publish
from tasks.stage import Stage

GRID = Grid.from_spacing((2, 3, 4), (3.0, 1.0, 1.0))


def accept(series: Sequence[SeriesRecord], verdicts: Sequence[VerdictRecord], policy: Mapping[str, Any]) -> Selection:
    own = [replace(verdict, programme="mean") for verdict in verdicts]
    usable = [record for record in series if record.pixel_digest]
    if any(record.header.get("broken") for record in series):
        raise KeyError("no such tag")
    if not usable:
        return Selection(own, reason="no_eligible_series", detail="all series were refused at ingest")
    return Selection(own, roles={"ct": usable[0]}, facts={"age": usable[0].header.get("age")})


def measure(work: Work, scale: float) -> Work:
    mean = float(work.volumes["ct"].voxels.mean()) * scale
    if mean == 3.0:
        raise ValueError("cannot bear three")
    if mean == 4.0:
        end_not_evaluable("too_bright", "mean is 4")
    findings = Findings(ResultStatus.OK, measurements=(Measurement("mean", mean, "1"),), flags=("tiny",))
    return replace(work, findings=findings, files={"mean.txt": str(mean).encode()})


PROGRAMME = Programme(
    name="mean",
    version="1",
    accept=accept,
    stages=(
        Stage("load", "1", load),
        Stage("measure", "1", measure, parameters={"scale": 1.0}),
        Stage("publish", "1", publish),
    ),
    policy={"rounding": "none"},
)


def add_study(home: Home, ledger: Ledger, number: int, refused: bool = False, **header: Any) -> str:
    """Ingest one study of one series whose voxels are all ``number``; the case id of it."""
    uid = f"1.2.{number}"
    digest = None if refused else f"digest-{number}-{header.get('late', '')}"
    if not refused:
        home.volumes.write(f"{uid}/{digest}", Volume(np.full(GRID.shape, number, np.int16), GRID), {})
    record = SeriesRecord(
        series_uid=f"{uid}.1",
        study_uid=uid,
        modality="CT",
        uid_source="dicom",
        n_instances=2,
        source_digest=f"source-{number}-{header.get('late', '')}",
        pixel_digest=digest,
        volume_url=None if refused else f"{uid}/{digest}",
        header=header,
    )
    status = VerdictStatus.REFUSED if refused else VerdictStatus.ACCEPTED
    reason = "missing_slices" if refused else ""
    ledger.record_series(record, VerdictRecord(record.series_uid, uid, "ingest", status, reason))
    return case_id("mean", uid)
