"""Records that cross between processes and the ledger: plain frozen dataclasses, valid once constructed.

Nothing here imports a database. Every record checks itself in its constructor, so that one bad value is an
error where it was made and never breaks a batch of hundreds at commit time.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from ops.verdict import ResultStatus, VerdictStatus

# Programme name under which ingest files its own verdict on a series, before any disease looks at it.
INGEST_PROGRAMME = "ingest"

# 64 bits of the digest: at ten million cases the chance that any two share an id is below 3e-6.
CASE_DIGEST_DIGITS = 16


def case_id(programme: str, study_uid: str) -> str:
    """Stable, short, URL-safe id of one study under one programme, e.g. ``calcium-9f86d081884c7d65``."""
    digest = hashlib.sha256(f"{programme}/{study_uid}".encode()).hexdigest()
    return f"{programme}-{digest[:CASE_DIGEST_DIGITS]}"


def utc_time(moment: datetime) -> str:
    """Time as ISO 8601 in UTC, to the millisecond: texts in the order of their times."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def utc_now() -> str:
    """Present time as of `utc_time`."""
    return utc_time(datetime.now(UTC))


# Made once: a call of `json.dumps` with options makes one each time.
_PLAIN_JSON = json.JSONEncoder(allow_nan=False)
_CANONICAL_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: object) -> str:
    """One ASCII JSON text per value (sorted keys, no blanks, no NaN): the input of every digest.

    Raises
    ------
    ValueError, TypeError
        ``value`` contains NaN, infinity, or something JSON does not have.
    """
    return _CANONICAL_JSON.encode(value)


