"""The calcium programme: which series of a study is scored, why the others are not, and the stages of a case."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from flows.programmes.calcium_canaries import CANARIES
from flows.programmes.programme import Programme, Selection
from ops.diseases.calcium.measurement import DEFAULT_POLICY, VERSION, CalciumPolicy, increment_too_wide, measure
from ops.diseases.calcium.scan import (
    Gating,
    GatingDecision,
    Header,
    ScanFacts,
    contrast_agent,
    decide_gating,
    names_calcium_score,
    number,
    scan_facts,
    spectral_image,
    text,
)
from ops.diseases.calcium.scores import weight_edges
from ops.diseases.calcium.territories import heart_centre
from ops.measure.errors import OutOfModelRangeError
from ops.pictures import calcium_picture, png
from ops.verdict import ResultStatus, Verdict, VerdictStatus
from ops.volume import Grid
from storage.records import Measurement, SeriesRecord, VerdictRecord
from storage.segmentation import CORONARY_CALCIUM, SourceSeries, encode, segmentation
from tasks.case import Findings, Work, load, publish
from tasks.infer import HEART_MODEL, locate_heart
from tasks.stage import Stage

PROGRAMME_NAME = "calcium"

# An axial stack's normal lies within this angle of the body axis; a lying patient is rarely turned further.
MAX_TILT_DEGREES = 25.0
# A heart is some 10–13 cm long; a shorter stack cannot hold one (policy, before the network looks).
MIN_COVERAGE_MM = 80.0
# Tokens of ImageType that mark reformats and projections, not slices as reconstructed from the raw data.
REFORMATTED = {"MIP", "MPR", "MINIP", "VRT", "REFORMATTED", "PROJECTION IMAGE", "CSA MIP", "CSA MPR", "AVERAGE"}
# BodyPartExamined values that contradict a heart. Others (ABDOMEN, TRUNK, empty) are left to the network: the tag
# follows the protocol, not the anatomy.
NOT_CHEST = {
    "HEAD", "BRAIN", "SKULL", "NECK", "HEADNECK", "CSPINE", "LSPINE", "PELVIS", "HIP", "LEG", "KNEE", "FOOT", "ANKLE",
    "ARM", "ELBOW", "WRIST", "HAND", "EXTREMITY", "SINUS", "ORBIT", "JAW", "EAR",
}  # fmt: skip
# Sharp kernels raise scores. Siemens/Canon write a number (B35f soft, B60f sharp), GE and others a word.
SHARP_KERNEL_NUMBER = 50
SHARP_KERNEL_WORDS = ("BONE", "LUNG", "EDGE", "DETAIL", "SHARP", "FC5", "FC8")
PREFERRED_INCREMENT_MM = 3.0
# RescaleType of plain CT: HU, unspecified, or not given (PS3.3 C.11.1.1.2).
HOUNSFIELD_TYPES = ("HU", "US", "")
# The heart network was made for adults (its manifest's intended use).
ADULT_AGE = 18.0
# The scan is sound, but no published constants cover it (`OutOfModelRangeError`), or the model was not made for it.
OUT_OF_RANGE_REASONS = ("kvp_out_of_table", "tin_filter", "spectral_image", "outside_intended_use")

NOT_INGESTED = Verdict(VerdictStatus.REFUSED, "not_ingested", "ingest gave no verdict on this series; ingest it again")


@dataclass(frozen=True)
class _Candidate:
    """A series under consideration; ``grid`` is None when its header does not carry one."""

    series: SeriesRecord
    ingest: Verdict
    grid: Grid | None
    gating: GatingDecision
    scan: ScanFacts

    @property
    def header(self) -> Header:
        return self.series.header


def accept(series: Sequence[SeriesRecord], verdicts: Sequence[VerdictRecord], policy: Mapping[str, Any]) -> Selection:
    """Choose the series of one study to score.

    Parameters
    ----------
    series
        All series of the study.
    verdicts
        Ingest's verdicts on them.
    policy
        `CalciumPolicy` as a mapping.

    Returns
    -------
    Selection
        With role ``ct`` and the facts of `ScanFacts`, or with the study's reason; one verdict per series either way.

    Raises
    ------
    ValueError
        No series, or series of several studies.
    """
    studies = {record.study_uid for record in series}
    if len(studies) != 1:
        raise ValueError(f"accept looks at one study at a time, got {sorted(studies)}")
    choices = CalciumPolicy.from_dict(policy)
    ingest = {verdict.series_uid: Verdict(verdict.status, verdict.reason, verdict.detail) for verdict in verdicts}
    candidates = [_candidate(record, ingest.get(record.series_uid, NOT_INGESTED), choices) for record in series]
    refusals = {candidate.series.series_uid: _first_refusal(candidate, choices) for candidate in candidates}
    eligible = [candidate for candidate in candidates if refusals[candidate.series.series_uid] is None]
    if not eligible:
        return _none_eligible(candidates, refusals)
    best = max(eligible, key=_preference)
    records = tuple(_verdict(candidate, refusals, best) for candidate in candidates)
    return Selection(records, {"ct": best.series}, asdict(best.scan))


def _candidate(record: SeriesRecord, ingest: Verdict, policy: CalciumPolicy) -> _Candidate:
    grid = series_grid(record)
    gating = decide_gating(record.header, grid)
    return _Candidate(record, ingest, grid, gating, scan_facts(record.header, gating, policy.assumed_kvp))


def series_grid(record: SeriesRecord) -> Grid | None:
    """Lattice of an ingested series as recorded in its header; None for a refused series."""
    shape, affine = record.header.get("shape"), record.header.get("affine")
    if shape is None or affine is None:
        return None
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), np.asarray(affine, dtype=np.float64))


# A check returns (reason, detail) to refuse a series, or None.
_Refusal = tuple[str, str]
_Check = Callable[[_Candidate, CalciumPolicy], _Refusal | None]


def _check_modality(candidate: _Candidate, _policy: CalciumPolicy) -> _Refusal | None:
    modality = candidate.series.modality
    return None if modality == "CT" else ("wrong_modality", f"modality is {modality or 'not given'}; calcium needs CT")


def _check_ingest(candidate: _Candidate, _policy: CalciumPolicy) -> _Refusal | None:
    ingest = candidate.ingest
    return (ingest.reason, f"refused at ingest: {ingest.detail}") if ingest.refused else None


def _check_derived(candidate: _Candidate, _policy: CalciumPolicy) -> _Refusal | None:
    kinds = {kind.strip().upper() for kind in text(candidate.header, "ImageType").split("\\")}
    if "LOCALIZER" in kinds:
        return "localiser", "ImageType has LOCALIZER"
    found = sorted(kinds & REFORMATTED)
    return ("derived_image", f"ImageType has {', '.join(found)}: a reformat, not a reconstruction") if found else None


def _check_hounsfield(candidate: _Candidate, _policy: CalciumPolicy) -> _Refusal | None:
    kind = text(candidate.header, "RescaleType").upper()
    if kind not in HOUNSFIELD_TYPES:
        return "not_hounsfield", f"RescaleType is {kind}; thresholds are in HU"
    evidence = spectral_image(candidate.header)
    return ("spectral_image", f"{evidence}; no published thresholds cover it") if evidence else None


def _check_body_part(candidate: _Candidate, _policy: CalciumPolicy) -> _Refusal | None:
    part = text(candidate.header, "BodyPartExamined").upper()
    words = set(re.split(r"[\W_]+", part)) | {part.replace(" ", "")}
    if words & NOT_CHEST and not words & {"CHEST", "THORAX", "HEART", "CARDIAC", "TRUNK"}:
        return "not_chest", f"BodyPartExamined is {part}"
    return None


def _check_age(candidate: _Candidate, _policy: CalciumPolicy) -> _Refusal | None:
    age = candidate.scan.age
    if age is not None and age < ADULT_AGE:
        return "outside_intended_use", f"PatientAge is {age:.0f} years; the heart model was made for adults"
    return None


def _check_geometry(candidate: _Candidate, policy: CalciumPolicy) -> _Refusal | None:
    grid = candidate.grid
    if grid is None:
        return None
    tilt = float(np.degrees(np.arccos(min(1.0, abs(grid.directions[2, 0])))))
    if tilt > MAX_TILT_DEGREES:
        return "not_axial", f"the slices' normal is {tilt:.0f}° off the body axis"
    increment = grid.spacing[0]
    if too_wide := increment_too_wide(increment, policy):
        return "slice_increment_unsupported", too_wide
    coverage = grid.shape[0] * increment
    if coverage < MIN_COVERAGE_MM:
        return "coverage_too_short", f"{coverage:.0f} mm cannot hold a heart ({MIN_COVERAGE_MM:g} mm needed)"
    return None


def _check_contrast(candidate: _Candidate, _policy: CalciumPolicy) -> _Refusal | None:
    """Believe the tag only where nothing calls the scan a calcium score: combined protocols copy the agent to it."""
    agent = contrast_agent(candidate.header)
    if agent and not names_calcium_score(candidate.header):
        return "contrast_enhanced", f"ContrastBolusAgent is {agent!r}"
    return None


def _check_kvp(candidate: _Candidate, policy: CalciumPolicy) -> _Refusal | None:
    scan = candidate.scan
    if scan.kvp is None:
        return (
            "kvp_missing",
            "the header has no KVP; to score it anyway, set assumed_kvp (POPSCAN_POLICY)",
        )
    try:
        weight_edges(scan.kvp, policy.score, tin_filter=scan.tin_filter)
    except OutOfModelRangeError as error:
        return error.reason, str(error)
    return None


# In this order; a series that gets further is closer to being eligible, and explains the study's refusal.
_CHECKS: tuple[_Check, ...] = (
    _check_modality,
    _check_ingest,
    _check_derived,
    _check_hounsfield,
    _check_body_part,
    _check_age,
    _check_geometry,
    _check_contrast,
    _check_kvp,
)


@dataclass(frozen=True)
class _Refused:
    reason: str
    detail: str
    checks_passed: int


def _first_refusal(candidate: _Candidate, policy: CalciumPolicy) -> _Refused | None:
    for passed, check in enumerate(_CHECKS):
        if refusal := check(candidate, policy):
            return _Refused(*refusal, checks_passed=passed)
    return None


def _preference(candidate: _Candidate) -> tuple[float | int | str, ...]:
    """Sort key of eligible series, best last: gated, unenhanced, original, soft kernel, near 3 mm, more slices."""
    header, grid = candidate.header, candidate.grid
    gating = (Gating.NONGATED, Gating.GATED_INFERRED, Gating.GATED).index(candidate.gating.gating)
    increment = grid.spacing[0] if grid else number(header, "SliceThickness") or 0.0
    return (
        gating,
        names_calcium_score(header),
        not contrast_agent(header),
        not text(header, "ImageType").upper().startswith("DERIVED"),
        not is_sharp_kernel(text(header, "ConvolutionKernel")),
        -abs(increment - PREFERRED_INCREMENT_MM),
        candidate.series.n_instances,
        candidate.series.series_uid,
    )


def is_sharp_kernel(kernel: str) -> bool:
    """Tell whether a ConvolutionKernel is a sharp one, as far as its name tells."""
    upper = kernel.upper()
    found = re.match(r"^[A-Z]{1,2}(\d{2})(?!\d)", upper)
    if found and not upper.startswith("FC"):
        return int(found.group(1)) >= SHARP_KERNEL_NUMBER
    return any(word in upper for word in SHARP_KERNEL_WORDS)


def _verdict(candidate: _Candidate, refusals: Mapping[str, _Refused | None], best: _Candidate) -> VerdictRecord:
    record = candidate.series
    refused = refusals[record.series_uid]
    if refused is not None:
        return _refusal_record(record, refused)
    if candidate is not best:
        detail = f"series {best.series.series_uid} of this study is preferred"
        return VerdictRecord(
            record.series_uid, record.study_uid, PROGRAMME_NAME, VerdictStatus.REFUSED, "not_primary_series", detail
        )
    ingest, gating = candidate.ingest, candidate.gating
    detail = f"{gating.gating}: {gating.evidence}" + (f"; {ingest.detail}" if ingest.detail else "")
    return VerdictRecord(record.series_uid, record.study_uid, PROGRAMME_NAME, ingest.status, ingest.reason, detail)


def _refusal_record(record: SeriesRecord, refused: _Refused) -> VerdictRecord:
    return VerdictRecord(
        record.series_uid, record.study_uid, PROGRAMME_NAME, VerdictStatus.REFUSED, refused.reason, refused.detail
    )


def _none_eligible(candidates: Sequence[_Candidate], refusals: Mapping[str, _Refused | None]) -> Selection:
    """No series can be scored: the study's reason is that of the series which passed most checks."""
    by_uid = {candidate.series.series_uid: candidate.series for candidate in candidates}
    refused = {uid: refusal for uid, refusal in refusals.items() if refusal is not None}
    nearest = max(refused, key=lambda uid: (refused[uid].checks_passed, by_uid[uid].n_instances, uid))
    reason = refused[nearest].reason
    return Selection(
        verdicts=tuple(_refusal_record(by_uid[uid], refusal) for uid, refusal in refused.items()),
        reason=reason,
        detail=f"series {nearest}: {refused[nearest].detail}",
        status=ResultStatus.OUT_OF_MODEL_RANGE if reason in OUT_OF_RANGE_REASONS else ResultStatus.NOT_EVALUABLE,
    )


