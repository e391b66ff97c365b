"""Inference on the workers: models stay resident, keyed by digest, and segment or locate what a programme measures.

Every process that knows a programme imports this module; torch and the runtimes, seconds and 200 MB, are imported by
the functions that run on a worker.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from distributed import Client, Worker, WorkerPlugin, get_worker

from ops.phantoms.labels import TERRITORY_LABELS
from storage.models import BundleError, Manifest, ModelBundle, QuantileWindow
from storage.releases import find_bundle
from storage.urls import Location
from tasks.case import Case, Work
from tasks.stream import GPU_RESOURCE, has_gpu_worker

if TYPE_CHECKING:
    from ops.inference.inferer import Inferer
    from ops.inference.ladder import Descent, Rung
    from ops.inference.locate import HeartLocation, NetworkContract
    from ops.inference.onnx import OnnxPredictor
    from ops.inference.predictor import Precision
    from ops.inference.segment import SegmentationContract
    from ops.inference.torch import TorchPredictor
    from ops.volume import Volume

    RuntimePredictor = OnnxPredictor | TorchPredictor

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

HEART_MODEL = "heart-territories"

THREADS_VARIABLE = "POPSCAN_MODEL_THREADS"
"""Environment variable on a worker: threads inside one model call. One by default, as Dask runs a case per core."""

DEVICE_VARIABLE = "POPSCAN_MODEL_DEVICE"
"""Environment variable on a worker: device of its models, ``cpu``, ``cuda:0``, ``tensorrt:0`` …"""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
"""ONNX Runtime's execution provider by kind of device."""

HEART_LABELS = tuple(TERRITORY_LABELS[name] for name in ("heart", "LM", "LAD", "LCX", "RCA", "valve"))
"""Labels of the network's classes that lie in or on the heart."""

LOADING_SECONDS = 20
"""How long a worker that starts waits for its models."""

VERSIONS_KEPT = 2
"""Versions of one model that stay in a worker's memory: two programmes, or two runs, may use the one and the other."""

_resident: dict[tuple[str, str], ResidentModel] = {}
_loading = threading.Lock()


class ResidentModel:
    """A model in a worker's memory: its bundle, and by rung what computes it, each opened once."""

    def __init__(self, bundle: ModelBundle) -> None:
        self.bundle = bundle
        self._predictors: dict[tuple[str, Precision], RuntimePredictor] = {}
        self._inferers: dict[Rung, Inferer] = {}
        self._opening = threading.RLock()

    def predictor(self, device: str, precision: Precision = "float32") -> RuntimePredictor:
        """Predictor on a device; see :func:`open_predictor`."""
        with self._opening:
            if (device, precision) not in self._predictors:
                self._predictors[device, precision] = open_predictor(self.bundle, device, precision)
            return self._predictors[device, precision]

    def inferer(self, rung: Rung) -> Inferer:
        """Give what computes volumes on a rung: on the first, cases share batches of a size found by trying.

        Raises
        ------
        storage.models.BundleError
            See :func:`open_predictor`.
        torch.OutOfMemoryError
            Or ONNX Runtime's error: no room for the weights or for one window.
        """
        with self._opening:
            if rung not in self._inferers:
                self._inferers[rung] = self._open_inferer(rung)
            return self._inferers[rung]

    def _open_inferer(self, rung: Rung) -> Inferer:
        from ops.inference.batch_size import best_batch
        from ops.inference.inferer import SharedInferer, WindowInferer
        from ops.inference.sliding_window import Tiling

        predictor, window = self.predictor(rung.device, rung.precision), self.bundle.manifest.input.patch_shape
        if rung.name == "full":
            return SharedInferer(predictor, Tiling(window, batch=best_batch(predictor, window)))
        return WindowInferer(predictor, Tiling(window, on_host=True))

    def memory(self) -> dict[str, int]:
        """Bytes of the weights by device and precision."""
        predictors = dict(self._predictors)
        return {f"{device} {precision}": found.nbytes for (device, precision), found in predictors.items()}


