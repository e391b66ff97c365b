"""Models on the workers: found where they ship or where they were released, and tried before they are used."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster

from flows.clusters import gpu_cluster, local_cluster
from ops.inference.locate import HeartLocation
from ops.inference.onnx import OnnxPredictor
from ops.phantoms.labels import TERRITORY_LABELS
from ops.training.network import UNet3d
from ops.volume import Grid, Volume
from storage.models import BundleError, ModelBundle, list_bundles, load_bundle
from storage.releases import release_bundle
from storage.urls import Location
from tasks import infer
from tasks.case import Case, Recipe, Stores, Work
from tasks.infer import (
    DEVICE_VARIABLE,
    HEART_MODEL,
    DeviceLostError,
    ResidentModel,
    check_runs,
    keep_resident,
    locate_heart,
    model_device,
    open_predictor,
    resident,
    resident_memory,
)
from tasks.stage import Failure
from tests.ops.inference.export import export_torch

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
        resident(name, released.digest, models)
    release_bundle(released, models)
    model = resident(name, released.digest, models)
    predictor = model.predictor(model_device())
    assert model.bundle.manifest == released.manifest
    models.delete()
    assert resident(name, released.digest, models).predictor(model_device()) is predictor
    assert resident(name, SHIPPED.digest, models).bundle.manifest == SHIPPED.manifest


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


@pytest.fixture
def small() -> ModelBundle:
    """The heart's contract around a small untrained network, as a ``torch.export`` program."""
    torch.manual_seed(0)
    network = UNet3d(len(TERRITORY_LABELS), (4, 8))
    weights = export_torch(network, network.stride)
    changes = {"version": "98.0", "runtime": "torch", "sha256": hashlib.sha256(weights).hexdigest()}
    return ModelBundle(SHIPPED.manifest.model_copy(update=changes), weights)


def test_an_exported_program_runs_as_its_manifest_says(small: ModelBundle) -> None:
    check_runs(small)
    assert open_predictor(small, "cpu").device == "cpu"


def test_precision_is_for_torch_only(small: ModelBundle) -> None:
    batch = np.random.default_rng(0).random((1, 1, 16, 16, 16), np.float32)
    exact, rounded = (open_predictor(small, "cpu", p).predict(batch) for p in ("float32", "float16"))
    assert 0 < np.abs(exact - rounded).max() < 0.05
    with pytest.raises(BundleError, match="computed as it was stored, not in float16"):
        open_predictor(SHIPPED, "cpu", "float16")


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda:0", "tensorrt:0", "abacus"])
def test_a_device_that_is_not_there_is_an_error_not_the_cpu(device: str, small: ModelBundle) -> None:
    for bundle in (SHIPPED, small):
        with pytest.raises(BundleError, match=r"cannot be run"):
            open_predictor(bundle, device)


def test_the_device_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)
    assert model_device() == "cpu"
    monkeypatch.setenv(DEVICE_VARIABLE, "cuda:3")
    assert model_device() == "cuda:3"


def test_a_worker_with_a_gpu_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)
    options = {"n_workers": 1, "processes": False, "dashboard_address": None}
    for resources, expected in (({"GPU": 1}, "cuda:0"), ({}, "cpu")):
        with LocalCluster(resources=resources, **options) as cluster, Client(cluster) as client:
            assert client.submit(model_device).result() == expected


