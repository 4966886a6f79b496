"""The JSON twin of the pages: it lists, tells and acts as they do."""

import json

import pytest

from broker.web.security import HEADER
from tests.integration.hospital_pages import STUDY, token


def test_the_api_acts_with_the_token_in_a_header(client, hospital):
    sent = {HEADER: token(client)}
    answer = client.post(f"/api/deliveries/{hospital['dead']}/retry", headers=sent)
    assert answer.status_code == 200
    assert answer.json()["state"] == "PENDING"
    again = client.post(f"/api/deliveries/{hospital['done']}/cancel", headers=sent)
    assert again.status_code == 409
    assert again.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("worklist", {"sps_id", "accession_number", "patient_name", "modality", "start", "status"}),
        ("orders", {"order_id", "accession_number", "patient_id", "status"}),
        ("messages", {"message_control_id", "outcome", "problems"}),
        ("studies", {"study_instance_uid", "modality", "instances", "state"}),
        ("deliveries", {"id", "destination", "state", "attempt", "due_at", "reason", "items", "delivered"}),
        ("sources", {"kind", "name", "peer", "last_at", "silence", "usual_gap", "reason"}),
        ("destinations", {"destination", "state", "waiting", "oldest", "dead"}),
        (f"studies/{STUDY}/timeline", {"at", "what", "actor", "details"}),
        (f"studies/{STUDY}/routes", {"route", "matched", "clauses"}),
        ("orders/1/timeline", {"at", "what"}),
    ],
)
def test_every_list_is_json_too(client, hospital, path, keys):
    rows = client.get(f"/api/{path}").json()
    assert rows
    assert keys <= set(rows[0])


def test_the_overview_is_json_too(client, hospital):
    body = client.get("/api/overview").json()
    assert {trouble["word"] for trouble in body["troubles"]} >= {"dead", "parked", "incomplete"}
    (archive,) = body["destinations"]
    assert (archive["destination"], archive["waiting"], archive["dead"]) == ("archive", 1, 1)
    assert body["sources"][0]["silence"] == "unknown"
    assert body["resources"][0]["name"] == "Disk"


def test_every_operation_has_a_name_of_its_own_in_openapi(client):
    paths = client.get("/openapi.json").json()["paths"]
    names = [operation["operationId"] for methods in paths.values() for operation in methods.values()]
    assert len(names) == len(set(names))
    assert json.dumps(paths)
    assert "/deliveries" not in paths, "pages are no API"


def test_one_order_and_one_delivery_are_json_too(client, hospital):
    assert client.get(f"/api/orders/{hospital['order']}").json()["accession_number"] == "A1"
    assert client.get(f"/api/deliveries/{hospital['dead']}").json()["state"] == "DEAD"
    for path in ("orders", "deliveries"):
        answer = client.get(f"/api/{path}/999")
        assert (answer.status_code, answer.json()["status"]) == (404, 404)
