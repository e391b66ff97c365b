"""Kubernetes manifests: the templates in ``kubernetes/`` rendered for one place's values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from deployments.deploy import POOLS
from deployments.services import PREFECT_SETTINGS, gpu_resource
from deployments.values import Values

Manifest = dict[str, Any]
"""One Kubernetes object."""

SUFFIX = ".j2"

HOME, INBOX, TEMPORARY = "/var/lib/popscan", "/inbox", "/tmp"
"""Where pods see the two claims, and the one folder beside them that they can write to."""

LAUNCH_SECONDS = "900"
"""A pod may wait for a node, and a node for an image of gigabytes."""

SERVER = {
    "PREFECT_SERVER_API_HOST": "0.0.0.0",
    "PREFECT_SERVER_API_PORT": "4200",
    "PREFECT_HOME": f"{TEMPORARY}/prefect",
    # Prefect copies its UI before it serves it, by default into its own package, which cannot be written here.
    "PREFECT_SERVER_UI_STATIC_DIRECTORY": f"{TEMPORARY}/prefect-ui",
}

SCHEDULER_ROUTES = [
    *("distributed.http.scheduler.prometheus", "distributed.http.scheduler.info", "distributed.http.scheduler.json"),
    *(
        "distributed.http.health",
        "distributed.http.proxy",
        "distributed.http.statics",
        "distributed.http.scheduler.api",
    ),
]
"""Dask's defaults and its API, by which the operator scales: else it speaks Dask's own protocol, which only works
between equal versions of Dask."""


def render(values: Values) -> dict[str, list[Manifest]]:
    """Objects by file name; applied in the order of the names, each finds what it needs.

    A file whose objects the values leave out is empty.
    """
    # Every value is written as JSON, which is YAML: none can break out of its place.
    environment = Environment(
        loader=PackageLoader("deployments", "kubernetes"),
        undefined=StrictUndefined,
        finalize=_as_json,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context = _context(values)
    names = environment.list_templates(filter_func=lambda name: name.endswith(f".yaml{SUFFIX}"))
    return {name.removesuffix(SUFFIX): _documents(environment, name, context) for name in names}


def requirements(values: Values) -> dict[str, tuple[str, ...]]:
    """Secrets that must be there before the manifests are applied, and the keys each must hold."""
    password = ("password",) if values.database.postgres else ()
    needed = {
        values.database.secret: ("ledger-url", "prefect-url", *password),
        values.s3.secret: ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    }
    return needed | ({values.pull_secret: (".dockerconfigjson",)} if values.pull_secret else {})


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no annotations
    def ignore_aliases(self, data: Any) -> bool:
        """Write what occurs twice twice: people read this."""
        return True


def to_yaml(manifests: list[Manifest]) -> str:
    """Write the objects as one YAML stream."""
    text: str = yaml.dump_all(
        manifests, Dumper=_Dumper, explicit_start=True, sort_keys=False, width=120, allow_unicode=True
    )
    return text


def write(rendered: Mapping[str, list[Manifest]], folder: Path) -> None:
    """Write one file per template, and remove the file of one that has no objects now: it would still be applied."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, manifests in rendered.items():
        if manifests:
            (folder / name).write_text(to_yaml(manifests), encoding="utf-8")
        else:
            (folder / name).unlink(missing_ok=True)


def _documents(environment: Environment, name: str, context: Mapping[str, Any]) -> list[Manifest]:
    text = environment.get_template(name).render(context)
    return [document for document in yaml.safe_load_all(text) if document]


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _context(values: Values) -> dict[str, Any]:
    chosen, settings = values.model_dump(), _settings(values)
    server_settings = {**PREFECT_SETTINGS, **SERVER, "PREFECT_SERVER_UI_API_URL": values.prefect.ui_api_url}
    claims = {name: claim["existing"] or f"popscan-{name}" for name in ("home", "inbox") for claim in [chosen[name]]}
    return {
        **chosen,
        "pools": {pool: chosen["pools"][pool.removeprefix("popscan-")] for pool in POOLS},
        "digests": {
            "everything": _digest(values.model_dump(mode="json")),
            "settings": _digest([settings, server_settings]),
        },
        "claims": claims,
        "paths": {"home": HOME, "inbox": INBOX, "temporary": TEMPORARY},
        "settings": settings,
        "server_settings": server_settings,
        "scheduler_routes": SCHEDULER_ROUTES,
        "gpu_resource": gpu_resource(),
    }


def _digest(document: Any) -> str:
    return hashlib.blake2b(_as_json(document).encode(), digest_size=4).hexdigest()


def _settings(values: Values) -> dict[str, str]:
    """Environment of everything but Prefect's server and the database; nothing secret."""
    endpoint = {"AWS_ENDPOINT_URL": values.s3.endpoint} if values.s3.endpoint else {}
    more = {f"POPSCAN_{name.upper()}": str(value) for name, value in values.settings.items()}
    return {
        **PREFECT_SETTINGS,
        "POPSCAN_LAUNCH_SECONDS": LAUNCH_SECONDS,
        **more,
        **endpoint,
        "AWS_DEFAULT_REGION": values.s3.region,
        "POPSCAN_HOME": HOME,
        "POPSCAN_INBOX": INBOX,
        "POPSCAN_STORE": values.store,
        "POPSCAN_CLUSTER": "tcp://popscan-scheduler:8786",
        "PREFECT_API_URL": "http://popscan-prefect:4200/api",
        "PREFECT_HOME": f"{TEMPORARY}/prefect",
    }
