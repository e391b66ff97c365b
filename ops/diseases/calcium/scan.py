"""What a scan's header says that calcium scoring depends on: voltage, filter, contrast, ECG gating, demographics.

Headers are de-identified mappings from DICOM keyword to value. Real sets are stripped to very different degrees, so
every reader here takes a missing, empty or odd value as "not said".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ops.volume import Grid

Header = Mapping[str, Any]


class Gating(StrEnum):
    """Whether the scan was synchronised with the heart beat."""

    GATED = "gated"
    GATED_INFERRED = "gated_inferred"
    NONGATED = "nongated"


@dataclass(frozen=True)
class GatingDecision:
    """Gating and the evidence for it, in words."""

    gating: Gating
    evidence: str


@dataclass(frozen=True)
class ScanFacts:
    """What `ops.diseases.calcium.measurement.measure` needs to know beside the voxels.

    Attributes
    ----------
    kvp
        Tube voltage; None when the header does not say.
    gating, gating_evidence
        From `decide_gating`.
    tin_filter
        True for tin-filtered (Sn) spectra.
    padding_value
        Stored value that marks voxels outside the reconstruction; None when there is none.
    age, sex, ethnicity
        Years, ``F``/``M``, and one of MESA's groups; None when not known.
    calibration
        c in mg/cm³/HU from a phantom in the scan; None when there is none.
    kvp_assumed
        True when ``kvp`` is a policy's assumption and not the header's.
    """

    kvp: float | None
    gating: Gating
    gating_evidence: str = ""
    tin_filter: bool = False
    padding_value: int | None = None
    age: float | None = None
    sex: str | None = None
    ethnicity: str | None = None
    calibration: float | None = None
    kvp_assumed: bool = False

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> ScanFacts:
        """Read back `dataclasses.asdict` of facts, also through JSON."""
        return cls(**{**facts, "gating": Gating(facts["gating"])})


# Names of a series itself. StudyDescription speaks of all series of a study, and a study may hold gated and other ones.
OWN_NAMES = ("SeriesDescription", "ProtocolName")

# Words of protocol and series names. The refusal of gating is looked for first: "non-gated" contains "gated".
_SAYS_NONGATED = re.compile(
    r"(?<![a-z])(non?|not|un|without|w/?o|ohne|sans|sin|kein\w*)[\s_-]*(e[ck]g|card(iac)?)?[\s_-]*(gat|e[ck]g|cardiac|trigger)",
    re.I,
)
_SAYS_CALCIUM = re.compile(
    r"(?<![a-z])ca[\s_-]*sc(?=$|[^a-z]|or|seq)|calcium|agatston|smart[\s_-]*score|(?<![a-z])cac(?![a-z])|cal[\s_-]?score",
    re.I,
)
_SAYS_GATED = re.compile(
    r"(?<![a-z])gated|(?<![a-z])e[ck]g(?![a-z])|heart[\s_-]*beat|step[\s_-]*&?[\s_-]*shoot[\s_-]*cardiac|cardiac|coronar|"
    r"(?<![a-z])heart|(?<![a-z])herz|(?<![a-z])coeur|(?<![a-z])cuore|prospective",
    re.I,
)
# Defined terms of CardiacSynchronizationTechnique (PS3.3 C.7.6.18.1 [R]) that mean synchronised. REALTIME does not: it
# is an acquisition shorter than a cardiac cycle, without gating.
_SYNCHRONISED = {"PROSPECTIVE", "RETROSPECTIVE", "PACED"}
# Positive numbers in any of these are written only by a synchronised acquisition.
_CARDIAC_NUMBERS = (
    "TriggerTime",
    "NominalPercentageOfCardiacPhase",
    "CardiacNumberOfImages",
    "HeartRate",
    "RRIntervalTimeNominal",
)
_GATED_SCAN_OPTIONS = {
    "CG",
    "ECG",
    "EKG",
    "CARDIAC",
    "CARDIAC_GATED",
    "CARDIAC HELICAL",
    "CARDIAC AXIAL",
    "SNAPSHOT PULSE",
}

# Geometry of a calcium-scoring reconstruction when no tag tells: a small field of view around the heart, some
# 12–18 cm long, in the 3 mm (2.5 mm on GE) slices of the scoring protocol. Policy; a lung scan is wider and longer.
INFERRED_FIELD_OF_VIEW_MM = 280.0
INFERRED_COVERAGE_MM = 220.0
INFERRED_INCREMENT_MM = (2.4, 3.1)

_NO_CONTRAST = re.compile(
    r"^\W*(no|none|non(?![\s-]*ionic)|not|nil|n|na|n/a|0|without|w/?o|unenhanced|native?|ohne|sans|sin|oral)\b", re.I
)
_TIN = re.compile(r"(?<![a-z])sn[\s_-]?1[0-5]0(?!\d)|tin[\s_-]*filter", re.I)
# EthnicGroup is free text (SH); only plain names of MESA's four groups are taken.
_ETHNICITY = {
    "white": "white", "caucasian": "white", "chinese": "chinese", "black": "black", "african american": "black",
    "hispanic": "hispanic",
}  # fmt: skip


def text(header: Header, keyword: str) -> str:
    """Value of a keyword as stripped text; lists are joined by a backslash; empty when missing."""
    value = header.get(keyword)
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return "\\".join(str(part) for part in value).strip()
    return str(value).strip()


def number(header: Header, keyword: str) -> float | None:
    """First number of a keyword's value; None when missing, empty or not a number."""
    value = header.get(keyword)
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    try:
        return float(value) if value not in (None, "") else None
    except (TypeError, ValueError):
        return None


