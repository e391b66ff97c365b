"""The header that travels beside a volume: de-identified attributes, geometry, and the UIDs that references need."""

from __future__ import annotations

from typing import Any

from ops.dicom.deidentify import deidentify
from ops.dicom.geometry import Assessment
from ops.dicom.headers import UnreadableDicomError, parse
from ops.dicom.series import SeriesHeaders
from ops.dicom.uids import derive_uid, publishable_uid


def series_header(series: SeriesHeaders, assessment: Assessment, first_instance: bytes) -> dict[str, Any]:
    """JSON-able header of a series.

    Besides what `ops.dicom.deidentify.deidentify` keeps:

    ``StudyInstanceUID``, ``SeriesInstanceUID``, ``FrameOfReferenceUID``
        Valid UIDs, fit to be written into DICOM; derived where the file has none or an invalid one.
    ``OriginalUIDs``
        What the file says where it differs from the above.
    ``SplitFrom``
        UID of the series this one was split from, when it was.
    ``SOPInstanceUIDs``
        One per slice in sorted order (per instance when refused), as written in the files.
    ``shape``, ``affine``
        Of the grid, LPS mm; absent when refused.

    Parameters
    ----------
    series, assessment
        Of the same series.
    first_instance
        File bytes of ``series.instances[0]``.
    """
    header = _attributes(first_instance)
    own = {"StudyInstanceUID": series.study_uid, "SeriesInstanceUID": series.series_uid}
    first = series.instances[0]
    stated = (uid for one in series.instances if (uid := one.text("FrameOfReferenceUID")))
    own["FrameOfReferenceUID"] = next(stated, "") or derive_uid("frame of reference", series.series_uid)
    header |= {keyword: publishable_uid(uid) for keyword, uid in own.items()}
    originals = {keyword: first.text(keyword) for keyword in own if first.text(keyword) != header[keyword]}
    if originals:
        header["OriginalUIDs"] = originals
    if series.parent_uid != series.series_uid:
        header["SplitFrom"] = series.parent_uid
    indices = [instance for instance, _ in assessment.order] or range(len(series.instances))
    instances = [series.instances[index] for index in indices]
    header["SOPInstanceUIDs"] = [one.text("SOPInstanceUID") or derive_uid("instance", one.digest) for one in instances]
    if assessment.grid is not None:
        header |= {"shape": list(assessment.grid.shape), "affine": assessment.grid.affine.tolist()}
    return header


def _attributes(data: bytes) -> dict[str, Any]:
    """De-identified attributes; none when the header can be parsed no further than for grouping."""
    try:
        return deidentify(parse(data))
    except UnreadableDicomError:
        return {}
