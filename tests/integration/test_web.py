"""The pages and their JSON twin, on a real database: what they show, refuse and change."""

import json
import re
from dataclasses import replace
from datetime import UTC, timedelta
from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from broker.actions import Actions
from broker.db.reports import SqlReports
from broker.db.worklist_query import SqlWorklistReader
from broker.dicom.objects.preview import Preview
from broker.domain.delivery import DeliveryState
from broker.domain.devices import DeviceProfile
from broker.domain.events import Event, EventName, Subject
from broker.domain.knocks import KnockReason
from broker.errors import DatabaseUnavailable, NotFound
from broker.hl7.anatomy import dissect, read_again
from broker.hl7.charsets import LATIN_1
from broker.hl7.mapping import MappingSet
from broker.web.app import create_app
from broker.web.pages import ROWS
from broker.web.ports import Dashboard, DestinationFacts
from broker.web.security import FIELD, HEADER
from broker.web.timeline import tell
from broker.workflow.alert_operations import AlertOperations
from broker.workflow.destinations_port import CheckResult, DestinationHealth, DestinationState
from broker.workflow.devices_port import KnockKey, Knocks
from broker.workflow.entries import query_of, sights
from broker.workflow.explain import ExplainedClause, ExplainedRoute
from broker.workflow.images_port import InstanceState
from broker.workflow.messages_port import MessageOutcome
from broker.workflow.overview_port import HealthPart, Resource
from broker.workflow.reports_port import TimelineEntry
from broker.workflow.worklist import Worklist
from tests.builders import NOW, a_delivery, a_message, a_patient, a_stored_entry, an_instance
from tests.doors import an_access, signed_in, with_accounts

STUDY = "1.2.826.0.1.1"
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "=HYPERLINK(1)",
    "M" * 64,
    "\u202egnp.exe",
]
PAGES = [
    "/",
    "/overview/live",
    "/handover",
    "/worklist",
    "/orders",
    "/messages",
    "/images",
    "/deliveries",
    "/devices",
    "/find",
    "/alerts",
]
WHY = [
    ExplainedRoute(
        route="chest-to-ai",
        matched=False,
        instances=2,
        destinations=("ai",),
        clauses=(
            ExplainedClause("one of these holds", False, ""),
            ExplainedClause("Modality is MR", False, "CT (image header)", depth=1),
        ),
    )
]


class Insight:
    """Computes what the wired broker does, for a site with one device; its pictures are of one pixel."""

    def __init__(self, engine, clock):
        self._engine, self._clock = engine, clock

    def devices(self):
        return ["CT1"]

    def sights(self, order_id, ae_title, asked):
        if ae_title not in self.devices():
            raise NotFound(f"There is no device {ae_title} in the site file.")
        device = DeviceProfile(ae_title=ae_title, modalities=("CT",))
        worklist = Worklist(SqlWorklistReader(self._engine), self._clock)
        query = query_of(asked, device, now=self._clock.local_now())
        return sights(SqlReports(self._engine).order_entries(order_id), query, device, worklist)

    def dissect(self, raw, problems=()):
        return dissect(raw, problems, default=LATIN_1)

    def read_again(self, raw):
        return read_again(raw, MappingSet.load(None, site_zone=UTC), default=LATIN_1)

    def preview(self, instance_id):
        SqlReports(self._engine).instance(instance_id)
        return Preview("image/png", b"\x89PNG")


FACTS = DestinationFacts("archive", "dicom", "PACS team, 4711", {"host": "pacs.hospital"})


@pytest.fixture
def actions(sqlite_engine, sqlite_uow_factory, clock):
    """What people may do, as it is wired, with one archive configured."""
    archive = SimpleNamespace(kind="dicom", concurrency=2)
    return Actions(
        SimpleNamespace(
            units_of_work=sqlite_uow_factory,
            clock=clock,
            reports=SqlReports(sqlite_engine),
            check_destination=lambda name: CheckResult(ok=True, detail=f"{name} is here"),
            loaded=SimpleNamespace(site=SimpleNamespace(destinations={"archive": archive})),
        )
    )


