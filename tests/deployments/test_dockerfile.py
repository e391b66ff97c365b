"""The image is built the way `make setup` installs, and the pods run as the account that it has."""

from __future__ import annotations

import re
import shlex
import tomllib
from fnmatch import fnmatch

from deployments import manifests as rendering
from tests.deployments.conftest import REPOSITORY
from tests.deployments.manifest_checks import operator_makes, workloads
from tests.deployments.test_manifests import LEAST, manifests

IN_THE_IMAGE_ONLY = {"--root-user-action=ignore", "--no-cache-dir", "--no-deps"}


def instructions() -> list[tuple[str, str]]:
    """Instruction and its arguments, comments gone and continued lines joined."""
    text = (REPOSITORY / "deployments" / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in instructions() if name == instruction]


def copied() -> list[str]:
    return [source for copy in arguments("COPY") for source in copy.split()[:-1]]


def test_every_instruction_is_one() -> None:
    assert {name for name, _ in instructions()} <= {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "CMD"}


def test_what_is_copied_is_there_and_is_not_ignored() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    assert set(copied()) == kept
    assert all((REPOSITORY / source).exists() for source in kept)


def test_every_package_is_copied() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= set(copied())
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= set(copied())


def test_it_installs_as_make_setup_does() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (pip,) = re.findall(r"^PIP +:= \$\(BIN\)/python (.*)$", makefile, re.MULTILINE)
    (target,) = re.findall(r"^\t\$\(PIP\) (-e '\.\[\$\(EXTRA\)\]')$", makefile, re.MULTILINE)
    wanted = shlex.split(f"{pip} {target}".replace("$(EXTRA)", "${EXTRA}"))
    commands = [shlex.split(run.split(" && ")[0])[1:] for run in arguments("RUN") if "pip install" in run]
    assert [word for word in commands[0] if word not in IN_THE_IMAGE_ONLY] == wanted
    assert [word for word in commands[1] if word not in IN_THE_IMAGE_ONLY] == [*wanted[:-1], "."]


def test_it_has_the_python_that_the_constraints_are_for() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (version,) = re.findall(r"--python-version (\S+)", makefile)
    assert arguments("FROM") == [f"python:{version}-slim"]


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert arguments("ARG")[0] == "EXTRA=cpu"
    assert {"cpu", "gpu"} <= set(project["project"]["optional-dependencies"])


def test_pods_run_as_its_user_and_find_its_home() -> None:
    rendered = manifests(LEAST)
    ours = [w.pod for w in workloads(rendered + operator_makes(rendered)) if w.name != "popscan-postgres"]
    users = {f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" for pod in ours}
    assert users == set(arguments("USER"))
    assert arguments("ENV") == [f"POPSCAN_HOME={rendering.HOME}"]


def test_an_installed_popscan_has_templates_prefect_yaml_and_dockerfile() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["deployments"]
    folder = REPOSITORY / "deployments"
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    data = [name for name in files if not name.endswith((".py", ".pyc"))]
    assert {"Dockerfile", "prefect.yaml", "kubernetes/shared.j2"} <= set(data)
    assert [name for name in data if not any(fnmatch(name, pattern) for pattern in patterns)] == []
