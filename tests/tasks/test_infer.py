"""Models on the workers: found where they ship or where they were released, and tried before they are used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from storage.models import BundleError, ModelBundle, list_bundles, load_bundle
from storage.releases import release_bundle
from storage.urls import Location
from tasks.infer import check_runs, open_predictor, resident_model

SHIPPED = load_bundle(list_bundles()[-1])


def with_weights(weights: bytes) -> ModelBundle:
    changes = {"version": "99.0", "sha256": hashlib.sha256(weights).hexdigest()}
    return ModelBundle(SHIPPED.manifest.model_copy(update=changes), weights)


@pytest.fixture
def models(tmp_path: Path) -> Location:
    return Location(str(tmp_path / "models"))


def test_a_released_model_is_loaded_from_the_store_once(models: Location) -> None:
    released = ModelBundle(SHIPPED.manifest.model_copy(update={"version": "99.0"}), SHIPPED.weights)
    name = released.manifest.name
    with pytest.raises(BundleError, match=f"no model '{name}' with digest {released.digest[:12]}"):
        resident_model(name, released.digest, models)
    release_bundle(released, models)
    manifest, predictor = resident_model(name, released.digest, models)
    assert manifest == released.manifest
    models.delete()
    assert resident_model(name, released.digest, models)[1] is predictor
    assert resident_model(name, SHIPPED.digest, models)[0] == SHIPPED.manifest


def test_what_ships_runs() -> None:
    check_runs(SHIPPED)


def test_weights_that_are_no_model_are_refused_before_a_case_depends_on_them() -> None:
    with pytest.raises(BundleError, match=r"heart-territories-99\.0 cannot be run"):
        open_predictor(with_weights(b"not a network"))


def test_a_model_that_answers_otherwise_than_its_manifest_says_is_refused() -> None:
    output = SHIPPED.manifest.output.model_copy(update={"labels": (*SHIPPED.manifest.output.labels, "liver")})
    manifest = SHIPPED.manifest.model_copy(update={"output": output})
    with pytest.raises(BundleError, match=r"answers with shape \(1, \d+, .*, its manifest means"):
        check_runs(ModelBundle(manifest, SHIPPED.weights))


def test_a_model_that_cannot_take_its_own_patch_is_refused() -> None:
    shape = SHIPPED.manifest.input.model_copy(update={"patch_shape": (61, 67, 71)})
    manifest = SHIPPED.manifest.model_copy(update={"input": shape})
    with pytest.raises(BundleError, match="does not run on its own patch shape"):
        check_runs(ModelBundle(manifest, SHIPPED.weights))
