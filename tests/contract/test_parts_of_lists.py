"""Lists in parts, on both databases: each begins behind the row the one before ended with, whatever comes in between."""

from datetime import timedelta

import pytest

from broker.domain.knocks import KnockReason
from broker.errors import Conflict, NotFound, OutOfResources
from broker.workflow.bulk import stop
from broker.workflow.bulk_port import BulkOperation, BulkState
from broker.workflow.devices_port import Admission, KnockKey, Knocks
from broker.workflow.idempotency import LIFE, Requests, is_repeat, request_key
from broker.workflow.idempotency_port import Answer
from broker.workflow.probe_port import ProbeRun
from broker.workflow.reports_port import MAX_PAGE, MOST_ROWS, Page
from broker.workflow.selection import Selection
from tests.builders import NOW, a_delivery, a_stored_entry, an_instance

HOUR = timedelta(hours=1)


def in_parts(read, place, size):
    """Read a list part by part."""
    found, last = [], None
    while part := read(None if last is None else place(last), size):
        found += part
        last = part[-1]
        assert len(part) <= size
    return found


def orders_at(store, *instants):
    for number, at in enumerate(instants, 1):
        store(lambda uow, number=number, at=at: a_stored_entry(uow, number, now=at))


@pytest.mark.parametrize("size", [1, 2, 3, MAX_PAGE])
def test_orders_changed_at_one_instant_are_told_apart_by_their_id(reports, store, size):
    orders_at(store, NOW, NOW + HOUR, NOW + HOUR, NOW + HOUR, NOW - HOUR)
    found = in_parts(
        lambda before, limit: reports.orders(before=before, page=Page(limit)),
        lambda line: (line.updated_at, line.order_id),
        size,
    )
    assert [line.order_id for line in found] == [4, 3, 2, 1, 5]


def test_an_order_that_changes_between_two_parts_moves_no_other(reports, store):
    orders_at(store, NOW, NOW + HOUR, NOW + 2 * HOUR)
    (first,) = reports.orders(page=Page(1))
    store(lambda uow: a_stored_entry(uow, 9, now=NOW + 9 * HOUR))
    rest = reports.orders(before=(first.updated_at, first.order_id), page=Page(5))
    assert [line.order_id for line in rest] == [2, 1]


@pytest.mark.parametrize("size", [1, 2, MAX_PAGE])
def test_studies_go_on_behind_a_study(reports, store, size):
    for number in range(1, 6):
        image = an_instance(number, study_instance_uid=f"1.2.{number}")
        store(lambda uow, image=image: uow.instances.add_many([image]))
    found = in_parts(
        lambda before, limit: reports.studies(before=before, page=Page(limit)),
        lambda line: line.study_instance_uid,
        size,
    )
    assert [line.study_instance_uid for line in found] == [f"1.2.{number}" for number in (5, 4, 3, 2, 1)]
    assert reports.studies(before="1.2.999") == []


@pytest.mark.parametrize("size", [1, 2, MAX_PAGE])
def test_images_of_a_delivery_go_on_behind_one(reports, store, size):
    def make(uow):
        key = uow.deliveries.add(a_delivery(1), now=NOW)
        uow.deliveries.add_items(key, uow.instances.add_many([an_instance(n) for n in range(1, 6)]))
        return key

    key = store(make)
    found = in_parts(
        lambda item, limit: reports.items_behind(key, item=item or 0, limit=limit),
        lambda line: line.item,
        size,
    )
    assert [line.sop_instance_uid[-1] for line in found] == list("12345")


