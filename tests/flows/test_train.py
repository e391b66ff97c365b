"""Retraining in small: it learns, it resumes, and it ends in a bundle that loads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from flows.train import WORK_FOLDER, train_bundle
from ops.inference.onnx import OnnxPredictor
from ops.phantoms.labels import TERRITORY_LABELS
from storage.models import list_bundles, load_bundle
from tasks import train as tasks_train
from tasks.train import TRAINING_SEED, load_anatomy, make_anatomies, onnx_weights, train_network


@pytest.fixture(scope="module", autouse=True)
def small():
    """Coarse anatomies and small patches: the same code, in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks_train, "ANATOMY_SPACING_MM", 8.0)
        patch.setattr(tasks_train, "CONTRACT", replace(tasks_train.CONTRACT, patch_shape=(32, 16, 16)))
        patch.setattr(tasks_train, "CHECKPOINT_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def anatomies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("anatomies")
    return [load_anatomy(path) for path in make_anatomies(folder, 2, TRAINING_SEED)]


def test_anatomies_are_kept_and_named_by_seed(tmp_path):
    first = make_anatomies(tmp_path, 1, TRAINING_SEED)
    stamp = first[0].stat().st_mtime_ns
    again = make_anatomies(tmp_path, 2, TRAINING_SEED)
    assert again[0] == first[0]
    assert again[0].stat().st_mtime_ns == stamp
    assert set(np.unique(load_anatomy(again[1]).labels)) <= set(TERRITORY_LABELS.values())


@pytest.mark.slow
def test_the_loss_falls_and_a_second_run_goes_on(tmp_path, anatomies):
    checkpoint = tmp_path / "checkpoint.pt"
    first = train_network(anatomies, checkpoint, minutes=0.1, seed=0)
    assert np.mean(first.losses[-10:]) < np.mean(first.losses[:5])
    second = train_network(anatomies, checkpoint, minutes=0.15, seed=0)
    assert second.steps > first.steps
    assert second.losses[: len(first.losses)] == first.losses
    assert second.seconds >= 9
    third = train_network(anatomies, checkpoint, minutes=0.15, seed=0)
    assert third.steps == second.steps  # the time is used up


@pytest.mark.slow
def test_one_command_ends_in_a_bundle_that_loads(tmp_path):
    folder = train_bundle(tmp_path, minutes=0.05, seed=0, anatomies=1, held_out=1, version="0.0.1", workers=1, scans=0)
    bundle = load_bundle(folder)
    assert bundle.manifest.folder == folder.name == "heart-territories-0.0.1"
    assert bundle.manifest.output.labels == tuple(TERRITORY_LABELS)
    assert "research use" in bundle.manifest.intended_use.statement.lower()
    assert bundle.manifest.provenance["anatomies"] == 1
    assert (tmp_path / WORK_FOLDER / "log.jsonl").exists()
    logits = OnnxPredictor(bundle.weights).predict(np.zeros((1, 1, 16, 16, 32), np.float32))
    assert logits.shape == (1, 9, 16, 16, 32)
    state = torch.load(tmp_path / WORK_FOLDER / "checkpoint.pt", weights_only=True)
    assert state["steps"] == bundle.manifest.provenance["steps"]


def test_weights_of_a_bundle_are_those_the_network_goes_on_with(tmp_path, anatomies):
    """At a learning rate of nearly nothing, one step leaves the shipped network as it was."""
    bundle = load_bundle(list_bundles()[-1])
    weights = onnx_weights(bundle.weights)
    result = train_network(anatomies, tmp_path / "checkpoint.pt", minutes=1e-6, seed=0, start=weights)
    assert result.steps <= 1
    image = np.random.default_rng(0).random((1, 1, 32, 32, 32), np.float32)
    with torch.inference_mode():
        logits = result.network(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(logits, OnnxPredictor(bundle.weights).predict(image), atol=1e-3)
