"""Who was shown a patient can be told: every page and call that names one leaves an event before it answers."""

import pytest

from broker.web.app import create_app
from broker.web.security import FIELD, HEADER
from broker.workflow.audit_port import AuditQuestion
from tests.doors import form_token, signed_in
from tests.integration.hospital_pages import STUDY


@pytest.fixture
def viewer(board):
    return signed_in(create_app(board), "viewer")


def views(board, what="viewed", **about):
    return board.reports.audit(AuditQuestion(actor="viewer", what=what, **about), limit=500)


@pytest.mark.parametrize(
    "path",
    [
        "/worklist",
        "/orders",
        "/orders/1",
        "/images",
        f"/studies/{STUDY}",
        "/messages/1",
        "/messages/1/raw",
        "/messages",
        "/deliveries",
        "/deliveries/1",
        "/worklist/print",
        "/instances/1/preview",
        "/api/worklist",
        "/api/orders",
        "/api/orders/1",
        "/api/orders/1/timeline",
        "/api/orders/1/entry",
        "/api/studies",
        f"/api/studies/{STUDY}/timeline",
        f"/api/studies/{STUDY}/routes",
        "/api/messages",
        "/api/messages/1",
        "/api/deliveries",
        "/api/deliveries/1",
    ],
)
def test_what_names_a_patient_leaves_who_was_shown_which_order_from_where(viewer, board, hospital, path):
    assert viewer.get(path).status_code == 200
    seen = views(board)
    assert seen
    assert views(board, order=hospital["order"]) + views(board, study_instance_uid=STUDY)
    assert {line.address for line in seen} == {"testclient"}
    assert "1.2.826" not in seen[0].details["page"], "the page is named without its ids"
    viewer.get(path)
    assert len(views(board)) == len(seen), "the same look within a minute"


def test_a_search_leaves_its_words_and_what_was_found(viewer, board, hospital):
    secret = form_token(viewer.get("/find").text)
    viewer.post("/find", data={FIELD: secret, "q": "haydn"})
    viewer.post("/api/find", json={"q": "A1"}, headers={HEADER: secret})
    viewer.post("/orders", data={FIELD: secret, "q": "HAYDN2"})
    assert [line.details["text"] for line in views(board, "searched")] == ["HAYDN2", "A1", "haydn"]
    assert views(board, order=1)
    assert views(board, order=2)


@pytest.mark.parametrize(
    "path", ["/orders/999", "/studies/9.9", "/messages/999", "/api/studies/9.9/timeline"]
)
def test_what_is_not_there_was_not_seen(viewer, board, hospital, path):
    viewer.get(path)
    assert views(board) == []


def test_what_cannot_be_written_down_is_not_shown(board, hospital, monkeypatch):
    from broker.errors import DatabaseUnavailable

    viewer = signed_in(create_app(board), "viewer")

    def away(*args, **kwargs):
        raise DatabaseUnavailable

    monkeypatch.setattr(type(board.access.audit), "_write", away)
    answer = viewer.get("/orders/1")
    assert answer.status_code == 503
    assert "HAYDN" not in answer.text
