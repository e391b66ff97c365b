"""Ingest: files → headers → series → volumes in the store and rows in the ledger.

Two passes. The header pass reads every file once, digests it and keeps some kilobytes of it; the pixel pass reads
a series again, file by file, straight into its array. One volume is in memory at a time, and when `MAX_PENDING`
headers have gathered, the series of folders already left are settled first, so that memory stays bounded.

A series that is met again
    Same digest of its files: nothing is done. Otherwise the files it was made from before are united with the new
    ones where they still exist, so that slices that arrive in two parts, or late, make one volume under a new key.
    Where they are gone and the new files do not cover the old instances, the stored volume stays as it is and
    the new files are on record as rejected (``incomplete_resend``): a remainder never replaces a whole series.

A series that cannot be read now
    A share that hiccups, or too little memory, says nothing about the series: what was known of it stays, and its files
    are on record as rejected (``unreadable_file``), to be tried again.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from ops.dicom.assemble import build_volume, pixel_digest
from ops.dicom.decode import DecodeError
from ops.dicom.geometry import Assessment, assess
from ops.dicom.headers import InstanceHeader, UnreadableDicomError
from ops.dicom.series import Repair, SeriesHeaders, group_into_series
from ops.dicom.series_header import series_header
from ops.dicom.uids import derive_uid
from ops.spans import span
from ops.verdict import Verdict, VerdictStatus
from ops.volume import Volume
from storage.ledger import Ledger
from storage.records import INGEST_PROGRAMME, RejectedFileRecord, SeriesRecord, VerdictRecord, storable_text
from storage.sources import MEMBER_MARK, SourceReader, UnreadableFileError, walk
from storage.volumes import VolumeStore
from tasks.scan import Seen, look, rejected_file, scan

# Enters the source digest: raise it when ingest makes other volumes or verdicts of the same files,
# and every series is judged anew.
INGEST_VERSION = "3"
# Headers held before the series of folders already left are settled: some 2 KB each.
MAX_PENDING = 100_000
# Series per ledger transaction: the most that an interrupted run has to look at again.
COMMIT_EVERY = 16

OnProgress = Callable[[int, int], None]


@dataclass
class IngestCounts:
    """What a run of ingest met and did. ``unchanged`` series were there already and are not judged again."""

    files: int = 0
    instances: int = 0
    not_dicom: int = 0
    rejected_files: int = 0
    unchanged: int = 0
    studies: set[str] = field(default_factory=set)
    by_status: Counter[VerdictStatus] = field(default_factory=Counter)
    by_reason: Counter[tuple[VerdictStatus, str]] = field(default_factory=Counter)

    def add(self, verdict: VerdictRecord) -> None:
        """Count one series."""
        self.by_status[verdict.status] += 1
        self.by_reason[verdict.status, verdict.reason] += 1

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as one JSON-able document."""
        series: dict[str, Any] = {status.value: self.by_status[status] for status in VerdictStatus}
        series["unchanged"] = self.unchanged
        for status in (VerdictStatus.REFUSED, VerdictStatus.REPAIRED):
            reasons = {reason: n for (of, reason), n in sorted(self.by_reason.items()) if of is status}
            series[f"{status.value}_by_reason"] = reasons
        return {
            "files": self.files,
            "instances": self.instances,
            "not_dicom": self.not_dicom,
            "rejected_files": self.rejected_files,
            "studies": len(self.studies),
            "series": series,
        }


def ingest_paths(
    paths: Iterable[str | Path], ledger: Ledger, volumes: VolumeStore, on_progress: OnProgress | None = None
) -> IngestCounts:
    """Ingest files, folder trees and zip archives, see `ingest_files`.

    Raises
    ------
    FileNotFoundError
        One of ``paths`` does not exist.
    """
    return ingest_files(list(walk(paths)), ledger, volumes, on_progress)