def segment_role(work: Work, role: str, model: str) -> Work:
    """Add the label map of the volume in ``role``, on its own grid, as ``labels[model]``.

    Declare the stage with ``needs="gpu"`` and the model among those of the programme.

    Parameters
    ----------
    work
        With a volume in the role.
    role
        Of the volume, in the units that the model's manifest names.
    model
        Name of a bundle whose classes are labels.
    """
    from ops.inference.segment import segment

    def compute(network: Inferer, manifest: Manifest) -> Volume:
        return segment(work.volumes[role], network, segmentation_contract(manifest))

    labels, flags = _infer(work.case, model, compute)
    return replace(work, labels={**work.labels, model: labels}, flags=(*work.flags, *flags))


def locate_heart(work: Work) -> Work:
    """Add the label map ``territories`` and the facts ``heart`` of the CT in role ``ct``."""
    from ops.inference.locate import locate_territories

    def compute(network: Inferer, manifest: Manifest) -> tuple[Volume, HeartLocation]:
        return locate_territories(work.volumes["ct"], network, network_contract(manifest))

    (territories, heart), flags = _infer(work.case, HEART_MODEL, compute)
    labels, found = {**work.labels, "territories": territories}, {**work.found, "heart": heart}
    return replace(work, labels=labels, found=found, flags=(*work.flags, *flags))


def _infer(case: Case, name: str, compute: Callable[[Inferer, Manifest], Answer]) -> tuple[Answer, tuple[str, ...]]:
    """Apply a model on the first rung with enough memory; the flags say which, if it was not the first."""
    from ops.inference.ladder import descend, rungs

    model, device = resident(name, case.recipe.models[name], case.stores.models), model_device()
    manifest = model.bundle.manifest
    ladder = rungs(device, half_precision(manifest))
    with guarded(device, case):
        answer, descent = descend(ladder, model.inferer, lambda network: compute(network, manifest))
    return answer, descent_flags(descent, case)


def descent_flags(descent: Descent, case: Case) -> tuple[str, ...]:
    """Give the flags of a case, and a line to the worker's log for each rung that had too little memory."""
    for rung, why in descent.failed:
        logger.warning("case %s: no memory on rung %s: %s", case.case_id, rung, why)
    return descent.flags


class DeviceLostError(OSError):
    """A GPU that gives its process nothing but errors: no fault of the case, so that it never leads to quarantine."""


@contextmanager
def guarded(device: str, case: Case) -> Iterator[None]:
    """Compute on a device; when it is lost, end this process if it is a worker that will be replaced.

    A broken CUDA context lasts as long as its process. The worker's nanny starts another, and the executor runs the
    cases of the lost one again.

    Raises
    ------
    DeviceLostError
        The device is lost, and nobody would replace this process.
    """
    from ops.device import is_lost

    try:
        yield
    except Exception as error:
        if not is_lost(device):
            raise
        why = f"case {case.case_id}: {device} no longer answers after {type(error).__name__}: {error}"
        if _has_nanny():
            logger.critical("%s; this worker leaves", why)
            os._exit(1)
        raise DeviceLostError(f"{why}; start Popscan again") from error


def _has_nanny() -> bool:
    try:
        return bool(get_worker().nanny)
    except ValueError:  # not inside a worker
        return False


def segmentation_contract(manifest: Manifest) -> SegmentationContract:
    """Read from a manifest what a segmentation network expects."""
    from ops.inference.segment import SegmentationContract

    expected = manifest.input
    if isinstance(expected.window, QuantileWindow):
        return SegmentationContract(expected.units, expected.spacing_mm, expected.window.quantiles, of_quantiles=True)
    return SegmentationContract(expected.units, expected.spacing_mm, expected.window)


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

    The oldest of more than `VERSIONS_KEPT` versions of a model is dropped, so that releases do not pile up on a card.

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
    if (name, digest) in _resident:  # without the lock: another model may be loading for long
        return _resident[name, digest]
    with _loading:
        if (name, digest) not in _resident:
            limit_threads()
            _resident[name, digest] = ResidentModel(find_bundle(name, digest, models))
            _drop_old_versions(name)
        return _resident[name, digest]


