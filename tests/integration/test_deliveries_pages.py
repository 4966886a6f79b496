"""Deliveries and destinations as people act on them: filters, reviews, operations, holds, tests."""

import re
import threading
from contextlib import nullcontext
from datetime import UTC, timedelta
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from broker.actions import Actions
from broker.cli import deliveries as command
from broker.db.reports import SqlReports
from broker.domain.delivery import DeliveryState
from broker.errors import InvalidValue
from broker.web.app import create_app
from broker.web.ports import Dashboard, DestinationFacts
from broker.web.security import FIELD, HEADER
from broker.workflow import bulk
from broker.workflow.alert_operations import AlertOperations
from broker.workflow.destinations_port import CheckResult
from broker.workflow.idempotency import request_key
from broker.workflow.operations import Act, Asked
from broker.workflow.overview_port import HealthPart
from tests.broker_process import wait_until
from tests.builders import NOW, a_delivery, an_instance
from tests.doors import an_access, signed_in, with_accounts

S = DeliveryState
SITE = {
    "archive": DestinationFacts(
        "archive", "dicom", "PACS team <4711>", {"host": "pacs", "tls.key": "set, not shown"}
    ),
    "second": DestinationFacts("second", "dicom", "", {}),
    "film": DestinationFacts("film", "print", "", {}),
}
REJECTED = "the peer does not know the called AE title (rejected 1/1/7)"


class Desk:
    """The pages on a real database, and what lies behind them."""

    def __init__(self, engine, units_of_work, clock, folder):
        self.units_of_work, self.clock = units_of_work, clock
        self.reports = SqlReports(engine, destinations=SITE)
        self.answer = lambda name: CheckResult(ok=True, detail=f"{name}: C-ECHO answered", duration_s=0.2)
        destinations = {name: SimpleNamespace(kind=fact.kind, concurrency=2) for name, fact in SITE.items()}
        self.actions = Actions(
            SimpleNamespace(
                units_of_work=units_of_work,
                clock=clock,
                reports=self.reports,
                check_destination=self._check,
                loaded=SimpleNamespace(site=SimpleNamespace(destinations=destinations)),
            )
        )
        board = Dashboard(
            reports=self.reports,
            actions=self.actions,
            destination=SITE.get,
            health=lambda: [HealthPart("hl7", True, "port 2575 answers", NOW)],
            explain=lambda study: [],
            insight=None,
            clock=clock,
            zone=UTC,
            site_name="Hospital",
            hosts=frozenset({"testserver"}),
            version="1.2.3",
            access=with_accounts(an_access(engine, units_of_work, clock, folder)),
            alerts=AlertOperations(units_of_work, clock, {}, "Hospital"),
        )
        self.client = signed_in(create_app(board), "operator")
        self.numbers = iter(range(1, 10_000))

    def _check(self, name):
        return self.answer(name)

    def owe(self, count=1, state=S.DEAD, images=0, reason=REJECTED, **changes):
        keys = []
        with self.units_of_work() as uow:
            for _ in range(count):
                key = uow.deliveries.add(
                    a_delivery(next(self.numbers), state=state, reason=reason, **changes), now=NOW
                )
                new = [an_instance(next(self.numbers), size_bytes=500_000) for _ in range(images)]
                if new:
                    uow.deliveries.add_items(key, uow.instances.add_many(new))
                keys.append(key)
            uow.commit()
        return keys

    def get(self, path, status=200):
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    def confirm(self, page, **typed):
        """Press the one button of a review, as a browser would send it."""
        form = re.search(
            r'<form method="post" action="/operations" class="confirm">.*?</form>', page, re.DOTALL
        )
        fields = dict(re.findall(r'<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"', form[0]))
        return self.client.post("/operations", data=fields | typed)

    def press(self, path, **typed):
        token = re.search(rf'name="{FIELD}" value="([^"]+)"', self.get("/find"))[1]
        return self.client.post(path, data={FIELD: token, **typed})

    def states(self, keys):
        with self.units_of_work() as uow:
            return [uow.deliveries.get(key).state for key in keys]

    def line(self, name="archive"):
        lines = self.reports.destinations(now=self.clock.now())
        return next(line for line in lines if line.destination == name)


