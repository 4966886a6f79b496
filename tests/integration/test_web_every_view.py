"""Every route either shows nothing of a patient, or leaves one event for each object: who was shown whom.

The hospital below has one patient, known by canaries: name, id, birth date, accession number, UIDs. A route that answers
one of them and is not said here to do so fails; so does one that is said to and leaves no event, or more than one for the same object.
"""

import json
import re
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.dicom.objects.header import known_keyword
from broker.domain.delivery import DeliveryState
from broker.domain.events import Event, EventName, Subject
from broker.domain.rules import compile_routes
from broker.web.access import served_routes
from broker.web.app import create_app
from broker.web.security import FIELD, HEADER
from broker.workflow.audit_port import AuditQuestion
from broker.workflow.devices import KnownDevice
from broker.workflow.reports_port import Page
from tests.builders import (
    NOW,
    a_delivery,
    a_message,
    a_message_delivery,
    a_patient,
    a_stored_entry,
    an_instance,
)
from tests.doors import form_token, signed_in
from tests.integration.hospital_pages import WHY

STUDY = "1.2.826.0.77.4711"
SOP = "1.2.826.0.78.4712"
NAMES = ("ZZCANARY", "XYLOPHONIA", "18970409", "1897-04-09")
RULES = [{"name": "everything", "when": {"Modality": "CT"}, "send": ["archive"]}]
LEADS = ("/preview", "/sights", "/messages", "/items", "/timeline")
"""What names no canary but is of a patient: a picture, clauses, rows that lead to an order."""
CANARIES = ("ZZCANARY", "BIRDID7", "18970409", "1897-04-09", "CANACC7", STUDY, SOP)
RAW = b"MSH|^~\\&|RIS|H|B|H|20261121||ORM^O01|M1|P|2.5\rPID|1||BIRDID7||ZZCANARY^XYLOPHONIA||18970409\r"

SHOWS = {
    "GET /worklist?date=all": {},
    "POST /worklist": {"q": "ZZCANARY"},
    "GET /worklist/print?date=2026-11-21": {},
    "GET /orders": {},
    "POST /orders": {"q": "ZZCANARY"},
    "GET /orders/1": {},
    "POST /find": {"q": "CANACC"},
    "GET /messages": {},
    "GET /messages/1": {},
    "GET /messages/1/raw": {},
    "GET /messages/out/3": {},
    "GET /images": {},
    "POST /images": {"q": "BIRDID7"},
    f"GET /studies/{STUDY}": {},
    "GET /instances/1/preview": {},
    "GET /deliveries": {},
    "GET /deliveries/1": {},
    f"GET /deliveries/review?do=retry&study={STUDY}": {},
    "GET /operations/1": {},
    "GET /destinations/archive": {},
    "GET /devices/CT1": {},
    "POST /devices/CT1/would": {"order": "CANACC7"},
    "GET /routes": {},
    "POST /api/find": {"q": "CANACC7"},
    "GET /api/worklist": {},
    "POST /api/worklist/search": {"q": "ZZCANARY"},
    "GET /api/orders": {},
    "POST /api/orders/search": {"q": "ZZCANARY"},
    "GET /api/orders/1": {},
    "GET /api/orders/1/timeline": {},
    "GET /api/orders/1/entry": {},
    "GET /api/orders/1/sights?device=CT1": {},
    "GET /api/messages": {},
    "GET /api/messages/sent": {},
    "GET /api/messages/1": {},
    "GET /api/studies": {},
    f"GET /api/studies/{STUDY}": {},
    "POST /api/studies/search": {"q": "BIRDID7"},
    f"GET /api/studies/{STUDY}/timeline": {},
    f"GET /api/studies/{STUDY}/routes": {},
    f"GET /api/studies/{STUDY}/routes/now": {},
    "POST /api/deliveries/preview": {"act": "retry", "study": STUDY},
    "POST /api/operations": {"act": "retry", "study": STUDY},
    "GET /api/operations": {},
    "GET /api/operations/1": {},
    "POST /api/operations/1/stop": {},
    "GET /api/deliveries": {},
    "GET /api/deliveries/1": {},
    "GET /api/deliveries/1/timeline": {},
    "GET /api/deliveries/1/items": {},
    "POST /api/deliveries/4/release": {},
    "GET /api/destinations/archive": {},
    "GET /api/devices/CT1/worklist": {},
    "GET /api/instances/1/preview": {},
    "GET /api/messages/1/raw": {},
    "GET /api/messages/sent/3": {},
    "POST /api/deliveries/1/retry": {},
    "POST /api/deliveries/2/cancel": {},
    "GET /api/routes": {},
}
"""What shows a patient: how it is asked -> what is sent."""