def ingest_files(
    names: Sequence[str], ledger: Ledger, volumes: VolumeStore, on_progress: OnProgress | None = None
) -> IngestCounts:
    """Ingest files and zip archives. Bad input becomes a verdict or a rejected file, never an exception.

    Parameters
    ----------
    names
        Absolute paths, folder by folder. One that is not there is rejected; what is not DICOM is counted, no more.
    ledger, volumes
        Where the outcome goes.
    on_progress
        Called with (files done, files known of).
    """
    with SourceReader() as reader, warnings.catch_warnings():
        # pydicom warns of every oddity; what matters of it becomes a reason code.
        warnings.simplefilter("ignore")
        run = _Run(ledger, volumes, reader, on_progress or (lambda _done, _total: None), total=len(names))
        pending: list[InstanceHeader] = []
        for seen in _spanned("read headers", scan(names, reader)):
            run.note(seen)
            if seen.header is None:
                continue
            pending.append(seen.header)
            if len(pending) >= MAX_PENDING:
                here = PurePath(seen.name).parent
                run.settle([header for header in pending if PurePath(header.source).parent != here])
                pending = [header for header in pending if PurePath(header.source).parent == here]
        run.settle(pending)
        run.commit()
    return run.counts


def _spanned(step: str, items: Iterable[Seen]) -> Iterator[Seen]:
    """Yield ``items``, counting the time it takes to make them."""
    iterator = iter(items)
    while True:
        with span(step):
            item = next(iterator, None)
        if item is None:
            return
        yield item


def read_series(folder: str | Path) -> Volume:
    """Read the one series of a folder straight into a volume, without a store or a ledger.

    Raises
    ------
    ValueError
        The folder holds no series or several, or the one it holds is refused.
    """
    with SourceReader() as reader, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = group_into_series(seen.header for seen in scan(list(walk([folder])), reader) if seen.header)
        if len(found) != 1:
            raise ValueError(f"{folder} holds {len(found)} series, expected one")
        return build_volume(found[0], assess(found[0]), reader.read)


def source_digest(series: SeriesHeaders) -> str:
    """Digest of the bytes of all files of a series, in whatever order or place they lie."""
    digests = sorted(header.digest for header in series.instances)
    return hashlib.sha256("\n".join([INGEST_VERSION, *digests]).encode()).hexdigest()