@pytest.fixture
def board(sqlite_engine, sqlite_uow_factory, actions, clock, tmp_path):
    return Dashboard(
        reports=SqlReports(sqlite_engine),
        actions=actions,
        destination=lambda name: FACTS if name == "archive" else None,
        health=lambda: [HealthPart("hl7", True, "port 2575 answers", NOW)],
        explain=lambda study: WHY if study == STUDY else [],
        insight=Insight(sqlite_engine, clock),
        clock=clock,
        zone=UTC,
        site_name="Hospital <b>",
        hosts=frozenset({"testserver"}),
        version="1.2.3",
        resources=lambda: [Resource("Disk", "up", "4.2 TB free")],
        access=with_accounts(an_access(sqlite_engine, sqlite_uow_factory, clock, tmp_path)),
        alerts=AlertOperations(sqlite_uow_factory, clock, {}, "Hospital"),
    )


@pytest.fixture
def client(board):
    return signed_in(create_app(board), "operator")


@pytest.fixture
def store(sqlite_uow_factory):
    """Store something in a transaction of its own: `store(lambda uow: …)`."""

    def run(action):
        with sqlite_uow_factory() as uow:
            answer = action(uow)
            uow.commit()
        return answer

    return run


@pytest.fixture
def hospital(store):
    """One of everything, a dead delivery among it; answers its ids."""

    def make(uow):
        entry = a_stored_entry(uow, 1)
        a_stored_entry(uow, 2, step={"missing": ("Modality",)})
        message = uow.messages.add(a_message(1, order=entry.order.id))
        uow.messages.add(
            a_message(
                2,
                outcome=MessageOutcome.REFUSED,
                acknowledgement_code="AE",
                problems=(
                    {
                        "condition": "101",
                        "severity": "error",
                        "place": "PID-3.1",
                        "text": "a patient identifier is needed",
                    },
                ),
            )
        )
        uow.messages.add(a_message(3, outcome=MessageOutcome.PARKED))
        (instance,) = uow.instances.add_many([an_instance(1, order=entry.order.id)])
        (lost,) = uow.instances.add_many(
            [an_instance(2, study_instance_uid="1.2.826.0.1.9", patient_id=None)]
        )
        uow.instances.decide(lost, InstanceState.UNROUTED, order=None)
        dead = uow.deliveries.add(
            a_delivery(1, state=DeliveryState.DEAD, reason="association rejected", attempt=3), now=NOW
        )
        waiting = uow.deliveries.add(
            a_delivery(2, due_at=NOW + timedelta(hours=1), route="other", reason="no answer"), now=NOW
        )
        done = uow.deliveries.add(a_delivery(3, state=DeliveryState.DELIVERED), now=NOW)
        for name in (EventName.DELIVERY_CREATED, EventName.DELIVERY_DIED):
            uow.record(
                Event(
                    name,
                    Subject.DELIVERY,
                    subject_id=dead,
                    study_instance_uid=STUDY,
                    details={"destination": "archive", "reason": "association rejected"},
                )
            )
        return {
            "order": entry.order.id,
            "message": message.id,
            "instance": instance,
            "dead": dead,
            "waiting": waiting,
            "done": done,
        }

    return store(make)


def token(client):
    """Answer the token of this browser, as its pages carry it in every form."""
    client.get("/")
    client.get("/deliveries")
    page = client.get("/deliveries?state=DEAD").text
    found = re.search(rf'name="{FIELD}" value="([^"]+)"', page)
    assert found, "no form with a token"
    return found[1]


def press(client, path, **headers):
    return client.post(path, data={FIELD: token(client)}, headers=headers)


def state_of(client, delivery):
    found = [line for line in client.get("/api/deliveries").json() if line["id"] == delivery]
    return found[0]["state"], found[0]["attempt"], found[0]["failures"]


