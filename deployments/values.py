"""Values: what a place with Kubernetes decides for itself before the manifests are rendered for it."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from flows.settings import Settings

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
"""Name of a Kubernetes object: an RFC 1123 label."""

Cpu = Annotated[str, Field(pattern=r"^([1-9][0-9]*m|[0-9]+(\.[0-9]+)?)$", coerce_numbers_to_str=True)]
"""CPUs, e.g. 2, 0.5 or 500m."""

Bytes = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$")]
"""Memory or disk with a binary unit, e.g. 8Gi."""

SET_BY_THE_MANIFESTS = ("home", "inbox", "ledger", "prefect_database", "store", "cluster")
"""Settings that follow from other values."""


class ValuesError(ValueError):
    """A value is unknown or cannot be used; the message names its key and what is allowed."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resources(_Part):
    """What a container is given; memory is also its limit."""

    cpu: Cpu = Field(default="500m", description="CPUs kept free for it.")
    memory: Bytes = Field(default="1Gi", description="Memory kept free for it, and the most it may use.")


class Claim(_Part):
    """A folder that several pods see."""

    existing: Name | None = Field(
        default=None, description="PersistentVolumeClaim that is there already; else one is made."
    )
    size: Bytes = Field(default="100Gi", description="Size of the claim that is made.")
    storage_class: Name | None = Field(default=None, description="Its storage class; default the cluster's.")
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] = Field(
        default="ReadWriteMany", description="ReadWriteOnce holds all its pods on one node."
    )


