"""Models of one installation: those that ship with Popscan, and those released to its store since.

A released bundle lies in the store as `storage.models` describes; there every worker finds it. A withdrawn one keeps
its weights, its manifest moved aside: nothing uses it any more, and its version stays taken, because results name it.
"""

from __future__ import annotations

from storage.models import (
    MANIFEST_FILE,
    BundleCheck,
    BundleError,
    ModelBundle,
    bundled_models_dir,
    list_bundles,
    load_bundle,
    load_manifest,
    natural_order,
    store_bundle,
    verify_bundle,
)
from storage.urls import Location

WITHDRAWN_FILE = "manifest.withdrawn.json"


def installed_bundles(models: Location) -> list[Location]:
    """Folders of the bundles that ship and of those released to ``models``, by name and ascending version."""
    return sorted(
        [*_shipped_bundles(), *released_bundles(models)], key=lambda folder: natural_order(bundle_name(folder))
    )


def released_bundles(models: Location) -> list[Location]:
    """Folders of the bundles that were released to ``models`` and not withdrawn."""
    manifests = [key for key in models.list() if key.count("/") == 1 and key.endswith(f"/{MANIFEST_FILE}")]
    return [models.child(key.removesuffix(f"/{MANIFEST_FILE}")) for key in manifests]


def bundle_name(folder: Location) -> str:
    """Return ``<name>-<version>``, the last part of a bundle's folder."""
    return folder.url.rsplit("/", 1)[-1]


def find_bundle(name: str, digest: str, models: Location) -> ModelBundle:
    """Bundle of this digest, verified. The store is asked only for what does not ship.

    Raises
    ------
    storage.models.BundleError
        There is none.
    OSError
        The store cannot be read at present.
    """
    found: list[str] = []
    for list_folders in (_shipped_bundles, lambda: released_bundles(models)):
        for folder in _of_model(name, list_folders()):
            bundle = load_bundle(folder)
            if bundle.digest == digest:
                return bundle
            found.append(bundle.digest[:12])
    raise BundleError(
        f"there is no model {name!r} with digest {digest[:12]} (there are: {', '.join(found) or 'none'}) with this "
        f"Popscan or in {models.url}: was it withdrawn, or does this machine have another Popscan?"
    )


def load_newest(name: str, models: Location) -> ModelBundle | None:
    """Newest installed version of a model, verified; None when there is none.

    Raises
    ------
    storage.models.BundleError
        A manifest is not valid, or the newest version's weights are missing or damaged.
    """
    found = _of_model(name, installed_bundles(models))
    return load_bundle(found[-1]) if found else None


def verify_installed(models: Location) -> list[BundleCheck]:
    """Verify every bundle that ships and every released one."""
    return [verify_bundle(folder) for folder in installed_bundles(models)]


def release_bundle(bundle: ModelBundle, models: Location) -> None:
    """Copy a bundle into the store; the newest version of a model is used. Releasing one again changes nothing.

    Raises
    ------
    storage.models.BundleError
        This version exists with other content: shipped, released or withdrawn.
    """
    name = bundle.manifest.folder
    folder, shipped = models.child(name), Location(str(bundled_models_dir())).child(name)
    for place, file in ((shipped, MANIFEST_FILE), (folder, MANIFEST_FILE), (folder, WITHDRAWN_FILE)):
        if place.child(file).exists() and load_manifest(place, file) != bundle.manifest:
            raise BundleError(
                f"{name} is there already with other content ({place.url}), and results may name it; give the new "
                "bundle a version of its own"
            )
    store_bundle(models, bundle)
    folder.child(WITHDRAWN_FILE).delete()


def withdraw_bundle(name_version: str, models: Location) -> str:
    """Take a released bundle out of use, so that the version before it is used again; the name of its model.

    Raises
    ------
    storage.models.BundleError
        It is not among the released ones: it ships with Popscan, is withdrawn already, or never was there.
    """
    released = {bundle_name(folder): folder for folder in released_bundles(models)}
    if name_version not in released:
        known = ", ".join(released) or "none"
        raise BundleError(f"{name_version} is not among the models released to {models.url} (these are: {known})")
    folder = released[name_version]
    name = load_manifest(folder).name
    folder.child(WITHDRAWN_FILE).write_bytes(folder.child(MANIFEST_FILE).read_bytes())
    folder.child(MANIFEST_FILE).delete()
    return name


def _shipped_bundles() -> list[Location]:
    return [Location(str(folder)) for folder in list_bundles()]


def _of_model(name: str, folders: list[Location]) -> list[Location]:
    return [folder for folder in folders if load_manifest(folder).name == name]