def pages_of(hospital):
    return [
        *PAGES,
        f"/orders/{hospital['order']}",
        f"/messages/{hospital['message']}",
        f"/deliveries/{hospital['dead']}",
        f"/deliveries/{hospital['done']}",
        f"/studies/{STUDY}",
        "/deliveries?state=DEAD&destination=archive",
        "/deliveries/review?do=retry&state=DEAD",
        "/destinations",
        "/destinations/archive",
        "/operations",
    ]


class Page(HTMLParser):
    """What a browser would act on."""

    def __init__(self, text):
        super().__init__()
        self.links, self.forms, self.inline = set(), set(), []
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.inline += [
            f"{tag} {name}" for name in given if name == "style" or name.startswith(("on", "hx-on"))
        ]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        for name in ("href", "src", "hx-get"):
            if name in given:
                self.links.add(given[name])
        if tag == "form" and given.get("method") == "post":
            self.forms.add(given["action"])


def test_every_page_answers_on_an_empty_database(client):
    for path in PAGES:
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_an_empty_list_says_what_will_fill_it_and_an_empty_filter_how_to_leave_it(client):
    assert "Point the sender at the HL7 port" in client.get("/messages").text
    filtered = client.get("/messages?q=nobody").text
    assert "Nothing fits these filters" in filtered
    assert 'href="/messages">Show all' in filtered


def test_every_link_on_every_page_leads_to_a_page(client, hospital):
    seen, todo = set(), set(pages_of(hospital))
    while todo:
        path = todo.pop()
        seen.add(path)
        answer = client.get(path)
        assert answer.status_code == 200, path
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        page = Page(answer.text)
        assert page.inline == [], path
        for link in page.links:
            where = urlsplit(link)
            assert not where.netloc, f"{path} leads out of the product: {link}"
            if where.path:
                target = f"{where.path}?{where.query}" if where.query else where.path
                todo |= {target} - seen
    assert len(seen) > 25


def test_every_form_on_every_page_is_served(client, hospital):
    forms = set().union(*(Page(client.get(path).text).forms for path in pages_of(hospital)))
    assert {"/deliveries/1/retry", "/deliveries/1/cancel", "/destinations/archive/pause"} <= forms
    assert {"/operations", "/destinations/archive/test"} <= forms
    for action in forms:
        assert client.post(action).status_code == 403, action  # served, and it wants a token


def test_the_overview_says_first_what_is_wrong_and_what_to_do(client, hospital, store):
    store(
        lambda uow: uow.destinations.save(
            DestinationState("archive", DestinationHealth.FAILING, since=NOW, reason="association rejected")
        )
    )
    text = client.get("/").text
    assert '<h1 data-count="6">6 things need you</h1>' in text
    first = re.search(r"<article.*?</article>", text, re.DOTALL)[0]
    assert "archive is failing: 1 delivery waits, the oldest 0 s</a>" in first
    assert "Association rejected. Check that the peer runs" in first
    for sentence in (
        "1 delivery to archive needs a person",
        "1 message is parked",
        "1 message was refused today",
        "1 order is incomplete",
        "1 study matched no route",
    ):
        assert sentence in text
    assert "(6) Overview" in text


def test_a_part_that_does_not_serve_comes_before_everything(board, hospital):
    down = replace(board, health=lambda: [HealthPart("dicom", False, "no sign of life")])
    text = signed_in(create_app(down)).get("/").text
    assert "The dicom role does not serve" in re.search(r"<article.*?</article>", text, re.DOTALL)[0]


def test_the_rail_counts_what_needs_a_person_on_every_page(client, hospital, store):
    store(
        lambda uow: [uow.messages.add(a_message(n, outcome=MessageOutcome.PARKED)) for n in range(10, 1020)]
    )
    for path in ("/worklist", f"/orders/{hospital['order']}"):
        text = client.get(path).text
        assert ' title="1 incomplete">1<' in text
        assert ' title="1 dead">1<' in text
        assert ' title="1,000+ parked">1,000+<' in text