class _Run:
    """One run of ingest: what is known, what waits for the next transaction, what was counted."""

    def __init__(
        self, ledger: Ledger, volumes: VolumeStore, reader: SourceReader, on_progress: OnProgress, total: int
    ) -> None:
        self._ledger, self._volumes, self._reader = ledger, volumes, reader
        self._on_progress, self._done, self._total = on_progress, 0, total
        self._known: dict[str, str | None] = {}  # series UID → source digest, of those looked up; None is not recorded
        self._owners: dict[str, str] = {}  # series UID → study UID, as met in this run
        self._series: list[SeriesRecord] = []
        self._verdicts: list[VerdictRecord] = []
        self._rejected: list[RejectedFileRecord] = []
        self.counts = IngestCounts()

    def note(self, seen: Seen) -> None:
        """Count one file of the header pass."""
        if seen.members:
            self._total += len(seen.members) - 1
            return
        self.counts.files += 1
        if seen.header is not None:
            self.counts.instances += 1
            return
        if seen.rejected is None:
            self.counts.not_dicom += 1
        else:
            self.reject([seen.rejected])
        self._advance(1)

    def reject(self, files: Sequence[RejectedFileRecord]) -> None:
        """Put files on record as unusable."""
        self.counts.rejected_files += len(files)
        self._rejected.extend(files)

    def settle(self, headers: Sequence[InstanceHeader]) -> None:
        """Group headers into series and ingest each; commits now and then."""
        families: dict[tuple[str, str], list[SeriesHeaders]] = {}
        found = group_into_series(headers)
        self._look_up({uid for series in found for uid in (series.series_uid, series.parent_uid)})
        for series in found:
            families.setdefault((series.study_uid, series.parent_uid), []).append(series)
        for parts in families.values():
            count = sum(len(part.instances) for part in parts)
            self._settle_family([self._claimed(part) for part in parts])
            self._advance(count)
            if len(self._series) >= COMMIT_EVERY:
                self.commit()

    def commit(self) -> None:
        """Write what has gathered to the ledger, in one transaction."""
        if self._series or self._verdicts or self._rejected:
            with span("commit"):
                self._ledger.record_ingest(self._series, self._verdicts, self._rejected)
        self._series, self._verdicts, self._rejected = [], [], []

    def _advance(self, files: int) -> None:
        self._done += files
        self._on_progress(self._done, self._total)

    def _claimed(self, series: SeriesHeaders) -> SeriesHeaders:
        """Give a series a UID of its own when another study has the same one: UIDs do collide after anonymisation."""
        uid = series.series_uid
        owner = self._owners.get(uid)
        if owner is None and self._digest(uid) and (stored := self._ledger.series_by_uid(uid)):
            owner = stored.study_uid
        if owner not in (None, series.study_uid):
            detail = f"SeriesInstanceUID {uid} also occurs in study {owner}"
            derived = derive_uid("collision", series.study_uid, uid)
            note = Repair("uid_collision", detail)
            series = replace(
                series, series_uid=derived, parent_uid=derived, uid_source="derived", repairs=(*series.repairs, note)
            )
        self._owners[series.series_uid] = series.study_uid
        return series

    def _settle_family(self, parts: list[SeriesHeaders]) -> None:
        """Ingest the parts of what was one series, all of them or none, after uniting them with what is known of it."""
        self.counts.studies.add(parts[0].study_uid)
        if all(map(self._is_unchanged, parts)):
            self.counts.unchanged += len(parts)
            return
        try:
            self._renew_family(parts)
        except (UnreadableFileError, MemoryError) as error:
            self.reject(_unread(parts, error))

    def _renew_family(self, parts: list[SeriesHeaders]) -> None:
        stored = self._stored_family(parts[0])
        if stored:
            earlier, missing = self._earlier_instances(stored, parts)
            if missing:
                self.reject(_incomplete(parts, stored, missing))
                return
            if earlier:
                united = group_into_series([*earlier, *(header for part in parts for header in part.instances)])
                parts = [self._claimed(part) for part in united]
        changed = [part for part in parts if not self._is_unchanged(part)]
        made = [self._made(part) for part in changed]
        self.counts.unchanged += len(parts) - len(changed)
        for record, verdict in made:
            self._note(record, verdict)
        self._retire(stored, parts)

    def _look_up(self, series_uids: Iterable[str]) -> None:
        asked = [uid for uid in series_uids if uid not in self._known]
        self._known |= dict.fromkeys(asked) | self._ledger.source_digests(asked)

    def _digest(self, series_uid: str) -> str | None:
        """Return the source digest of a series as far as it is recorded, this run included; else None."""
        self._look_up([series_uid])
        return self._known[series_uid]

    def _is_unchanged(self, series: SeriesHeaders) -> bool:
        if self._digest(series.series_uid) != source_digest(series):
            return False
        record = self._ledger.series_by_uid(series.series_uid)
        return record is None or record.volume_url is None or self._volumes.exists(record.volume_url)

    def _stored_family(self, series: SeriesHeaders) -> list[SeriesRecord]:
        family = {series.parent_uid, series.series_uid}
        if not any(map(self._digest, family)):
            return []
        self.commit()  # a part ingested earlier in this run must be seen here
        return [
            record
            for record in self._ledger.series(series.study_uid)
            if record.series_uid in family or record.header.get("SplitFrom") in family
        ]

    def _earlier_instances(
        self, stored: Sequence[SeriesRecord], parts: Sequence[SeriesHeaders]
    ) -> tuple[list[InstanceHeader], set[str]]:
        """Headers of instances ingested before and not met now, and the UIDs of those that are gone.

        Raises
        ------
        UnreadableFileError
            One may not be gone: there is a file that cannot be read now.
        """
        met = {header.source: header for part in parts for header in part.instances}
        known = {header.text("SOPInstanceUID") for header in met.values()}
        family = {header.text("SeriesInstanceUID") for header in met.values()}
        sources = [source for record in stored for source in record.sources if source not in met]
        seen = [look(source, self._reader) for source in sources]
        earlier = [one.header for one in seen if one.header and one.header.text("SeriesInstanceUID") in family]
        known |= {header.text("SOPInstanceUID") for header in earlier}
        needed = {uid for record in stored for uid in record.header.get("SOPInstanceUIDs", ())}
        missing = needed - known if len(earlier) < len(sources) else set()
        if missing and (away := next(filter(_is_there_unread, seen), None)):
            raise UnreadableFileError("unreadable_file", f"{away.name}, of the same series, cannot be read")
        return earlier, missing

    def _retire(self, stored: Sequence[SeriesRecord], parts: Sequence[SeriesHeaders]) -> None:
        """Refuse what was a series before and is now part of another."""
        present = {part.series_uid for part in parts}
        for record in stored:
            if record.series_uid not in present:
                detail = f"its instances now belong to {', '.join(sorted(present))}"
                verdict = Verdict(VerdictStatus.REFUSED, "superseded", detail)
                self._verdicts.append(_verdict_record(record.series_uid, record.study_uid, verdict))

    def _made(self, series: SeriesHeaders) -> tuple[SeriesRecord, VerdictRecord]:
        """Judge a series and write its volume; the records wait until all of its family are made."""
        assessment = assess(series)
        header = series_header(series, assessment, self._reader.read(series.instances[0].source))
        volume, verdict = self._volume(series, assessment)
        digest, key = None, None
        if volume is not None:
            with span("digest"):
                digest = pixel_digest(volume)
            key = f"{series.study_uid}/{series.series_uid}/{digest[:16]}"
            with span("write volumes"):
                self._volumes.write(key, volume, header)
        record = _series_record(series, header, digest, key)
        return record, _verdict_record(series.series_uid, series.study_uid, verdict)

    def _volume(self, series: SeriesHeaders, assessment: Assessment) -> tuple[Volume | None, Verdict]:
        if assessment.verdict.refused:
            return None, assessment.verdict
        try:
            with span("decode"):
                return build_volume(series, assessment, self._reader.read), assessment.verdict
        except (DecodeError, UnreadableDicomError) as error:
            return None, Verdict(VerdictStatus.REFUSED, "decode_failed", storable_text(f"{error}"))

    def _note(self, record: SeriesRecord, verdict: VerdictRecord) -> None:
        self._series.append(record)
        self._verdicts.append(verdict)
        self._known[record.series_uid] = record.source_digest
        self.counts.add(verdict)