TAKEN_AWAY = {
    "POST /api/audit/search",
    "POST /api/audit/verify",
    "GET /admin/audit",
    "POST /admin/audit",
    "POST /admin/audit/verify",
    "POST /admin/audit/download",
    "POST /admin/captures/{capture}/pcap",
    "GET /api/captures/{capture}/pcap",
}
"""The trail itself, and files: an event of their own says who read or took away what."""

SHOWS_NOBODY = {
    "GET /admin/certificates", "GET /admin/configuration", "GET /admin/configuration/diff",
    "GET /admin/configuration/{configuration_id}", "GET /api/certificates", "GET /api/configuration",
    "GET /api/configuration/diff", "GET /api/configuration/history",
    "GET /api/configuration/versions/{configuration_id}", "POST /admin/configuration",
    "POST /admin/configuration/check", "POST /admin/configuration/reload",
    "POST /admin/configuration/{configuration_id}/rollback", "POST /api/configuration",
    "POST /api/configuration/check", "POST /api/configuration/reload",
    "POST /api/configuration/versions/{configuration_id}/rollback",
    "GET /needs", "GET /api/session", "GET /api/sessions", "POST /api/sessions/{session_id}/end",
    "POST /admin/sessions/{session_id}/end", "GET /api/accounts", "POST /api/accounts", "GET /api/accounts/{name}",
    "POST /api/accounts/{name}/role", "POST /api/accounts/{name}/disable", "POST /api/accounts/{name}/enable",
    "POST /api/accounts/{name}/password", "GET /api/tokens", "POST /api/tokens",
    "POST /api/tokens/{token_id}/revoke", "GET /api/audit/collectors",
    "GET /admin/captures", "POST /admin/captures", "POST /admin/captures/{capture}/stop",
    "POST /admin/captures/{capture}/delete", "GET /api/captures", "POST /api/captures",
    "GET /api/captures/{capture}", "DELETE /api/captures/{capture}", "POST /api/captures/{capture}/stop",
    "GET /", "GET /overview/live", "GET /overview/stream", "GET /handover", "GET /find", "GET /worklist/states",
    "GET /operations", "POST /operations", "GET /operations/{operation_id}/live", "POST /operations/{operation_id}/stop",
    "POST /deliveries/{delivery_id}/retry", "POST /deliveries/{delivery_id}/cancel",
    "POST /deliveries/{delivery_id}/release",
    "GET /destinations", "GET /destinations/{name}/test", "POST /destinations/{name}/test",
    "POST /destinations/{name}/pause", "POST /destinations/{name}/drain", "POST /destinations/{name}/resume",
    "GET /devices", "POST /devices/admit", "POST /devices/admissions/{admission}/end",
    "GET /devices/{ae_title:path}/passport", "GET /devices/{ae_title:path}/ticks",
    "GET /admin", "POST /admin/accounts", "POST /admin/accounts/{name}/role", "POST /admin/accounts/{name}/disable",
    "POST /admin/accounts/{name}/enable", "POST /admin/accounts/{name}/password", "POST /admin/tokens",
    "POST /admin/tokens/{token_id}/revoke",
    "GET /alerts", "POST /alerts/{alert_id}/acknowledge", "POST /maintenance", "POST /maintenance/{window_id}/end",
    "POST /alerts/test",
    "GET /sign-in", "POST /sign-in", "POST /sign-out", "GET /first-run", "POST /first-run", "GET /account",
    "POST /account/password", "POST /account/privacy",
    "GET /healthz", "GET /metrics", "GET /openapi.json", "GET /api/overview", "GET /api/handover",
    "POST /api/destinations/{name}/pause", "POST /api/destinations/{name}/drain",
    "POST /api/destinations/{name}/resume", "GET /api/destinations",
    "GET /api/deliveries/causes", "GET /api/destinations/{name}/test", "POST /api/destinations/{name}/test",
    "POST /api/alerts/test",
    "GET /api/devices", "GET /api/devices/{ae_title:path}", "GET /api/devices/{ae_title:path}/passport", "GET /api/knocks",
    "GET /api/admissions", "POST /api/admissions", "POST /api/admissions/{admission}/end",
    "GET /api/sources", "POST /api/support-bundle", "GET /api/probe", "POST /api/probe", "GET /api/probe/{run}", "GET /probe", "POST /probe", "GET /probe/{run}",
    "GET /probe/{run}/live",
    "GET /api/alerts", "GET /api/alerts/over", "GET /api/alerts/{alert_id:int}",
    "POST /api/alerts/{alert_id}/acknowledge", "GET /api/maintenance", "POST /api/maintenance",
    "POST /api/maintenance/{window_id}/end",
}  # fmt: skip