def test_a_refused_device_is_counted_once_and_for_a_day(board, store, clock):
    def knock(name, address):
        key = KnockKey(name, "BROKER", address, KnockReason.UNKNOWN_TITLE)
        return Knocks(key, 1, clock.now(), clock.now())

    refused = [knock("CT9", "10.0.0.1"), knock("CT9", "10.0.0.2"), knock("MR7", "10.0.0.3")]
    store(lambda uow: uow.devices.note_knocks(refused))
    day = timedelta(hours=24)
    assert board.reports.needs_person(refused_since=clock.now() - day).refused_devices == 2
    assert board.reports.needs_person(refused_since=clock.now() + day).refused_devices == 0


@pytest.mark.parametrize(
    ("path", "place"),
    [("/", "Overview"), ("/orders", "Find"), (f"/studies/{STUDY}", "Find"), ("/deliveries/1", "Deliveries")],
)
def test_the_rail_says_where_one_is(client, hospital, path, place):
    assert re.findall(r'aria-current="page">(\w+)', client.get(path).text) == [place]


def test_the_overview_of_a_new_broker_says_what_comes_next(client):
    text = client.get("/").text
    assert ">Nothing has come yet</h1>" in text
    assert "All is flowing" not in text


def test_the_overview_is_calm_when_nothing_is_wrong(client, store):
    store(lambda uow: a_stored_entry(uow, 1))
    assert ">All is flowing. 1 order, 0 deliveries today.</h1>" in client.get("/").text


@pytest.mark.parametrize(
    ("path", "shown", "hidden"),
    [
        ("/deliveries?state=DEAD", "/deliveries/1", "/deliveries/2"),
        ("/deliveries?state=dead", "/deliveries/1", "/deliveries/2"),
        ("/deliveries?state=PENDING&destination=archive", "/deliveries/2", "/deliveries/1"),
        ("/orders?incomplete=true", "HAYDN2", "HAYDN1"),
        ("/messages?outcome=refused", "PID-3.1", "M3"),
        ("/images?state=UNROUTED", "1.2.826.0.1.9", f'title="{STUDY}"'),
    ],
)
def test_a_filter_shows_what_fits_and_nothing_else(client, hospital, path, shown, hidden):
    text = client.get(path).text
    assert shown in text
    assert hidden not in text


def test_a_filter_nobody_has_heard_of_is_shown_as_chosen(client, hospital):
    text = client.get("/deliveries?state=SLEEPING").text
    assert "Nothing fits these filters" in text
    assert '<option value="SLEEPING" selected>' in text


def test_a_long_list_is_turned_page_by_page_and_keeps_its_filter(client, store):
    store(lambda uow: [uow.deliveries.add(a_delivery(n), now=NOW) for n in range(1, ROWS + 3)])
    first = client.get("/deliveries?destination=archive")
    assert first.text.count('data-l="Delivery"') == ROWS
    older = re.search(r'rel="next" href="([^"]+)"', first.text)[1].replace("&amp;", "&")
    assert older == "?destination=archive&before=3"
    second = client.get(f"/deliveries{older}").text
    assert second.count('data-l="Delivery"') == 2
    assert 'rel="next"' not in second
    assert 'rel="prev"' in second


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text_everywhere(client, store, name):
    def make(uow):
        patient = uow.patients.add(a_patient(1, patient_id=name, name=name), now=NOW)
        entry = a_stored_entry(uow, 1, patient=patient, order={"sending_application": name})
        uow.messages.add(
            a_message(1, sending_application=name, message_control_id=name, order=entry.order.id)
        )
        uow.instances.add_many([an_instance(1, calling_ae_title=name[:16], patient_id=name)])
        key = uow.deliveries.add(
            a_delivery(1, destination=name, route=name, reason=name, state=DeliveryState.DEAD), now=NOW
        )
        uow.record(
            Event(
                EventName.DELIVERY_DIED,
                Subject.DELIVERY,
                subject_id=key,
                study_instance_uid=STUDY,
                actor=name,
                details={"destination": name, "reason": name},
            )
        )
        return entry.order.id, key

    order, key = store(make)
    paths = [*PAGES, f"/orders/{order}", f"/deliveries/{key}", f"/studies/{STUDY}"]
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "<script>alert" not in answer.text
        assert "<img src=x" not in answer.text
        assert "\u202e" not in answer.text, "what follows would be read backwards"
        assert ">49" not in answer.text
        assert Page(answer.text).inline == []


