"""What a cluster would refuse or leave hanging, found without one. Each check returns its problems as sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import dask_kubernetes
import jsonschema
import kubernetes_validate
import prefect.settings
import yaml
from dask_kubernetes.operator.controller.controller import (
    build_scheduler_deployment_spec,
    build_scheduler_service_spec,
    build_worker_deployment_spec,
)

from deployments.manifests import Manifest
from flows.settings import Settings

KUBERNETES_VERSIONS = ("1.30", "1.37")
"""Oldest and newest whose schemas the manifests must fit."""

CRDS = Path(dask_kubernetes.__file__).parent / "operator/deployment/helm/dask-kubernetes-operator/crds"

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""RFC 1123 label: the server checks it, its schema does not."""

Requirements = Mapping[str, tuple[str, ...]]


class Workload(NamedTuple):
    """What makes pods."""

    name: str
    selector: dict[str, str]
    labels: dict[str, str]
    pod: dict[str, Any]


def problems(manifests: list[Manifest], requirements: Requirements) -> list[str]:
    """Everything that is wrong; an empty list is what a cluster should get."""
    wrong = [problem for manifest in manifests for problem in schema_problems(manifest)]
    if wrong:
        return wrong  # the other checks rely on the shapes
    made = manifests + operator_makes(manifests)
    return [
        *(problem for manifest in made for problem in schema_problems(manifest)),
        *selector_problems(made),
        *reference_problems(made, requirements),
        *address_problems(made),
        *setting_problems(made),
        *(problem for workload in workloads(made) for problem in pod_problems(workload)),
    ]


def schema_problems(manifest: Manifest) -> list[str]:
    """Problems of one object against Kubernetes' own schemas, or those of the Dask operator's resources."""
    return _schema_problems(json.dumps(manifest))


@cache
def _schema_problems(text: str) -> list[str]:
    manifest = json.loads(text)
    if not NAME.fullmatch(manifest["metadata"]["name"]):
        return [f"{_name(manifest)}: no name for a Kubernetes object"]
    if manifest["apiVersion"].startswith("kubernetes.dask.org/"):
        errors = jsonschema.Draft202012Validator(dask_schema(manifest["kind"])).iter_errors(manifest)
        return [f"{_name(manifest)}: {'.'.join(map(str, error.path))}: {error.message}" for error in errors]
    found = []
    for version in KUBERNETES_VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{_name(manifest)} ({version}): {'.'.join(map(str, error.path))}: {error.message}")
    return found


