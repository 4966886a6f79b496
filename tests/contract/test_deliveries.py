"""Deliveries on both databases: one wins, zombies are refused, order is kept."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from broker.db.engine import open_engine
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.domain.delivery import DeliveryState, ItemState
from broker.errors import NotFound
from broker.workflow.destinations_port import DestinationHealth, DestinationState, ItemResult
from tests.builders import NOW, a_delivery, a_message_delivery, an_instance

LEASE = timedelta(seconds=90)
S = DeliveryState


def stored(uow_factory, *deliveries):
    with uow_factory() as uow:
        ids = [uow.deliveries.add(delivery, now=NOW) for delivery in deliveries]
        uow.commit()
    return ids


def claim(uow_factory, delivery, now=NOW, worker="w1"):
    with uow_factory() as uow:
        claimed = uow.deliveries.claim(delivery, worker=worker, now=now, lease=LEASE)
        uow.commit()
    return claimed


def settle(uow_factory, delivery, attempt, state=S.DELIVERED, now=NOW, due_at=NOW):
    with uow_factory() as uow:
        won = uow.deliveries.settle(
            delivery,
            attempt,
            state=state,
            reason="because",
            failure_class=None,
            failures=0,
            due_at=due_at,
            now=now,
        )
        uow.commit()
    return won


def read(uow_factory, delivery):
    with uow_factory() as uow:
        return uow.deliveries.get(delivery)


def at_once(*actions):
    """Run actions in threads that start together; answer what each answered or raised."""
    gate = threading.Barrier(len(actions))
    answers = [None] * len(actions)

    def run(place, action):
        gate.wait(10)
        try:
            answers[place] = action()
        except Exception as error:
            answers[place] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return answers


def test_a_delivery_comes_back_as_it_was_stored(uow_factory):
    delivery = a_delivery(ordering_key="k", collect_until=NOW + LEASE, payload=b"\x00\xff", reason="why")
    (key,) = stored(uow_factory, delivery)
    assert read(uow_factory, key) == replace(delivery, id=key, cause="other")
    with pytest.raises(NotFound):
        read(uow_factory, key + 1)


def test_a_claim_takes_the_delivery_under_a_lease_with_the_next_attempt(uow_factory):
    (key,) = stored(uow_factory, a_delivery())
    claimed = claim(uow_factory, key)
    assert (claimed.state, claimed.attempt, claimed.worker) == (S.IN_PROGRESS, 1, "w1")
    assert claimed.lease_until == NOW + LEASE
    assert claimed == read(uow_factory, key)


def test_of_many_workers_that_claim_at_once_one_wins(uow_factory):
    keys = stored(uow_factory, *(a_delivery(n) for n in range(5)))
    for key in keys:
        answers = at_once(*(lambda w=w: claim(uow_factory, key, worker=f"w{w}") for w in range(8)))  # noqa: B023
        winners = [answer for answer in answers if answer is not None]
        assert len(winners) == 1
        assert winners[0].attempt == 1


@pytest.mark.parametrize(
    "state", [S.COLLECTING, S.IN_PROGRESS, S.DELIVERED, S.DEAD, S.CANCELLED], ids=lambda s: s.value
)
def test_only_pending_is_claimed(uow_factory, state):
    (key,) = stored(uow_factory, a_delivery(state=state))
    assert claim(uow_factory, key) is None
    assert read(uow_factory, key).attempt == 0


def test_nothing_is_claimed_before_it_is_due(uow_factory):
    (key,) = stored(uow_factory, a_delivery(due_at=NOW + timedelta(seconds=1)))
    assert claim(uow_factory, key) is None
    assert claim(uow_factory, key, now=NOW + timedelta(seconds=1)) is not None


@pytest.mark.parametrize(
    ("health", "open_until", "claimable"),
    [
        (DestinationHealth.UP, None, True),
        (DestinationHealth.FAILING, None, True),
        (DestinationHealth.FAILING, NOW - timedelta(seconds=1), False),
        (DestinationHealth.FAILING, NOW + timedelta(seconds=1), False),
        (DestinationHealth.PAUSED, None, False),
        (DestinationHealth.PAUSED, NOW - timedelta(hours=1), False),
    ],
)
def test_nothing_is_claimed_for_a_paused_or_broken_destination(uow_factory, health, open_until, claimable):
    key, other = stored(uow_factory, a_delivery(), a_delivery(2, destination="other"))
    with uow_factory() as uow:
        uow.destinations.save(DestinationState("archive", health, NOW, open_until=open_until))
        uow.commit()
    with uow_factory() as uow:
        due = [found for found, _ in uow.deliveries.due(now=NOW, limit=10)]
        assert due == ([key, other] if claimable else [other])
        assert uow.deliveries.next_due("archive", now=NOW) == ([key] if claimable else [])
    assert (claim(uow_factory, key) is not None) is claimable
    assert claim(uow_factory, other) is not None


def test_a_zombie_is_refused_once_another_attempt_runs(uow_factory):
    (key,) = stored(uow_factory, a_delivery())
    assert claim(uow_factory, key).attempt == 1
    late = NOW + LEASE
    with uow_factory() as uow:
        assert [d.id for d in uow.deliveries.held(limit=5)] == [key]
        assert uow.deliveries.move(
            key, source=S.IN_PROGRESS, to=S.PENDING, due_at=late, reason="lease", now=late
        )
        uow.commit()
    assert claim(uow_factory, key, now=late, worker="w2").attempt == 2
    before = read(uow_factory, key)
    with uow_factory() as uow:
        uow.deliveries.add_items(key, uow.instances.add_many([an_instance()]))
        uow.commit()
    with uow_factory() as uow:
        (item,) = uow.deliveries.waiting_items(key, after=0, limit=10)
        result = ItemResult(item.id, ItemState.DELIVERED, "0000")
        assert not uow.deliveries.settle_items(key, 1, [result], now=late)
        assert not uow.deliveries.renew(key, 1, now=late, lease=LEASE)
        uow.commit()
    assert not settle(uow_factory, key, 1, now=late)
    assert read(uow_factory, key) == replace(before, items=1)


def test_a_lease_renewed_in_time_is_not_taken_away(uow_factory):
    (key,) = stored(uow_factory, a_delivery())
    claim(uow_factory, key)
    with uow_factory() as uow:
        assert uow.deliveries.renew(key, 1, now=NOW + LEASE / 2, lease=LEASE)
        moved = uow.deliveries.move(
            key, source=S.IN_PROGRESS, to=S.PENDING, due_at=NOW, reason=None, now=NOW + LEASE
        )
        assert not moved
        uow.commit()
    assert settle(uow_factory, key, 1)


def test_the_lease_of_a_dead_worker_is_taken_back_early_and_only_of_its_own_attempt(uow_factory):
    (key,) = stored(uow_factory, a_delivery())
    claim(uow_factory, key)
    with uow_factory() as uow:
        (held,) = uow.deliveries.held(limit=5)
        assert (held.id, held.worker, held.attempt) == (key, "w1", 1)
        back = {"source": S.IN_PROGRESS, "to": S.PENDING, "due_at": NOW, "reason": "lost", "now": NOW}
        assert not uow.deliveries.move(key, **back)
        assert not uow.deliveries.move(key, **back, attempt=2)
        assert uow.deliveries.move(key, **back, attempt=1)
        assert uow.deliveries.held(limit=5) == []
        assert not uow.deliveries.move(key, **back, attempt=1)
        uow.commit()
    assert claim(uow_factory, key, worker="w2").attempt == 2


def test_settling_leaves_nothing_of_the_lease(uow_factory):
    (key,) = stored(uow_factory, a_delivery())
    claim(uow_factory, key)
    assert settle(uow_factory, key, 1, state=S.PENDING, due_at=NOW + LEASE)
    settled = read(uow_factory, key)
    assert (settled.state, settled.due_at, settled.reason) == (S.PENDING, NOW + LEASE, "because")
    assert settled.lease_until is settled.worker is None
    assert not settle(uow_factory, key, 1)


def test_a_move_needs_its_source_state(uow_factory):
    (key,) = stored(uow_factory, a_delivery(state=S.DEAD))
    with uow_factory() as uow:
        move = uow.deliveries.move
        assert not move(key, source=S.PENDING, to=S.CANCELLED, due_at=NOW, reason="x", now=NOW)
        assert move(key, source=S.DEAD, to=S.PENDING, due_at=NOW, reason=None, now=NOW, failures=0)
        assert not move(key, source=S.DEAD, to=S.PENDING, due_at=NOW, reason=None, now=NOW)
        uow.commit()
    assert read(uow_factory, key).state is S.PENDING


def test_the_same_unit_has_one_open_delivery_however_many_route_at_once(uow_factory):
    def route(number):
        with uow_factory() as uow:
            (instance,) = uow.instances.add_many([an_instance(number)])
            key = uow.deliveries.add(a_delivery(), now=NOW)
            uow.deliveries.add_items(key, [instance])
            uow.commit()
            return key

    keys = at_once(*(lambda n=n: route(n) for n in range(8)))
    assert len(set(keys)) == 1, keys
    delivery = read(uow_factory, keys[0])
    assert delivery.items == 8
    with uow_factory() as uow:
        assert uow.deliveries.count_waiting(delivery.id) == 8
        assert uow.deliveries.open_for(
            destination="archive", route="everything", unit_uid=delivery.unit_uid
        ) == replace(delivery)


def test_a_closed_unit_gets_a_new_delivery(uow_factory):
    (first,) = stored(uow_factory, a_delivery())
    claim(uow_factory, first)
    settle(uow_factory, first, 1)
    with uow_factory() as uow:
        open_one = uow.deliveries.open_for(
            destination="archive", route="everything", unit_uid=a_delivery().unit_uid
        )
        assert open_one is None
    (second,) = stored(uow_factory, a_delivery())
    assert second != first


def test_messages_have_no_unit_to_join(uow_factory):
    first, second = stored(uow_factory, a_message_delivery("k"), a_message_delivery("k"))
    assert first != second


def test_items_are_added_once_and_counted(uow_factory):
    (key,) = stored(uow_factory, a_delivery())
    with uow_factory() as uow:
        ids = uow.instances.add_many([an_instance(n) for n in range(1200)])
        assert uow.deliveries.add_items(key, ids[:700]) == 700
        assert uow.deliveries.add_items(key, ids) == 500
        assert uow.deliveries.add_items(key, ids) == 0
        assert uow.deliveries.get(key).items == uow.deliveries.count_waiting(key) == 1200
        page = uow.deliveries.waiting_items(key, after=0, limit=1000)
        rest = uow.deliveries.waiting_items(key, after=page[-1].id, limit=1000)
        assert [item.instance for item in page + rest] == ids
        assert [d.id for d in uow.deliveries.of_instance(ids[3])] == [key]


def test_results_are_kept_and_counted_once(uow_factory):
    (key,) = stored(uow_factory, a_delivery())
    with uow_factory() as uow:
        instances = [
            an_instance(1),
            an_instance(2, transfer_syntax_uid="1.2.840.10008.1.2.4.70"),
            an_instance(3),
        ]
        uow.deliveries.add_items(key, uow.instances.add_many(instances))
        uow.deliveries.claim(key, worker="w", now=NOW, lease=LEASE)
        assert len(uow.deliveries.contexts(key)) == 2
        one, two, three = uow.deliveries.waiting_items(key, after=0, limit=9)
        assert one.facts == {"Modality": ("CT",), "PatientName": ()}
        results = [
            ItemResult(one.id, ItemState.DELIVERED, "0000"),
            ItemResult(two.id, ItemState.REJECTED, "C000", "cannot understand"),
        ]
        assert uow.deliveries.settle_items(key, 1, results, now=NOW)
        assert uow.deliveries.settle_items(key, 1, results, now=NOW)
        uow.commit()
    delivery = read(uow_factory, key)
    assert (delivery.items, delivery.items_delivered, delivery.items_rejected) == (3, 1, 1)
    with uow_factory() as uow:
        assert [item.id for item in uow.deliveries.waiting_items(key, after=0, limit=9)] == [three.id]
        assert uow.deliveries.contexts(key) == ((three.sop_class_uid, three.transfer_syntax_uid),)
        assert uow.deliveries.reopen_items(key) == 1
        assert uow.deliveries.get(key).items_rejected == 0
        assert uow.deliveries.count_waiting(key) == 2
        uow.commit()


def test_the_quiet_period_moves_but_never_past_its_cap(uow_factory):
    cap = NOW + timedelta(minutes=5)
    capped, free, pending = stored(
        uow_factory,
        a_delivery(1, state=S.COLLECTING, collect_until=cap),
        a_delivery(2, state=S.COLLECTING),
        a_delivery(3, state=S.PENDING),
    )
    late = NOW + timedelta(hours=1)
    with uow_factory() as uow:
        for key in (capped, free, pending):
            uow.deliveries.collect(key, due_at=late, now=NOW)
        assert uow.deliveries.get(capped).due_at == cap
        assert uow.deliveries.get(free).due_at == late
        assert uow.deliveries.get(pending).due_at == NOW
        assert uow.deliveries.quiet(now=NOW, limit=9) == []
        assert uow.deliveries.quiet(now=cap, limit=9) == [capped]
        assert uow.deliveries.quiet(now=late, limit=9) == [capped, free]


def test_a_series_finds_what_collects_it(uow_factory):
    uid = an_instance().series_instance_uid
    first, _, _ = stored(
        uow_factory,
        a_delivery(unit_uid=uid, state=S.COLLECTING),
        a_delivery(unit_uid=uid, state=S.PENDING, destination="b"),
        a_delivery(unit_uid="1.9", state=S.COLLECTING),
    )
    with uow_factory() as uow:
        uow.instances.add_many([an_instance()])
        assert uow.deliveries.collecting_of_series(uid) == [first]


def test_due_goes_by_priority_then_age_and_every_destination_has_its_share(uow_factory):
    long = [a_delivery(n, destination="slow", due_at=NOW - timedelta(seconds=n)) for n in range(50)]
    urgent = a_delivery(98, destination="slow", priority=1)
    other = a_delivery(99, destination="b")
    keys = stored(uow_factory, *long, urgent, other)
    with uow_factory() as uow:
        due = [key for key, _ in uow.deliveries.due(now=NOW, limit=10)]
        # Five each; what `b` does not need goes to `slow`.
        assert due == [keys[50], *reversed(keys[42:50]), keys[51]]
        assert uow.deliveries.next_due("slow", now=NOW, limit=2) == [keys[50], keys[49]]
        assert uow.deliveries.due(now=NOW - timedelta(days=1), limit=10) == []
        assert uow.deliveries.in_progress("slow") == 0


def test_operators_page_through_states(uow_factory):
    keys = stored(
        uow_factory,
        *(a_delivery(n, state=S.DEAD) for n in range(5)),
        a_delivery(7, state=S.DEAD, destination="b", study_instance_uid="1.5"),
        a_delivery(8),
    )
    with uow_factory() as uow:
        find = uow.deliveries.find_ids
        assert find(state=S.DEAD) == keys[:6]
        assert find(state=S.DEAD, destination="archive", limit=2) == keys[:2]
        assert find(state=S.DEAD, destination="archive", after=keys[1], limit=2) == keys[2:4]
        assert find(state=S.DEAD, study_instance_uid="1.5") == [keys[5]]


def test_messages_of_one_order_go_one_at_a_time_in_order(uow_factory):
    first, second, other, elsewhere = stored(
        uow_factory,
        a_message_delivery("order-1", 1),
        a_message_delivery("order-1", 2),
        a_message_delivery("order-2", 3),
        a_message_delivery("order-1", 4, destination="ris2"),
    )
    with uow_factory() as uow:
        assert {key for key, _ in uow.deliveries.due(now=NOW, limit=9)} == {first, other, elsewhere}
    assert claim(uow_factory, second) is None
    assert claim(uow_factory, first) is not None
    assert claim(uow_factory, second) is None
    assert claim(uow_factory, other) is not None
    assert claim(uow_factory, elsewhere) is not None
    settle(uow_factory, first, 1, state=S.DEAD)
    assert claim(uow_factory, second) is not None


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_whatever_workers_do_each_key_is_sent_in_order(kind, request, queue, clock):
    url = request.getfixturevalue("sqlite_url" if kind == "sqlite" else "postgres_url")
    engine = open_engine(url)
    uow_factory = SqlUnitsOfWork(engine, queue, clock)

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        keys=st.lists(st.sampled_from(["a", "b", None]), min_size=2, max_size=8),
        choices=st.lists(st.tuples(st.integers(0, 7), st.sampled_from("cdrx")), max_size=30),
    )
    def run(keys, choices):
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM delivery"))
        ids = stored(uow_factory, *(a_message_delivery(key, n) for n, key in enumerate(keys)))
        key_of = dict(zip(ids, keys, strict=True))
        started, running = [], {}
        for place, action in choices:
            delivery = ids[place % len(ids)]
            if action == "c":
                claimed = claim(uow_factory, delivery)
                if claimed is None:
                    continue
                key = key_of[delivery]
                if key is not None:
                    assert key not in [key_of[other] for other in running]
                    assert all(key_of[d] != key or d <= delivery for d in started)
                started.append(delivery)
                running[delivery] = claimed.attempt
            elif delivery in running:
                state = {"d": S.DELIVERED, "r": S.PENDING, "x": S.DEAD}[action]
                assert settle(uow_factory, delivery, running.pop(delivery), state=state)

    run()
    engine.dispose()


def test_what_was_written_later_than_now_waits_as_long_as_was_meant(uow_factory):
    meant, before, hour = timedelta(seconds=30), timedelta(seconds=5), timedelta(hours=1)
    waiting, done = stored(uow_factory, *(a_delivery(number, due_at=NOW + meant) for number in (1, 2)))
    with uow_factory() as uow:
        assert uow.deliveries.mend_waits(now=NOW, tolerance=before, limit=10) == 0
        uow.deliveries.move(done, source=S.PENDING, to=S.CANCELLED, due_at=NOW + meant, reason=None, now=NOW)
        assert uow.deliveries.mend_waits(now=NOW - hour, tolerance=before, limit=10) == 1
        assert uow.deliveries.mend_waits(now=NOW - hour, tolerance=before, limit=10) == 0
        assert uow.deliveries.get(waiting).due_at == NOW - hour + meant
        assert uow.deliveries.get(done).due_at == NOW + meant
