"""A case on its way: what the planner hands to the workers, what stages pass on, and the record that comes out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from ops.verdict import ResultStatus
from ops.volume import Volume
from storage.objects import ObjectStore
from storage.records import Measurement, ResultRecord, canonical_json
from storage.urls import Location
from storage.volumes import VolumeStore
from tasks.stage import EndCase, Outcome, Stage


@dataclass(frozen=True)
class Recipe:
    """How a programme computes a case; together with a case's inputs it determines the result.

    Attributes
    ----------
    programme, version
        Name and version of the programme.
    policy
        Named options, JSON-able.
    stages
        Name, version and parameters of every stage, in order.
    models
        Model name → digest.
    """

    programme: str
    version: str
    policy: Mapping[str, Any]
    stages: tuple[Mapping[str, Any], ...]
    models: Mapping[str, str]

    def fingerprint(self, **inputs: Any) -> str:
        """Digest of the recipe and of everything it is applied to: same fingerprint, same result."""
        content = {
            "programme": self.programme,
            "version": self.version,
            "policy": dict(self.policy),
            "stages": [dict(stage) for stage in self.stages],
            "models": dict(self.models),
            **inputs,
        }
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()

    def refusal_fingerprint(self, **grounds: Any) -> str:
        """Digest of what a refusal depends on: no stage and no model had a say in it."""
        return replace(self, stages=(), models={}).fingerprint(**grounds)


def describe_stages(stages: tuple[Stage, ...]) -> tuple[dict[str, Any], ...]:
    """Describe stages as fingerprints and results do: name, version, parameters."""
    return tuple({"name": s.name, "version": s.version, "parameters": dict(s.parameters)} for s in stages)


@dataclass(frozen=True)
class Stores:
    """Where workers read volumes and released models and write pictures; not part of what determines a result."""

    volumes: Location
    objects: Location
    models: Location


@dataclass(frozen=True)
class Case:
    """One study under one programme: a small picklable record, all a worker needs to start.

    Attributes
    ----------
    case_id, study_uid
        Identity.
    roles
        Role → series UID.
    inputs
        Role → pixel digest.
    volume_keys
        Role → key in the volume store.
    facts
        What the headers say and a stage needs to know (tube voltage, age …), JSON-able.
    recipe, stores
        How and where to compute it.
    fingerprint
        Of the recipe applied to ``inputs`` and ``facts``.
    earlier_attempts
        Runs in which this fingerprint has failed already.
    """

    case_id: str
    study_uid: str
    roles: Mapping[str, str]
    inputs: Mapping[str, str]
    volume_keys: Mapping[str, str]
    facts: Mapping[str, Any]
    recipe: Recipe
    stores: Stores
    fingerprint: str
    earlier_attempts: int = 0


@dataclass(frozen=True)
class Findings:
    """What a case's stages come to: all that goes back to the coordinating process."""

    status: ResultStatus
    reason: str | None = None
    detail: str = ""
    measurements: tuple[Measurement, ...] = ()
    flags: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """A case inside a worker, between stages; never leaves the cluster.

    Attributes
    ----------
    case
        The case.
    volumes, headers
        Role → volume, and the de-identified header stored with it.
    labels
        Name → label map found by inference.
    found
        Name → anything else a stage found out.
    findings
        The answer, once there is one.
    files
        File name → bytes that are to be published.
    flags
        What happened on the way that the result must say, such as a lack of memory; joined to those of the findings.
    """

    case: Case
    volumes: Mapping[str, Volume]
    headers: Mapping[str, Mapping[str, Any]]
    labels: Mapping[str, Volume] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)
    findings: Findings | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


def load(case: Case) -> Work:
    """First stage: read the volume of every role from the store."""
    store = VolumeStore(case.stores.volumes)
    stored = {role: store.open(key) for role, key in case.volume_keys.items()}
    volumes = {role: volume.read() for role, volume in stored.items()}
    return Work(case, volumes, {role: volume.header for role, volume in stored.items()})


def publish(work: Work) -> Findings:
    """Last stage: write the case's files to the object store, under its fingerprint, and return its findings."""
    if work.findings is None:
        raise ValueError(f"case {work.case.case_id} reached publishing without findings; a stage before must set them")
    store = ObjectStore(work.case.stores.objects)
    keys = [f"{work.case.case_id}/{work.case.fingerprint[:12]}/{name}" for name in work.files]
    for key, data in zip(keys, work.files.values(), strict=True):
        store.write(key, data)
    return replace(work.findings, flags=(*work.findings.flags, *work.flags), pictures=tuple(keys))


def end_not_evaluable(reason: str, detail: str, status: ResultStatus = ResultStatus.NOT_EVALUABLE) -> NoReturn:
    """Leave a stage because the case has no answer; it becomes a result with a reason, never a zero."""
    raise EndCase(Findings(status, reason, detail))


def result_of(outcome: Outcome) -> ResultRecord:
    """Turn what became of a case into the record that the ledger keeps; a run counts as one attempt."""
    case: Case = outcome.case
    findings, error, attempts = outcome.value, None, case.earlier_attempts + 1
    if outcome.failure:
        failure = outcome.failure
        if failure.transient:  # an outage is not the case's fault, however many runs it spoils
            attempts = max(1, case.earlier_attempts)
        findings = Findings(ResultStatus.FAILED, "failed", f"{failure.error_class}: {failure.message}")
        error = {"class": failure.error_class, "message": failure.message, "traceback": failure.traceback}
    return ResultRecord(
        case_id=case.case_id,
        study_uid=case.study_uid,
        **_provenance(case.recipe),
        roles=dict(case.roles),
        inputs=dict(case.inputs),
        fingerprint=case.fingerprint,
        status=findings.status,
        reason=findings.reason,
        detail=findings.detail,
        measurements=list(findings.measurements),
        flags=list(findings.flags),
        pictures=list(findings.pictures),
        timings={name: round(seconds, 4) for name, seconds in outcome.timings.items()},
        error=error,
        attempts=attempts,
    )


def refused_result(recipe: Recipe, case_id: str, study_uid: str, fingerprint: str, findings: Findings) -> ResultRecord:
    """Record of a case that was refused before any stage ran."""
    return ResultRecord(
        case_id=case_id,
        study_uid=study_uid,
        **_provenance(recipe),
        fingerprint=fingerprint,
        status=findings.status,
        reason=findings.reason,
        detail=findings.detail,
    )


def _provenance(recipe: Recipe) -> dict[str, Any]:
    return {
        "programme": recipe.programme,
        "programme_version": recipe.version,
        "policy": dict(recipe.policy),
        "models": dict(recipe.models),
        "stages": [dict(stage) for stage in recipe.stages],
    }