def _drop_old_versions(name: str) -> None:
    """Let go what was loaded first; a case that still uses it keeps it until it is done."""
    from ops.inference.memory import release_cached

    versions = [key for key in _resident if key[0] == name]
    for key in versions[:-VERSIONS_KEPT]:
        del _resident[key]
    if len(versions) > VERSIONS_KEPT:
        gc.collect()  # torch's exported programs are reference cycles
        release_cached()


def resident_memory() -> dict[str, dict[str, int]]:
    """Bytes of the weights of every resident model, by bundle and digest and then by device and precision."""
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
    only_gpus
        Leave workers without a GPU alone.
    """

    name = "popscan-resident-models"

    def __init__(self, models: Mapping[str, str], place: Location, only_gpus: bool) -> None:
        self._models, self._place, self._only_gpus = dict(models), place, only_gpus

    async def setup(self, worker: Worker) -> None:
        """Open every model as its cases will; one that cannot be is a matter of the cases that need it.

        After `LOADING_SECONDS` the worker goes on, and the loading beside it: a worker that is this long in starting
        is taken for dead, by Dask and by Kubernetes.
        """
        if worker.state.total_resources.get(GPU_RESOURCE) or not self._only_gpus:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(self._open, _device_of(worker)), LOADING_SECONDS)

    def _open(self, device: str) -> None:
        for name, digest in self._models.items():
            try:
                from ops.inference.ladder import rungs

                resident(name, digest, self._place).inferer(rungs(device, None)[0])
            except Exception as error:  # no such bundle, store away, no memory: found again by each case, and recorded
                logger.warning("model %s %s is not resident on %s: %s", name, digest[:12], device, error)


def keep_resident(client: Client, models: Mapping[str, str], place: Location) -> list[str]:
    """Have the workers of a cluster, present and future, load models before their first case.

    Nothing that goes wrong here is an error: a case that needs a model loads it anyway.

    Returns
    -------
    list of str
        What is resident where, a line each, for a log; empty where a worker did not answer in time.
    """
    connection: Any = client  # Dask's methods are only partly typed

    async def keep() -> Mapping[str, Mapping[str, Mapping[str, int]]]:
        await connection.register_plugin(ResidentModels(models, place, only_gpus=has_gpu))
        found: Mapping[str, Any] = await connection.run(resident_memory, on_error="ignore")
        return found

    has_gpu = has_gpu_worker(client)
    try:
        held = connection.sync(keep, callback_timeout=2 * LOADING_SECONDS)
    except Exception as error:
        logger.warning("not all workers say which models they hold: %s: %s", type(error).__name__, error)
        return []
    found: Counter[str] = Counter()
    for memory in held.values():
        found.update(f"{model}, {kind}, {size / 1e6:.1f} MB" for model, m in memory.items() for kind, size in m.items())
    return [f"{line}, {count} workers" for line, count in sorted(found.items())]


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
    """Threads inside one model call, of torch and of BLAS, in this worker: ``POPSCAN_MODEL_THREADS``, else 1."""
    return int(os.environ.get(THREADS_VARIABLE, "1"))


def limit_threads() -> None:
    """Hold torch and BLAS, which blend, resample and register, to as few threads as a model call in this process.

    Dask runs a case per core already, and threads that wait for a busy core cost more than they gain: beside one other
    process on two cores, locating took 0.70 s a case, now 0.38.
    """
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(model_threads())
    threadpool_limits(model_threads(), user_api="blas")


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