def test_models_are_loaded_before_the_first_case(models: Location, small: ModelBundle) -> None:
    release_bundle(small, models)
    threads = torch.get_num_threads()
    options = {"n_workers": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        lines = keep_resident(client, {small.manifest.name: small.digest}, models)
    torch.set_num_threads(threads)
    name = f"{small.manifest.name} {small.digest[:12]}"
    size = resident_memory()[name]["cpu float32"]
    assert size == open_predictor(small, "cpu").nbytes
    assert f"{name}, cpu float32, {size / 1e6:.1f} MB, 1 workers" in lines


def test_workers_without_a_gpu_beside_gpus_load_none(
    models: Location, small: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the cards are faked: a resource by name, and a device that is the CPU."""
    monkeypatch.setenv(DEVICE_VARIABLE, "cpu")  # inherited by the workers
    release_bundle(small, models)
    own = f"{small.manifest.name} {small.digest[:12]}"
    with gpu_cluster(["7"], cpu_workers=1) as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        keep_resident(client, {small.manifest.name: small.digest}, models)
        gpus = [address for address, worker in client.scheduler_info()["workers"].items() if worker["resources"]]
        assert [address for address, memory in client.run(resident_memory).items() if own in memory] == gpus


def test_a_model_that_is_not_there_is_not_the_workers_fault(models: Location) -> None:
    options = {"n_workers": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        lines = keep_resident(client, {"liver": "0" * 64}, models)
    assert not [line for line in lines if line.startswith("liver")]


def test_two_versions_of_a_model_stay_and_not_three(
    models: Location, small: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer, "_resident", {})
    name = small.manifest.name
    third = ModelBundle(small.manifest.model_copy(update={"version": "97.0"}), small.weights)
    first, second = resident(name, SHIPPED.digest, models), load_released(small, models)
    assert resident(name, SHIPPED.digest, models) is first  # runs of the one and of the other, in turns
    load_released(third, models)
    assert [key[1] for key in infer._resident] == [small.digest, third.digest]
    assert resident(name, small.digest, models) is second
    assert first.predictor("cpu").device  # whoever holds it may go on


def load_released(bundle: ModelBundle, models: Location) -> ResidentModel:
    release_bundle(bundle, models)
    return resident(bundle.manifest.name, bundle.digest, models)


def test_a_dropped_model_leaves_the_memory(
    models: Location, small: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exported program is a reference cycle: dropping it is not enough."""
    monkeypatch.setattr(infer, "_resident", {})
    weights = weakref.ref(next(load_released(small, models).predictor("cpu")._module.parameters()))
    for version in ("97.0", "96.0"):
        load_released(ModelBundle(small.manifest.model_copy(update={"version": version}), small.weights), models)
    assert weights() is None


def test_a_model_that_takes_long_to_load_does_not_hold_up_the_start_of_a_worker(
    models: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object) -> None:
        time.sleep(3)

    monkeypatch.setattr(infer, "LOADING_SECONDS", 0.2)
    monkeypatch.setattr(infer, "resident", slow)
    options = {"n_workers": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        began = time.monotonic()
        keep_resident(client, {HEART_MODEL: SHIPPED.digest}, models)
        assert client.submit(abs, -1).result() == 1
        assert time.monotonic() - began < 2


def test_a_worker_that_does_not_answer_holds_up_nobody(
    models: Location, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(infer, "LOADING_SECONDS", 0.5)
    with local_cluster(2, 1, processes=True) as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        stopped = next(iter(client.run(os.getpid).values()))
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert keep_resident(client, {HEART_MODEL: SHIPPED.digest}, models) == []
        finally:
            os.kill(stopped, signal.SIGCONT)
    assert "not all workers say which models they hold: TimeoutError" in caplog.text


def test_a_lost_card_is_no_fault_of_the_case_where_nobody_replaces_the_worker(
    models: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("ops.inference.ladder.descend", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        locate_heart(heart_work(models))
    monkeypatch.setattr("ops.device.is_lost", lambda _device: True)
    with pytest.raises(
        DeviceLostError, match=r"case c: cpu no longer answers after RuntimeError: CUDA error"
    ) as caught:
        locate_heart(heart_work(models))
    assert Failure.of(caught.value).transient


def heart_work(models: Location) -> Work:
    grid = Grid.from_spacing((20, 40, 40), (3.0, 3.0, 3.0))
    volume = Volume(np.full(grid.shape, -1000, np.int16), grid)
    recipe = Recipe("calcium", "1", {}, (), {HEART_MODEL: SHIPPED.digest})
    case = Case("c", "1.2", {"ct": "1.3"}, {}, {}, {}, recipe, Stores(models, models, models), "f")
    return Work(case, {"ct": volume}, {})


def test_a_case_says_on_which_rung_it_was_computed(
    models: Location, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the card is faked: it takes the model, then has no room for a window."""

    class FullCard(OnnxPredictor):
        def infer(self, batch: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    real = infer.open_predictor

    def opened(bundle: ModelBundle, device: str, precision: str) -> OnnxPredictor:
        return FullCard(bundle.weights) if device == "cuda:0" else real(bundle, device, precision)

    work = heart_work(models)
    plain = locate_heart(work)
    assert plain.flags == ()
    monkeypatch.setenv(DEVICE_VARIABLE, "cuda:0")
    monkeypatch.setattr(infer, "open_predictor", opened)
    monkeypatch.setattr(infer, "_resident", {})
    with caplog.at_level(logging.WARNING, "tasks.infer"):
        crowded = locate_heart(replace(work, flags=("earlier",)))
    assert crowded.flags == ("earlier", "out_of_memory_cpu")
    assert caplog.text.count("no memory on rung") == 2  # full and tiled; an ONNX graph has no half
    assert isinstance(crowded.found["heart"], HeartLocation)
    np.testing.assert_array_equal(crowded.labels["territories"].voxels, plain.labels["territories"].voxels)
