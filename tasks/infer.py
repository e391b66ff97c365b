"""Inference on the workers: models stay resident, keyed by digest, and locate what a programme measures."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from functools import cache
from typing import Any

from ops.inference.locate import NetworkContract, locate_territories
from ops.inference.onnx import OnnxPredictor
from ops.inference.predictor import Predictor
from ops.phantoms.labels import TERRITORY_LABELS
from storage.models import BundleError, Manifest, ModelBundle, list_bundles, load_bundle
from tasks.case import Work

HEART_MODEL = "heart-territories"

THREADS_VARIABLE = "POPSCAN_MODEL_THREADS"
"""Environment variable on a worker: threads inside one model call. One by default, as Dask runs a case per core."""

HEART_LABELS = tuple(TERRITORY_LABELS[name] for name in ("heart", "LM", "LAD", "LCX", "RCA", "valve"))
"""Labels of the network's classes that lie in or on the heart."""

_loading = threading.Lock()


def locate_heart(work: Work) -> Work:
    """Add the label map ``territories`` and the facts ``heart`` of the CT in role ``ct``."""
    manifest, predictor = resident_model(HEART_MODEL, work.case.recipe.models[HEART_MODEL])
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


def resident_model(name: str, digest: str) -> tuple[Manifest, Predictor]:
    """Manifest and session of a model; loaded once per worker process, however many threads ask for it at once.

    Raises
    ------
    storage.models.BundleError
        This worker has no bundle of that name and digest.
    """
    with _loading:
        return _load(name, digest)


@cache
def _load(name: str, digest: str) -> tuple[Manifest, Predictor]:
    bundle = _find(name, digest)
    return bundle.manifest, _predictor(bundle)


def _find(name: str, digest: str) -> ModelBundle:
    found: list[str] = []
    for folder in list_bundles():
        bundle = load_bundle(folder)
        if bundle.manifest.name == name:
            if bundle.digest == digest:
                return bundle
            found.append(bundle.digest[:12])
    raise BundleError(
        f"this worker has no model {name!r} with digest {digest[:12]} (it has: {', '.join(found) or 'none'}); "
        "install the same Popscan on every worker"
    )


def _predictor(bundle: ModelBundle) -> Any:
    threads = int(os.environ.get(THREADS_VARIABLE, "1"))
    if bundle.manifest.runtime != "onnx":
        raise BundleError(f"model {bundle.manifest.folder}: runtime {bundle.manifest.runtime!r} has no predictor yet")
    return OnnxPredictor(bundle.weights, threads=threads)