def score(work: Work) -> Work:
    """Stage: score the calcium of the located heart and prepare what is published."""
    from ops.inference.locate import heart_verdict  # brings torch, which only workers need

    scan = ScanFacts.from_dict(work.case.facts)
    heart = work.found["heart"]
    policy = CalciumPolicy.from_dict(work.case.recipe.policy)
    record, lesions = measure(work.volumes["ct"], work.labels["territories"], heart_verdict(heart), scan, policy)
    measurements = [Measurement(**vars(value)) for value in record.measurements]
    measurements += [
        Measurement("heart_ml", heart.heart_ml, "mL"),
        Measurement("heart_confidence", heart.confidence, "1"),
    ]
    findings = Findings(record.status, record.reason or None, record.detail, tuple(measurements), record.flags)
    return replace(work, findings=findings, found={**work.found, "lesions": lesions})


def draw(work: Work) -> Work:
    """Stage: the picture of a scored scan and, where there is calcium, its DICOM segmentation."""
    findings, lesions, volume = work.findings, work.found["lesions"], work.volumes["ct"]
    if findings is None or findings.status is not ResultStatus.OK:
        return work
    territories = work.labels["territories"]
    centre = heart_centre(territories)
    files = {"calcium.png": png(calcium_picture(volume, lesions, centre, _caption(findings)))}
    if lesions is None:
        return replace(work, files=files)
    try:
        source = SourceSeries.from_header(work.headers["ct"], volume.grid)
        files["calcium-seg.dcm"] = encode(segmentation(lesions, CORONARY_CALCIUM, source, work.case.fingerprint))
    except ValueError:  # the source is one that a SEG cannot refer to; the score stands without it
        findings = replace(findings, flags=(*findings.flags, "no_segmentation_object"))
    return replace(work, findings=findings, files=files)


