"""Manifests fit Kubernetes' and the Dask operator's schemas and each other; what does not fit is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.deploy import POOLS
from deployments.manifests import Manifest, render, requirements, to_yaml
from deployments.values import ValuesError, describe_values, load_values
from flows.settings import Settings
from tests.deployments.conftest import REPOSITORY, Popscan
from tests.deployments.manifest_checks import operator_makes, problems, workloads

LEAST = ["image=registry.example/popscan:0.1.0", "store=s3://bucket/prefix"]

EVERYTHING = [
    *LEAST,
    "namespace=screening",
    "pull_secret=registry",
    "s3={endpoint: 'https://s3.example', secret: bucket}",
    "database={postgres: null, secret: ledger}",
    "dask.gpu.image=registry.example/popscan:0.1.0-gpu",
    "dask.threads=8",
    "home.existing=shared",
    "inbox.existing=archive",
    "settings={window: 256, timezone: Europe/Zurich}",
]


def manifests(assignments: list[str]) -> list[Manifest]:
    return [manifest for part in render(load_values(None, assignments)).values() for manifest in part]


def find(rendered: list[Manifest], kind: str, name: str) -> dict[str, Any]:
    (found,) = (m for m in rendered if m["kind"] == kind and m["metadata"]["name"] == name)
    return found


def claim_of_the_place(name: str) -> Manifest:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": name, "namespace": "screening"}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize("assignments", [LEAST, EVERYTHING, [*LEAST, "dask.gpu={image: a, runtime_class: null}"]])
def test_a_cluster_would_take_what_is_rendered(assignments: list[str]) -> None:
    values = load_values(None, assignments)
    rendered = manifests(assignments)
    there = [claim_of_the_place(claim.existing) for claim in (values.home, values.inbox) if claim.existing]
    assert problems([*rendered, *there], requirements(values)) == []
    assert list(yaml.safe_load_all(to_yaml(rendered))) == rendered


def _container(manifest: Manifest) -> dict[str, Any]:
    return manifest["spec"]["template"]["spec"]["containers"][0]


def _rename(mapping: dict[str, Any], old: str, new: str) -> None:
    mapping[new] = mapping.pop(old)


MISTAKES: dict[str, tuple[str, str, Callable[[dict[str, Any]], object]]] = {
    "'imagee' was unexpected": ("Deployment", "popscan-prefect", lambda m: _rename(_container(m), "image", "imagee")),
    "'name' is a required property": (
        "DaskCluster",
        "popscan",
        lambda m: m["spec"]["worker"]["spec"]["containers"][0].pop("name"),
    ),
    "('replica' was unexpected)": (
        "DaskCluster",
        "popscan",
        lambda m: _rename(m["spec"]["worker"], "replicas", "replica"),
    ),
    "is not of type 'integer'": ("DaskAutoscaler", "popscan", lambda m: m["spec"].update(minimum="1")),
    "no name for a Kubernetes object": ("Job", "popscan-deploy", lambda m: m["metadata"].update(name="popscan deploy")),
    "'host'": ("Service", "popscan-prefect", lambda m: m["spec"]["ports"][0].update(host="a")),
    "selects no pod": ("Service", "popscan-prefect", lambda m: m["spec"]["selector"].update(extra="label")),
    "PodDisruptionBudget popscan-dask-workers selects no pod": (
        "PodDisruptionBudget",
        "popscan-dask-workers",
        lambda m: m["spec"]["selector"]["matchLabels"].update({"dask.org/component": "w"}),
    ),
    "does not select its own pods": (
        "Deployment",
        "popscan-cpu",
        lambda m: m["spec"]["template"]["metadata"].update(labels={"a": "b"}),
    ),
    "no container has port htp": (
        "Service",
        "popscan-prefect",
        lambda m: m["spec"]["ports"][0].update(targetPort="htp"),
    ),
    "no Service answers at popscan-prefect:4200": (
        "Service",
        "popscan-prefect",
        lambda m: m["spec"]["ports"][0].update(port=80),
    ),
    "no Service answers at popscan-scheduler:8786": (
        "DaskCluster",
        "popscan",
        lambda m: m["spec"]["scheduler"]["service"]["ports"][0].update(port=8780),
    ),
    "there is no ConfigMap popscan-setting": (
        "Job",
        "popscan-deploy",
        lambda m: _container(m)["envFrom"][0]["configMapRef"].update(name="popscan-setting"),
    ),
    "there is no Secret s3": (
        "Deployment",
        "popscan-gpu",
        lambda m: _container(m)["envFrom"][1]["secretRef"].update(name="s3"),
    ),
    "has no key url": (
        "Deployment",
        "popscan-watcher",
        lambda m: _container(m)["env"][0]["valueFrom"]["secretKeyRef"].update(key="url"),
    ),
    "there is no PersistentVolumeClaim popscan-home": (
        "PersistentVolumeClaim",
        "popscan-home",
        lambda m: m["metadata"].update(name="h"),
    ),
    "there is no ServiceAccount popscan": ("ServiceAccount", "popscan", lambda m: m["metadata"].update(name="default")),
    "there is no DaskCluster dask": ("DaskAutoscaler", "popscan", lambda m: m["spec"].update(cluster="dask")),
    "namespaces:": ("Job", "popscan-deploy", lambda m: m["metadata"].update(namespace="default")),
    "POPSCAN_STROE is no setting": (
        "ConfigMap",
        "popscan-settings",
        lambda m: _rename(m["data"], "POPSCAN_STORE", "POPSCAN_STROE"),
    ),
    "PREFECT_SERVER_UI_URL is no setting": (
        "ConfigMap",
        "popscan-prefect",
        lambda m: _rename(m["data"], "PREFECT_SERVER_UI_API_URL", "PREFECT_SERVER_UI_URL"),
    ),
    "may run as root": (
        "Deployment",
        "popscan-ingest",
        lambda m: m["spec"]["template"]["spec"]["securityContext"].pop("runAsNonRoot"),
    ),
    "taken for settings": (
        "Deployment",
        "popscan-ingest",
        lambda m: m["spec"]["template"]["spec"].pop("enableServiceLinks"),
    ),
    "not locked down": (
        "DaskCluster",
        "popscan",
        lambda m: m["spec"]["worker"]["spec"]["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    "asks for other memory": (
        "StatefulSet",
        "popscan-postgres",
        lambda m: _container(m)["resources"]["limits"].update(memory="1Gi"),
    ),
    "no volume home": ("Deployment", "popscan-cpu", lambda m: m["spec"]["template"]["spec"]["volumes"].pop()),
    "no port helth": (
        "Deployment",
        "popscan-cpu",
        lambda m: _container(m)["livenessProbe"]["httpGet"].update(port="helth"),
    ),
}


@pytest.mark.parametrize("complaint", MISTAKES)
def test_a_mistake_is_refused(complaint: str) -> None:
    kind, name, make_mistake = MISTAKES[complaint]
    rendered = copy.deepcopy(manifests(LEAST))
    (wrong,) = (m for m in rendered if m["kind"] == kind and m["metadata"]["name"].startswith(name))
    make_mistake(wrong)
    assert complaint in "\n".join(problems(rendered, requirements(load_values(None, LEAST))))


def test_settings_arrive_as_they_were_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in find(manifests(EVERYTHING), "ConfigMap", "popscan-settings")["data"].items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.window, settings.timezone) == (256, "Europe/Zurich")
    assert (settings.store, str(settings.home), str(settings.inbox)) == (
        "s3://bucket/prefix",
        "/var/lib/popscan",
        "/inbox",
    )


def test_every_pool_has_workers_and_only_ingest_sees_the_inbox() -> None:
    containers = {w.name: w.pod["containers"][0] for w in workloads(manifests(LEAST))}
    assert {containers[pool]["args"][1] for pool in POOLS} == set(POOLS)
    seeing = {
        n for n, c in containers.items() if any(m["name"] == "inbox" and m["readOnly"] for m in c["volumeMounts"])
    }
    assert seeing == {"popscan-ingest", "popscan-watcher"}


def test_a_gpu_worker_has_one_gpu_and_takes_three_cases_at_once() -> None:
    (pod,) = (w.pod for w in workloads(operator_makes(manifests(EVERYTHING))) if "worker" in w.name)
    (container,) = pod["containers"]
    assert container["command"] == ["dask", "cuda", "worker"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["args"][container["args"].index("--resources") + 1] == "GPU=3"
    assert pod["runtimeClassName"] == "nvidia"


def test_no_secret_is_written_down() -> None:
    text = to_yaml(manifests(EVERYTHING))
    assert "kind: Secret" not in text
    assert "postgresql" not in text


def test_only_what_pods_read_starts_them_anew() -> None:
    def template(assignments: list[str]) -> dict[str, Any]:
        return find(manifests(assignments), "Deployment", "popscan-cpu")["spec"]["template"]

    assert template([*LEAST, "dask.maximum=99"]) == template(LEAST)
    assert template([*LEAST, "settings.window=9"]) != template(LEAST)


def test_other_values_deploy_again() -> None:
    def jobs(assignments: list[str]) -> list[str]:
        return [m["metadata"]["name"] for m in manifests(assignments) if m["kind"] == "Job"]

    assert jobs(LEAST) == jobs(LEAST) != jobs([*LEAST, "settings.screen_cron=0 3 * * *"])


def test_a_value_stays_in_its_place() -> None:
    nasty = 'a"\n    privileged: true # {{ 1 }}'
    rendered = render(load_values(None, [*LEAST, f"settings.timezone={nasty!r}"]))
    data = find(rendered["10-settings.yaml"], "ConfigMap", "popscan-settings")["data"]
    assert data["POPSCAN_TIMEZONE"] == yaml.safe_load(repr(nasty))


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["store=s3://b"], r"image is missing \(Popscan image"),
        ([*LEAST, "imag=a"], r"unknown value 'imag'; allowed in values: image, store, namespace"),
        ([*LEAST, "dask.workers=3"], r"unknown value 'dask.workers'; allowed in dask: .*minimum, maximum, gpu"),
        ([*LEAST, "dask.gpu.runtime_class=a"], r"dask.gpu.image is missing"),
        ([*LEAST, "dask.minimum=9"], r"maximum 8 is below minimum 9"),
        ([*LEAST, "pools.gpu.replicas=none"], r"pools.gpu.replicas = 'none' \(Workers.\)"),
        ([*LEAST, "pools.cpu.resources.memory=8GB"], r"pools.cpu.resources.memory = '8GB'.*match pattern"),
        ([*LEAST, "namespace=Popscan"], r"namespace = 'Popscan'"),
        (["image=a", "store=/data"], r"store = '/data' \(Volumes and pictures, s3://bucket/prefix.\)"),
        ([*LEAST, "settings.windw=3"], r"'windw' cannot be set here; allowed: .*window"),
        ([*LEAST, "settings.ledger=sqlite"], r"'ledger' cannot be set here"),
        ([*LEAST, "settings.window=0"], r"window = 0: .*greater than or equal to 1; Most cases in flight"),
        ([*LEAST, "dask"], r"'dask' is not key=value"),
        ([*LEAST, "image.tag=1"], r"image.tag: image is 'registry.example/popscan:0.1.0' and has no parts"),
        ([*LEAST, "dask={"], r"dask: '{' is not YAML"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(assignments: list[str], message: str) -> None:
    with pytest.raises(ValuesError, match=message):
        load_values(None, assignments)


def test_numbers_may_be_written_as_numbers() -> None:
    assert load_values(None, [*LEAST, "dask.scheduler.cpu=2"]).dask.scheduler.cpu == "2"


def test_every_described_value_can_be_set_to_its_default() -> None:
    described = {key: default for key, default, _ in describe_values() if default not in ("required", "as follows")}
    described = {key: default for key, default in described.items() if not key.startswith("dask.gpu.")}
    assert load_values(None, [*LEAST, *(f"{key}={default}" for key, default in described.items())]) == load_values(
        None, LEAST
    )
    assert {"namespace", "dask.maximum", "database.postgres.size", "settings"} <= set(described)


def test_the_command_writes_a_file_per_part_and_removes_what_is_gone(popscan: Popscan, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("image: registry.example/popscan:0.1.0\nstore: s3://bucket/prefix\n")
    written = popscan("manifests", "--values", values, "--out", tmp_path / "out")
    assert (written.returncode, written.stdout) == (0, "")
    assert "Secret popscan-database with ledger-url, prefect-url, password" in written.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    documents = [list(yaml.safe_load_all((tmp_path / "out" / name).read_text())) for name in names]
    assert [manifest for part in documents for manifest in part] == manifests(LEAST)
    popscan("manifests", "--values", values, "--set", "database.postgres=null", "--out", tmp_path / "out")
    assert set(names) - {path.name for path in (tmp_path / "out").iterdir()} == {"30-postgres.yaml"}


def test_the_command_refuses_wrong_values(popscan: Popscan, tmp_path: Path) -> None:
    ran = popscan("manifests", "--set", "imag=a")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "unknown value 'imag'" in ran.stderr
    assert "no such file" in popscan("manifests", "--values", tmp_path / "none.yaml").stderr.lower()


def test_the_page_on_deploying_names_every_secret_and_its_keys() -> None:
    page = (REPOSITORY / "docs" / "deploying.md").read_text(encoding="utf-8")
    for secret, keys in requirements(load_values(None, LEAST)).items():
        assert secret in page
        assert all(key in page for key in keys)
