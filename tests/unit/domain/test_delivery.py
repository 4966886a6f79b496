from datetime import UTC, datetime, timedelta

import pytest

from broker.domain.delivery import (
    DELIVERY_TRANSITIONS,
    Delivered,
    DeliveryEvent,
    DeliveryState,
    Misconfigured,
    MoreToSend,
    Rejected,
    RetryLater,
    RetryPolicy,
    Unknown,
    advance_delivery,
)
from broker.domain.settlement import FailureClass, Try, after_expired_lease, settle
from broker.errors import IllegalTransition

S, E = DeliveryState, DeliveryEvent
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
POLICY = RetryPolicy()

LEGAL = {
    (S.COLLECTING, E.IMAGE_ARRIVED): S.COLLECTING,
    (S.COLLECTING, E.COLLECTED): S.PENDING,
    (S.COLLECTING, E.RELEASED): S.PENDING,
    (S.COLLECTING, E.CANCELLED): S.CANCELLED,
    (S.PENDING, E.CLAIMED): S.IN_PROGRESS,
    (S.PENDING, E.RETRIED): S.PENDING,
    (S.PENDING, E.LIFE_OVER): S.DEAD,
    (S.PENDING, E.CANCELLED): S.CANCELLED,
    (S.IN_PROGRESS, E.DELIVERED): S.DELIVERED,
    (S.IN_PROGRESS, E.SLICE_DONE): S.PENDING,
    (S.IN_PROGRESS, E.RETRY_LATER): S.PENDING,
    (S.IN_PROGRESS, E.MISCONFIGURED): S.PENDING,
    (S.IN_PROGRESS, E.REJECTED): S.DEAD,
    (S.IN_PROGRESS, E.LIFE_OVER): S.DEAD,
    (S.IN_PROGRESS, E.UNKNOWN): S.DEAD,
    (S.IN_PROGRESS, E.LEASE_EXPIRED): S.PENDING,
    (S.IN_PROGRESS, E.LEASE_EXPIRED_UNSAFE): S.DEAD,
    (S.DEAD, E.RETRIED): S.PENDING,
    (S.DEAD, E.CANCELLED): S.CANCELLED,
    (S.DELIVERED, E.REOPENED): S.PENDING,
    (S.DEAD, E.REOPENED): S.PENDING,
    (S.CANCELLED, E.RETRIED): S.PENDING,
    (S.CANCELLED, E.REOPENED): S.PENDING,
}


@pytest.mark.parametrize("state", DeliveryState)
@pytest.mark.parametrize("event", DeliveryEvent)
def test_only_the_moves_of_the_table_are_legal(state, event):
    if (state, event) in LEGAL:
        assert advance_delivery(state, event) is LEGAL[state, event]
    else:
        with pytest.raises(IllegalTransition):
            advance_delivery(state, event)


def test_every_state_has_its_row():
    assert set(DELIVERY_TRANSITIONS) == set(DeliveryState)


def a_try(**changes):
    values = {"delivery_id": 1, "created_at": NOW - timedelta(minutes=1), "now": NOW}
    return Try(**{**values, **changes})


OLD = {"created_at": NOW - timedelta(days=3)}
DONE = {"items": 3, "waiting": 0, "progressed": True, "exhausted": True}
PARTLY = {"items": 3, "waiting": 2, "progressed": True}
AGAIN = {"failure_class": "transient", "failures": 7}