@pytest.fixture
def desk(sqlite_engine, sqlite_uow_factory, clock, tmp_path):
    return Desk(sqlite_engine, sqlite_uow_factory, clock, tmp_path)


def test_the_dead_are_grouped_by_cause_with_what_to_do(desk):
    desk.owe(3)
    desk.owe(2, reason="the peer cannot be reached (connect: refused)", destination="second")
    page = desk.get("/deliveries")
    assert "Called AE title not recognised" in page
    assert "Compare called_ae_title here with the AE title the destination has for itself" in page
    assert "<b>3 deliveries</b>" in page
    link = re.search(
        r'<a href="(/deliveries\?state=DEAD&amp;cause=unreachable[^"]*)"',
        page.replace("&cause", "&amp;cause"),
    )[1]
    assert desk.get(link.replace("&amp;", "&")).count('data-l="Delivery"') == 2


def test_a_night_is_sent_again_after_one_review_and_one_confirm(desk):
    keys = desk.owe(3, images=2)
    desk.owe(1, S.DELIVERED)
    page = desk.get("/deliveries/review?do=retry&destination=archive")
    assert "3 deliveries, 6 images, 3.0 MB are retried" in page
    assert "1 delivery: delivered already" in page
    assert desk.states(keys) == [S.DEAD] * 3
    answer = desk.confirm(page, reason="PACS was down")
    assert answer.status_code == 303
    shown = desk.get(answer.headers["location"])
    assert "3 deliveries retried" in shown
    assert "PACS was down" in shown
    assert desk.states(keys) == [S.PENDING] * 3
    assert "retried by operator" in desk.get(f"/deliveries/{keys[0]}")
    assert "PACS was down" in desk.get(f"/deliveries/{keys[0]}")


def test_only_the_ticked_ones_are_meant_and_ticking_none_is_said(desk):
    first, second, third = desk.owe(3)
    page = desk.get(f"/deliveries/review?do=cancel&which=ticked&ids={first}&ids={third}")
    desk.confirm(page)
    assert desk.states([first, second, third]) == [S.CANCELLED, S.DEAD, S.CANCELLED]
    assert "No delivery is ticked" in desk.get("/deliveries/review?do=cancel&which=ticked", 422)


def test_what_was_cancelled_is_taken_back_from_the_page_of_the_operation(desk):
    keys = desk.owe(2)
    shown = desk.get(desk.confirm(desk.get("/deliveries/review?do=cancel&state=DEAD")).headers["location"])
    back = re.search(r'href="([^"]+)">Take it back', shown)[1].replace("&amp;", "&")
    desk.confirm(desk.get(back))
    assert desk.states(keys) == [S.PENDING, S.PENDING]


def test_sending_elsewhere_asks_where_first_and_offers_what_can_take_it(desk):
    keys = desk.owe(1)
    asked = desk.get("/deliveries/review?do=retarget&destination=archive")
    assert '<option value="second"' in asked
    assert '<option value="film"' not in asked
    assert 'class="confirm"' not in asked
    page = desk.get("/deliveries/review?do=retarget&destination=archive&to=second")
    assert "1 delivery is sent elsewhere, to second" in page
    desk.confirm(page)
    assert desk.states(keys) == [S.CANCELLED]
    assert desk.line("second").waiting == 1


def test_a_review_says_when_what_is_retried_will_wait_all_the_same(desk):
    desk.owe(1)
    desk.press("/destinations/archive/pause", reason="new disks")
    page = desk.get("/deliveries/review?do=retry&state=DEAD")
    assert "What is sent there waits until it is resumed" in page
    assert "new disks" in page
    assert "waits until" not in desk.get("/deliveries/review?do=cancel&state=DEAD")


