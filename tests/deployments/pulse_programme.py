"""A programme that reads no voxels and takes a set time a case: for tests of what is around the cases.

It is installed as a site installs its own programmes, by an entry point (see `installation.with_pulse`).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.programmes.programme import Programme, Selection
from ops.verdict import ResultStatus, VerdictStatus
from storage.ledger import Ledger
from storage.records import Measurement, SeriesRecord, VerdictRecord
from tasks.case import Case, Findings, end_not_evaluable
from tasks.stage import Stage

SECONDS = "PULSE_SECONDS"
LOG = "PULSE_LOG"


def accept(series: Sequence[SeriesRecord], verdicts: Sequence[VerdictRecord], policy: Mapping[str, Any]) -> Selection:
    own = [replace(verdict, programme="pulse") for verdict in verdicts]
    if any(record.pixel_digest is None for record in series):
        return Selection(own, reason="no_eligible_series", detail="refused at ingest")
    return Selection(own, roles={"ct": series[0]})


def beat(case: Case) -> Findings:
    """Take a while; the number depends on the study alone, and one study in eleven is not evaluable."""
    time.sleep(float(os.environ.get(SECONDS, "0")))
    if log := os.environ.get(LOG):
        with Path(log).open("a") as file:
            file.write(f"{case.case_id}\n")
    number = int(hashlib.sha256(case.study_uid.encode()).hexdigest()[:8], 16)
    if number % 11 == 0:
        end_not_evaluable("too_quiet", "divisible by eleven")
    rate = 40 + number % 100
    category = Measurement("rhythm", "slow" if rate < 60 else "fast" if rate > 100 else "normal")
    return Findings(ResultStatus.OK, measurements=(Measurement("rate", float(rate), "/min"), category))


PROGRAMME = Programme(
    name="pulse",
    version="1",
    accept=accept,
    stages=(Stage("beat", "1", beat),),
    policy={"unit": "/min"},
    categories=("rhythm",),
    severity=("rate",),
    charted={"rate": "linear"},
)


def add_studies(ledger: Ledger, count: int, first: int = 0) -> None:
    """Record so many ingested studies of one series each; every fiftieth was refused at ingest."""
    series, verdicts = [], []
    for number in range(first, first + count):
        uid, refused = f"1.2.{number}", number % 50 == 49
        header = {"Manufacturer": "Simulated", "ManufacturerModelName": f"scanner {number % 3}"}
        record = SeriesRecord(
            series_uid=f"{uid}.1",
            study_uid=uid,
            modality="CT",
            uid_source="dicom",
            n_instances=1,
            source_digest=f"source-{number}",
            pixel_digest=None if refused else f"pixels-{number}",
            volume_url=None if refused else f"{uid}/1",
            header=header,
        )
        status = VerdictStatus.REFUSED if refused else VerdictStatus.ACCEPTED
        series.append(record)
        verdicts.append(VerdictRecord(record.series_uid, uid, "ingest", status, "missing_slices" if refused else ""))
    ledger.record_ingest(series, verdicts, [])