def _is_there_unread(seen: Seen) -> bool:
    is_unread = seen.rejected is not None and seen.rejected.reason == "unreadable_file"
    return is_unread and os.path.exists(seen.name.partition(MEMBER_MARK)[0])


def _unread(parts: Sequence[SeriesHeaders], error: Exception) -> list[RejectedFileRecord]:
    detail = f"the series cannot be read now, what was known of it stays: {type(error).__name__}: {error}"
    return [rejected_file(header.source, "unreadable_file", detail) for part in parts for header in part.instances]


def _incomplete(
    parts: Sequence[SeriesHeaders], stored: Sequence[SeriesRecord], missing: set[str]
) -> list[RejectedFileRecord]:
    n_stored = sum(record.n_instances for record in stored)
    detail = (
        f"series {parts[0].parent_uid} is stored with {n_stored} instances whose files are gone, and "
        f"{len(missing)} of them are not among the new files: send the whole series again"
    )
    return [rejected_file(header.source, "incomplete_resend", detail) for part in parts for header in part.instances]


def _verdict_record(series_uid: str, study_uid: str, verdict: Verdict) -> VerdictRecord:
    return VerdictRecord(
        series_uid, study_uid, INGEST_PROGRAMME, verdict.status, verdict.reason, storable_text(verdict.detail)
    )


def _series_record(series: SeriesHeaders, header: dict[str, Any], digest: str | None, key: str | None) -> SeriesRecord:
    first = series.instances[0]
    return SeriesRecord(
        series_uid=series.series_uid,
        study_uid=series.study_uid,
        modality=first.text("Modality"),
        uid_source="derived" if series.uid_source == "derived" else "dicom",
        n_instances=len(series.instances),
        source_digest=source_digest(series),
        pixel_digest=digest,
        volume_url=key,
        header=header,
        sources=tuple(storable_text(one.source) for one in series.instances),
    )