def own_names(header: Header) -> str:
    """Free-text names of the series and its protocol."""
    return " | ".join(filter(None, (text(header, keyword) for keyword in OWN_NAMES)))


def names_calcium_score(header: Header) -> bool:
    """Tell whether the series is called a calcium score."""
    return bool(_SAYS_CALCIUM.search(own_names(header)))


def decide_gating(header: Header, grid: Grid | None) -> GatingDecision:
    """Decide whether a scan is ECG-gated: denied by name, then tags, then names, then geometry.

    What the study is called never makes a series gated; it may deny it.

    Parameters
    ----------
    header
        De-identified header of the series.
    grid
        Its lattice; None leaves geometry out.
    """
    names, study = own_names(header), text(header, "StudyDescription")
    if found := _SAYS_NONGATED.search(names):
        return GatingDecision(Gating.NONGATED, f"called {found.group(0)!r} in {names!r}")
    if by_tags := _gating_by_tags(header):
        return by_tags
    if found := _SAYS_CALCIUM.search(names) or _SAYS_GATED.search(names):
        return GatingDecision(Gating.GATED, f"called {found.group(0)!r} in {names!r}")
    if found := _SAYS_NONGATED.search(study):
        return GatingDecision(Gating.NONGATED, f"called {found.group(0)!r} in {study!r}")
    return _gating_by_geometry(grid)


def _gating_by_tags(header: Header) -> GatingDecision | None:
    technique = text(header, "CardiacSynchronizationTechnique").upper()
    if technique == "NONE":
        return GatingDecision(Gating.NONGATED, "CardiacSynchronizationTechnique is NONE")
    if technique in _SYNCHRONISED:
        return GatingDecision(Gating.GATED, f"CardiacSynchronizationTechnique is {technique}")
    for keyword in _CARDIAC_NUMBERS:
        if (value := number(header, keyword)) is not None and value > 0:
            return GatingDecision(Gating.GATED, f"{keyword} is {value:g}")
    options = {option.strip().upper() for option in text(header, "ScanOptions").split("\\")}
    if options & _GATED_SCAN_OPTIONS:
        return GatingDecision(Gating.GATED, f"ScanOptions has {sorted(options & _GATED_SCAN_OPTIONS)}")
    return None


