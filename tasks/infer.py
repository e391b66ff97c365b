"""Inference on the workers: models stay resident, keyed by digest, and locate what a programme measures."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import numpy as np

from ops.inference.locate import NetworkContract, locate_territories
from ops.inference.onnx import OnnxPredictor
from ops.inference.predictor import Predictor
from ops.phantoms.labels import TERRITORY_LABELS
from storage.models import BundleError, Manifest, ModelBundle
from storage.releases import find_bundle
from storage.urls import Location
from tasks.case import Work

HEART_MODEL = "heart-territories"

THREADS_VARIABLE = "POPSCAN_MODEL_THREADS"
"""Environment variable on a worker: threads inside one model call. One by default, as Dask runs a case per core."""

HEART_LABELS = tuple(TERRITORY_LABELS[name] for name in ("heart", "LM", "LAD", "LCX", "RCA", "valve"))
"""Labels of the network's classes that lie in or on the heart."""

_resident: dict[tuple[str, str], tuple[Manifest, Predictor]] = {}
_loading = threading.Lock()


def locate_heart(work: Work) -> Work:
    """Add the label map ``territories`` and the facts ``heart`` of the CT in role ``ct``."""
    case = work.case
    manifest, predictor = resident_model(HEART_MODEL, case.recipe.models[HEART_MODEL], case.stores.models)
    territories, heart = locate_territories(work.volumes["ct"], predictor, network_contract(manifest))
    return replace(work, labels={**work.labels, "territories": territories}, found={**work.found, "heart": heart})


def network_contract(manifest: Manifest) -> NetworkContract:
    """Read from the manifest what the heart network expects and returns."""
    return NetworkContract(
        spacing_mm=manifest.input.spacing_mm,
        window_hu=manifest.input.window,
        patch_shape=manifest.input.patch_shape,
        heart_labels=HEART_LABELS,
    )


def resident_model(name: str, digest: str, models: Location) -> tuple[Manifest, Predictor]:
    """Manifest and session of a model; loaded once per worker process, however many threads ask for it at once.

    Parameters
    ----------
    name, digest
        Of the bundle.
    models
        Where released bundles lie; those that ship are found without it.

    Raises
    ------
    storage.models.BundleError
        No bundle of that name and digest ships with this worker's Popscan or was released, or it cannot be run.
    OSError
        The store cannot be read at present.
    """
    with _loading:
        if (name, digest) not in _resident:
            bundle = find_bundle(name, digest, models)
            _resident[name, digest] = bundle.manifest, open_predictor(bundle)
        return _resident[name, digest]


def open_predictor(bundle: ModelBundle) -> Predictor:
    """Session of a model, ready to run.

    Raises
    ------
    storage.models.BundleError
        No runtime here takes these weights.
    """
    name, threads = bundle.manifest.folder, int(os.environ.get(THREADS_VARIABLE, "1"))
    if bundle.manifest.runtime != "onnx":
        raise BundleError(f"model {name}: runtime {bundle.manifest.runtime!r} has no predictor yet")
    try:
        return OnnxPredictor(bundle.weights, threads=threads)
    except Exception as error:  # ONNX Runtime's own classes have no common base
        raise BundleError(f"model {name} cannot be run: {type(error).__name__}: {error}") from error


def check_runs(bundle: ModelBundle) -> None:
    """Run a model once on an empty patch, so that one that cannot work is found before cases depend on it.

    Raises
    ------
    storage.models.BundleError
        It does not run, or does not answer as its manifest says.
    """
    contract, labels = bundle.manifest.input, bundle.manifest.output.labels
    predictor = open_predictor(bundle)
    expected = (1, len(labels), *contract.patch_shape)
    try:
        found = predictor.predict(np.zeros((1, 1, *contract.patch_shape), np.float32)).shape
    except Exception as error:
        raise BundleError(f"model {bundle.manifest.folder} does not run on its own patch shape: {error}") from error
    if found != expected:
        raise BundleError(f"model {bundle.manifest.folder} answers with shape {found}, its manifest means {expected}")
