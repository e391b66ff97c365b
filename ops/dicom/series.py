"""Instances → series. Nothing is lost: what does not belong to the main stack becomes a series of its own.

Identity
--------
Instances with a usable SeriesInstanceUID are grouped by it. Without one they are grouped by what a series shares
(`_SHARED_TEXTS`, `_SHARED_NUMBERS`, matrix, spacing, orientation) within one study.
A missing StudyInstanceUID is derived per folder, from patient, date and the pixels of the study's first instance: two
studies in two folders never merge, however thoroughly they were anonymised, and the same files give the same UID
wherever they lie. See `ops.dicom.uids` for which UIDs count as usable.

Splitting
---------
Scouts and other SOP classes under the same SeriesInstanceUID are set aside. Slices that share a position are
told apart by the first of `SPLIT_KEYWORDS` that leaves no position twice (phases, echoes, kernels). The largest part
keeps the UID; the others get one derived from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from pathlib import PurePath

from ops.dicom.headers import InstanceHeader
from ops.dicom.uids import derive_uid, is_usable_key, is_valid_uid

# What distinguishes two complete stacks under one UID, in the order tried.
SPLIT_KEYWORDS = (
    "AcquisitionNumber", "TemporalPositionIdentifier", "EchoTime", "NominalPercentageOfCardiacPhase", "TriggerTime",
    "DiffusionBValue", "ConvolutionKernel", "ImageType", "SeriesNumber", "SeriesDescription",
)  # fmt: skip
# A part with fewer slices is no stack: bolus tracking repeats one slice under ever new acquisition numbers.
MIN_SPLIT_SLICES = 3
# Positions closer than this are the same position: headers carry two decimals at least.
SAME_POSITION_MM = 0.01
LOCALISER_TYPES = frozenset({"LOCALIZER", "SCOUT"})
SCREEN_TYPES = frozenset({"SCREEN SAVE", "SCREEN_SAVE", "SCREENSAVE", "DOSE_INFO", "DOSE INFO"})

_SHARED_TEXTS = (
    "Modality",
    "SOPClassUID",
    "FrameOfReferenceUID",
    "SeriesDescription",
    "ConvolutionKernel",
    "PatientID",
)
_SHARED_NUMBERS = ("SeriesNumber", "Rows", "Columns", "EchoTime")
_STUDY_TEXTS = ("PatientID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber")


@dataclass(frozen=True)
class Repair:
    """Something put right on the way, with a stable reason code."""

    reason: str
    detail: str


@dataclass(frozen=True)
class SeriesHeaders:
    """The instances of one series.

    Attributes
    ----------
    series_uid, study_uid
        Identifiers: the file's own when usable, else derived.
    parent_uid
        UID of the series this one was split from; equals ``series_uid`` when it was not split.
    uid_source
        ``dicom``, or ``derived`` when either identifier had to be made.
    instances
        Headers, in order of source name.
    repairs
        What was put right.
    """

    series_uid: str
    study_uid: str
    parent_uid: str
    uid_source: str
    instances: tuple[InstanceHeader, ...]
    repairs: tuple[Repair, ...] = ()


def group_into_series(headers: Iterable[InstanceHeader]) -> list[SeriesHeaders]:
    """Group instances into series and split what holds several stacks; sorted by study and series identifier.

    The result does not depend on the order of ``headers``.
    """
    unique, copies = _without_copies(headers)
    groups = _partition(unique, _series_key)
    studies = _study_identifiers(list(groups.values()))
    whole = []
    for instances in groups.values():
        series = _identified(instances, studies[_study_key(instances[0])])
        count = sum(copies[header.digest] for header in instances)
        if count:
            note = Repair("identical_duplicates_dropped", f"{count} byte-identical copies of files were left out")
            series = replace(series, repairs=(*series.repairs, note))
        whole.append(series)
    parts = [part for series in _merged(whole) for kind in _split_kinds(series) for part in _split_stacks(kind)]
    return sorted(parts, key=lambda series: (series.study_uid, series.series_uid))


def is_localiser(header: InstanceHeader) -> bool:
    """Tell whether ImageType says scout (PS3.3 C.8.2.1.1.1, value 3 LOCALIZER)."""
    return not LOCALISER_TYPES.isdisjoint(header.image_type)


def is_screen(header: InstanceHeader) -> bool:
    """Tell whether ImageType says screen shot or dose page."""
    return not SCREEN_TYPES.isdisjoint(header.image_type)


def _without_copies(headers: Iterable[InstanceHeader]) -> tuple[list[InstanceHeader], dict[str, int]]:
    kept: dict[str, InstanceHeader] = {}
    copies: dict[str, int] = defaultdict(int)
    for header in sorted(headers, key=lambda header: header.source):
        if header.digest in kept:
            copies[header.digest] += 1
        else:
            kept[header.digest] = header
    return list(kept.values()), copies


def _partition(
    headers: Iterable[InstanceHeader], key: Callable[[InstanceHeader], Hashable]
) -> dict[Hashable, list[InstanceHeader]]:
    groups: dict[Hashable, list[InstanceHeader]] = defaultdict(list)
    for header in headers:
        groups[key(header)].append(header)
    return groups


def _usable(header: InstanceHeader, keyword: str) -> str:
    uid = header.text(keyword)
    return uid if is_usable_key(uid) else ""


def _folder(header: InstanceHeader) -> str:
    return str(PurePath(header.source).parent)


def _study_key(header: InstanceHeader) -> Hashable:
    return _usable(header, "StudyInstanceUID") or (_folder(header), *map(header.text, _STUDY_TEXTS))


def _series_key(header: InstanceHeader) -> Hashable:
    if uid := _usable(header, "SeriesInstanceUID"):
        return _usable(header, "StudyInstanceUID"), uid
    return _study_key(header), _shared_attributes(header)


def _shared_attributes(header: InstanceHeader) -> tuple[str, ...]:
    """Return what the instances of one series have in common; cosines and spacing to 3 decimals, to bear rounding."""
    geometry = [
        " ".join(f"{value + 0.0:.3f}" for value in header.values.get(keyword, ()))
        for keyword in ("PixelSpacing", "ImageOrientationPatient")
    ]
    unusable = header.text("SeriesInstanceUID")  # too long or not safe as a key, but it still tells series apart
    shared = [header.text(keyword) for keyword in _SHARED_TEXTS]
    return (unusable, *shared, *(str(header.number(keyword)) for keyword in _SHARED_NUMBERS), *geometry)


def _study_identifiers(groups: list[list[InstanceHeader]]) -> dict[Hashable, str]:
    """Study key → identifier; a missing one is derived from the study's texts and its first instance's pixels."""
    first: dict[Hashable, InstanceHeader] = {}
    for instances in groups:
        key = _study_key(instances[0])
        candidates = [*instances, first[key]] if key in first else instances
        first[key] = min(candidates, key=_anchor_order)
    return {key: key if isinstance(key, str) else _derived_study(header) for key, header in first.items()}


def _derived_study(anchor: InstanceHeader) -> str:
    texts = [anchor.text(keyword) for keyword in ("StudyInstanceUID", *_STUDY_TEXTS)]
    return derive_uid("study", *texts, anchor.payload_digest)


def _anchor_order(header: InstanceHeader) -> tuple[float, float, tuple[float, ...], str]:
    number, series = header.number("InstanceNumber"), header.number("SeriesNumber")
    position = header.vector("ImagePositionPatient", 3) or ()
    return (series or 0.0, number or 0.0, position, header.payload_digest)


def _identified(instances: list[InstanceHeader], study_uid: str) -> SeriesHeaders:
    first = instances[0]
    own_study, own_series = _usable(first, "StudyInstanceUID"), _usable(first, "SeriesInstanceUID")
    series_uid = own_series or derive_uid("series", study_uid, *_shared_attributes(first))
    owned = {"StudyInstanceUID": own_study, "SeriesInstanceUID": own_series}
    missing = [keyword for keyword, own in owned.items() if not own]
    invalid = [uid for uid in (own_study, own_series) if uid and not is_valid_uid(uid)]
    repairs = []
    if missing:
        repairs.append(Repair("derived_uids", f"{' and '.join(missing)} missing or unusable: derived from the content"))
    if invalid:
        repairs.append(Repair("invalid_uid", f"not a valid UID, kept as the identifier: {', '.join(invalid)}"))
    source = "derived" if missing else "dicom"
    return SeriesHeaders(series_uid, study_uid, series_uid, source, tuple(instances), tuple(repairs))


def _merged(series: list[SeriesHeaders]) -> list[SeriesHeaders]:
    """Unite groups whose derived identifiers agree: the same content in two folders is one series."""
    by_uid: dict[tuple[str, str], SeriesHeaders] = {}
    for one in series:
        key = (one.study_uid, one.series_uid)
        if key in by_uid:
            one = replace(by_uid[key], instances=(*by_uid[key].instances, *one.instances))
        by_uid[key] = one
    return list(by_uid.values())


def _split_kinds(series: SeriesHeaders) -> list[SeriesHeaders]:
    """Set scouts, screen shots and foreign SOP classes aside."""
    return _parts(series, _partition(series.instances, _kind), "kind")


def _kind(header: InstanceHeader) -> str:
    if is_localiser(header):
        return "localiser"
    return "screen" if is_screen(header) else header.text("SOPClassUID")


def _split_stacks(series: SeriesHeaders) -> list[SeriesHeaders]:
    """Tell slices at the same position apart, then drop those that are identical in every pixel."""
    if any(header.frame_count > 1 for header in series.instances) or not _has_repeats(series.instances):
        return [series]
    for keyword in SPLIT_KEYWORDS:
        groups = _partition(series.instances, lambda header, k=keyword: str(header.values.get(k)))  # type: ignore[misc]
        stacks = [_drop_identical(instances)[0] for instances in groups.values()]
        if len(groups) > 1 and all(len(stack) >= MIN_SPLIT_SLICES and not _has_repeats(stack) for stack in stacks):
            return [_dropped(part) for part in _parts(series, groups, keyword)]
    return [_dropped(series)]


def _parts(series: SeriesHeaders, groups: dict[Hashable, list[InstanceHeader]], keyword: str) -> list[SeriesHeaders]:
    if len(groups) == 1:
        return [series]
    ranked = sorted(groups.items(), key=lambda item: (-len(item[1]), str(item[0])))
    parts = []
    for rank, (value, instances) in enumerate(ranked):
        detail = f"{len(instances)} of {len(series.instances)} instances, told apart by {keyword} = {value}"
        uid = series.series_uid if rank == 0 else derive_uid("split", series.series_uid, keyword, value)
        note = Repair("series_split", detail)
        source = series.uid_source if rank == 0 else "derived"
        parts.append(
            replace(
                series, series_uid=uid, uid_source=source, instances=tuple(instances), repairs=(*series.repairs, note)
            )
        )
    return parts


def _position(header: InstanceHeader) -> tuple[int, ...] | None:
    position = header.vector("ImagePositionPatient", 3)
    return None if position is None else tuple(round(value / SAME_POSITION_MM) for value in position)


def _has_repeats(instances: Iterable[InstanceHeader]) -> bool:
    positions = [position for header in instances if (position := _position(header)) is not None]
    return len(set(positions)) < len(positions)


def _drop_identical(instances: Iterable[InstanceHeader]) -> tuple[list[InstanceHeader], int]:
    kept: dict[Hashable, InstanceHeader] = {}
    dropped = 0
    for header in instances:
        position = _position(header)
        key = header.source if position is None else (position, header.payload_digest)
        dropped += key in kept
        kept.setdefault(key, header)
    return list(kept.values()), dropped


def _dropped(series: SeriesHeaders) -> SeriesHeaders:
    kept, count = _drop_identical(series.instances)
    if not count:
        return series
    note = Repair("identical_duplicates_dropped", f"{count} slices with the position and pixels of another left out")
    return replace(series, instances=tuple(kept), repairs=(*series.repairs, note))
