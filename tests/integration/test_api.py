"""What holds for every operation of the JSON API, read from its own description: parts of lists, keys, problems."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from broker.db.engine import reading
from broker.db.schema import EVENT
from broker.domain.access import Role
from broker.domain.events import Event, EventName, Subject
from broker.errors import Conflict, DatabaseUnavailable
from broker.web.api.contract import operations
from broker.workflow.audit_port import AuditQuestion
from broker.workflow.reports_port import MAX_PAGE
from tests.api_site import STUDY, api_site, program
from tests.broker_process import wait_until
from tests.builders import a_message

TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()
READS = {
    "/api/find": "what is looked for stays out of URLs",
    "/api/orders/search": "whom it is about stays out of URLs",
    "/api/studies/search": "whom it is about stays out of URLs",
    "/api/worklist/search": "whom it is about stays out of URLs",
    "/api/configuration": "puts in what it holds; a digest says onto what",
    "/api/configuration/check": "says what would change",
    "/api/configuration/versions/{configuration_id}/rollback": "puts in what it names; a digest says onto what",
    "/api/configuration/reload": "replaced twice is as if replaced once",
    "/api/deliveries/preview": "says what would happen",
    "/api/support-bundle": "packs a file, which is not kept",
    "/api/audit/search": "whom it is about stays out of URLs",
    "/api/audit/verify": "walks along the chain",
    "/api/accounts": "a name is taken once: asking twice is refused",
    "/api/accounts/{name}/role": "sets what it names",
    "/api/accounts/{name}/disable": "sets what it names",
    "/api/accounts/{name}/enable": "sets what it names",
    "/api/accounts/{name}/password": "sets what it names, and an answer to it is not kept",
    "/api/sessions/{session_id}/end": "ends what it names",
    "/api/tokens": "its answer is a secret, shown once and kept nowhere",
    "/api/tokens/{token_id}/revoke": "ends what it names",
}
"""What is asked by POST without a key, and why: asking twice is harmless, or must not be answered alike."""
ONCE = {
    "/api/deliveries/{delivery_id}/retry": ("/api/deliveries/1/retry", None),
    "/api/deliveries/{delivery_id}/cancel": ("/api/deliveries/2/cancel", None),
    "/api/deliveries/{delivery_id}/release": ("/api/deliveries/4/release", None),
    "/api/operations": ("/api/operations", {"act": "priority", "destination": "ris", "priority": "low"}),
    "/api/operations/{operation_id}/stop": ("/api/operations/1/stop", None),
    "/api/destinations/{name}/pause": ("/api/destinations/archive/pause", {"reason": "disks"}),
    "/api/destinations/{name}/drain": ("/api/destinations/second/drain", {"reason": "disks"}),
    "/api/destinations/{name}/resume": ("/api/destinations/archive/resume", None),
    "/api/destinations/{name}/test": ("/api/destinations/copies/test", None),
    "/api/admissions": (
        "/api/admissions",
        {"ae_title": "MRT", "address": "192.0.2.50", "hours": 1, "reason": "a loaner"},
    ),
    "/api/admissions/{admission}/end": ("/api/admissions/1/end", None),
    "/api/alerts/{alert_id}/acknowledge": ("/api/alerts/1/acknowledge", None),
    "/api/alerts/test": ("/api/alerts/test", None),
    "/api/maintenance": ("/api/maintenance", {"until": TOMORROW, "reason": "disks"}),
    "/api/maintenance/{window_id}/end": ("/api/maintenance/1/end", None),
    "/api/probe": ("/api/probe", None),
    "/api/captures": ("/api/captures", {"name": "MR/1", "minutes": 5, "reason": "a broken image"}),
    "/api/captures/{capture}/stop": ("/api/captures/1/stop", None),
}
"""A request of each operation that acts."""
PLACES = {
    "{delivery_id}": "1",
    "{order_id}": "1",
    "{message_id}": "1",
    "{operation_id}": "1",
    "{alert_id}": "1",
    "{study_instance_uid}": STUDY,
    "{name}": "archive",
    "{ae_title}": "CT1",
}
SHORT_LISTS = {
    "/api/accounts": "programs come with tokens here",
    "/api/sessions": "nobody has signed in",
    "/api/tokens": "as many as tests have made",
    "/api/certificates": "the site file names none",
    "/api/audit/collectors": "the site file names none",
    "/api/orders/{order_id}/sights": "one step of the order",
    "/api/studies/{study_instance_uid}/routes": "nothing was routed here",
}
"""Lists of which this hospital has not two rows."""


@pytest.fixture(scope="module")
def site(tmp_path_factory, sqlite_template):
    with api_site(tmp_path_factory.mktemp("api"), sqlite_template) as broker:
        yield broker


@pytest.fixture(scope="module")
def client(site):
    return program(site)


@pytest.fixture(scope="module")
def document(client):
    return client.get("/openapi.json").json()


def api(document):
    return [one for one in operations(document) if one[0].startswith("/api/")]


def parameters(operation):
    return {one["name"]: one for one in operation.get("parameters", ())}


def is_list(operation):
    schema = (
        operation["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
    )
    return schema.get("type") == "array"


# ---- what its description promises ---------------------------------------------------------------------


def test_every_operation_says_how_it_refuses(document):
    for path, method, operation in api(document):
        wanted = {"401", "403", "422", "429", "503"} | ({"404"} if "{" in path else set())
        if method == "post":
            wanted |= {"409", "413", "415"}
        assert wanted <= operation["responses"].keys(), path
        for status, response in operation["responses"].items():
            if status >= "4":
                assert [*response["content"]] == ["application/problem+json"], path
        assert {"token": []} in operation["security"], path
        assert operation["summary"], path


def test_every_list_has_a_bounded_limit_and_says_where_the_next_part_is(document):
    lists = [
        (path, operation)
        for path, method, operation in api(document)
        if method == "get" and is_list(operation)
    ]
    assert len(lists) > 20
    for path, operation in lists:
        given = parameters(operation)
        assert given["limit"]["schema"]["maximum"] <= MAX_PAGE, path
        assert "after" in given, path
        assert not {"offset", "page", "before"} & given.keys(), path
        assert "Link" in operation["responses"]["200"]["headers"], path


def test_every_post_that_acts_takes_a_key(document):
    posts = {path: operation for path, method, operation in api(document) if method == "post"}
    assert posts.keys() == ONCE.keys() | READS.keys(), "each needs an example here, or a reason to have none"
    for path, operation in posts.items():
        assert ("Idempotency-Key" in parameters(operation)) == (path in ONCE), path


# ---- parts of lists ------------------------------------------------------------------------------------


def walk(client, path, limit):
    """Answer the parts of a list, following what each says."""
    parts, following = [], f"{path}{'&' if '?' in path else '?'}limit={limit}"
    while following:
        answer = client.get(following)
        assert answer.status_code == 200, answer.text
        parts.append(answer.json())
        assert len(parts[-1]) <= limit
        found = re.fullmatch(r'<(/api/[^>]+)>; rel="next"', answer.headers.get("link", ""))
        assert found or "link" not in answer.headers
        following = found[1] if found else None
        assert len(parts) < 200
    return parts


def timeless(rows):
    """Answer rows without what time alone changes."""
    return [
        {key: value for key, value in row.items() if key not in ("reason", "usual_gap", "silence")}
        for row in rows
    ]


def test_the_parts_of_every_list_are_the_list(client, document):
    for path, method, operation in api(document):
        if method != "get" or not is_list(operation):
            continue
        concrete = path
        for name, value in PLACES.items():
            concrete = concrete.replace(name, value)
        assert "{" not in concrete, f"{path}: name something of this hospital in PLACES"
        concrete += "?device=CT1" if path.endswith("/sights") else ""
        whole = client.get(concrete).json()
        if path not in SHORT_LISTS and "routes" not in path:
            assert len(whole) >= 2, f"{path}: a list of one row proves nothing"
        for limit in (1, 2, MAX_PAGE):
            parts = walk(client, concrete, limit)
            assert timeless(row for part in parts for row in part) == timeless(whole), f"{path} by {limit}"
            assert all(len(part) == limit for part in parts[:-1]), path
            assert parts[-1] or len(parts) == 1, f"{path}: a next part that is empty"


def test_senders_alike_but_for_their_address_come_once_each(site, client):
    with site.units_of_work() as uow:
        for number in (1, 2, 3):
            uow.messages.add(
                a_message(
                    70 + number,
                    sending_application="R" * 150,
                    sending_facility="F" * 150,
                    peer=f"192.0.2.{number}:2575",
                    received_at=site.clock.now(),
                )
            )
        uow.commit()
    whole = client.get("/api/sources").json()
    assert sum(row["name"] == "R" * 150 for row in whole) == 3
    assert timeless(row for part in walk(client, "/api/sources", 1) for row in part) == timeless(whole)


def test_the_next_part_is_an_address_whatever_the_name_in_it(site, client):
    name, as_sent = "A ?#\u20ac", "A%20%3F%23%E2%82%AC"
    with site.units_of_work() as uow:
        for _ in range(2):
            uow.record(Event(EventName.DELIVERY_CREATED, Subject.DELIVERY, 1, study_instance_uid=name))
        uow.commit()
    answer = client.get(f"/api/studies/{as_sent}/timeline?limit=1")
    assert answer.headers["link"] == f'</api/studies/{as_sent}/timeline?limit=1&after=1>; rel="next"'


@pytest.mark.parametrize(
    "after", ["x", "-1", "0", "9" * 30, "\u0661", "2026~1", "2026-11-21T08:00:00~1", "~", "%00"]
)
def test_a_place_nobody_was_told_is_a_problem_or_no_place(client, document, after):
    for path, method, operation in api(document):
        if method == "get" and is_list(operation) and "{" not in path:
            answer = client.get(f"{path}?after={after}")
            assert answer.status_code in (200, 409, 422), f"{path}: {answer.text}"
            if answer.status_code > 400:
                assert_problem(answer)
                assert "after" in answer.json()["detail"]


# ---- keys ----------------------------------------------------------------------------------------------


def deeds(site):
    """Count what was done, beside looking at it."""
    looks = [name.value for name in (EventName.VIEWED, EventName.SEARCHED)]
    with reading(site.engine) as connection:
        return connection.execute(
            select(func.count()).select_from(EVENT).where(EVENT.c.name.not_in(looks))
        ).scalar_one()


@pytest.mark.parametrize("path", sorted(ONCE))
def test_a_request_that_comes_twice_is_done_once_and_answered_alike(site, client, path, monkeypatch):
    if path == "/api/probe":
        monkeypatch.setattr("broker.probe.Prober.run", a_run(site))
    where, body = ONCE[path]
    key = {"idempotency-key": f"key of {path}".replace(" ", "-")}
    first = client.post(where, json=body, headers=key)
    assert first.status_code < 300, first.text
    assert "idempotent-replayed" not in first.headers
    if path == "/api/destinations/{name}/test":  # goes on behind its answer
        wait_until(lambda: not client.get(where).json()["is_running"])
    done = deeds(site)
    again = client.post(where, json=body, headers=key)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers.get("location") == first.headers.get("location")
    other = client.post(where, json={"reason": "another"}, headers=key)
    assert other.status_code == 409, other.text
    assert other.headers["content-type"] == "application/problem+json"
    assert deeds(site) == done
    stranger = program(site, Role.OPERATOR).post("/api/deliveries/999999/retry", headers=key)
    assert stranger.status_code == 404, "the key of somebody else is another key"


def a_run(site):
    """A synthetic exam that was run: nothing listens here."""
    return lambda self, *, actor: site.reports.probe_runs(limit=1)[0]


def test_who_is_answered_again_later_is_shown_the_patient_again(site, client):
    def views():
        return site.reports.audit(AuditQuestion(what="viewed", study_instance_uid=STUDY), limit=500)

    key = {"idempotency-key": "seen-again"}
    first = client.post("/api/deliveries/1/retry", headers=key)
    assert STUDY in first.text
    for name in (site.access.audit, client.app.state.dashboard.access.audit):
        name._recent.clear()  # as if a quarter of an hour had passed
    before = len(views())
    again = client.post("/api/deliveries/1/retry", headers=key)
    assert (again.headers["idempotent-replayed"], again.text) == ("true", first.text)
    assert len(views()) == before + 1
    assert views()[0].subject_id == 1


def test_a_refused_request_leaves_its_key_free(site, client):
    key = {"idempotency-key": "refused"}
    refused = client.post(
        "/api/destinations/archive/pause", json={"until": "2001-01-01T00:00:00Z"}, headers=key
    )
    assert refused.status_code == 422
    assert (
        client.post("/api/destinations/archive/pause", json={"reason": "ok"}, headers=key).status_code == 200
    )
    client.post("/api/destinations/archive/resume")


def test_a_refusal_of_what_is_no_transaction_leaves_its_key_free_and_a_failure_does_not(client, monkeypatch):
    def asked(key, *refusals):
        refused = iter(refusals)

        def a_test(_self):
            for error in refused:
                raise error
            return {}

        monkeypatch.setattr("broker.workflow.alert_operations.AlertOperations.test", a_test)
        headers = {"idempotency-key": key}
        return [client.post("/api/alerts/test", headers=headers).status_code for _ in range(2)]

    assert asked("not-yet", Conflict("one is running")) == [409, 200]
    assert asked("half-way", DatabaseUnavailable("gone")) == [503, 409]


def test_a_token_is_not_made_where_asking_twice_was_to_be_harmless(client):
    before = len(client.get("/api/tokens").json())
    answer = client.post("/api/tokens", json={"label": "x"}, headers={"idempotency-key": "a-token"})
    assert (answer.status_code, len(client.get("/api/tokens").json())) == (422, before)
    assert_problem(answer)
    assert "Idempotency-Key" in answer.json()["detail"]


def test_a_repeat_whose_answer_was_lost_is_not_done_again(site, client, monkeypatch):
    key = {"idempotency-key": "lost"}
    with monkeypatch.context() as patch:
        patch.setattr("broker.workflow.idempotency.Requests.remember", lambda *_: None)
        first = client.post("/api/maintenance", json=ONCE["/api/maintenance"][1], headers=key)
        tested = client.post("/api/alerts/test", headers={"idempotency-key": "lost-test"})
    assert (first.status_code, tested.status_code) == (201, 200)
    done = deeds(site)
    again = client.post("/api/maintenance", json=ONCE["/api/maintenance"][1], headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert client.post("/api/alerts/test", headers={"idempotency-key": "lost-test"}).status_code == 409
    assert deeds(site) == done


@pytest.mark.parametrize("value", ["", "a b", "\u00e4", "x" * 201])
def test_a_key_that_is_none_is_refused(client, value):
    answer = client.post("/api/deliveries/1/retry", headers={"idempotency-key": value.encode()})
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


# ---- problems ------------------------------------------------------------------------------------------

HOSTILE = [
    (b'{"act": "retry", "reason": "\\ud800"}', {}, 422),
    (b'{"act": "retry", "reason": "a\\u0000b"}', {}, 422),
    (b'{"act": "retry", "operation": 1e400}', {}, 422),
    (b'{"act": "retry", "operation": 99999999999999999999999999}', {}, 422),
    (b'{"act": "retry", "ids": [NaN]}', {}, 422),
    (b'{"act": "retry", "since": "99999-01-01"}', {}, 422),
    (b"\xff\xfe\x00", {}, 400),
    (b"[" * 50_000, {}, 400),
    (b"", {}, 422),
    (b'"retry"', {}, 422),
    (b'{"act": "retry"', {}, 422),
    (b"act=retry", {"content-type": "application/x-www-form-urlencoded"}, 415),
    (b'{"act": "retry"}', {"content-type": "text/plain"}, 415),
    (b'{"act": "retry"}', {"content-type": ""}, 415),
    (b'{"act": "retry"}', {"content-type": "application/json; charset=utf-16"}, 202),
    (b'{"act": "retry", "reason": "' + b"x" * 1_100_000 + b'"}', {}, 413),
    (iter([b'{"act": "retry", "reason": "', *[b"x" * 100_000] * 11]), {}, 413),
    (b'{"act": "retry"}', {"content-length": "-1"}, 400),
]


@pytest.mark.parametrize(("body", "headers", "status"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_body_is_a_problem(client, body, headers, status):
    answer = client.post(
        "/api/operations", content=body, headers={"content-type": "application/json"} | headers
    )
    assert answer.status_code == status, answer.text
    if status >= 400:
        assert_problem(answer)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/nothing", 404),
        ("GET", "/api/deliveries/999999", 404),
        ("GET", "/api/deliveries/99999999999999999999999", 422),
        ("GET", "/api/deliveries/%00", 404),
        ("GET", "/api/destinations/%00", 404),
        ("GET", "/api/destinations/%ff%fe", 404),
        ("GET", "/api/studies/%F0%9F%92%A9%00/timeline", 200),
        ("GET", "/api/devices/" + "x" * 200, 422),
        ("GET", "/api/messages?day=2026-99-99", 422),
        ("GET", "/api/worklist?date=2026-99-99", 422),
        ("GET", "/api/deliveries?state=ASLEEP", 422),
        ("GET", "/api/deliveries?since=9999999-01-01", 422),
        ("GET", "/api/deliveries?until=0.5", 422),
        ("GET", "/api/deliveries?since=0001-01-01T00:00:00%2B23:59", 422),
        ("GET", "/api/orders?status=SHEDULED", 422),
        ("GET", "/api/worklist?status=WAITING", 422),
        ("GET", "/api/studies?state=UNROUTD", 422),
        ("GET", "/api/messages?outcome=rejected", 422),
        ("GET", "/api/messages/sent?state=FAILED", 422),
        ("GET", "/api/messages?day=20261121", 422),
        ("GET", "/api/deliveries?limit=501", 422),
        ("GET", "/api/routes?days=99999999999999999999", 422),
        ("GET", "/api/handover?since=0001-01-01T00:00:00%2B23:59", 422),
        ("GET", "/api/handover?since=9999-12-31T23:59:59-23:59", 422),
        ("DELETE", "/api/deliveries/1", 405),
        ("PATCH", "/api/operations", 405),
    ],
)
def test_a_wrong_address_is_a_problem(client, method, path, status):
    answer = client.request(method, path)
    assert answer.status_code == status, answer.text
    if status >= 400:
        assert_problem(answer)


def test_a_problem_names_every_place_that_is_wrong_and_repeats_nothing_that_was_sent(client):
    answer = client.post("/api/operations", json={"act": "SECRET^NAME", "ids": [0], "x": "SECRET"})
    assert_problem(answer)
    assert {error["where"] for error in answer.json()["errors"]} == {"act", "ids.0", "x"}
    assert "SECRET" not in answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic YTpi"}, 401),
        ({"authorization": ""}, 401),
        ({"host": "evil.example"}, 421),
        ({"origin": "https://evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_whoever_may_not_is_told_so_in_a_problem(client, headers, status):
    answer = client.post("/api/operations", json={"act": "retry"}, headers=headers)
    assert answer.status_code == status, answer.text
    assert_problem(answer)


def test_a_viewer_may_not_act_and_is_told_so(site):
    answer = program(site, Role.VIEWER).post("/api/operations", json={"act": "retry"})
    assert answer.status_code == 403
    assert_problem(answer)


def assert_problem(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    body = json.loads(answer.text)
    assert body["status"] == answer.status_code
    assert body["type"] == "about:blank"
    assert body["title"]
    assert body["detail"]
    assert body["instance"].startswith("/api/")