def storable_text(text: str) -> str:
    """``text`` with what no database stores (NUL, lone surrogates of undecodable file names) backslash-escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def _require_json(owner: str, name: str, value: object) -> None:
    if not value:
        return
    try:
        _PLAIN_JSON.encode(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{owner}: {name} must be plain JSON without NaN: {error}") from error


def _require_text(owner: str, **values: str) -> None:
    for name, value in values.items():
        if not value:
            raise ValueError(f"{owner}: {name} must not be empty")


def _set(record: object, name: str, value: object) -> None:
    object.__setattr__(record, name, value)


@dataclass(frozen=True)
class SeriesRecord:
    """One ingested series and where its volume lies.

    Attributes
    ----------
    series_uid, study_uid, modality
        As in the (possibly derived) header.
    uid_source
        ``dicom`` when the file's own UIDs are used, ``derived`` when ingest had to make them.
    n_instances
        Number of instances in the series.
    source_digest
        Digest of all source bytes; equal digest = the same files again, nothing to do.
    pixel_digest
        Digest of decoded voxels, grid and rescale; None when the series was refused.
    volume_url
        Key inside the volume store; None when the series was refused.
    header
        De-identified JSON attributes by keyword.
    sources
        Paths the instances were read from, so that parts that arrive later can be united with them.
    """

    series_uid: str
    study_uid: str
    modality: str
    uid_source: Literal["dicom", "derived"]
    n_instances: int
    source_digest: str
    pixel_digest: str | None = None
    volume_url: str | None = None
    header: dict[str, Any] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        owner = f"series {self.series_uid!r}"
        _require_text(owner, series_uid=self.series_uid, study_uid=self.study_uid, source_digest=self.source_digest)
        if self.uid_source not in ("dicom", "derived"):
            raise ValueError(f"{owner}: uid_source must be 'dicom' or 'derived', got {self.uid_source!r}")
        if (self.pixel_digest is None) != (self.volume_url is None):
            raise ValueError(f"{owner}: pixel_digest and volume_url are either both given or both None")
        _require_json(owner, "header", self.header)
        _set(self, "sources", tuple(self.sources))


class SeriesOutline(NamedTuple):
    """What a series is, without where it came from and where it lies; the fields are those of `SeriesRecord`."""

    modality: str
    n_instances: int
    header: dict[str, Any]


@dataclass(frozen=True)
class SupersededSeries:
    """What a series was before its source files changed; explains why a case became stale."""

    series_uid: str
    source_digest: str
    pixel_digest: str | None
    volume_url: str | None
    recorded_at: str
    superseded_at: str


@dataclass(frozen=True)
class VerdictRecord:
    """The verdict of one programme (or of ingest itself) on one series."""

    series_uid: str
    study_uid: str
    programme: str
    status: VerdictStatus
    reason: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        owner = f"verdict on series {self.series_uid!r}"
        _require_text(owner, series_uid=self.series_uid, study_uid=self.study_uid, programme=self.programme)
        _set(self, "status", VerdictStatus(self.status))
        _set(self, "detail", storable_text(self.detail))
        if self.status is not VerdictStatus.ACCEPTED and not self.reason:
            raise ValueError(f"{owner}: a {self.status} verdict needs a reason code")


@dataclass(frozen=True)
class RejectedFileRecord:
    """A file that looks like DICOM and could not be read. Keyed by path."""

    path: str
    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        _require_text("rejected file", path=self.path, reason=self.reason)
        _set(self, "path", storable_text(self.path))
        _set(self, "detail", storable_text(self.detail))


@dataclass(frozen=True)
class Measurement:
    """One named value with its unit and status.

    Attributes
    ----------
    name
        Stable snake_case name, e.g. ``agatston_LAD``.
    value
        Number, text (a category), or None. Only an ``ok`` measurement has a value, and it always has one:
        what could not be measured is None, never 0 (SPEC §0.4–5).
    unit
        UCUM unit; ``1`` for counts and ratios, empty for text.
    status
        Whether the value may be used.
    reason
        Why not, when the status is not ``ok`` (e.g. ``not_calibrated``).
    """

    name: str
    value: float | str | None
    unit: str = ""
    status: ResultStatus = ResultStatus.OK
    reason: str = ""

    def __post_init__(self) -> None:
        _require_text("measurement", name=self.name)
        _set(self, "status", ResultStatus(self.status))
        if self.status is not ResultStatus.OK:
            if self.value is not None:
                raise ValueError(f"{self.name}: a {self.status} measurement has no value, got {self.value!r}; use None")
            return
        if isinstance(self.value, bool) or self.value is None:
            raise ValueError(f"{self.name}: an ok measurement needs a number or a text, got {self.value!r}")
        if isinstance(self.value, str):
            return
        number = float(self.value)  # also takes NumPy scalars, so that the database sees plain floats
        if not math.isfinite(number):
            raise ValueError(f"{self.name}: {number} is not a value; use None with status not_evaluable and a reason")
        _set(self, "value", number)


@dataclass(frozen=True)
class ResultRecord:
    """Everything behind one case's answer: inputs, stages, models, measurements, times.

    Attributes
    ----------
    case_id
        `case_id` of (programme, study_uid).
    roles
        Role name → series UID, e.g. ``{"ct": "1.2.3"}``.
    status, reason, detail
        ``ok``, or why there is no answer. Everything but ``ok`` has a reason code.
    fingerprint
        Digest of everything the result depends on. Same fingerprint, same result.
    policy, models, stages, inputs
        Named policy options; model name → digest; each stage's name, version and parameters; role → pixel digest.
    pictures
        Keys in the object store.
    timings
        Stage name → seconds.
    error
        ``class``, ``message``, ``traceback`` of a failed case, else None.
    attempts
        Runs that tried this fingerprint, this one included; runs spoilt by an outage count once at most.
    """

    case_id: str
    programme: str
    programme_version: str
    study_uid: str
    status: ResultStatus
    fingerprint: str
    reason: str | None = None
    detail: str = ""
    roles: dict[str, str] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    error: dict[str, str] | None = None
    attempts: int = 1
    created_at: str = field(default_factory=utc_now)

    def __post_init__(self) -> None:
        owner = f"result of case {self.case_id!r}"
        _require_text(owner, case_id=self.case_id, programme=self.programme, study_uid=self.study_uid)
        _require_text(owner, fingerprint=self.fingerprint)
        _set(self, "status", ResultStatus(self.status))
        _set(self, "detail", storable_text(self.detail))
        self._check_outcome(owner)
        names = [measurement.name for measurement in self.measurements]
        if len(set(names)) != len(names):
            raise ValueError(f"{owner}: measurement names must differ, got {sorted(names)}")
        for name in RESULT_JSON_FIELDS:
            _require_json(owner, name, getattr(self, name))

    def _check_outcome(self, owner: str) -> None:
        if self.status is ResultStatus.OK:
            if not any(measurement.status is ResultStatus.OK for measurement in self.measurements):
                raise ValueError(f"{owner}: an ok result needs at least one ok measurement")
        elif not self.reason:
            raise ValueError(f"{owner}: a {self.status} result needs a reason code")
        if self.status is ResultStatus.FAILED and self.measurements:
            raise ValueError(f"{owner}: a failed result carries no measurements")
        if self.attempts < 1:
            raise ValueError(f"{owner}: attempts counts from 1, got {self.attempts}")


# Fields of a result that the ledger keeps as JSON text.
RESULT_JSON_FIELDS = ("roles", "policy", "models", "stages", "inputs", "flags", "pictures", "timings", "error")


class CaseState(NamedTuple):
    """What the planner asks of a case: its newest fingerprint, how that ended, and how often it was tried."""

    fingerprint: str
    status: ResultStatus
    attempts: int
