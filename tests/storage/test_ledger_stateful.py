"""Any sequence of commits, reopenings and rejected batches: the ledger says what a plain dictionary says."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy.exc import IntegrityError

from ops.verdict import ResultStatus
from storage.ledger import Ledger
from storage.records import ResultRecord
from storage.testing import example_result

outcomes = st.builds(
    lambda study, fingerprint, status, attempts: example_result(
        f"1.2.{study}", fingerprint=f"f{fingerprint}", status=status, attempts=attempts
    ),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from([ResultStatus.OK, ResultStatus.FAILED, ResultStatus.NOT_EVALUABLE]),
    st.integers(1, 3),
)


class LedgerMachine(RuleBasedStateMachine):
    """Model: case → fingerprint → result, and case → current fingerprint."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.sqlite"
        self.ledger = Ledger(self.path)
        self.results: dict[str, dict[str, ResultRecord]] = {}
        self.current: dict[str, str] = {}

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()

    @rule(batch=st.lists(outcomes, max_size=5))
    def commit(self, batch: list[ResultRecord]) -> None:
        self.ledger.commit_results(batch)
        for record in batch:
            by_fingerprint = self.results.setdefault(record.case_id, {})
            stored = by_fingerprint.get(record.fingerprint)
            if stored is None or stored.status is ResultStatus.FAILED:
                by_fingerprint[record.fingerprint] = record
            self.current[record.case_id] = record.fingerprint

    @rule(batch=st.lists(outcomes, max_size=3))
    def a_batch_with_an_error_changes_nothing(self, batch: list[ResultRecord]) -> None:
        clash = [example_result("1.9", case_id=f"calcium-{i}") for i in range(2)]  # one study, two cases
        with pytest.raises(IntegrityError):
            self.ledger.commit_results([*batch, *clash])

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = Ledger(self.path)

    @invariant()
    def agrees_with_the_model(self) -> None:
        expected = {case: self.results[case][fingerprint] for case, fingerprint in self.current.items()}
        assert {record.case_id: record for record in self.ledger.results("calcium")} == expected
        assert self.ledger.current_fingerprints("calcium") == {
            case: (record.fingerprint, record.status, record.attempts) for case, record in expected.items()
        }
        for case, by_fingerprint in self.results.items():
            assert {record.fingerprint: record for record in self.ledger.history(case)} == by_fingerprint


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=15, stateful_step_count=10, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