def test_a_study_tells_why_a_route_did_not_take_it_by_depth(client, hospital):
    text = client.get(f"/studies/{STUDY}").text
    assert "did not take 2 images" in text
    assert re.search(r'class="no d0">.*one of these holds', text)
    assert re.search(r'class="no d1">.*Modality is MR.*found <bdi>CT \(image header\)', text)


def test_a_timeline_is_told_in_words(client, hospital):
    text = client.get(f"/deliveries/{hospital['dead']}").text
    assert "→ archive: dead, needs a person" in text
    assert "reason=" not in text


def test_tries_that_failed_alike_are_one_line(client, store):
    def make(uow):
        key = uow.deliveries.add(a_delivery(1), now=NOW)
        for attempt in range(1, 5):
            for name in (EventName.DELIVERY_CLAIMED, EventName.DELIVERY_RETRY):
                details = {"destination": "archive", "attempt": attempt, "reason": "the peer is silent"}
                uow.record(Event(name, Subject.DELIVERY, subject_id=key, details=details))
        return key

    text = client.get(f"/deliveries/{store(make)}").text
    assert "4 attempts failed since" in text
    assert text.count("<bdi>the peer is silent</bdi>") == 1
    assert "runs" not in text


def test_a_delivery_is_retried_from_its_page(client, hospital):
    answer = press(client, f"/deliveries/{hospital['dead']}/retry")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/deliveries/{hospital['dead']}"
    assert state_of(client, hospital["dead"]) == ("PENDING", 3, 0)
    assert "retried by operator" in client.get(answer.headers["location"]).text


def test_a_delivery_is_cancelled_from_its_page(client, hospital):
    answer = press(client, f"/deliveries/{hospital['waiting']}/cancel")
    assert answer.status_code == 303
    assert state_of(client, hospital["waiting"])[0] == "CANCELLED"


@pytest.mark.parametrize("act", ["retry", "cancel"])
def test_an_illegal_act_is_refused_with_409_and_nothing_changes(client, hospital, act):
    before, events = state_of(client, hospital["done"]), client.get(f"/deliveries/{hospital['done']}").text
    answer = press(client, f"/deliveries/{hospital['done']}/{act}")
    assert answer.status_code == 409
    assert "Nothing was changed" in answer.text
    assert state_of(client, hospital["done"]) == before
    assert client.get(f"/deliveries/{hospital['done']}").text == events


def test_a_destination_is_paused_and_resumed(client, hospital, board):
    assert press(client, "/destinations/archive/pause").headers["location"] == "/destinations/archive"
    assert board.reports.destinations(now=NOW)[0].state == "paused"
    assert "Resume: send the one that waits" in client.get("/deliveries").text
    assert press(client, "/destinations/archive/resume").status_code == 303
    assert board.reports.destinations(now=NOW)[0].state == "up"
    assert press(client, "/destinations/nowhere/pause").status_code == 404


