"""The same on PostgreSQL, for ledger and Prefect alike: dropped, screened, a model released, recomputed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from storage.models import list_bundles, load_bundle, write_bundle
from storage.records import case_id
from tasks.simulate import simulate_study
from tests.deployments.installation import installed
from tests.servers import Postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_dropped_screened_and_recomputed_for_a_new_model(postgres_server: Postgres, tmp_path: Path) -> None:
    for name in ("up_ledger", "up_prefect"):
        postgres_server.create(name)
    databases = {
        "POPSCAN_LEDGER": postgres_server.url("up_ledger"),
        "POPSCAN_PREFECT_DATABASE": postgres_server.url("up_prefect", "asyncpg"),
    }
    uid, _ = simulate_study(tmp_path, 0, 5)
    with installed(tmp_path / "home", **databases) as up:
        up.drop(tmp_path / "participant-0000", "participant")
        first = up.until(lambda: up.results("calcium").get(case_id("calcium", uid)), 240)
        up.until(lambda: up.finished("screen calcium", 1), 120)
        shipped = load_bundle(list_bundles()[-1])
        newer = replace(shipped, manifest=shipped.manifest.model_copy(update={"version": "9.9.9"}))
        up.popscan("models", "release", str(write_bundle(tmp_path, newer)))
        up.until(lambda: up.results("calcium")[first.case_id].models["heart-territories"] == newer.digest, 240)
        up.until(lambda: up.finished("reprocess calcium", 1), 120)
        assert up.popscan("explain", first.case_id).count(first.fingerprint) == 1
        table = up.until(lambda: up.artifact("reprocess-calcium-reclassification"), 30)
        assert table["data"] == "1 results replaced earlier ones, 0 changed category"
    assert not (tmp_path / "home" / "ledger.sqlite").exists()
    with psycopg.connect(host=str(postgres_server.folder), user="postgres", dbname="up_prefect") as connection:
        found = connection.execute("SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'").fetchone()
    assert found is not None
    assert found[0] >= 3
