"""Inference on the workers: models stay resident, keyed by digest, and locate what a programme measures.

Every process that knows a programme imports this module; torch and the runtimes, seconds and 200 MB, are imported by
the functions that run on a worker.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from distributed import Worker, WorkerPlugin, get_worker

from ops.phantoms.labels import TERRITORY_LABELS
from storage.models import BundleError, Manifest, ModelBundle, QuantileWindow
from storage.releases import find_bundle
from storage.urls import Location
from tasks.case import Work
from tasks.stream import GPU_RESOURCE

if TYPE_CHECKING:
    from ops.inference.locate import NetworkContract
    from ops.inference.onnx import OnnxPredictor
    from ops.inference.predictor import Precision
    from ops.inference.torch import TorchPredictor

    RuntimePredictor = OnnxPredictor | TorchPredictor

logger = logging.getLogger(__name__)

HEART_MODEL = "heart-territories"

THREADS_VARIABLE = "POPSCAN_MODEL_THREADS"
"""Environment variable on a worker: threads inside one model call. One by default, as Dask runs a case per core."""

DEVICE_VARIABLE = "POPSCAN_MODEL_DEVICE"
"""Environment variable on a worker: device of its models, ``cpu``, ``cuda:0``, ``tensorrt:0`` …"""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
"""ONNX Runtime's execution provider by kind of device."""

HEART_LABELS = tuple(TERRITORY_LABELS[name] for name in ("heart", "LM", "LAD", "LCX", "RCA", "valve"))
"""Labels of the network's classes that lie in or on the heart."""

_resident: dict[tuple[str, str], ResidentModel] = {}
_loading = threading.Lock()


class ResidentModel:
    """A model in a worker's memory: its bundle, and its predictors by device and precision, each opened once."""

    def __init__(self, bundle: ModelBundle) -> None:
        self.bundle = bundle
        self._predictors: dict[tuple[str, Precision], RuntimePredictor] = {}
        self._opening = threading.Lock()

    def predictor(self, device: str, precision: Precision = "float32") -> RuntimePredictor:
        """Predictor on a device; see :func:`open_predictor`."""
        with self._opening:
            if (device, precision) not in self._predictors:
                self._predictors[device, precision] = open_predictor(self.bundle, device, precision)
            return self._predictors[device, precision]

    def memory(self) -> dict[str, int]:
        """Bytes of the weights by device and precision."""
        predictors = dict(self._predictors)
        return {f"{device} {precision}": found.nbytes for (device, precision), found in predictors.items()}


def locate_heart(work: Work) -> Work:
    """Add the label map ``territories`` and the facts ``heart`` of the CT in role ``ct``."""
    from ops.inference.ladder import descend, rungs
    from ops.inference.locate import locate_territories

    case = work.case
    model = resident(HEART_MODEL, case.recipe.models[HEART_MODEL], case.stores.models)
    contract = network_contract(model.bundle.manifest)
    (territories, heart), descent = descend(
        rungs(model_device(), half_precision(model.bundle.manifest)),
        model.predictor,
        contract.patch_shape,
        lambda predictor, tiling: locate_territories(work.volumes["ct"], predictor, contract, tiling),
    )
    labels, found = {**work.labels, "territories": territories}, {**work.found, "heart": heart}
    for rung, why in descent.failed:
        logger.warning("case %s: no memory on rung %s: %s", case.case_id, rung, why)
    return replace(work, labels=labels, found=found, flags=(*work.flags, *descent.flags))


def network_contract(manifest: Manifest) -> NetworkContract:
    """Read from the manifest what the heart network expects and returns.

    Raises
    ------
    storage.models.BundleError
        Its window is not in HU.
    """
    from ops.inference.locate import NetworkContract

    window = manifest.input.window
    if isinstance(window, QuantileWindow):
        raise BundleError(f"model {manifest.folder}: heart location needs a window in HU, not quantiles")
    return NetworkContract(
        spacing_mm=manifest.input.spacing_mm,
        window_hu=window,
        patch_shape=manifest.input.patch_shape,
        heart_labels=HEART_LABELS,
    )


def model_device() -> str:
    """Device of this worker's models: named by ``POPSCAN_MODEL_DEVICE``, else its GPU if Dask says it has one.

    A named device that is not there is an error when a model is opened, never the CPU in silence.
    """
    try:
        return _device_of(get_worker())
    except ValueError:  # not inside a worker
        return os.environ.get(DEVICE_VARIABLE, "cpu")