@pytest.mark.parametrize("sent", [None, "", "x" * 43, "ü" * 43, "0"])
def test_a_missing_or_wrong_token_is_refused_and_nothing_changes(client, hospital, sent):
    token(client)
    before = state_of(client, hospital["dead"])
    path = f"/deliveries/{hospital['dead']}/retry"
    assert client.post(path, data={} if sent is None else {FIELD: sent}).status_code == 403
    header = {} if sent is None else {HEADER: sent.encode()}
    assert client.post(f"/api{path}", headers=header).status_code == 403
    assert client.post(f"/api{path}", data={FIELD: token(client)}).status_code == 415, "a form is no call"
    assert state_of(client, hospital["dead"]) == before


def test_a_token_without_its_session_is_refused(client, hospital):
    known, before = token(client), state_of(client, hospital["dead"])
    stranger = TestClient(client.app, follow_redirects=False)
    answer = stranger.post(f"/deliveries/{hospital['dead']}/retry", data={FIELD: known})
    assert answer.status_code == 401
    assert state_of(client, hospital["dead"]) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_foreign_origin_is_refused_although_its_token_is_right(client, hospital, headers):
    before = state_of(client, hospital["dead"])
    assert press(client, f"/deliveries/{hospital['dead']}/retry", **headers).status_code == 403
    assert state_of(client, hospital["dead"]) == before


def test_its_own_origin_is_taken(client, hospital):
    headers = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
    assert press(client, f"/deliveries/{hospital['dead']}/retry", **headers).status_code == 303


@pytest.mark.parametrize(
    "host", ["evil.example", "testserver.evil.example", "", "[", "testserver@evil", "a b"]
)
def test_a_wrong_host_is_refused_with_421(client, host):
    assert client.get("/", headers={"host": host}).status_code == 421