class S3(_Part):
    """Where the store's bucket is served."""

    secret: Name = Field(default="popscan-s3", description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.")
    endpoint: str | None = Field(
        default=None, pattern=r"^https?://", description="Address of the S3 server; default AWS."
    )
    region: str = Field(default="us-east-1", description="Region of the bucket.")


class Postgres(_Part):
    """The PostgreSQL that comes along: one instance, no replica, no backup."""

    image: str = Field(default="postgres:17", description="Image of PostgreSQL.")
    size: Bytes = Field(default="50Gi", description="Size of its disk.")
    storage_class: Name | None = Field(default=None, description="Storage class of its disk; default the cluster's.")
    resources: Resources = Resources(cpu="1", memory="4Gi")


class Database(_Part):
    """Ledger and Prefect's own records."""

    secret: Name = Field(
        default="popscan-database", description="Secret with ledger-url, prefect-url and, for our PostgreSQL, password."
    )
    postgres: Postgres | None = Field(
        default=Postgres(), description="null: the URLs name a database that is there already."
    )


class Prefect(_Part):
    """Prefect's server."""

    ui_api_url: str = Field(
        default="http://127.0.0.1:4200/api",
        pattern=r"^https?://.*/api$",
        description="Address under which a browser reaches the API; the default suits kubectl port-forward.",
    )
    resources: Resources = Resources(cpu="1", memory="2Gi")


class Pool(_Part):
    """Prefect workers of one pool; their flow runs only direct what Dask computes, but ingest computes itself."""

    replicas: int = Field(default=1, ge=1, description="Workers.")
    resources: Resources = Resources(cpu="1", memory="4Gi")


class Pools(_Part):
    """Prefect workers by pool."""

    ingest: Pool = Pool(resources=Resources(cpu="4", memory="8Gi"))
    cpu: Pool = Pool()
    gpu: Pool = Pool()


class Gpu(_Part):
    """Dask workers with one NVIDIA GPU each."""

    image: str = Field(description="Popscan image built with EXTRA=gpu.")
    runtime_class: Name | None = Field(
        default="nvidia", description="RuntimeClass of the NVIDIA container runtime; null where it is the default."
    )


class Dask(_Part):
    """The cluster that computes."""

    operator_namespace: Name = Field(default="dask-operator", description="Where the Dask operator runs.")
    scheduler: Resources = Resources(cpu="1", memory="4Gi")
    threads: int = Field(default=4, ge=1, description="Cases side by side in one worker; as many CPUs are kept for it.")
    memory: Bytes = Field(default="16Gi", description="Memory of one worker.")
    minimum: int = Field(default=1, ge=1, description="Fewest workers.")
    maximum: int = Field(default=8, ge=1, description="Most workers.")
    gpu: Gpu | None = Field(default=None, description="null: workers compute on CPUs.")

    @model_validator(mode="after")
    def _check_range(self) -> Dask:
        if self.maximum < self.minimum:
            raise ValueError(f"maximum {self.maximum} is below minimum {self.minimum}")
        return self


class Values(_Part):
    """Everything that can be chosen; only ``image`` and ``store`` have no default."""

    image: str = Field(description="Popscan image with its tag or digest.")
    store: str = Field(pattern=r"^s3://[^/]+", description="Volumes and pictures, s3://bucket/prefix.")
    namespace: Name = Field(default="popscan", description="Namespace of everything; made here.")
    pull_secret: Name | None = Field(default=None, description="Secret for the registry, type dockerconfigjson.")
    s3: S3 = S3()
    database: Database = Database()
    prefect: Prefect = Prefect()
    pools: Pools = Pools()
    dask: Dask = Dask()
    home: Claim = Field(default=Claim(), description="Tables and reports.")
    inbox: Claim = Field(default=Claim(size="1Ti"), description="Watched folder; files stay in it.")
    settings: dict[str, Any] = Field(
        default={}, description="More settings of Popscan by name, e.g. {window: 256}; `popscan doctor` lists them."
    )

    @field_validator("settings")
    @classmethod
    def _check_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        allowed = sorted(set(Settings.model_fields) - set(SET_BY_THE_MANIFESTS))
        for name, value in settings.items():
            if name not in allowed:
                raise ValueError(f"{name!r} cannot be set here; allowed: {', '.join(allowed)}")
            field = Settings.model_fields[name]
            type_of_setting: Any = Annotated[field.annotation, field]
            try:
                TypeAdapter(type_of_setting).validate_python(value)
            except ValidationError as error:
                raise ValueError(f"{name} = {value!r}: {error.errors()[0]['msg']}; {field.description}") from error
        return settings


def load_values(file: Path | None, assignments: Sequence[str]) -> Values:
    """Read values from a YAML file, then apply assignments ``key=value`` on top.

    Parameters
    ----------
    file
        A mapping in YAML, as nested as :class:`Values`.
    assignments
        Dotted keys, values in YAML, e.g. ``dask.maximum=20``.

    Raises
    ------
    ValuesError
        A key is unknown, a value cannot be used, or a required one is missing.
    FileNotFoundError
        There is no such file.
    """
    document = _mapping(file) if file is not None else {}
    for assignment in assignments:
        _assign(document, assignment)
    try:
        return Values.model_validate(document)
    except ValidationError as error:
        raise ValuesError("; ".join(_explain(problem) for problem in error.errors())) from error


def describe_values() -> list[tuple[str, str, str]]:
    """Key, default and meaning of every value, in the order of the model."""
    return _describe(Values, "")


def _mapping(file: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValuesError(f"{file} is not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ValuesError(f"{file} must hold a mapping, e.g. image: registry.example/popscan:0.1.0")
    return document


def _assign(document: dict[str, Any], assignment: str) -> None:
    key, separator, text = assignment.partition("=")
    if not key or not separator:
        raise ValuesError(f"{assignment!r} is not key=value, e.g. dask.maximum=20")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValuesError(f"{key}: {text!r} is not YAML: {error}") from error
    *parents, last = key.split(".")
    for parent in parents:
        inner = document.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ValuesError(f"{key}: {parent} is {inner!r} and has no parts")
        document = inner
    document[last] = value


def _explain(problem: Any) -> str:
    """One sentence on one error of pydantic: key, what was given, what is allowed."""
    *parents, last = location = problem["loc"]
    key = ".".join(map(str, location))
    if problem["type"] == "extra_forbidden":
        allowed = ", ".join(_model(parents).model_fields)
        return f"unknown value {key!r}; allowed in {'.'.join(parents) or 'values'}: {allowed}"
    field = _model(parents).model_fields[last]
    meaning = f" ({field.description})" if field.description else ""
    if problem["type"] == "missing":
        return f"{key} is missing{meaning}"
    return f"{key} = {problem['input']!r}{meaning}: {problem['msg'].removeprefix('Value error, ')}"


def _model(path: Sequence[str]) -> type[BaseModel]:
    model: type[BaseModel] = Values
    for name in path:
        model = _inner(model.model_fields[name].annotation) or model
    return model


def _inner(annotation: Any) -> type[BaseModel] | None:
    """Model of a field, also where it may be null."""
    members = get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((member for member in members if isinstance(member, type) and issubclass(member, BaseModel)), None)


def _describe(
    model: type[BaseModel], prefix: str, defaults: Mapping[str, Any] | None = None
) -> list[tuple[str, str, str]]:
    rows = []
    for name, field in model.model_fields.items():
        default = (defaults or {}).get(name, None if field.is_required() else field.default)
        inner = _inner(field.annotation)
        if inner is None or default is None:
            shown = "required" if field.is_required() and not defaults else json.dumps(default)
            rows.append((prefix + name, shown, field.description or ""))
        elif field.description:
            rows.append((prefix + name, "as follows", field.description))
        if inner is not None:
            rows += _describe(inner, f"{prefix}{name}.", dict(default) if default is not None else None)
    return rows