def test_a_large_operation_goes_on_behind_the_page_and_can_be_stopped(desk, monkeypatch):
    monkeypatch.setattr(bulk, "ROWS_PER_COMMIT", 2)
    keys = desk.owe(5)
    where = desk.confirm(desk.get("/deliveries/review?do=cancel&state=DEAD")).headers["location"]
    page = desk.get(where)
    assert f'hx-get="{where}/live"' in page
    assert "2 deliveries cancelled</b> of about 5" in page
    assert desk.press(f"{where}/stop").status_code == 303
    assert "hx-get" not in desk.get(f"{where}/live")
    assert desk.states(keys) == [S.CANCELLED, S.CANCELLED, S.DEAD, S.DEAD, S.DEAD]
    assert "stopped" in desk.get("/operations")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"do": "explode", "up_to": "9"}, "do: one of retry"),
        ({"do": "retry", "up_to": "nine"}, "not complete"),
        ({"do": "retry", "up_to": "9", "reason": "x" * 501}, "reason: at most 500"),
        ({"do": "retry", "up_to": "9", "state": "SLEEPING"}, "state: one of"),
        ({"do": "retarget", "up_to": "9"}, "which destination"),
        ({"do": "priority", "up_to": "9", "priority": "now"}, "priority: one of urgent"),
        ({"do": "retry", "up_to": "9", "ids": "1,x"}, "ids: a whole number"),
        ({"do": "retry", "up_to": "9", "since": "yesterday"}, "since: a date"),
    ],
)
def test_a_form_that_cannot_be_meant_says_what_is_wrong_and_changes_nothing(desk, fields, said):
    keys = desk.owe(2)
    answer = desk.press("/operations", **fields)
    assert answer.status_code == 422
    assert said in answer.text
    assert desk.states(keys) == [S.DEAD, S.DEAD]
    assert desk.reports.operations() == []


@pytest.mark.parametrize("query", ["state=SLEEPING", "cause=magic", "age=3w", "since=x", "operation=-1"])
def test_a_filter_that_cannot_be_meant_is_named(desk, query):
    page = desk.get(f"/deliveries?{query}", 422)
    assert f"{query.partition('=')[0]}:" in page


