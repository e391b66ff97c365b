from __future__ import annotations

from pathlib import Path

import pytest

from flows.home import Home
from flows.ingest import ingest
from tests.ops.dicom.builders import files


@pytest.mark.usefixtures("prefect_server")
def test_the_flow_returns_the_counts_and_fills_the_home(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for name, data in files(4).items():
        (inbox / Path(name).name).write_bytes(data)
    counts = ingest([str(inbox)], str(tmp_path / "home"))
    assert counts["series"]["accepted"] == 1
    home = Home.at(tmp_path / "home")
    with home.open_ledger() as ledger:
        (record,) = ledger.series()
    assert home.volumes.keys() == [record.volume_url]
    assert ingest([str(inbox)], str(tmp_path / "home"))["series"]["unchanged"] == 1
