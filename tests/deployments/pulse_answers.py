"""What the studies of `pulse_programme.add_studies` must come to."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ops.verdict import ResultStatus
from storage.ledger import Ledger
from storage.records import ResultRecord, case_id

Answer = tuple[ResultStatus, str | None, float | None]
"""Status, reason and rate."""


def answer_of(number: int) -> Answer:
    """What the study ``1.2.<number>`` must come to."""
    if number % 50 == 49:
        return ResultStatus.NOT_EVALUABLE, "no_eligible_series", None
    digest = int(hashlib.sha256(f"1.2.{number}".encode()).hexdigest()[:8], 16)
    if digest % 11 == 0:
        return ResultStatus.NOT_EVALUABLE, "too_quiet", None
    return ResultStatus.OK, None, float(40 + digest % 100)


def wrong_results(ledger: Ledger, studies: int) -> Iterator[str]:
    """Compare the present result of each of so many studies with what it must be."""
    numbers = {case_id("pulse", f"1.2.{number}"): number for number in range(studies)}
    for replacement in ledger.changes.replacements("pulse"):
        record = replacement.current
        number = numbers.pop(record.case_id, None)
        if number is None:
            yield f"{record.case_id} is nobody's, or there twice"
        elif (found := _answer(record)) != answer_of(number):
            yield f"{record.case_id} is {found}, not {answer_of(number)}"
        elif replacement.earlier is not None:
            yield f"{record.case_id} was answered twice"
    if numbers:
        yield f"{len(numbers)} of {studies} studies have no result"


def wrong_computing(log: Path, studies: int) -> Iterator[str]:
    """Compare the cases that were computed, one a line, with those to be computed once each."""
    refused = sum(answer_of(number)[1] == "no_eligible_series" for number in range(studies))
    computed = Counter(log.read_text().split())
    if twice := [case for case, times in computed.items() if times > 1]:
        yield f"{len(twice)} cases were computed more than once, such as {twice[0]}"
    if len(computed) != studies - refused:
        yield f"{len(computed)} cases were computed, not {studies - refused}"


def _answer(record: ResultRecord) -> Answer:
    rate = next((item.value for item in record.measurements if item.name == "rate"), None)
    return record.status, record.reason, rate if isinstance(rate, float) else None