@cache
def dask_schema(kind: str) -> dict[str, Any]:
    """Schema of one of the operator's resources, closed: the server drops unknown fields without a word."""
    definition = yaml.safe_load((CRDS / f"{kind.lower()}.yaml").read_text())
    (version,) = definition["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {}}
    return _closed(schema)


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    inner = {name: _closed(field) for name, field in schema.get("properties", {}).items()}
    items = {"items": _closed(schema["items"])} if "items" in schema else {}
    shut = {"properties": inner, "additionalProperties": False} if inner else {}
    return schema | shut | items


def operator_makes(manifests: list[Manifest]) -> list[Manifest]:
    """The Deployments and the Service that the Dask operator's own code makes of a DaskCluster."""
    made = []
    for cluster in (manifest for manifest in manifests if manifest["kind"] == "DaskCluster"):
        (name, namespace), labels = (
            (cluster["metadata"][key] for key in ("name", "namespace")),
            cluster["metadata"]["labels"],
        )
        scheduler, worker = cluster["spec"]["scheduler"], cluster["spec"]["worker"]
        made += [
            build_scheduler_deployment_spec(name, scheduler["spec"], {}, labels),
            build_scheduler_service_spec(name, scheduler["service"], {}, labels),
            build_worker_deployment_spec(f"{name}-default", namespace, name, "0a1b2c", worker["spec"], {}, labels),
        ]
        for manifest in made:
            manifest["metadata"] = manifest["metadata"] | {"namespace": namespace}
    return made


def workloads(manifests: list[Manifest]) -> list[Workload]:
    """Deployments, StatefulSets and Jobs, those that the operator makes among them."""
    found = []
    for manifest in manifests:
        spec = manifest.get("spec", {})
        if manifest["kind"] in ("Deployment", "StatefulSet", "Job"):
            template = spec["template"]
            claims = [{"name": claim["metadata"]["name"]} for claim in spec.get("volumeClaimTemplates", [])]
            pod = template["spec"] | {"volumes": [*template["spec"].get("volumes", []), *claims]}
            selector = spec.get("selector", {}).get("matchLabels", {})
            found.append(Workload(manifest["metadata"]["name"], selector, template["metadata"]["labels"], pod))
    return found


def selector_problems(manifests: list[Manifest]) -> list[str]:
    """Selectors that select no pod, or Services whose ports no selected container has."""
    pods, found = workloads(manifests), []
    found += [
        f"{pod.name} does not select its own pods" for pod in pods if not pod.selector.items() <= pod.labels.items()
    ]
    for kind, manifest in ((manifest["kind"], manifest) for manifest in manifests):
        selector = {
            "Service": lambda spec: spec["selector"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec: spec["podSelector"].get("matchLabels", {}),
        }.get(kind)
        if selector is None:
            continue
        wanted = selector(manifest["spec"])
        selected = [pod for pod in pods if wanted.items() <= pod.labels.items()]
        if not selected:
            found.append(f"{_name(manifest)} selects no pod: {wanted}")
        ports = {name for pod in selected for port in _ports(pod) for name in (port["name"], port["containerPort"])}
        targets = [port["targetPort"] for port in manifest["spec"]["ports"]] if kind == "Service" else []
        found += [f"{_name(manifest)}: no container has port {port}" for port in targets if port not in ports]
    return found


def reference_problems(manifests: list[Manifest], requirements: Requirements) -> list[str]:
    """Names of objects that are neither made nor required to be there."""
    there = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    there |= {("Secret", name) for name in requirements}
    namespaces = {manifest["metadata"].get("namespace") for manifest in manifests if manifest["kind"] != "Namespace"}
    found = [] if len(namespaces) == 1 and ("Namespace", *namespaces) in there else [f"namespaces: {namespaces}"]
    for pod in workloads(manifests):
        for kind, name, key in _references(pod.pod):
            if (kind, name) not in there:
                found.append(f"{pod.name}: there is no {kind} {name}")
            elif kind == "Secret" and key is not None and key not in requirements[name]:
                found.append(f"{pod.name}: Secret {name} has no key {key}")
    clusters = [manifest["spec"]["cluster"] for manifest in manifests if manifest["kind"] == "DaskAutoscaler"]
    return found + [f"there is no DaskCluster {name}" for name in clusters if ("DaskCluster", name) not in there]


def _references(pod: dict[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    yield "ServiceAccount", pod["serviceAccountName"], None
    yield from (("Secret", secret["name"], ".dockerconfigjson") for secret in pod.get("imagePullSecrets", []))
    for volume in pod["volumes"]:
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], None
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"], None
    for container in pod["containers"]:
        for source in container.get("envFrom", []):
            ((reference, target),) = source.items()
            yield {"configMapRef": "ConfigMap", "secretRef": "Secret"}[reference], target["name"], None
        for variable in container.get("env", []):
            if secret := variable.get("valueFrom", {}).get("secretKeyRef"):
                yield "Secret", secret["name"], secret["key"]


def address_problems(manifests: list[Manifest]) -> list[str]:
    """Addresses in the settings that no Service answers."""
    ports = {
        (manifest["metadata"]["name"], port["port"])
        for manifest in manifests
        if manifest["kind"] == "Service"
        for port in manifest["spec"]["ports"]
    }
    settings = _settings(manifests)
    addresses = [settings[name].split("//")[1].split("/")[0] for name in ("PREFECT_API_URL", "POPSCAN_CLUSTER")]
    pairs = [(host, int(port)) for host, _, port in (address.partition(":") for address in addresses)]
    return [f"no Service answers at {host}:{port}" for host, port in pairs if (host, port) not in ports]


def setting_problems(manifests: list[Manifest]) -> list[str]:
    """Variables that look like settings and are none."""
    names = [name for manifest in manifests if manifest["kind"] == "ConfigMap" for name in manifest["data"]]
    for pod in workloads(manifests):
        names += [variable["name"] for container in pod.pod["containers"] for variable in container.get("env", [])]
    popscan = [name for name in names if name.startswith("POPSCAN_")]
    found = [name for name in popscan if name.removeprefix("POPSCAN_").lower() not in Settings.model_fields]
    found += [name for name in names if name.startswith("PREFECT_") and not hasattr(prefect.settings, name)]
    return [f"{name} is no setting" for name in found]


def pod_problems(workload: Workload) -> list[str]:
    """What the "restricted" pod security standard refuses, and what a pod of Popscan needs beyond it."""
    pod, found = workload.pod, []
    security = pod["securityContext"]
    if not (security.get("runAsNonRoot") and security.get("runAsUser") and security.get("seccompProfile")):
        found.append("may run as root, or without a seccomp profile")
    # Service popscan-scheduler would set POPSCAN_SCHEDULER_PORT=tcp://…, which is no port number.
    if pod.get("enableServiceLinks") is not False and "postgres" not in workload.name:
        found.append("gets variables of Services that would be taken for settings")
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        limits, inner = container["resources"], container["securityContext"]
        if inner != {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }:
            found.append(f"container {container['name']} is not locked down")
        if limits["limits"]["memory"] != limits["requests"]["memory"] or "cpu" not in limits["requests"]:
            found.append(f"container {container['name']} asks for other memory than it may use, or for no CPU")
        found += [f"no volume {mount['name']}" for mount in container["volumeMounts"] if mount["name"] not in volumes]
        ports = {port["name"] for port in container.get("ports", [])}
        probes = [container[name] for name in container if name.endswith("Probe") and "httpGet" in container[name]]
        found += [f"no port {probe['httpGet']['port']}" for probe in probes if probe["httpGet"]["port"] not in ports]
    return [f"{workload.name}: {problem}" for problem in found]


def _settings(manifests: list[Manifest]) -> dict[str, str]:
    (found,) = (m for m in manifests if m["kind"] == "ConfigMap" and m["metadata"]["name"] == "popscan-settings")
    data: dict[str, str] = found["data"]
    return data


def _ports(workload: Workload) -> list[dict[str, Any]]:
    return [port for container in workload.pod["containers"] for port in container.get("ports", [])]


def _name(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"
