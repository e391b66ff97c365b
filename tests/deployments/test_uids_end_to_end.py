"""One scan under missing and invalid UIDs, as real archives hold them: same score, a study each, valid SEGs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import pydicom
import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from ops.dicom.uids import is_valid_uid
from storage.ledger import Ledger
from tasks.simulate import simulate_study
from tests.deployments.conftest import run_popscan

pytestmark = pytest.mark.slow

UID_KEYWORDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")

Change = Callable[[Dataset, int], None]


def without(*keywords: str) -> Change:
    def change(image: Dataset, _number: int) -> None:
        for keyword in keywords:
            delattr(image, keyword)

    return change


def below(root: str) -> Change:
    def change(image: Dataset, number: int) -> None:
        for index, keyword in enumerate(UID_KEYWORDS):
            setattr(image, keyword, f"{root}.{index}")
        image.SOPInstanceUID = f"{root}.9.0{number}"

    return change


VARIANTS: dict[str, Change] = {
    "as_simulated": without(),
    "no_uids": without(*UID_KEYWORDS),
    "leading_zeros": below("1.02.003"),
    "root_arc_99": below("99.1"),
    "letters": below("anonymous"),
}


def write_variant(images: list[Dataset], folder: Path, change: Change) -> None:
    """Write the images changed, and as another patient's: a study without UIDs is told from others by its patient."""
    folder.mkdir(parents=True)
    for number, original in enumerate(images):
        image = Dataset(original)
        image.PatientID = folder.name
        change(image, number)
        image.file_meta = original.file_meta
        image.save_as(folder / f"image-{number}", enforce_file_format=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uids")
    simulate_study(folder / "simulated", 3, 7)
    files = (pydicom.dcmread(path) for path in (folder / "simulated").rglob("*") if path.is_file())
    images = [image for image in files if "PixelData" in image and "LOCALIZER" not in image.ImageType]
    with disable_value_validation():
        for name, change in VARIANTS.items():
            write_variant(images, folder / "dicom" / name, change)
    done = run_popscan(folder / "home", "screen", folder / "dicom", "--programme", "calcium", "--json")
    assert done.returncode == 0, done.stderr
    return folder / "home"


@pytest.fixture(scope="module")
def rows(home: Path) -> dict[str, dict[str, Any]]:
    """Variant → its one result."""
    with Ledger(home / "ledger.sqlite") as ledger:
        variants = {series.study_uid: PurePath(series.sources[0]).parent.name for series in ledger.series()}
    results = json.loads(run_popscan(home, "results", "--json").stdout)["results"]
    assert len(results) == len(variants)
    return {variants[row["study_uid"]]: row for row in results}


def test_every_variant_is_a_study_of_its_own_with_the_same_score(rows: dict[str, dict[str, Any]]) -> None:
    assert set(rows) == set(VARIANTS)
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert len({row["measurements"]["agatston_total"] for row in rows.values()}) == 1
    assert rows["as_simulated"]["measurements"]["agatston_total"] > 100


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_segmentation_has_valid_uids_of_its_own(home: Path, rows: dict[str, dict[str, Any]], variant: str) -> None:
    (key,) = [key for key in rows[variant]["pictures"] if key.endswith(".dcm")]
    segmentation = pydicom.dcmread(home / "objects" / key)
    for keyword in UID_KEYWORDS:
        assert is_valid_uid(segmentation[keyword].value), keyword
