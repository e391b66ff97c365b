from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from storage.models import (
    BundleCheck,
    BundleError,
    Manifest,
    ModelBundle,
    list_bundles,
    load_bundle,
    load_manifest,
    verify_bundle,
    write_bundle,
)
from storage.urls import Location

WEIGHTS = b"\x08\x07weights"


def fields(**changes: Any) -> dict[str, Any]:
    valid: dict[str, Any] = {
        "name": "heart-territories",
        "version": "1.0",
        "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
        "runtime": "onnx",
        "file": "model.onnx",
        "input": {"units": "HU", "window": [-200, 600], "spacing_mm": [3, 2, 2], "patch_shape": [64, 96, 96]},
        "output": {"labels": ["background", "heart"]},
        "intended_use": {
            "statement": "Research use only. Finds the heart on non-contrast chest CT.",
            "modality": "CT",
            "anatomy": "chest",
            "contrast_agent": False,
            "slice_spacing_mm": [0.5, 5.0],
        },
        "licence": "Apache-2.0",
        "provenance": {"data": "simulated thoraxes", "seed": 1},
        "quality": [{"metric": "dice_heart", "value": 0.9, "data": "simulated, unseen", "n": 20}],
    }
    return valid | changes


def bundle(**changes: Any) -> ModelBundle:
    return ModelBundle(Manifest(**fields(**changes)), WEIGHTS)


def test_a_written_bundle_loads_with_the_same_digest(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, bundle())
    assert folder.name == "heart-territories-1.0"
    assert load_bundle(folder) == bundle()
    assert load_bundle(folder).digest == bundle().digest
    assert list_bundles(tmp_path) == [folder]


def test_bundles_are_listed_by_version_as_numbers(tmp_path: Path) -> None:
    for version in ("1.10.0", "1.9.0", "1.0"):
        write_bundle(tmp_path, bundle(version=version))
    listed = [folder.name.removeprefix("heart-territories-") for folder in list_bundles(tmp_path)]
    assert listed == ["1.0", "1.9.0", "1.10.0"]


def test_digest_changes_with_manifest_and_not_with_layout_of_the_file(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, bundle())
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(dict(reversed(json.loads(manifest.read_text()).items()))))
    assert load_bundle(folder).digest == bundle().digest
    assert bundle(version="1.1").digest != bundle().digest


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, bundle())
    (folder / "model.onnx").write_bytes(WEIGHTS[:-1] + b"x")
    with pytest.raises(BundleError, match=r"model\.onnx has sha256 .*its manifest says"):
        load_bundle(folder)
    check = verify_bundle(Location(str(folder)))
    assert check.digest is None
    assert check.problem is not None
    assert "changed or damaged" in check.problem


def test_verifying_tells_the_digest_or_the_problem(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, bundle())
    assert verify_bundle(Location(str(folder))) == BundleCheck("heart-territories-1.0", bundle().digest, None)
    (folder / "model.onnx").unlink()
    check = verify_bundle(Location(str(folder)))
    assert check.digest is None
    assert "cannot read" in str(check.problem)


def test_no_bundle_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no model bundle at"):
        load_manifest(tmp_path / "absent")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surprise": 1}, "surprise"),
        ({"licence": ""}, "licence"),
        ({"quality": []}, "quality"),
        ({"provenance": {}}, "provenance"),
        ({"runtime": "tensorflow"}, "runtime"),
        ({"file": "../model.onnx"}, "file"),
        ({"name": "../up"}, "name"),
        ({"sha256": "abc"}, "sha256"),
        ({"quality": [{"metric": "dice", "value": float("nan"), "data": "x", "n": 1}]}, "finite"),
        ({"intended_use": {**fields()["intended_use"], "statement": "For every patient."}}, "research use"),
        ({"input": {**fields()["input"], "window": [600, -200]}}, "window"),
        ({"input": {**fields()["input"], "spacing_mm": [3, 0, 2]}}, "spacing_mm"),
    ],
)
def test_an_incomplete_or_unknown_manifest_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(fields(**changes)))
    with pytest.raises(BundleError, match=message):
        load_manifest(tmp_path)


def test_every_bundle_that_ships_is_intact() -> None:
    checks = [verify_bundle(Location(str(folder))) for folder in list_bundles()]
    assert [check.problem for check in checks] == [None] * len(checks)
    assert checks