def _caption(findings: Findings) -> str:
    """Scores in short: there is room for some 80 characters beside the legend."""
    scores = {m.name: m.value for m in findings.measurements if m.name.startswith("agatston")}
    shortened = {name.rsplit("_", 1)[-1]: value for name, value in scores.items() if isinstance(value, float)}
    return ", ".join(f"{name} {value:.1f}" for name, value in shortened.items()).replace(
        "nongated", "non-gated equivalent"
    )


PROGRAMME = Programme(
    name=PROGRAMME_NAME,
    version="1",
    accept=accept,
    stages=(
        Stage("load", "1", load),
        Stage("locate", "2", locate_heart, needs="gpu"),
        Stage("score", VERSION, score),
        Stage("draw", "2", draw),
        Stage("publish", "1", publish),
    ),
    models=(HEART_MODEL,),
    policy=DEFAULT_POLICY.to_dict(),
    check_policy=CalciumPolicy.from_dict,
    categories=("category", "agatston_equivalent_class"),
    severity=("agatston_total", "agatston_equivalent_nongated"),
    charted={
        "agatston_total": "log1p",
        "agatston_equivalent_nongated": "log1p",
        "noise_hu": "linear",
        "heart_ml": "linear",
        "heart_confidence": "linear",
    },
    canaries=CANARIES,
)