def test_filters_narrow_by_route_age_and_time(desk):
    desk.owe(1, route="night")
    desk.owe(1, created_at=NOW - timedelta(hours=2))
    assert desk.get("/deliveries?route=night").count('data-l="Delivery"') == 1
    assert desk.get("/deliveries?age=1h").count('data-l="Delivery"') == 1
    since = (NOW - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M")
    assert desk.get(f"/deliveries?since={since}").count('data-l="Delivery"') == 1


def test_a_long_list_is_turned_both_ways_without_losing_a_row(desk):
    keys = desk.owe(120)

    def shown(page):
        return [int(key) for key in re.findall(r'<a href="/deliveries/(\d+)">\1</a>', page)]

    first = desk.get("/deliveries")
    second = desk.get(f"/deliveries?before={shown(first)[-1]}")
    third = desk.get(f"/deliveries?before={shown(second)[-1]}")
    assert shown(first) + shown(second) + shown(third) == keys[::-1]
    assert 'rel="next"' not in third
    back = desk.get(f"/deliveries?after={shown(third)[0]}")
    assert shown(back) == shown(second)
    assert 'rel="prev"' in back


def test_a_destination_is_paused_with_a_reason_and_an_end(desk):
    desk.owe(2, S.PENDING)
    until = (NOW + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M")
    answer = desk.press("/destinations/archive/pause", reason="new <disks>", until=until)
    assert answer.headers["location"] == "/destinations/archive"
    page = desk.get("/destinations/archive")
    assert "Paused by <bdi>operator</bdi>" in page
    assert "new &lt;disks&gt;" in page
    assert "Resumes by itself" in page
    assert "PACS team &lt;4711&gt;" in page
    assert "set, not shown" in page
    desk.press("/destinations/archive/resume")
    assert desk.line().state == "up"


def test_an_end_in_the_past_is_refused_and_what_was_typed_is_kept(desk):
    answer = desk.press("/destinations/archive/pause", reason="new disks", until="2001-01-01T00:00")
    assert answer.status_code == 422
    assert "until: must lie ahead" in answer.text
    assert 'value="new disks"' in answer.text
    assert 'value="2001-01-01T00:00"' in answer.text
    assert desk.line().state == "up"


def test_a_drained_destination_says_what_goes_and_what_is_held(desk):
    desk.owe(1, S.PENDING)
    desk.press("/destinations/archive/drain", reason="")
    assert "what was planned before is sent, what comes is held" in desk.get("/destinations/archive")
    assert desk.line().state == "draining"


def test_a_test_is_made_off_the_page_and_its_result_is_kept(desk):
    assert "not tested yet" in desk.get("/destinations/archive")
    assert desk.press("/destinations/archive/test").headers["location"] == "/destinations/archive#test"
    wait_until(lambda: "C-ECHO answered" in desk.get("/destinations/archive/test"), what="the result")
    page = desk.get("/destinations/archive")
    assert "it answers" in page
    assert "by <bdi>operator</bdi>, took 0.20 s" in page


def test_a_peer_that_hangs_holds_neither_the_page_nor_a_second_test(desk):
    is_over = threading.Event()

    def hang(name):
        is_over.wait(30)
        return CheckResult(ok=False, detail=f"{name}: timed out")

    desk.answer = hang
    try:
        desk.press("/destinations/archive/test")
        assert "being tested" in desk.get("/destinations/archive")
        assert desk.press("/destinations/archive/test").status_code == 303
    finally:
        is_over.set()
    wait_until(
        lambda: "does not answer as it should" in desk.get("/destinations/archive/test"), what="the end"
    )


def test_a_test_whose_process_was_lost_says_so(desk):
    with desk.units_of_work() as uow:
        uow.destinations.save_check(
            "archive", {"state": "running", "by": "anna", "deadline_s": 60.0}, now=NOW
        )
        uow.commit()
    desk.clock.advance(timedelta(minutes=2))
    assert "was cut off; test again" in desk.get("/destinations/archive")


def test_what_is_unknown_is_404(desk):
    assert "no such destination" in desk.get("/destinations/nowhere", 404).lower()
    assert desk.press("/destinations/nowhere/test").status_code == 404
    assert desk.press("/destinations/nowhere/drain").status_code == 404
    desk.get("/operations/1", 404)
    assert desk.press("/operations/1/stop").status_code == 404


def api(desk, path, body=None, **headers):
    """Call the JSON API as a program does."""
    token = re.search(rf'name="{FIELD}" value="([^"]+)"', desk.get("/find"))[1]
    headers = {HEADER: token, "accept": "application/json"} | headers
    return desk.client.post(path, json=body, headers=headers)


def test_a_program_previews_and_acts_on_many_and_repeating_its_request_changes_nothing(desk):
    keys = desk.owe(3, images=1)
    told = api(desk, "/api/deliveries/preview", {"act": "retry", "destination": "archive"}).json()
    assert (told["deliveries"], told["images"], told["bytes"]) == (3, 3, 1_500_000)
    assert desk.states(keys) == [S.DEAD] * 3
    many = {"act": "cancel", "state": "DEAD", "reason": "wrong route"}
    first = api(desk, "/api/operations", many, **{"Idempotency-Key": "n1"})
    assert first.status_code == 202
    assert first.headers["location"] == f"/api/operations/{first.json()['id']}"
    assert api(desk, "/api/operations", many, **{"Idempotency-Key": "n1"}).json()["id"] == first.json()["id"]
    other = api(desk, "/api/operations", many | {"act": "retry"}, **{"Idempotency-Key": "n1"})
    assert other.status_code == 409
    assert other.headers["content-type"] == "application/problem+json"
    desk.actions.advance_all(is_over=lambda: False)
    told = desk.client.get(first.headers["location"]).json()
    assert (told["state"], told["changed"]) == ("DONE", 3)
    assert desk.states(keys) == [S.CANCELLED] * 3


def test_a_repeated_retry_of_one_delivery_does_not_send_it_twice(desk):
    (key,) = desk.owe(1)
    once = {"Idempotency-Key": "k"}
    assert api(desk, f"/api/deliveries/{key}/retry", **once).json()["state"] == "PENDING"
    desk.actions.act(key, Asked(Act.CANCEL, "anna"))
    again = api(desk, f"/api/deliveries/{key}/retry", **once)
    assert (again.json()["state"], again.headers["idempotent-replayed"]) == ("PENDING", "true")
    assert desk.states([key]) == [S.CANCELLED]


def test_a_key_that_came_when_nothing_was_to_be_done_is_not_done_later(desk):
    (key,) = desk.owe(1, S.PENDING)
    asked = Asked(Act.RETRY, "anna", key=request_key("k", actor="anna", asked="retry"))
    assert desk.actions.act(key, asked) is False, "it is due already"
    desk.actions.act(key, Asked(Act.CANCEL, "anna"))
    assert desk.actions.act(key, asked) is False
    assert desk.states([key]) == [S.CANCELLED]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"act": "explode"},
        {"act": "retry", "state": "SLEEPING"},
        {"act": "retry", "unknown": 1},
        {"act": "retarget"},
        {"act": "retry", "ids": [0]},
        {"act": "retry", "reason": "a\x00b"},
    ],
)
def test_a_call_that_cannot_be_meant_is_a_problem_and_changes_nothing(desk, body):
    keys = desk.owe(1)
    answer = api(desk, "/api/operations", body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert desk.states(keys) == [S.DEAD]
    assert desk.reports.operations() == []


def test_a_program_holds_a_destination_and_lets_it_go(desk):
    until = (NOW + timedelta(hours=1)).isoformat()
    line = api(desk, "/api/destinations/archive/pause", {"reason": "disks", "until": until}).json()
    assert (line["state"], line["reason"], line["held_by"]) == ("paused", "disks", "operator")
    assert api(desk, "/api/destinations/archive/resume").json()["state"] == "up"
    assert api(desk, "/api/destinations/archive/drain").json()["state"] == "draining"
    assert api(desk, "/api/destinations/nowhere/pause").status_code == 404
    assert api(desk, "/api/destinations/archive/pause", {"until": "2001-01-01T00:00:00"}).status_code == 422


def test_the_command_line_says_first_and_does_with_yes(desk, monkeypatch):
    keys = desk.owe(2)
    broker = SimpleNamespace(actions=desk.actions, reports=desk.reports, clock=desk.clock, zone=UTC)
    monkeypatch.setattr(command, "open_cli", lambda *_: nullcontext(broker))
    said = CliRunner().invoke(command.app, ["retry", "--destination", "archive"])
    assert said.exit_code == 0, said.output
    assert "retry: 2 deliveries" in said.output
    assert "Nothing has happened" in said.output
    assert desk.states(keys) == [S.DEAD, S.DEAD]
    done = CliRunner().invoke(command.app, ["retry", "--state", "dead", "--reason", "the night", "--yes"])
    assert "2 changed, 0 left as they are" in done.output
    assert desk.states(keys) == [S.PENDING, S.PENDING]
    for wrong in ([], ["--state", "sleeping"], ["--cause", "magic"]):
        assert isinstance(CliRunner().invoke(command.app, ["cancel", *wrong]).exception, InvalidValue)
    assert desk.states(keys) == [S.PENDING, S.PENDING]
