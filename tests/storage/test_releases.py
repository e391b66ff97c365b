"""Releasing, finding and withdrawing models on a folder, in memory and on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.models import BundleError, list_bundles, load_bundle, write_bundle
from storage.releases import (
    bundle_name,
    find_bundle,
    installed_bundles,
    load_newest,
    release_bundle,
    released_bundles,
    verify_installed,
    withdraw_bundle,
)
from storage.urls import Location
from tests.storage.test_models import WEIGHTS, bundle

SHIPPED = list_bundles()


@pytest.fixture(params=["local", "memory", "s3"])
def models(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "s3":
        return request.getfixturevalue("s3_location").child("models")
    return Location(str(tmp_path / "models") if request.param == "local" else f"memory://{tmp_path.name}/models")


def test_what_ships_is_installed_without_any_release(models: Location) -> None:
    assert [bundle_name(folder) for folder in installed_bundles(models)] == [path.name for path in SHIPPED]
    assert load_newest("unheard-of", models) is None


def test_the_newest_version_is_used_wherever_it_is(models: Location) -> None:
    newest = load_bundle(SHIPPED[-1])
    name = newest.manifest.name
    assert load_newest(name, models) == newest
    release_bundle(bundle(name=name, version="0.9.0"), models)
    assert load_newest(name, models) == newest, "an older version released later is not the newest"
    for version in ("99.9.0", "99.10.0"):
        release_bundle(bundle(name=name, version=version), models)
    assert load_newest(name, models) == bundle(name=name, version="99.10.0")


def test_any_version_is_found_by_its_digest(models: Location) -> None:
    shipped, released = load_bundle(SHIPPED[0]), bundle(version="99.0")
    release_bundle(released, models)
    assert find_bundle(shipped.manifest.name, shipped.digest, models) == shipped
    assert find_bundle("heart-territories", released.digest, models) == released
    with pytest.raises(BundleError, match=rf"digest 0{{12}} \(there are: .*{released.digest[:12]}"):
        find_bundle("heart-territories", "0" * 64, models)


def test_releasing_again_changes_nothing_and_other_content_is_refused(models: Location) -> None:
    release_bundle(bundle(version="99.0"), models)
    release_bundle(bundle(version="99.0"), models)
    assert len(released_bundles(models)) == 1
    with pytest.raises(BundleError, match=r"heart-territories-99\.0 is there already with other content"):
        release_bundle(bundle(version="99.0", licence="MIT"), models)
    assert load_newest("heart-territories", models) == bundle(version="99.0")


def test_a_version_that_ships_cannot_be_replaced(models: Location) -> None:
    manifest = load_bundle(SHIPPED[0]).manifest
    with pytest.raises(BundleError, match="other content"):
        release_bundle(bundle(name=manifest.name, version=manifest.version), models)
    assert models.list() == []


def test_a_withdrawn_version_is_not_used_and_stays_taken(models: Location) -> None:
    before = load_newest("heart-territories", models)
    released = bundle(version="99.0")
    release_bundle(released, models)
    assert withdraw_bundle("heart-territories-99.0", models) == "heart-territories"
    assert load_newest("heart-territories", models) == before
    with pytest.raises(BundleError, match="was it withdrawn"):
        find_bundle("heart-territories", released.digest, models)
    with pytest.raises(BundleError, match="other content"):
        release_bundle(bundle(version="99.0", licence="MIT"), models)
    release_bundle(released, models)
    assert load_newest("heart-territories", models) == released
    assert len(models.list()) == 2, "weights and one manifest"


@pytest.mark.parametrize("name", ["heart-territories-98.0", SHIPPED[-1].name])
def test_only_what_was_released_can_be_withdrawn(models: Location, name: str) -> None:
    release_bundle(bundle(version="99.0"), models)
    with pytest.raises(BundleError, match=r"not among the models released .*heart-territories-99\.0"):
        withdraw_bundle(name, models)


def test_a_release_that_broke_off_is_not_there(models: Location) -> None:
    models.child("heart-territories-99.0/model.onnx").write_bytes(WEIGHTS[:3])
    assert released_bundles(models) == []
    release_bundle(bundle(version="99.0"), models)
    assert load_newest("heart-territories", models) == bundle(version="99.0")


def test_damage_is_found_wherever_it_is(models: Location) -> None:
    release_bundle(bundle(version="99.0"), models)
    models.child("heart-territories-99.0/model.onnx").write_bytes(WEIGHTS[:3])
    problems = {check.folder: check.problem for check in verify_installed(models)}
    assert "changed or damaged" in str(problems.pop("heart-territories-99.0"))
    assert not any(problems.values())
    with pytest.raises(BundleError, match="changed or damaged"):
        load_newest("heart-territories", models)


def test_a_store_that_cannot_be_read_is_an_outage_and_not_a_missing_model(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", bundle(version="99.0"))
    manifest = tmp_path / "models" / "heart-territories-99.0" / "manifest.json"
    manifest.unlink()
    manifest.symlink_to(manifest)  # reading a loop of links is an OSError for root too
    models = Location(str(tmp_path / "models"))
    with pytest.raises(OSError, match="symbolic links"):
        load_newest("heart-territories", models)
    shipped = load_bundle(SHIPPED[0])
    assert find_bundle(shipped.manifest.name, shipped.digest, models) == shipped, "needs no store"
