"""infra/compose.yaml and infra/Dockerfile, read: no Docker runs here, so what can be known without is checked.

Every image is pinned, every published port is on loopback, every service is healthy by a check of its own, every name
in an environment is one that settings.py or a vendor documents, and no secret stands in a file.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import settings
from pipelines.errors import BadConfig
from pipelines.settings import Settings, checkout

INFRA = checkout() / "infra"
COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"buckets", "migrate"}
VENDORS = {
    "postgres": ("POSTGRES_",),
    "minio": ("MINIO_ROOT_",),
    "buckets": ("MINIO_ROOT_",),
    "etcd": ("ETCD_",),
    "milvus": ("ETCD_", "MINIO_"),
    "spark-master": ("SPARK_",),
    "spark-worker": ("SPARK_", "AWS_"),
    "mlflow": ("MLFLOW_", "AWS_"),
}
AIRFLOW = ("AIRFLOW__", "AIRFLOW_HOME", "AWS_", "SPARK_LOCAL_IP")
"""Prefixes of the variables that a service's own vendor reads."""
INTERNAL = {"ASSAY_OUTER"}  # set by one process for the next, never by a person
DOCUMENTED = set(re.findall(r"\b(?:ASSAY|MLFLOW)_[A-Z_]+\b", settings.__doc__ or ""))


def test_all_parts_are_there() -> None:
    assert {"postgres", "minio", "etcd", "milvus", "spark-master", "spark-worker", "mlflow"} <= set(SERVICES)
    assert {"airflow", "scheduler", "dag-processor", "triggerer"} <= set(SERVICES)
    assert SERVICES["scheduler"]["environment"]["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_and_ports_are_on_loopback(name: str) -> None:
    service = SERVICES[name]
    tag = service["image"].rpartition(":")[2]
    assert re.fullmatch(r"v?\d+(\.\d+)+(-\w+)?|RELEASE\.[\dTZ-]+", tag), service["image"]
    for port in service.get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port
    assert not service.keys() & {"privileged", "network_mode", "container_name", "security_opt"}


@pytest.mark.parametrize("name", SERVICES)
def test_each_has_a_health_check_and_waits_for_what_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert ("healthcheck" in service) != (name in ONE_SHOT)
    for other, how in service.get("depends_on", {}).items():
        ends = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
        assert how == {"condition": ends}, (name, other)


@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_is_one_that_somebody_documents(name: str) -> None:
    for variable in SERVICES[name].get("environment", {}):
        known = variable in DOCUMENTED or variable.startswith(VENDORS.get(name, AIRFLOW))
        assert known, f"{name}: {variable}"


def test_every_variable_that_the_code_reads_is_documented() -> None:
    code = [file.read_text() for folder in ("pipelines", "infra") for file in (checkout() / folder).rglob("*.py")]
    read = {name for text in code for name in re.findall(r"\"(ASSAY_[A-Z_]+)\"", text)}
    assert len(read) >= 6
    assert read <= DOCUMENTED | INTERNAL


def test_secrets_come_from_the_environment_file_and_all_are_named_in_its_example() -> None:
    text = (INFRA / "compose.yaml").read_text()
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD(?!S)|SECRET|_KEY$", variable):
                assert re.fullmatch(r"\$\{[A-Z_]+:\?set it in infra/\.env\}", value), variable
    wanted = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", text))
    example = dict(re.findall(r"^([A-Z_]+)=(.*)$", (INFRA / ".env.example").read_text(), re.MULTILINE))
    assert set(example) == wanted
    assert set(example.values()) == {""}
    assert "infra/.env" in (checkout() / ".gitignore").read_text().splitlines()


def test_the_image_is_locked_compiled_once_and_runs_as_nobody_special() -> None:
    text = (INFRA / "Dockerfile").read_text()
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    steps = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    names = [step[0] for step in steps]
    assert set(names) <= {"FROM", "RUN", "WORKDIR", "ARG", "COPY", "USER", "ENV", "VOLUME", "CMD"}
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", steps[0][1])
    assert names.count("USER") == 1
    assert steps[names.index("USER")][1] not in ("root", "0")
    assert "RUN" not in names[names.index("USER") :]
    runs = [shlex.split(step[1]) for step in steps if step[0] == "RUN"]
    assert any("-r" in words and words[words.index("-r") + 1] == "requirements.lock" for words in runs)
    installs = [word for words in runs for word in words if "==" in word]
    assert installs  # what the lock does not hold is pinned here
    packages = (checkout() / "Makefile").read_text()
    assert all(word in packages for word in installs if not word.startswith("uv=="))
    copied = [step[1].split()[0] for step in steps if step[0] == "COPY"]
    assert all((checkout() / source).exists() for source in copied)
    assert {".git", ".venv", "infra/.env"} <= set((checkout() / ".dockerignore").read_text().split())


def test_the_files_it_mounts_and_builds_from_exist() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (INFRA / source).is_file(), source
    build = SERVICES["spark-master"]["build"]
    assert (INFRA / build["context"] / build["dockerfile"]).resolve() == (INFRA / "Dockerfile").resolve()


def test_places_are_absolute_for_every_process_and_other_schemes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASSAY_HOME", "home")
    for name in ("ASSAY_OBJECTS_URI", "ASSAY_DVC_REMOTE_URI"):
        monkeypatch.delenv(name, raising=False)
    found = Settings.from_env()
    assert found.dvc_remote("x") == str(tmp_path / "home" / "remotes" / "x")
    monkeypatch.setenv("ASSAY_OBJECTS_URI", "s3://bucket/a/")
    assert Settings.from_env().dvc_remote("x") == "s3://bucket/a/dvc/x"
    monkeypatch.setenv("ASSAY_OBJECTS_URI", "o")
    monkeypatch.setenv("ASSAY_DVC_REMOTE_URI", "r")
    found = Settings.from_env()
    assert (found.objects_uri, found.dvc_remote("x")) == (str(tmp_path / "o"), str(tmp_path / "r" / "x"))
    monkeypatch.setenv("ASSAY_DVC_REMOTE_URI", "gs://r")
    with pytest.raises(BadConfig, match=r"ASSAY_DVC_REMOTE_URI is 'gs://r'; it is a folder or s3://bucket/prefix"):
        Settings.from_env().dvc_remote("x")