IDS = {
    "name": "archive", "ae_title:path": "CT1", "ae_title": "CT1", "study_instance_uid": STUDY,
}  # fmt: skip
OF_ACCOUNTS = (
    "/admin/accounts",
    "/admin/tokens",
    "/admin/sessions",
    "/api/accounts",
    "/api/session",
    "/sign-",
    "/account/password",
)


@pytest.fixture
def patient(store):
    """One patient, and everything that comes of one."""

    def make(uow):
        known = uow.patients.add(
            replace(a_patient(7), patient_id="BIRDID7", name="ZZCANARY^XYLOPHONIA", birth_date="18970409"),
            now=NOW,
        )
        entry = a_stored_entry(
            uow,
            7,
            patient=known,
            order={"accession_number": "CANACC7"},
            procedure={"study_instance_uid": STUDY},
        )
        message = uow.messages.add(a_message(1, order=entry.order.id, raw=RAW))
        told = {"study_instance_uid": STUDY, "patient_id": "BIRDID7", "sop_instance_uid": SOP}
        uow.instances.add_many([an_instance(1, order=entry.order.id, **told)])
        dead = uow.deliveries.add(
            a_delivery(1, state=DeliveryState.DEAD, attempt=3, reason="refused", study_instance_uid=STUDY),
            now=NOW,
        )
        uow.deliveries.add(a_delivery(2, study_instance_uid=STUDY), now=NOW)
        uow.deliveries.add(a_message_delivery(None, 3, order=entry.order.id, payload=RAW), now=NOW)
        collecting = {"state": DeliveryState.COLLECTING, "collect_until": NOW + timedelta(hours=1)}
        uow.deliveries.add(a_delivery(4, study_instance_uid=STUDY, **collecting), now=NOW)
        uow.record(
            Event(
                EventName.DELIVERY_DIED,
                Subject.DELIVERY,
                dead,
                STUDY,
                details={"destination": "archive", "attempt": 3, "reason": "AE: ZZCANARY is not known here"},
            )
        )
        return entry.order.id, message.id

    assert store(make) == (1, 1)


@pytest.fixture
def app(board, patient):
    told = [
        replace(
            WHY[0],
            clauses=(
                replace(WHY[0].clauses[0], clause="PatientName is like A*", seen="ZZCANARY (image header)"),
            ),
        )
    ]
    app = create_app(
        replace(
            board,
            explain=lambda study: told if study == STUDY else [],
            seen_by=lambda *_: [1],
            known_devices=lambda: [KnownDevice("CT1", "", ("CT",), "")],
            routes=compile_routes(RULES, known_keyword=known_keyword),
            try_study=lambda study: told if study == STUDY else [],
        )
    )
    app.state.live.close()  # a stream answers at once that there is no room
    return app


@pytest.fixture
def browser(app):
    return signed_in(app, "admin", raise_server_exceptions=False)


def ask(browser, request, sent):
    """Ask like a page's form, or like a program for what is under /api."""
    method, address = request.split(" ", 1)
    if method == "GET":
        return browser.get(address)
    secret = form_token(browser.get("/account").text)
    if address.startswith("/api"):
        return browser.request(method, address, json=sent, headers={HEADER: secret})
    return browser.post(address, data={FIELD: secret, **sent})


def views(board):
    return list(board.reports.audit(AuditQuestion(actor="admin", what="viewed"), limit=500))


def path_of(app, request):
    """Answer the route a request goes to, as `METHOD /path/{name}`."""
    method, address = request.split(" ", 1)
    path = address.partition("?")[0]
    for route in served_routes(app):
        pattern = "".join(
            "(?:.+)" if part.endswith(":path}") else "(?:[^/]+)" if part.startswith("{") else re.escape(part)
            for part in re.split(r"({[^}]+})", route.path)
        )
        if method in route.methods and re.fullmatch(pattern, path):
            return f"{method} {route.path}"
    raise AssertionError(request)


def test_every_route_is_said_to_show_a_patient_or_not_to(app):
    served = {f"{method} {route.path}" for route in served_routes(app) for method in route.methods}
    shows = {path_of(app, request) for request in SHOWS}
    assert shows | SHOWS_NOBODY | TAKEN_AWAY == served, "say of each new route whether it shows a patient"
    assert not shows & SHOWS_NOBODY


def test_what_shows_a_patient_leaves_one_view_of_each_object(browser, board):
    assert ask(browser, "POST /api/operations", {"act": "cancel", "study": STUDY}).status_code == 202
    wrong = []
    for request, sent in SHOWS.items():
        board.access.audit._recent.clear()  # as if a quarter of an hour had passed
        before = views(board)
        answer = ask(browser, request, sent)
        new = [view for view in views(board) if view not in before]
        if problem := problem_of(request, answer, new, board):
            wrong.append(f"{request}: {problem}")
    assert not wrong, "\n".join(wrong)