CASES = [
    # a message, no items
    ("a message is delivered", Delivered(), {}, E.DELIVERED, None),
    ("a message goes on", MoreToSend(), {}, E.SLICE_DONE, None),
    ("a message is refused", Rejected("AE"), {}, E.REJECTED, FailureClass.PERMANENT),
    ("a message waits", RetryLater("refused"), {}, E.RETRY_LATER, FailureClass.TRANSIENT),
    # items
    ("all delivered", Delivered(), DONE, E.DELIVERED, None),
    ("images joined meanwhile", Delivered(), {**PARTLY, "exhausted": True}, E.SLICE_DONE, None),
    ("the slice is over", MoreToSend(), PARTLY, E.SLICE_DONE, None),
    (
        "delivered but nothing confirmed",
        Delivered(),
        {"items": 3, "waiting": 3},
        E.RETRY_LATER,
        FailureClass.TRANSIENT,
    ),
    (
        "stopping before the first item",
        Delivered(),
        {"items": 3, "waiting": 3, "interrupted": True},
        E.SLICE_DONE,
        None,
    ),
    ("some refused, all tried", Delivered(), {**DONE, "rejected": 1}, E.REJECTED, FailureClass.PERMANENT),
    ("refused wholly", Rejected("A900"), {"items": 3, "waiting": 3}, E.REJECTED, FailureClass.PERMANENT),
    (
        "refused in part, others joined",
        Rejected("A900"),
        {**PARTLY, "rejected": 1, "exhausted": True},
        E.SLICE_DONE,
        None,
    ),
    (
        "refused in part, none waits",
        Rejected("A900"),
        {**DONE, "rejected": 1},
        E.REJECTED,
        FailureClass.PERMANENT,
    ),
    ("refused though all confirmed", Rejected("odd"), DONE, E.REJECTED, FailureClass.PERMANENT),
    ("lost after the last item", RetryLater("reset"), DONE, E.DELIVERED, None),
    ("unknown after the last item", Unknown("reset"), {**DONE, "retry_safe": False}, E.DELIVERED, None),
    (
        "lost after the last, some refused",
        RetryLater("reset"),
        {**DONE, "rejected": 1},
        E.REJECTED,
        FailureClass.PERMANENT,
    ),
    # time heals, or does not
    ("life over", RetryLater("refused"), {**OLD, **AGAIN}, E.LIFE_OVER, FailureClass.TRANSIENT),
    ("old, but retried by a person", RetryLater("refused"), OLD, E.RETRY_LATER, FailureClass.TRANSIENT),
    (
        "old, but kept safe there",
        RetryLater("refused"),
        {**OLD, **AGAIN, "safekeeping": True},
        E.RETRY_LATER,
        FailureClass.TRANSIENT,
    ),
    (
        "two of three tries",
        RetryLater("C000", max_tries=3),
        {"failure_class": "limited", "failures": 1},
        E.RETRY_LATER,
        FailureClass.LIMITED,
    ),
    (
        "three of three tries",
        RetryLater("C000", max_tries=3),
        {"failure_class": "limited", "failures": 2},
        E.REJECTED,
        FailureClass.PERMANENT,
    ),
    (
        "tries of another kind do not count",
        RetryLater("C000", max_tries=3),
        {"failure_class": "transient", "failures": 50},
        E.RETRY_LATER,
        FailureClass.LIMITED,
    ),
    (
        "then a setting is wrong",
        RetryLater("RJ", max_tries=5, then_config=True),
        {"failure_class": "limited", "failures": 4},
        E.MISCONFIGURED,
        FailureClass.CONFIG,
    ),
    (
        "misconfigured, however old",
        Misconfigured("who?"),
        {**OLD, **AGAIN},
        E.MISCONFIGURED,
        FailureClass.CONFIG,
    ),
    ("unknown, safe", Unknown("no answer"), {}, E.RETRY_LATER, FailureClass.TRANSIENT),
    ("unknown, not safe", Unknown("no answer"), {"retry_safe": False}, E.UNKNOWN, FailureClass.UNKNOWN),
    ("a defect", RetryLater("Internal"), {"internal": True}, E.RETRY_LATER, FailureClass.INTERNAL),
]


@pytest.mark.parametrize(
    ("outcome", "facts", "event", "failure_class"), [pytest.param(*c[1:], id=c[0]) for c in CASES]
)
def test_what_becomes_of_a_try(outcome, facts, event, failure_class):
    settlement = settle(outcome, a_try(**facts), POLICY)
    assert settlement.event is event
    assert settlement.state is LEGAL[S.IN_PROGRESS, event]
    assert settlement.failure_class is failure_class
    if event is not E.RETRY_LATER:
        assert settlement.wait == timedelta(0)


def test_waits_double_up_to_the_cap_and_progress_starts_them_again():
    def wait(**facts):
        return settle(
            RetryLater("reset"), a_try(failure_class="transient", **facts), POLICY
        ).wait.total_seconds()

    assert wait(failures=0) == pytest.approx(30, rel=0.2)
    assert wait(failures=1) == pytest.approx(60, rel=0.2)
    assert wait(failures=20) == pytest.approx(1800, rel=0.2)
    assert wait(failures=20, **PARTLY) == pytest.approx(30, rel=0.2)


def test_the_wait_may_be_set_by_the_outcome():
    settlement = settle(RetryLater("A700", first_delay_s=60.0), a_try(), POLICY)
    assert settlement.wait.total_seconds() == pytest.approx(60, rel=0.2)


def test_jitter_spreads_and_is_the_same_when_computed_again():
    waits = {POLICY.delay(1, delivery_id=n) for n in range(100)}
    assert len(waits) > 90
    assert all(timedelta(seconds=24) <= wait <= timedelta(seconds=36) for wait in waits)
    assert POLICY.delay(3, delivery_id=5) == POLICY.delay(3, delivery_id=5)


def test_an_expired_lease_is_repeated_only_where_repeating_is_safe():
    assert after_expired_lease(retry_safe=True).state is S.PENDING
    unsafe = after_expired_lease(retry_safe=False)
    assert unsafe.state is S.DEAD
    assert "check" in unsafe.reason