def test_its_host_is_served_on_any_port_in_any_case(client):
    assert client.get("/", headers={"host": "TestServer:8080"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/nope", "/api/deliveries", "/deliveries/999", "/orders?page=x"])
def test_every_answer_forbids_what_pages_do_not_need(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"


def test_a_refusal_has_the_headers_too(client):
    assert "content-security-policy" in client.get("/", headers={"host": "evil"}).headers


@pytest.mark.parametrize(
    "path",
    ["/nope", "/orders/999", "/messages/999", "/deliveries/999", "/studies/9.9", "/studies/%3Cb%3E"],
)
def test_what_is_not_there_is_404_on_a_page_with_a_way_back(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert 'href="/"' in answer.text
    assert "<b>" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/orders?page=0",
        "/orders?page=x",
        "/worklist?date=yesterday",
        "/deliveries/0",
        f"/deliveries/{2**63}",
        "/deliveries/abc",
        "/api/orders?limit=501",
    ],
)
def test_what_cannot_be_read_is_422(client, path):
    assert client.get(path).status_code == 422


def test_programs_are_answered_problem_json(client):
    answer = client.get("/api/orders?limit=x")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["instance"]) == (422, "/api/orders")
    assert body["detail"].startswith("limit: ")
    plain = client.get("/deliveries/999", headers={"accept": "*/*"})
    assert plain.headers["content-type"] == "application/problem+json"


def test_a_method_that_is_not_served_is_405(client):
    answer = client.delete("/deliveries")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"


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


def test_the_handover_is_ten_lines_and_each_leads_somewhere(client, hospital, store):
    held = DestinationState(
        "archive", DestinationHealth.PAUSED, since=NOW - timedelta(minutes=41), reason="<b>"
    )
    store(lambda uow: uow.destinations.save(held))
    store(lambda uow: uow.record(Event(EventName.DELIVERY_RETRIED, Subject.DELIVERY, actor="<i>ruiz")))
    text = client.get("/handover").text
    assert text.count("<dt><a ") == 10
    for told in (
        "3 messages came: 1 accepted, 1 parked, 1 refused. 1 parked wait for a decision.",
        "2 orders placed. 1 incomplete: no scanner sees them.",
        "2 images of 2 new studies received. 1 study matched no route and went nowhere.",
        "1 delivery done, 3 planned. 1 waits, the oldest 0 s.",
        "1 died in this shift; dead now: archive 1.",
        "archive paused for 41 min (&lt;b&gt;).",
        "&lt;i&gt;ruiz: delivery retried.",
    ):
        assert told in text
    body = client.get("/api/handover?since=2026-11-20T20:00").json()
    assert [line["about"] for line in body["lines"]][:3] == ["Messages", "Orders", "Exams"]
    assert body["since"].startswith("2026-11-20T20:00:00")


@pytest.mark.parametrize(
    ("since", "says"),
    [
        ("yesterday", "is no date and time; write it as 2026-11-21T19:00"),
        ("2026-12-24T18:00", "cannot begin in the future"),
        ("2026-11-01T00:00", "looks back 7 days at most"),
        ("<script>alert(1)</script>", "&lt;script&gt;"),
    ],
)
def test_a_mistyped_shift_is_said_and_kept(client, since, says):
    answer = client.get("/handover", params={"since": since})
    assert answer.status_code == 422
    assert says in answer.text
    assert "<script>alert" not in answer.text
    assert client.get("/api/handover", params={"since": since}).status_code == 422


def test_a_stream_for_which_there_is_no_room_is_refused_and_says_when_to_come_back(board):
    app = create_app(board)
    app.state.live.close()
    answer = signed_in(app).get("/overview/stream")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "30"


def test_healthz_is_200_when_all_serve_and_503_with_the_part_that_does_not(client, board):
    assert client.get("/healthz").status_code == 200
    parts = [HealthPart("hl7", True, ""), HealthPart("dicom", False, "no sign of life")]
    answer = TestClient(create_app(replace(board, health=lambda: parts))).get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["dicom"] == {"ok": False, "detail": "no sign of life"}
    assert answer.json()["parts"]["hl7"]["ok"] is True


def test_a_database_that_does_not_answer_is_503(board):
    class Down:
        def __getattr__(self, name):
            raise DatabaseUnavailable

    client = signed_in(create_app(replace(board, reports=Down())))
    for path in ("/", "/deliveries", "/api/orders"):
        assert client.get(path).status_code == 503


def test_a_defect_is_a_500_page_that_tells_nothing_and_keeps_the_headers(board, client):
    class Broken:
        def __getattr__(self, name):
            raise RuntimeError("HAYDN^JOSEPH")

    app = create_app(replace(board, reports=Broken()))
    answer = signed_in(app, raise_server_exceptions=False).get("/orders")
    assert answer.status_code == 500
    assert "HAYDN" not in answer.text
    assert "content-security-policy" in answer.headers


def test_a_large_request_is_refused_before_it_is_read(client, hospital):
    path = f"/deliveries/{hospital['dead']}/retry"
    token(client)
    assert client.post(path, data={FIELD: "x" * (1024 * 1024 + 1)}).status_code == 413
    assert client.post(path, content=b"", headers={"content-length": "many"}).status_code == 400


def test_a_large_form_in_chunks_is_refused_while_it_is_read(client, hospital):
    token(client)
    read = []

    def chunks():
        for number in range(1000):
            read.append(number)
            yield b"x" * 8192

    answer = client.post(
        f"/deliveries/{hospital['dead']}/retry",
        content=chunks(),
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert answer.status_code == 413
    assert state_of(client, hospital["dead"])[0] == "DEAD"


def test_head_is_answered_like_get_without_a_body(client, hospital):
    for path in ("/", "/deliveries", "/api/orders", "/healthz", "/static/broker.css"):
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["content-type"] == client.get(path).headers["content-type"]
    assert client.head("/deliveries/999").status_code == 404


def test_static_files_stay_in_their_folder(client):
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/vendor/../../app.py"):
        assert client.get(path).status_code == 404


def test_a_raw_message_is_shown_segment_by_segment_whatever_its_bytes(client, store):
    raw = "MSH|^~\\&|RIS\rPID|1||<b>Müller</b>\r".encode("latin-1")
    store(lambda uow: uow.messages.add(a_message(1, raw=raw, answer=None, outcome=MessageOutcome.FAILED)))
    text = client.get("/messages/1").text
    assert "MSH|^~\\&amp;|RIS\nPID|1||&lt;b&gt;Müller&lt;/b&gt;" in text
    assert "left to send it again" in text


def test_every_operation_has_a_name_of_its_own_in_openapi(client):
    paths = client.get("/openapi.json").json()["paths"]
    names = [operation["operationId"] for methods in paths.values() for operation in methods.values()]
    assert len(names) == len(set(names))
    assert json.dumps(paths)
    assert "/deliveries" not in paths, "pages are no API"


def test_a_message_says_first_who_sent_what_and_what_was_answered(client, store):
    raw, answer = b"MSH|^~\\&|RIS|H|||1||ORM^O01|M77|P\rPID|1", b"MSH|^~\\&|B\rMSA|AE|M77\rERR|"
    told = {"message_control_id": "M77", "acknowledgement_code": "AE", "outcome": MessageOutcome.REFUSED}
    store(lambda uow: [uow.messages.add(a_message(1, raw=raw, answer=answer, **told)), None])
    text = client.get("/messages/1").text
    assert "<h1>Message <bdi>M77</bdi>" in text
    assert "ORM^O01" in text
    assert '<span class="state failing">AE</span> refused' in text


@pytest.mark.parametrize("raw", [b"", b"\r", b"MSH", b"\xff\xfe", b"MSH|\rMSA|", b"GET / HTTP/1.1\r\n"])
def test_bytes_that_are_no_message_are_shown_as_they_came(client, store, raw):
    store(lambda uow: uow.messages.add(a_message(1, raw=raw, answer=raw)))
    assert client.get("/messages/1").status_code == 200


def test_a_study_with_a_conflict_says_so_first(board, hospital):
    doubtful = replace(board, explain=lambda study: [replace(WHY[0], conflicts=("identity",))])
    text = signed_in(create_app(doubtful)).get(f"/studies/{STUDY}").text
    assert "Not all images fit the order" in text
    assert text.index("Not all images fit the order") < text.index("Deliveries</h2>")


@pytest.mark.parametrize("name", EventName)
def test_every_event_is_told_as_a_sentence_whatever_details_it_has(name):
    bare = TimelineEntry(NOW, name.value, "CT1", "delivery", 7)
    strange = replace(
        bare,
        details={"destination": None, "instances": "x", "due_at": "soon", "attempt": [1, True], "x": {}},
    )
    for entry in (bare, strange):
        (line,) = tell([entry], clock=str)
        assert re.match(r"(→ |[A-Z0-9])", line.sentence)
        assert "None" not in line.sentence
        assert line.link == "/deliveries/7"


def test_long_silence_between_two_lines_is_drawn():
    entries = [
        TimelineEntry(NOW + timedelta(minutes=minute), "order changed", "RIS", "order", 1)
        for minute in (0, 9, 50)
    ]
    silences = [line.silence for line in tell(entries, clock=str)]
    assert silences == [None, None, timedelta(minutes=41)]


def test_an_order_says_whose_it_is_and_what_it_lacks(client, hospital):
    text = client.get(f"/orders/{hospital['order']}").text
    assert "HAYDN1, JOSEPH" in text
    assert f'href="/studies/{STUDY}"' in text
    assert "No scanner sees it yet" not in text
    assert "Modality missing" in client.get("/orders/2").text


def test_one_order_and_one_delivery_are_json_too(client, hospital):
    assert client.get(f"/api/orders/{hospital['order']}").json()["accession_number"] == "A1"
    assert client.get(f"/api/deliveries/{hospital['dead']}").json()["state"] == "DEAD"
    for path in ("orders", "deliveries"):
        answer = client.get(f"/api/{path}/999")
        assert (answer.status_code, answer.json()["status"]) == (404, 404)
