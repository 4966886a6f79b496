"""A process takes the file handles its limits need, and says when it may not."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest
import structlog
from structlog.testing import capture_logs

from broker import file_handles
from broker.file_handles import ENOUGH, OF_A_PROCESS, handles_needed, take_handles
from broker.settings import DicomLimits, Hl7Limits, Limits

SITE = Limits(
    dicom=DicomLimits(max_associations=1000, max_unassociated=16), hl7=Hl7Limits(max_connections=700)
)
INFINITY = resource.RLIM_INFINITY


@pytest.fixture
def handles(monkeypatch):
    """Stand for the kernel's limits: [soft, hard]."""
    limits = [1024, 4096]
    # Whatever ran before in this process may have set up logging, and told its loggers to remember it.
    before = structlog.get_config()
    structlog.reset_defaults()
    monkeypatch.setattr(file_handles, "log", structlog.get_logger())

    def set_limit(_, both):
        assert both[0] <= limits[1] or limits[1] == INFINITY
        limits[:] = both

    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    yield limits
    structlog.configure(**before)


def test_a_listener_needs_a_handle_for_each_connection_and_each_file_under_way():
    assert handles_needed("hl7", SITE) == OF_A_PROCESS + 700
    assert handles_needed("dicom", SITE) == handles_needed("storage", SITE) == OF_A_PROCESS + 2016
    assert handles_needed("sweep", SITE) == OF_A_PROCESS


@pytest.mark.parametrize(
    ("soft", "hard", "taken"),
    [
        (1024, 4096, 4096),
        (1024, 1 << 20, ENOUGH),
        (1024, INFINITY, ENOUGH),
        (1 << 20, 1 << 20, 1 << 20),
        (INFINITY, INFINITY, INFINITY),
    ],
)
def test_the_soft_limit_goes_to_the_hard_one_within_reason_and_never_down(handles, soft, hard, taken):
    handles[:] = [soft, hard]
    with capture_logs() as lines:
        assert take_handles("dicom", SITE) == taken
    assert handles == [taken, hard]
    told = [line["event"] for line in lines if "file handles" in line["event"]]
    assert told == (["file handles raised"] if taken != soft else [])


def test_more_than_enough_is_taken_when_the_site_file_needs_it(handles):
    handles[:] = [1024, INFINITY]
    many = Limits(dicom=DicomLimits(max_associations=50_000))
    assert take_handles("dicom", many) == handles_needed("dicom", many) > ENOUGH


def test_a_hard_limit_below_the_needs_is_told_with_its_remedy(handles):
    handles[:] = [256, 1024]
    with capture_logs() as lines:
        take_handles("hl7", SITE)
        take_handles("dicom", SITE)
    (warning,) = [line for line in lines if line["event"].startswith("fewer file handles")]
    assert (warning["handles"], warning["needed"]) == (1024, handles_needed("dicom", SITE))
    assert "LimitNOFILE" in warning["remedy"]


@pytest.mark.parametrize("command", [["serve"], ["run", "hl7"]])
def test_every_command_that_serves_takes_them(command, tmp_path):
    """The port cannot be had, so that it ends right after."""
    (tmp_path / "broker.yaml").write_text("listen: { hl7: { host: 192.0.2.1 } }\n")
    place = ["--config", "broker.yaml", "--data-dir", "data"]

    def broker(*arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "broker", *arguments, *place],
            check=False,
            cwd=tmp_path,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 512)),
            capture_output=True,
            text=True,
            timeout=120,
        )
        return ended.stdout + ended.stderr

    said = broker("db", "migrate") + broker(*command)
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    raised = [line for line in lines if line.get("event") == "file handles raised"]
    assert [(line["before"], line["handles"]) for line in raised] == [(128, 512)], said