def problem_of(request, answer, new, board):
    if answer.status_code not in {200, 202, 303}:
        return f"{answer.status_code} {answer.text[:300]}"
    is_plain = answer.status_code == 303 or any(part in request for part in LEADS)
    if not is_plain and not [canary for canary in CANARIES if canary in answer.text]:
        return "it shows no patient"
    objects = {(view.subject, view.subject_id, view.study_instance_uid) for view in new}
    if not new or len(objects) != len(new) or len(new) > 4:
        return f"{len(new)} views of {len(objects)} objects"
    if any(len(json.dumps(dict(view.details))) > 300 for view in new):
        return "the event is not bounded"
    about = [
        *board.reports.audit(AuditQuestion(order=1)),
        *board.reports.audit(AuditQuestion(study_instance_uid=STUDY)),
    ]
    found = {line.id for line in about}
    return "" if any(view.id in found for view in new) else "it is not found by what it showed"


def test_what_is_said_to_show_nobody_shows_nobody(app, browser, board):
    for route in sorted(SHOWS_NOBODY):
        method, path = route.split(" ", 1)
        address = re.sub(r"{([^}]+)}", lambda name: IDS.get(name[1], "1"), path)
        if path.startswith(OF_ACCOUNTS) and method == "POST":
            continue  # they would end the session; what they answer has no patient in it to show
        address += "?steps=1" if path.endswith("/states") else ""
        answer = ask(browser, f"{method} {address}", {})
        where = answer.text + str(answer.headers)
        assert not [canary for canary in CANARIES if canary in where], f"{route} shows a patient"
    assert views(board) == []


def test_where_names_are_hidden_no_page_names_the_patient(browser):
    hide = {FIELD: form_token(browser.get("/account").text), "hide": "true"}
    assert browser.post("/account/privacy", data=hide).status_code == 303
    more = {
        "GET /messages/1?again=true": {},
        "GET /worklist?date=2026-11-21": {},
        "GET /deliveries?state=DEAD": {},
    }
    named = []
    for request, sent in {**SHOWS, **more}.items():
        if "/api" not in request and "/raw" not in request:
            asked = {key: value.replace("ZZCANARY", "BIRDID7") for key, value in sent.items()}
            text = ask(browser, request, asked).text
            named += [f"{request}: {text[text.index(one) - 200 :][:250]}" for one in NAMES if one in text]
    assert not named, "\n".join(named)
    shown = browser.get("/messages/1").text
    assert "PID|1||BIRDID7||•••^•••||•••" in shown, "its form and its ids are seen"
    refused = browser.get("/messages/1/raw")
    assert (refused.status_code, "you hide them" in refused.text) == (409, True)


def test_what_is_taken_away_leaves_an_event_of_its_own(browser, board):
    browser.get("/orders/1")
    assert "viewed" in ask(browser, "POST /admin/audit/download", {"patient": "BIRDID7"}).text
    (event,) = board.reports.audit(AuditQuestion(what="audit downloaded"))
    assert (event.actor, event.details["patient"]) == ("admin", "BIRDID7")


def test_a_head_is_a_view_like_its_get(browser, board):
    assert browser.head("/orders/1").status_code == 200
    assert len(views(board)) == 1


def test_a_long_list_forgets_nobody(browser, board, store):
    store(lambda uow: [a_stored_entry(uow, number) and None for number in range(100, 700)])
    browser.get("/worklist/print?date=2026-11-21")
    orders = [line.order_id for page in (0, 500) for line in board.reports.orders(page=Page(500, page))]
    assert len(orders) == 601
    for order in (*orders[:3], *orders[-3:]):
        assert len(board.reports.audit(AuditQuestion(order=order, what="viewed"))) == 1


def test_a_look_that_cannot_be_written_down_shows_nothing(app, board, browser, monkeypatch):
    from broker.errors import DatabaseUnavailable

    def away(*args, **kwargs):
        raise DatabaseUnavailable

    token = form_token(browser.get("/account").text)
    monkeypatch.setattr(type(board.access.audit), "_write", away)
    for request, sent in SHOWS.items():
        method, address = request.split(" ", 1)
        if "operations" in address or "audit" in address or address.endswith(("/retry", "/cancel")):
            continue  # they do something first, and have nobody to show before it
        send = {"json": sent} if address.startswith("/api") else {"data": {FIELD: token, **sent}}
        answer = (
            browser.get(address)
            if method == "GET"
            else browser.post(address, headers={HEADER: token}, **send)
        )
        assert answer.status_code == 503, request
        asked = [value for value in (*sent.values(), address) if isinstance(value, str)]
        assert not [c for c in CANARIES if c in answer.text and not any(c in value for value in asked)], (
            request
        )