@pytest.mark.parametrize("size", [1, 2, MAX_PAGE])
def test_refusals_admissions_and_probes_go_on_behind_one(reports, store, size):
    def make(uow):
        for number in range(1, 5):
            at = NOW + (HOUR if number % 2 else 2 * HOUR)
            key = KnockKey(f"T{number}", "BROKER", "192.0.2.1", KnockReason.UNKNOWN_TITLE)
            uow.devices.note_knocks([Knocks(key, 1, at, at)])
            uow.devices.admit(Admission(0, f"T{number}", "192.0.2.1", NOW, NOW + HOUR, "why", "anna"))
            run = ProbeRun(0, f"1.2.3.{number}", f"P{number}", "anna", NOW)
            uow.probes.keep(ProbeRun(uow.probes.add(run), *list_of(run)[1:5], NOW))

    store(make)
    knocks = in_parts(
        lambda before, limit: reports.knocks(before=before, limit=limit), lambda one: one.id, size
    )
    assert [one.key.ae_title for one in knocks] == ["T4", "T2", "T3", "T1"]
    assert reports.knocks(before=999) == []
    guests = in_parts(
        lambda before, limit: reports.admissions(before=before, limit=limit), lambda one: one.id, size
    )
    assert [one.ae_title for one in guests] == ["T4", "T3", "T2", "T1"]
    runs = in_parts(
        lambda before, limit: reports.probe_runs(before=before, limit=limit), lambda one: one.id, size
    )
    assert [one.patient_id for one in runs] == ["P4", "P3", "P2", "P1"]


def list_of(run):
    return [run.id, run.study_instance_uid, run.patient_id, run.actor, run.started_at]


def test_a_list_reads_one_row_more_than_it_shows_and_never_more(reports, store):
    store(lambda uow: [uow.deliveries.add(a_delivery(n), now=NOW) for n in range(MOST_ROWS + 5)])
    for limit in (MAX_PAGE, MOST_ROWS, 10 * MAX_PAGE):
        assert len(reports.select_deliveries(Selection(), limit=limit)) == min(limit, MOST_ROWS)


# ---- requests that come twice --------------------------------------------------------------------------


def test_an_answer_is_kept_for_the_request_that_took_the_key(uow_factory, clock):
    requests = Requests(uow_factory, clock)
    key, other = (request_key("k", actor="anna", asked=asked) for asked in ("this", "that"))
    assert requests.answer(key) is None
    requests.remember(key, Answer(200, "{}"))
    assert requests.answer(key) is None, "nobody took the key"
    with requests.begun(key):
        assert requests.answer(key) is None
    kept = Answer(201, '{"name": "Zoë \\u0000"}', "/api/things/1")
    requests.remember(key, kept)
    assert requests.answer(key) == kept
    with pytest.raises(Conflict, match="another request"):
        requests.answer(other)
    with pytest.raises(Conflict, match="still being answered"), requests.begun(key):
        pass
    clock.advance(LIFE)
    assert requests.answer(key) is None
    assert requests.answer(other) is None
    with requests.begun(other):
        pass
    with pytest.raises(Conflict, match="still being answered"), requests.begun(other):
        pass


def test_a_refusal_gives_the_key_back_and_a_failure_of_ours_keeps_it(uow_factory, clock):
    requests, key = Requests(uow_factory, clock), request_key("k", actor="anna", asked="this")
    with pytest.raises(NotFound), requests.begun(key):
        raise NotFound("There is no such destination.")
    with pytest.raises(OutOfResources), requests.begun(key):
        raise OutOfResources("no handles")
    with pytest.raises(Conflict, match="still being answered"), requests.begun(key):
        pass


def test_an_answer_too_long_to_keep_is_not_kept(uow_factory, clock):
    requests = Requests(uow_factory, clock)
    key = request_key("k", actor="anna", asked="this")
    with requests.begun(key):
        pass
    requests.remember(key, Answer(200, "x" * 300_000))
    assert requests.answer(key) is None


def test_stopping_what_another_request_stopped_is_refused_by_its_key(uow_factory, clock, store):
    running = BulkOperation(0, "retry", Selection(), {}, "anna", None, BulkState.RUNNING, 1, NOW, NOW)
    operation = store(lambda uow: uow.bulk.add(running))
    key = request_key("k", actor="anna", asked=f"stop {operation}")
    assert stop(operation, uow_factory, clock, actor="anna", key=key)
    assert not stop(operation, uow_factory, clock, actor="anna", key=key)
    with uow_factory() as uow, pytest.raises(Conflict):
        is_repeat(uow, request_key("k", actor="anna", asked="stop 2"), now=clock.now())
