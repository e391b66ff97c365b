"""Registration as a stage on a real cluster: what fits is registered, what does not ends its own case."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed import Client

from flows.clusters import local_cluster
from ops.registration.register import Registration, register
from ops.registration.transforms import Affine
from ops.verdict import ResultStatus
from ops.volume import Volume
from storage.urls import Location
from storage.volumes import VolumeStore
from tasks.case import Case, Findings, Recipe, Stores, Work, load
from tasks.infer import DEVICE_VARIABLE
from tasks.register import locate_organs, quality_measurements, register_roles
from tasks.stage import Outcome, Stage
from tasks.stream import stream
from tests.ops.registration.blobs import image, landmarks, make_grid, positions

TRUTH = Affine.rigid([6, -5, 4], [8, -6, 5])


def report(work: Work) -> Findings:
    """Last stage: quality figures, and where the landmarks went."""
    found = work.found["prior to current"]
    assert isinstance(found, Registration)
    error = np.linalg.norm(found.transform.apply(landmarks()) - TRUTH.apply(landmarks()), axis=1).mean()
    return Findings(ResultStatus.OK, detail=f"{error:.3f}", measurements=quality_measurements(found.quality))


STAGES = [
    Stage("load", "1", load),
    Stage("register", "1", register_roles, "gpu", {"fixed": "current", "moving": "prior", "metric": "ncc"}),
    Stage("report", "1", report),
]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    store = Location(str(tmp_path_factory.mktemp("store")))
    volumes = VolumeStore(store)
    current, grid = image(make_grid()), make_grid((46, 50, 54), 2.8, oblique=True)
    prior = image(grid, TRUTH.inverse().apply(positions(grid)))
    noise = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
    priors = {"same": prior, "noise": Volume(noise, grid, "a.u."), "flat": replace(prior, voxels=prior.voxels * 0)}
    volumes.write("current", current, {})
    for name, volume in priors.items():
        volumes.write(name, volume, {})
    recipe = Recipe("compare", "1", {}, (), {})
    return [
        Case(name, "1.2", {}, {}, {"current": "current", "prior": name}, {}, recipe, Stores(store, store, store), name)
        for name in priors
    ]


@pytest.fixture(scope="module")
def outcomes(cases: list[Case]) -> dict[str, Outcome]:
    found: list[Outcome] = []
    with local_cluster(2, 1, processes=True) as cluster, Client(cluster) as client:
        stream(client, STAGES, cases, found.extend)
    return {outcome.case.case_id: outcome for outcome in found}


def test_registers_prior_to_current(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["same"]
    assert outcome.failure is None, outcome.failure
    assert outcome.value.status is ResultStatus.OK
    assert float(outcome.value.detail) < 0.3
    figures = {m.name: m.value for m in outcome.value.measurements}
    assert figures["registration_rotation_deg"] == pytest.approx(TRUTH.rotation_angle_deg, abs=0.3)
    assert figures["registration_shared_information"] > 0.15


@pytest.mark.parametrize(("name", "reasons"), [("noise", {"images_do_not_match"}), ("flat", {"flat_image"})])
def test_a_bad_fit_is_not_evaluable(outcomes: dict[str, Outcome], name: str, reasons: set[str]) -> None:
    outcome = outcomes[name]
    assert outcome.failure is None, outcome.failure
    assert outcome.value.status is ResultStatus.NOT_EVALUABLE
    assert outcome.value.reason in reasons
    assert "registering prior to current" in outcome.value.detail


def test_organs_of_an_atlas_are_looked_up(tmp_path: Path) -> None:
    """The atlas is the same blobs elsewhere: its organ must be where the map puts it."""
    address, atlas_grid = str(tmp_path / "atlas"), make_grid()
    places = positions(atlas_grid)
    organ = np.linalg.norm(places - [10, -5, 8], axis=-1) < 12
    store = VolumeStore(Location(address))
    store.write("image", image(atlas_grid), {})
    store.write("labels", Volume(organ.astype(np.uint8), atlas_grid, "label"), {})
    grid = make_grid((46, 50, 54), 2.8, oblique=True)
    participant = image(grid, TRUTH.inverse().apply(positions(grid)))
    nowhere = Location("memory://nowhere")
    recipe = Recipe("organs", "1", {}, (), {})
    case = Case("c", "1.2", {}, {}, {}, {}, recipe, Stores(nowhere, nowhere, nowhere), "f")
    found = locate_organs(Work(case, {"ct": participant}, {}), "ct", address).found["organs of ct"]
    assert set(found) == {1}
    assert found[1].inside == 1
    np.testing.assert_allclose(found[1].centre_mm, TRUTH.apply(places[organ].mean(axis=0)), atol=2)


def test_a_card_without_room_leaves_it_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The card is faked by its name and its error."""

    def on_a_full_card(*images: Volume, device: str) -> Registration:
        if device == "cuda:0":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return register(*images, device=device)

    monkeypatch.setenv(DEVICE_VARIABLE, "cuda:0")
    monkeypatch.setattr("tasks.register.register", on_a_full_card)
    nowhere = Location("memory://nowhere")
    case = Case("c", "1.2", {}, {}, {}, {}, Recipe("compare", "1", {}, (), {}), Stores(nowhere, nowhere, nowhere), "f")
    volume = image(make_grid())
    work = register_roles(Work(case, {"a": volume, "b": volume}, {}), "a", "b", metric="ncc")
    assert work.flags == ("out_of_memory_cpu",)
    np.testing.assert_allclose(work.found["b to a"].transform.matrix, np.eye(4), atol=0.01)
