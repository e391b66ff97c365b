"""Which cases have a row in the report, and what stands in it.

A population has more cases than a page can show. Choosing keeps ids only; the chosen are read again afterwards.
"""

from __future__ import annotations

import base64
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from PIL import Image

from flows.report_agreement import score_of, values_of
from ops.verdict import ResultStatus
from storage.ledger import Ledger
from storage.objects import ObjectStore
from storage.records import ResultRecord

MAX_CASES = 2000
MAX_THUMBNAILS = 60
THUMBNAIL_WIDTH = 420

# Records that are read at a time.
_LOT = 500

_Key = tuple[float, str]


class _Foremost:
    """The `MAX_CASES` lowest of all (rank, case id) that were added."""

    def __init__(self) -> None:
        self._keys: list[_Key] = []

    def add(self, rank: float, case: str) -> None:
        self._keys.append((rank, case))
        if len(self._keys) >= 2 * MAX_CASES:
            self._keys = sorted(self._keys)[:MAX_CASES]

    def __iter__(self) -> Iterator[str]:
        return (case for _, case in sorted(self._keys)[:MAX_CASES])


class CaseChoice:
    """Chooses the cases to show: all, or those without a number, the flagged and the highest scores by turns."""

    def __init__(self) -> None:
        self._refused, self._flagged, self._highest = _Foremost(), _Foremost(), _Foremost()
        self._seen: Counter[str] = Counter()
        self.total = 0

    def add(self, record: ResultRecord, score: float | None) -> None:
        """Take in a case; the n-th of its reason or flag has rank n, so that rare ones are shown before the usual."""
        self.total += 1
        marks = record.flags if record.status is ResultStatus.OK else [record.reason or ""]
        self._seen.update(marks)
        if record.status is not ResultStatus.OK:
            self._refused.add(self._seen[marks[0]], record.case_id)
            return
        if marks:
            self._flagged.add(min(self._seen[mark] for mark in marks), record.case_id)
        self._highest.add(1.0 if score is None else -score, record.case_id)

    def chosen(self, worst: Sequence[str]) -> list[str]:
        """Return the ids of at most `MAX_CASES` cases, in order; ``worst`` are among them."""
        turns = chain.from_iterable(zip_longest(self._refused, self._flagged, self._highest))
        unique = dict.fromkeys(case for case in chain(worst, turns) if case is not None)
        return sorted(list(unique)[:MAX_CASES])


def case_rows(
    ledger: Ledger, chosen: Sequence[str], worst: Sequence[str], objects: ObjectStore, out: Path
) -> list[dict[str, Any]]:
    """One row per chosen case; pictures for the ``worst`` disagreements first, then flagged cases, then highest scores.

    Parameters
    ----------
    ledger, objects
        Where the records and their pictures are; a picture that is missing is left out.
    chosen, worst
        Case ids.
    out
        The page, from which pictures are linked.
    """
    lots = (ledger.results_of(chosen[start : start + _LOT]) for start in range(0, len(chosen), _LOT))
    rows = [_row(record, objects, out) for lot in lots for record in lot]
    rank = {case: n for n, case in enumerate(worst)}

    def order(row: Mapping[str, Any]) -> tuple[float, bool, float]:
        return (rank.get(row["case_id"], len(rank)), not row["flags"], -row["score"][0] if row["score"] else 1.0)

    for row in [row for row in sorted(rows, key=order) if row["picture"]][:MAX_THUMBNAILS]:
        row["thumbnail"] = _thumbnail(objects, row["picture"])
    return rows


def _row(record: ResultRecord, objects: ObjectStore, out: Path) -> dict[str, Any]:
    values = values_of(record)
    return {
        **{name: getattr(record, name) for name in ("case_id", "study_uid", "status", "reason", "detail", "flags")},
        "score": score_of(values),
        "values": values,
        "picture": next((key for key in record.pictures if key.endswith(".png")), None),
        "pictures": [(key.rsplit("/", 1)[-1], _link(objects, key, out)) for key in record.pictures],
        "seconds": sum(record.timings.values()) if record.timings else None,
    }


def _thumbnail(objects: ObjectStore, key: str) -> str | None:
    """Picture as a small data URI; None when it is not there or not readable."""
    try:
        image = Image.open(io.BytesIO(objects.read(key))).convert("RGB")
    except (KeyError, OSError):
        return None
    height = max(1, round(image.height * THUMBNAIL_WIDTH / image.width))
    buffer = io.BytesIO()
    image.resize((THUMBNAIL_WIDTH, height), Image.Resampling.BOX).save(buffer, format="JPEG", quality=78)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _link(objects: ObjectStore, key: str, out: Path) -> str:
    """Address of an object: relative where both are on this disk, so that a moved home keeps working."""
    url = objects.location.child(key).url
    if "://" in url and not url.startswith("file://"):
        return url
    return Path(os.path.relpath(url.removeprefix("file://"), out.parent)).as_posix()
