"""Model bundles: weights with a manifest that says what they are for, how they were made and how good they are.

A bundle is a folder ``<name>-<version>/`` with ``manifest.json`` and one weights file. It is pinned by digest:
the manifest carries the SHA-256 of the weights, and the bundle's own digest covers both.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from storage.records import canonical_json
from storage.urls import Location

MANIFEST_FILE = "manifest.json"

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
Text = Annotated[str, Field(min_length=1)]
Millimetres = Annotated[float, Field(gt=0)]
Voxels = Annotated[int, Field(gt=0)]


class BundleError(RuntimeError):
    """A bundle cannot be used; the message names the folder, the reason and what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class QuantileWindow(_Part):
    """A window whose ends are quantiles of each image, for modalities whose values have no unit (MR)."""

    quantiles: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]

    @field_validator("quantiles")
    @classmethod
    def _rise(cls, quantiles: tuple[float, float]) -> tuple[float, float]:
        if quantiles[0] >= quantiles[1]:
            raise ValueError(f"quantiles {quantiles} must be (low, high)")
        return quantiles


class InputContract(_Part):
    """What the network must be given.

    Attributes
    ----------
    units
        Of the voxels before windowing, e.g. ``HU``.
    window
        ``(low, high)`` in `units`, or quantiles of the image; values are clipped to it and mapped linearly to 0 … 1.
    spacing_mm, patch_shape
        Voxel spacing ``(dz, dy, dx)`` and network input size ``(nz, ny, nx)``.
    orientation
        Patient directions of increasing k, j, i: superior, posterior, left (as `ops.volume.Grid.from_spacing`).
    """

    units: Text
    window: tuple[float, float] | QuantileWindow
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres]
    patch_shape: tuple[Voxels, Voxels, Voxels]
    orientation: Literal["SPL"] = "SPL"

    @field_validator("window")
    @classmethod
    def _rises(cls, window: tuple[float, float] | QuantileWindow) -> tuple[float, float] | QuantileWindow:
        if isinstance(window, tuple) and window[0] >= window[1]:
            raise ValueError(f"window {window} must be (low, high)")
        return window


class OutputContract(_Part):
    """What the network gives back: one channel per label, index = class."""

    labels: Annotated[tuple[Text, ...], Field(min_length=2)]
    activation: Literal["softmax", "sigmoid"] = "softmax"


class IntendedUse(_Part):
    """The images a model was made for; anything else is a refused verdict, not a number."""

    statement: Text
    modality: Text
    anatomy: Text
    contrast_agent: bool
    slice_spacing_mm: tuple[Millimetres, Millimetres]

    @field_validator("statement")
    @classmethod
    def _says_research_use(cls, statement: str) -> str:
        if "research use" not in statement.lower():
            raise ValueError("the statement must say 'research use'")
        return statement


class Quality(_Part):
    """One measured figure: which metric, its value, on which data, from how many cases."""

    metric: Text
    value: float
    data: Text
    n: Voxels


class Manifest(_Part):
    """Everything to know about a bundle before it is used. Unknown fields are an error.

    Attributes
    ----------
    sha256
        Of the weights file, lower-case hexadecimal.
    file
        Name of the weights file inside the bundle's folder.
    provenance
        How it was trained: data, code, seed, steps, date. At least one entry.
    quality
        Measured figures. At least one: an unmeasured model does not ship.
    """

    name: Name
    version: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    runtime: Literal["onnx", "torch"]
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    input: InputContract
    output: OutputContract
    intended_use: IntendedUse
    licence: Text
    provenance: Annotated[dict[str, JsonValue], Field(min_length=1)]
    quality: Annotated[tuple[Quality, ...], Field(min_length=1)]

    @property
    def folder(self) -> str:
        """Name of the bundle's folder."""
        return f"{self.name}-{self.version}"


@dataclass(frozen=True)
class ModelBundle:
    """A manifest and its weights, verified against each other when constructed."""

    manifest: Manifest
    weights: bytes

    def __post_init__(self) -> None:
        found = hashlib.sha256(self.weights).hexdigest()
        if found != self.manifest.sha256:
            raise BundleError(
                f"model {self.manifest.folder}: {self.manifest.file} has sha256 {found}, its manifest says "
                f"{self.manifest.sha256}: the weights were changed or damaged; install the bundle again"
            )

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical manifest and the weights: names this model in results and fingerprints."""
        manifest = canonical_json(self.manifest.model_dump(mode="json")).encode()
        return hashlib.sha256(manifest + b"\0" + self.weights).hexdigest()


@dataclass(frozen=True)
class BundleCheck:
    """Outcome of verifying one bundle: its digest, or the problem."""

    folder: str
    digest: str | None
    problem: str | None


def bundled_models_dir() -> Path:
    """Folder of the bundles that ship with Popscan."""
    return Path(str(resources.files("storage"))) / "bundles"


def list_bundles(root: Path | None = None) -> list[Path]:
    """Folders under ``root`` (default: those that ship) that hold a manifest, by name and ascending version."""
    root = bundled_models_dir() if root is None else root
    return sorted((path.parent for path in root.glob(f"*/{MANIFEST_FILE}")), key=lambda path: natural_order(path.name))


def natural_order(folder_name: str) -> list[tuple[int, str]]:
    """Sort key of bundles' folder names in which numbers count as numbers: 1.10.0 comes after 1.9.0."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", folder_name)]


def load_manifest(folder: Path | Location, file: str = MANIFEST_FILE) -> Manifest:
    """Read and validate the manifest of the bundle in ``folder``.

    Raises
    ------
    BundleError
        There is none, or it is not valid.
    OSError
        It cannot be read for another reason, which may pass.
    """
    place = _location(folder)
    try:
        return Manifest.model_validate_json(place.child(file).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"no model bundle at {place.url}: there is no {file}") from error
    except ValidationError as error:
        raise BundleError(f"{place.url}/{file} is not a valid manifest: {error}") from error


def load_bundle(folder: Path | Location) -> ModelBundle:
    """Load the bundle in ``folder``, its weights verified against the manifest.

    Raises
    ------
    BundleError
        The manifest is missing or invalid, the weights are missing, or their SHA-256 differs.
    OSError
        Something cannot be read for another reason, which may pass.
    """
    manifest = load_manifest(folder)
    place = _location(folder).child(manifest.file)
    try:
        weights = place.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"model {manifest.folder}: cannot read {place.url}: no such file") from error
    return ModelBundle(manifest, weights)


def write_bundle(root: Path, bundle: ModelBundle) -> Path:
    """Write ``bundle`` to ``root/<name>-<version>`` and return that folder; as `store_bundle`."""
    store_bundle(Location(str(root)), bundle)
    return root / bundle.manifest.folder


def store_bundle(root: Location, bundle: ModelBundle) -> None:
    """Write ``bundle`` below ``root`` on any file system.

    The manifest is replaced last: a write that breaks off leaves a bundle that `load_bundle` refuses.
    """
    folder = root.child(bundle.manifest.folder)
    folder.child(bundle.manifest.file).write_bytes(bundle.weights)
    folder.child(MANIFEST_FILE).write_bytes((bundle.manifest.model_dump_json(indent=2) + "\n").encode())


def verify_bundle(folder: Location) -> BundleCheck:
    """Verify the bundle in ``folder``."""
    name = folder.url.rsplit("/", 1)[-1]
    try:
        return BundleCheck(name, load_bundle(folder).digest, None)
    except (BundleError, OSError) as error:
        return BundleCheck(name, None, str(error))


def _location(folder: Path | Location) -> Location:
    return folder if isinstance(folder, Location) else Location(str(folder))