def _device_of(worker: Worker) -> str:
    own = "cuda:0" if worker.state.total_resources.get(GPU_RESOURCE) else "cpu"
    return os.environ.get(DEVICE_VARIABLE, own)


def half_precision(manifest: Manifest) -> Precision | None:
    """Half precision that a model can be computed in: nnU-Net's for torch, none for a stored ONNX graph."""
    return "float16" if manifest.runtime == "torch" else None


def resident(name: str, digest: str, models: Location) -> ResidentModel:
    """Model in this worker's memory; loaded once per process, however many threads ask for it at once.

    torch's own threads, which blend windows and resample, become as few as those of a model call: Dask runs a case per
    core already, and threads that wait for a busy core cost more than they gain.

    Parameters
    ----------
    name, digest
        Of the bundle.
    models
        Where released bundles lie; those that ship are found without it.

    Raises
    ------
    storage.models.BundleError
        No bundle of that name and digest ships with this worker's Popscan or was released.
    OSError
        The store cannot be read at present.
    """
    import torch

    with _loading:
        if (name, digest) not in _resident:
            torch.set_num_threads(model_threads())
            _resident[name, digest] = ResidentModel(find_bundle(name, digest, models))
        return _resident[name, digest]


def resident_memory() -> dict[str, dict[str, int]]:
    """Bytes of the weights of every resident model, by bundle and digest and then by device and precision."""
    with _loading:
        models = dict(_resident)
    return {f"{name} {digest[:12]}": model.memory() for (name, digest), model in models.items()}


class ResidentModels(WorkerPlugin):
    """Loads models when a worker starts, so that its first case does not wait; ``resident_memory`` tells their size.

    Parameters
    ----------
    models
        Name and digest of each.
    place
        Where released bundles lie.
    """

    name = "popscan-resident-models"

    def __init__(self, models: Mapping[str, str], place: Location) -> None:
        self._models, self._place = dict(models), place

    def setup(self, worker: Worker) -> None:
        """Open every model on the worker's device and log what they take."""
        device = _device_of(worker)
        for name, digest in self._models.items():
            resident(name, digest, self._place).predictor(device)
        logger.info("resident models, bytes: %s", resident_memory())


def open_predictor(
    bundle: ModelBundle, device: str | None = None, precision: Precision = "float32"
) -> RuntimePredictor:
    """Predictor of a model, ready to run.

    Parameters
    ----------
    bundle
        ONNX graph or ``torch.export`` program.
    device
        ``"cpu"``, ``"cuda:0"`` …; ``"tensorrt:0"`` for an ONNX graph through TensorRT. By default `model_device`.
    precision
        Other than float32 for torch only.

    Raises
    ------
    storage.models.BundleError
        The weights cannot be run there: no such device or provider, not a model, not in that precision.
    torch.OutOfMemoryError
        Or ONNX Runtime's error: no room for the weights.
    """
    from ops.inference.memory import is_out_of_memory
    from ops.inference.torch import TorchPredictor, load_exported

    manifest, device = bundle.manifest, device or model_device()
    try:
        if manifest.runtime == "torch":
            return TorchPredictor(load_exported(bundle.weights, device), device, precision)
        return _open_onnx(bundle.weights, device, precision)
    except Exception as error:  # ONNX Runtime's own classes have no common base
        if is_out_of_memory(error):
            raise
        raise BundleError(f"model {manifest.folder} cannot be run: {type(error).__name__}: {error}") from error


def _open_onnx(weights: bytes, device: str, precision: Precision) -> OnnxPredictor:
    """Session with the provider that a device's name stands for."""
    from ops.inference.onnx import OnnxPredictor

    if precision != "float32":
        raise ValueError(f"an ONNX graph is computed as it was stored, not in {precision}")
    kind, _, index = device.partition(":")
    if kind not in PROVIDERS:
        raise ValueError(f"no ONNX Runtime provider for device {device!r}; known are {', '.join(PROVIDERS)}")
    return OnnxPredictor(weights, PROVIDERS[kind], model_threads(), int(index or 0))


def model_threads() -> int:
    """Threads inside one model call, and of torch, in this worker: ``POPSCAN_MODEL_THREADS``, else 1."""
    return int(os.environ.get(THREADS_VARIABLE, "1"))


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