def _gating_by_geometry(grid: Grid | None) -> GatingDecision:
    if grid is None:
        return GatingDecision(Gating.NONGATED, "no tag tells and the geometry is not known")
    increment, dy, dx = grid.spacing
    field_of_view = max(grid.shape[1] * dy, grid.shape[2] * dx)
    coverage = grid.shape[0] * increment
    facts = f"field of view {field_of_view:.0f} mm, {coverage:.0f} mm long, increment {increment:g} mm"
    low, high = INFERRED_INCREMENT_MM
    if field_of_view <= INFERRED_FIELD_OF_VIEW_MM and coverage <= INFERRED_COVERAGE_MM and low <= increment <= high:
        return GatingDecision(Gating.GATED_INFERRED, f"no tag tells; a calcium-scoring reconstruction by its {facts}")
    return GatingDecision(Gating.NONGATED, f"no tag tells; not a calcium-scoring reconstruction by its {facts}")


# ImageType values of spectral CT (PS3.3 C.8.2.1.1.1 and Supplement 188 [R]): not the attenuation of a tube voltage.
_SPECTRAL_TYPES = {
    "VMI", "MAT_SPECIFIC", "MAT_REMOVED", "MAT_FRACTIONAL", "MAT_MODIFIED", "MAT_VALUE_BASED", "EFF_ATOMIC_NUM",
    "ELECTRON_DENSITY",
}  # fmt: skip
_SPECTRAL_NAME = re.compile(
    r"\d\s*kev(?![a-z])|mono[\s_-]*e|(?<![a-z])(vnc|vmi|vue)(?![a-z])|virtual|iodine|electron[\s_-]*density", re.I
)


def spectral_image(header: Header) -> str:
    """Evidence that an image is not plain HU of its tube voltage (monoenergetic, material, virtual); else empty."""
    types = {kind.strip().upper() for kind in text(header, "ImageType").split("\\")} & _SPECTRAL_TYPES
    if types:
        return f"ImageType has {sorted(types)}"
    if found := _SPECTRAL_NAME.search(text(header, "SeriesDescription")):
        return f"the series is called {found.group(0)!r}"
    return ""


def contrast_agent(header: Header) -> str:
    """Contrast agent named in the header; empty when none is, or when the text denies it ("NO", "W/O", oral)."""
    agent = text(header, "ContrastBolusAgent")
    return "" if _NO_CONTRAST.match(agent) else agent


def has_tin_filter(header: Header) -> bool:
    """Tell whether the beam was tin-filtered: filter material, or a name such as ``Sn100``."""
    material = text(header, "FilterMaterial").upper() + " " + text(header, "FilterType").upper()
    kernel_and_names = " ".join(
        [text(header, "ConvolutionKernel"), own_names(header), text(header, "StudyDescription")]
    )
    return bool({"TIN", "SN"} & set(re.split(r"[\W_]+", material)) or _TIN.search(kernel_and_names))


def age_in_years(header: Header) -> float | None:
    """PatientAge (``055Y``, ``018M`` …) in years; None when missing or unreadable."""
    found = re.fullmatch(r"0*(\d+)\s*([DWMY]?)", text(header, "PatientAge").upper())
    if found is None:
        return None
    per_year = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0, "": 1.0}[found.group(2)]
    return float(found.group(1)) / per_year


def scan_facts(header: Header, gating: GatingDecision, assumed_kvp: float | None = None) -> ScanFacts:
    """Collect the facts of one series; a missing voltage is replaced by ``assumed_kvp`` when that is given."""
    kvp = number(header, "KVP") or None
    sex = text(header, "PatientSex").upper()
    padding = number(header, "PixelPaddingValue")
    return ScanFacts(
        kvp=kvp or assumed_kvp,
        gating=gating.gating,
        gating_evidence=gating.evidence,
        tin_filter=has_tin_filter(header),
        padding_value=None if padding is None else int(padding),
        age=age_in_years(header),
        sex=sex if sex in ("F", "M") else None,
        ethnicity=_ETHNICITY.get(text(header, "EthnicGroup").lower()),
        kvp_assumed=kvp is None and assumed_kvp is not None,
    )
