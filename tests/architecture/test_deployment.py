"""docker-compose.yml and Dockerfile say what the product understands."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from broker.cli import app
from broker.settings import RESERVED_VARIABLES, Site

ROOT = Path(__file__).parents[2]
OURS = ("migrate", "hl7", "dicom", "worker", "sweep", "web")


@pytest.fixture(scope="module")
def compose():
    return YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text())


def tool(name):
    return shutil.which(name, path=str(Path(sys.executable).parent))


def test_compose_file_obeys_the_compose_specification():
    found = subprocess.run(
        [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


def test_dockerfile_passes_hadolint():
    found = subprocess.run(
        [tool("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


def setting_exists(variable):
    base = variable.removesuffix("_FILE")
    if base in RESERVED_VARIABLES:
        return True
    model = Site
    for part in base.removeprefix("BROKER_").lower().split("__"):
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return False
        model = fields[part].annotation
        if not hasattr(model, "model_fields"):
            model = next(
                (arg for arg in getattr(model, "__args__", ()) if hasattr(arg, "model_fields")), model
            )
    return True


@pytest.mark.parametrize("service", OURS)
def test_every_variable_is_a_setting(compose, service):
    unknown = [name for name in compose["services"][service]["environment"] if not setting_exists(name)]
    assert unknown == []


def test_a_variable_that_is_no_setting_is_noticed():
    assert not setting_exists("BROKER_LISTEN__DICOM__PROT")


@pytest.mark.parametrize("service", [name for name in OURS if name != "worker"])
def test_every_command_exists(compose, service):
    command = compose["services"][service]["command"]
    answer = CliRunner().invoke(app, [*command, "--help"])
    assert answer.exit_code == 0, answer.output


@pytest.mark.parametrize("service", [name for name in OURS if name != "migrate"])
def test_every_health_check_is_a_command_of_ours(compose, service):
    kind, program, *arguments = compose["services"][service]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "broker")
    assert arguments == ["health", "--role", service]


def test_the_worker_is_celerys_own_command(compose):
    assert compose["services"]["worker"]["entrypoint"] == ["celery", "-A", "workers.app", "worker"]


@pytest.mark.parametrize("service", OURS)
def test_ours_run_without_root_and_on_a_read_only_file_system(compose, service):
    found = compose["services"][service]
    assert found["user"] == "10001:10001"
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in found["security_opt"]


def test_the_pages_are_published_on_the_hosts_loopback_only(compose):
    assert all(port.startswith("127.0.0.1:") for port in compose["services"]["web"]["ports"])


def test_no_secret_stands_in_the_file(compose):
    for service in compose["services"].values():
        for name, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|DATABASE_URL", name):
                assert name.endswith("_FILE"), name
                assert str(value).startswith("/run/secrets/")


def test_everything_that_is_waited_for_has_a_health_check(compose):
    services = compose["services"]
    for name, service in services.items():
        for needed, how in (service.get("depends_on") or {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[needed], f"{name} waits for {needed}"


def test_published_ports_are_unique(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == len(set(ports))
