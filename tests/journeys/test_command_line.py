"""The command line beside a running broker: check, back up, restore, print, and every list as JSON."""

import json
import os
import subprocess

import hl7.client
import pytest
from sqlalchemy.engine import make_url

from tests.broker_process import BROKER, RunningBroker, wait_until
from tests.journeys.hl7_orders import orm
from tests.journeys.images import an_image, push, study
from tests.peers import findscu, storescp
from tests.postgres import administer

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def filled(broker, folder):
    with hl7.client.MLLPClient("127.0.0.1", broker.hl7) as client:
        client.send_message(orm(accession="C1", patient_id="PC1", name="CLI^TEST"))
    path, ds = an_image(folder, Modality="XA", PatientID="PC1")
    push(broker, path, an_image(folder, Modality="MR")[0])
    wait_until(lambda: broker.api("deliveries?destination=archive"))
    return broker, ds


@pytest.fixture
def empty_services(services, request):
    """The same kind of database and Redis, another and empty database."""
    if not services:
        yield {}
        return
    postgres = request.getfixturevalue("postgres")
    name = f"restored_{os.getpid()}"
    administer(postgres, f"CREATE DATABASE {name}")
    url = make_url(postgres).set(database=name).render_as_string(hide_password=False)
    yield {**services, "BROKER_DATABASE_URL": url}
    administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def test_every_list_answers_json_with_the_documented_keys(filled):
    broker, ds = filled
    keys = {
        "orders": {"order_id", "accession_number", "patient_id", "status"},
        "worklist": {
            "sps_id",
            "accession_number",
            "patient_name",
            "modality",
            "station_ae_titles",
            "start",
            "status",
        },
        "images": {"study_instance_uid", "modality", "instances", "state"},
        "messages": {"message_control_id", "outcome", "problems"},
        "deliveries": {
            *("id", "destination", "state", "attempt", "due_at", "reason", "study_instance_uid", "items"),
            "delivered",
        },
    }
    for noun, wanted in keys.items():
        rows = broker.json(noun, "list")
        assert rows, noun
        assert wanted <= rows[0].keys(), noun
    assert study(broker, ds.StudyInstanceUID)["instances"] == 1
    listed = {row["destination"] for row in broker.json("destinations", "list")}
    assert listed == set(broker.site["destinations"]), "those that nothing went to are shown, too"


def test_a_backup_taken_beside_a_running_broker_is_a_whole_broker(filled, empty_services, tmp_path):
    broker, ds = filled
    broker.cli("backup", tmp_path / "backup")
    other = RunningBroker(tmp_path, json.loads(json.dumps(broker.site)), empty_services)
    other.cli("restore", tmp_path / "backup")
    try:
        other.start()
        assert [e["0010,0010"] for e in findscu(other.dicom, "0008,0050=C1", "0010,0010")] == ["CLI^TEST"]
        assert study(other, ds.StudyInstanceUID)["instances"] == 1
        # Restored files are real ones: the archive gets the image when somebody pushes it again.
        assert list((other.data_dir / "images").rglob("*.dcm"))
    finally:
        assert other.stop() == 0


def test_a_restore_refuses_a_place_that_is_not_empty(filled, tmp_path):
    broker, _ = filled
    broker.cli("backup", tmp_path / "backup")
    done = subprocess.run(
        [BROKER, "restore", tmp_path / "backup", "-c", broker.config, "-d", broker.data_dir],
        capture_output=True,
        text=True,
        check=False,
        env=broker.env,
    )
    assert done.returncode == 1
    assert "broker: " in done.stderr
    assert "Traceback" not in done.stderr


def test_config_check_names_every_problem_and_fails(broker, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("listen:\n  dicom: { prot: 1 }\nroutes:\n  - { name: r, send: [nowhere] }\n")
    done = subprocess.run([BROKER, "config", "check", bad], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{bad}:2:12: listen.dicom.prot: is not a known key" in done.stdout
    assert broker.cli("config", "check").strip().endswith("routes")


def test_serve_with_a_bad_site_file_says_what_is_wrong_and_ends(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("listne: {}\n")
    done = subprocess.run(
        [BROKER, "serve", "-c", bad, "-d", tmp_path / "data"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "1:1: listne: is not a known key" in done.stderr
    assert not (tmp_path / "data/broker.sqlite3").exists()


def test_a_destination_that_does_not_answer_fails_the_check(broker, ports, folder):
    done = subprocess.run(
        [BROKER, "destinations", "check", "cad", "-c", broker.config, "-d", broker.data_dir],
        capture_output=True,
        text=True,
        check=False,
        env=broker.env,
    )
    assert done.returncode == 1
    with storescp(folder / "cad-check", ports["cad"], ae_title="CAD"):
        broker.cli("destinations", "check", "cad")
