"""Coronary artery calcium on CT: from a scan and the territories of its arteries to scores (SPEC §1).

`measure` is the whole of it. The definitions are in `scores`, the meaning for a person in `risk`,
what headers say in `scan`, and which calcium is coronary in `territories`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter

from ops.diseases.calcium.risk import arterial_age, mesa_bucket
from ops.diseases.calcium.scan import Gating, ScanFacts
from ops.diseases.calcium.scores import (
    ARTERIES,
    INCREMENT_TOLERANCE_MM,
    REFERENCE_INCREMENT_MM,
    CalciumVoxels,
    ScorePolicy,
    WeightEdges,
    agatston,
    average_to_slabs,
    cac_drs,
    cac_drs_a,
    calcified_vessels,
    category,
    interpolate_slices,
    lesion_count,
    mass_score,
    relative_density,
    volume_score,
    weight_edges,
)
from ops.diseases.calcium.territories import (
    BloodPool,
    CoronaryCalcium,
    blood_pool,
    coronary_calcium,
    heart_box,
    missing_territories,
    padding_in_heart,
)
from ops.measure.errors import NotEvaluableError, OutOfModelRangeError
from ops.measure.record import MeasurementRecord
from ops.measure.value import MeasuredValue
from ops.verdict import ResultStatus, Verdict, VerdictStatus
from ops.volume import Grid, Volume

ALGORITHM, VERSION = "calcium", "2"

# Median blood-pool HU above which a scan is contrast-enhanced: the lower end of the ~100–130 of SPEC §1.1, so that
# doubt refuses. Unenhanced blood is near 40 HU.
CONTRAST_LIMIT_HU = 100.0
# Wider increments miss lesions between slices; scoring protocols use 2.5–3 mm, chest CT up to 5 (policy).
MAX_INCREMENT_MM = 5.0
# Noise (σ of blood) above which specks of it count as calcium (policy). Measured on twelve noisy copies of calcium-free
# simulated scans: false scores of 0–4 at 30 HU, 0–25 at 33, 0–53 at 36 and 59–545 at 50.
MAX_NOISE_HU = 30.0

NoiseRule = Literal["slab3mm_else_refuse", "refuse", "flag"]


@dataclass(frozen=True)
class CalciumPolicy:
    """Every choice that can change a calcium result; recorded with each.

    Attributes
    ----------
    score
        Definition of the score, see `ScorePolicy`.
    volume_variant
        ``raw`` (default) or ``interpolated_isotropic``; the two are not comparable.
    assumed_kvp
        Tube voltage for scans whose header has none; None (default) refuses them as ``kvp_missing``.
    max_increment_mm
        Largest slice increment that is scored.
    territory_tolerance_mm
        Distance from an artery's territory within which calcium still counts as this artery's, between the centres
        of voxels of the label map.
    max_lesion_mm3
        A connected lesion beside an artery that is larger may be bone, a device or calcium: not evaluable.
    contrast_limit_hu
        Median blood-pool HU above which the scan is refused as contrast-enhanced.
    max_noise_hu, noise_rule
        What becomes of a scan whose blood is noisier: ``slab3mm_else_refuse`` (default) averages thinner slices to
        3 mm, and refuses what is too noisy even so; ``refuse`` does not average; ``flag`` scores it all the same.
    lesion_rule
        Which lesions are coronary, see `territories`.
    visual_class
        How the class V0–V3 of a non-gated scan is found.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    score: ScorePolicy = field(default_factory=ScorePolicy)
    volume_variant: Literal["raw", "interpolated_isotropic"] = "raw"
    assumed_kvp: float | None = None
    max_increment_mm: float = MAX_INCREMENT_MM
    territory_tolerance_mm: float = 3.0
    max_lesion_mm3: float = 5000.0
    contrast_limit_hu: float = CONTRAST_LIMIT_HU
    max_noise_hu: float = MAX_NOISE_HU
    noise_rule: NoiseRule = "slab3mm_else_refuse"
    lesion_rule: Literal["lesion_majority_or_ostial"] = "lesion_majority_or_ostial"
    visual_class: Literal["from_agatston_equivalent"] = "from_agatston_equivalent"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able copy for the record of a result."""
        return asdict(self)

    @classmethod
    def from_dict(cls, policy: Mapping[str, Any]) -> CalciumPolicy:
        """Read back what `to_dict` wrote, also through JSON; what is absent keeps its default.

        Raises
        ------
        ValueError
            An option that does not exist, or a value of the wrong type or not among an option's choices.
        """
        return TypeAdapter(cls).validate_python(dict(policy))


DEFAULT_POLICY = CalciumPolicy()


def measure(
    volume: Volume, territories: Volume, heart: Verdict, scan: ScanFacts, policy: CalciumPolicy = DEFAULT_POLICY
) -> tuple[MeasurementRecord, Volume | None]:
    """Score the coronary calcium of one scan.

    Parameters
    ----------
    volume
        Non-contrast CT in HU, axial slices along k, on its own grid.
    territories
        Label map of the network ``heart-territories`` (`ops.phantoms.labels.TERRITORY_LABELS`) on its own coarse grid.
    heart
        Whether that map shows a whole heart (`ops.inference.locate.heart_verdict`).
    scan
        What the header says.
    policy
        All choices.

    Returns
    -------
    record
        Never an exception for a bad scan: it has a status and a reason, and no score. Values measured before a refusal
        (noise, blood pool) are kept. The policy is the one applied: a scan averaged for its noise says ``slab3mm``.
    lesions
        Counted calcium, uint8 artery labels 1–4, on a box of the scan's grid; None when there is none.
    """
    measured: list[MeasuredValue] = []
    try:
        edges = _edges(scan, policy)
        _check_geometry(volume, policy)
        _check_heart(heart, territories)
        blood = blood_pool(volume, territories)
        measured += _quality(blood)
        _check_blood(blood, policy)
        if padding_in_heart(volume, territories, scan.padding_value):
            raise NotEvaluableError("padding_in_roi", f"padding value {scan.padding_value} occurs inside the heart")
        box, policy, averaged = _quiet_box(volume, territories, blood, policy)
        measured += averaged
        found = _find(box, territories, edges, policy)
        if found.n_large:
            detail = f"{found.n_large} lesions beside an artery exceed {policy.max_lesion_mm3:g} mm³: calcium or not?"
            raise NotEvaluableError("large_lesion", detail)
        measured += _scores(found, edges, scan, box, territories, policy)
    except NotEvaluableError as refusal:
        known = {"measurements": tuple(measured), "policy": policy.to_dict()}
        return MeasurementRecord.refused(ALGORITHM, VERSION, refusal, **known), None
    lesions = found.label_map(volume)
    flags = _flags(found, lesions, volume, blood, scan, policy)
    record = MeasurementRecord(ALGORITHM, VERSION, measurements=tuple(measured), flags=flags, policy=policy.to_dict())
    return record, lesions


def _edges(scan: ScanFacts, policy: CalciumPolicy) -> WeightEdges:
    if scan.kvp is None:
        raise NotEvaluableError("kvp_missing", "the header has no KVP; to score it anyway, set assumed_kvp")
    return weight_edges(scan.kvp, policy.score, tin_filter=scan.tin_filter)


def increment_too_wide(increment: float, policy: CalciumPolicy) -> str:
    """Say why slices ``increment`` mm apart are not scored; empty when they are."""
    if increment <= policy.max_increment_mm + INCREMENT_TOLERANCE_MM:
        return ""
    return f"slice increment {increment:g} mm is above {policy.max_increment_mm:g} mm"


def _check_geometry(volume: Volume, policy: CalciumPolicy) -> None:
    if not volume.grid.is_orthogonal:
        raise NotEvaluableError("spacing_unsupported", "slices are sheared (tilted gantry); areas would be wrong")
    increment = volume.grid.spacing[0]
    if too_wide := increment_too_wide(increment, policy):
        raise NotEvaluableError("slice_increment_unsupported", too_wide)
    if policy.score.increment_rule == "slab3mm" and increment > REFERENCE_INCREMENT_MM + INCREMENT_TOLERANCE_MM:
        raise NotEvaluableError("spacing_unsupported", f"slab3mm cannot average slices {increment:g} mm apart")


def _check_heart(heart: Verdict, territories: Volume) -> None:
    if heart.status is VerdictStatus.REFUSED:
        raise NotEvaluableError(heart.reason, heart.detail)
    if missing := missing_territories(territories):
        # An empty mask is not zero disease.
        detail = f"the network did not find the territory of {', '.join(missing)}; a score would leave it out"
        raise NotEvaluableError("territory_not_found", detail)


def _check_blood(blood: BloodPool, policy: CalciumPolicy) -> None:
    if blood.median_hu is None:
        raise NotEvaluableError("heart_not_found", "no blood pool to tell whether the scan is contrast-enhanced")
    if blood.median_hu > policy.contrast_limit_hu:
        detail = f"median of the {blood.region} is {blood.median_hu:.0f} HU, above {policy.contrast_limit_hu:g} HU"
        raise NotEvaluableError("contrast_enhanced", detail)


def _quality(blood: BloodPool) -> list[MeasuredValue]:
    """Blood pool and noise, or that they could not be measured; HU in UCUM is ``[hnsf'U]``."""
    values = []
    for name, value in (("blood_pool_hu", blood.median_hu), ("noise_hu", blood.noise_hu)):
        missing = MeasuredValue.missing(name, "no_blood_pool", "[hnsf'U]")
        values.append(missing if value is None else MeasuredValue(name, value, "[hnsf'U]"))
    return values


def _quiet_box(
    volume: Volume, territories: Volume, blood: BloodPool, policy: CalciumPolicy
) -> tuple[Volume, CalciumPolicy, list[MeasuredValue]]:
    """Cut out the heart, averaged to 3 mm where the policy says so or the noise asks for it (`CalciumPolicy`).

    Returns
    -------
    box, policy, measured
        What is scored, the policy as applied, and the noise of what was averaged.
    """
    if policy.noise_rule == "flag" or not _is_noisy(blood, policy):
        return _heart(volume, territories, policy), policy, []
    is_thin = volume.grid.spacing[0] < REFERENCE_INCREMENT_MM - INCREMENT_TOLERANCE_MM
    if policy.noise_rule == "slab3mm_else_refuse" and is_thin:
        policy = replace(policy, score=replace(policy.score, increment_rule="slab3mm"))
    box = _heart(volume, territories, policy)
    averaged = blood_pool(box, territories) if policy.score.increment_rule == "slab3mm" else blood
    if averaged.noise_hu is None or _is_noisy(averaged, policy):
        after = "" if averaged is blood or averaged.noise_hu is None else f", {averaged.noise_hu:.0f} averaged to 3 mm"
        detail = f"noise is {blood.noise_hu:.0f} HU{after}; above {policy.max_noise_hu:g} HU specks count as calcium"
        raise NotEvaluableError("noise_too_high", detail)
    return box, policy, [MeasuredValue("noise_hu_averaged", averaged.noise_hu, "[hnsf'U]")]


def _is_noisy(blood: BloodPool, policy: CalciumPolicy) -> bool:
    return blood.noise_hu is not None and blood.noise_hu > policy.max_noise_hu


def _heart(volume: Volume, territories: Volume, policy: CalciumPolicy) -> Volume:
    start, stop = heart_box(volume.grid, territories, policy.territory_tolerance_mm)
    if policy.score.increment_rule != "slab3mm":
        return volume.crop(start, stop)
    # Slabs start at the first slice of the scan, wherever the heart begins.
    return average_to_slabs(volume.crop((0, *start[1:]), (volume.grid.shape[0], *stop[1:])))


def _find(box: Volume, territories: Volume, edges: WeightEdges, policy: CalciumPolicy) -> CoronaryCalcium:
    return coronary_calcium(
        box, territories, edges[0], policy.score, policy.territory_tolerance_mm, policy.max_lesion_mm3
    )


def _scores(
    found: CoronaryCalcium,
    edges: WeightEdges,
    scan: ScanFacts,
    box: Volume,
    territories: Volume,
    policy: CalciumPolicy,
) -> list[MeasuredValue]:
    calcium = found.calcium
    scores = agatston(calcium, edges)
    gated = scan.gating is not Gating.NONGATED
    prefix = "agatston" if gated else "agatston_equivalent_nongated"
    values = [MeasuredValue(f"{prefix}_total" if gated else prefix, scores["total"], "1")]
    values += [MeasuredValue(f"{prefix}_{artery}", scores[artery], "1") for artery in ARTERIES.values()]
    values += _amounts(_volume_calcium(found, edges, box, territories, policy), calcium, edges, scan)
    vessels = calcified_vessels(scores)
    values.append(MeasuredValue("calcified_vessels", vessels, "1"))
    if gated:
        return values + _gated_classes(scores["total"], vessels, scan)
    return values + _nongated_classes(scores["total"], vessels)


def _volume_calcium(
    found: CoronaryCalcium, edges: WeightEdges, box: Volume, territories: Volume, policy: CalciumPolicy
) -> CalciumVoxels:
    """Calcium that the volume score counts: the same as the Agatston score's, unless the variant interpolates."""
    if policy.volume_variant == "raw":
        return found.calcium
    return _find(interpolate_slices(box), territories, edges, policy).calcium


def _amounts(
    for_volume: CalciumVoxels, calcium: CalciumVoxels, edges: WeightEdges, scan: ScanFacts
) -> list[MeasuredValue]:
    volumes = volume_score(for_volume)
    values = [MeasuredValue("volume_mm3", volumes["total"], "mm3")]
    values += [MeasuredValue(f"volume_mm3_{artery}", volumes[artery], "mm3") for artery in ARTERIES.values()]
    if scan.calibration is None:
        values.append(MeasuredValue.missing("mass_mg", "not_calibrated", "mg"))
    else:
        values.append(MeasuredValue("mass_mg", mass_score(calcium, scan.calibration)["total"], "mg"))
    values.append(MeasuredValue("lesion_count", lesion_count(calcium), "1"))
    density = relative_density(calcium, edges)
    if density is None:
        return [*values, MeasuredValue.missing("relative_density", "no_calcium", "1")]
    return [*values, MeasuredValue("relative_density", density, "1")]


def _gated_classes(score: float, vessels: int, scan: ScanFacts) -> list[MeasuredValue]:
    return [
        MeasuredValue("category", category(score)),
        MeasuredValue("cac_drs", cac_drs(score, vessels)),
        MeasuredValue("arterial_age", arterial_age(score), "a"),
        *_percentile(score, scan),
    ]


def _percentile(score: float, scan: ScanFacts) -> list[MeasuredValue]:
    """MESA bucket, marked approximate between the table's ages; for a zero also how common any calcium is."""
    name = "mesa_percentile_bucket"
    if scan.age is None or scan.sex is None or scan.ethnicity is None:
        return [MeasuredValue.missing(name, "demographics_missing")]
    try:
        found = mesa_bucket(score, scan.age, scan.sex, scan.ethnicity)
    except OutOfModelRangeError as error:
        return [MeasuredValue.missing(name, error.reason, status=ResultStatus.OUT_OF_MODEL_RANGE)]
    values = [MeasuredValue(name, found.bucket + (" (approximate)" if found.approximate else ""))]
    if score == 0:
        low, high = found.probability_nonzero
        values.append(MeasuredValue("mesa_probability_nonzero", f"{low:.2f}-{high:.2f}"))
    return values


def _nongated_classes(score: float, vessels: int) -> list[MeasuredValue]:
    """Classes of a non-gated scan, none of which goes into a gated field (SPEC §1.7)."""
    grade = cac_drs_a(score)[1]
    return [
        MeasuredValue("agatston_equivalent_class", category(score)),
        MeasuredValue("cac_drs_visual", f"CAC-DRS V{grade}/N{vessels}"),
        MeasuredValue.missing("mesa_percentile_bucket", "nongated"),
    ]


def _flags(
    found: CoronaryCalcium,
    lesions: Volume | None,
    volume: Volume,
    blood: BloodPool,
    scan: ScanFacts,
    policy: CalciumPolicy,
) -> tuple[str, ...]:
    noisy = _is_noisy(blood, policy)
    raised = {
        "metal": found.metal,
        "lesion_touches_scan_edge": lesions is not None and _touches_edge(lesions.grid, volume.grid),
        "noise_high": noisy and policy.noise_rule == "flag",
        "averaged_for_noise": noisy and policy.noise_rule == "slab3mm_else_refuse",
        "gating_inferred": scan.gating is Gating.GATED_INFERRED,
        "kvp_assumed": scan.kvp_assumed,
    }
    return tuple(name for name, is_raised in raised.items() if is_raised)


def _touches_edge(box: Grid, scan: Grid) -> bool:
    """Tell whether a box of the scan's grid reaches its border: calcium may go on beyond."""
    start = np.rint(scan.patient_to_index(box.origin)).astype(int)
    return bool((start <= 0).any() or (start + box.shape >= scan.shape).any())
