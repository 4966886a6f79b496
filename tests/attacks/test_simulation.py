"""The short form of the simulation, and proof that it would notice."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from broker.db.repositories.deliveries import SqlDeliveries
from broker.db.repositories.delivery_rows import delivery_of
from broker.db.repositories.instances import SqlInstances
from broker.db.schema import DELIVERY
from broker.domain import settlement
from broker.workflow.lease_watch import LeaseWatch
from tests.attacks.simulation import RUNS, simulate

pytestmark = pytest.mark.timeout(600)  # thousands of runs, however slow the machine


def test_whatever_breaks_nothing_is_lost_lied_about_or_sent_twice(tmp_path):
    visits = simulate(tmp_path, RUNS[False])
    for seen in (
        "move: delivery delivered",
        "rule: killed",
        "rule: frozen",
        "rule: clock set back",
        "rule: sweep",
    ):
        assert visits[seen], f"nothing was seen of {seen}"


def no_fence(patch):
    """Any worker may say what became of a delivery, however late."""
    patch.setattr(SqlDeliveries, "renew", lambda *_, **__: True)
    patch.setattr(
        SqlDeliveries,
        "settle",
        lambda self, delivery, attempt, **values: (
            self._transaction.execute(
                update(DELIVERY)
                .where(DELIVERY.c.id == delivery)
                .values(state=values["state"].value, due_at=values["due_at"], lease_until=None)
            ).rowcount
            == 1
        ),
    )


def claims_without_condition(patch):
    """Whoever is woken takes the row, whoever has it."""

    def claim(self, delivery, *, worker, now, lease):
        row = self._transaction.execute(
            update(DELIVERY)
            .where(DELIVERY.c.id == delivery)
            .values(
                state="IN_PROGRESS", attempt=DELIVERY.c.attempt + 1, worker=worker, lease_until=now + lease
            )
            .returning(DELIVERY)
        )
        return delivery_of(row.mappings().one())

    def due(self, destination, *, now, limit=1):
        rows = self._transaction.execute(
            DELIVERY.select().where(
                DELIVERY.c.destination == destination, DELIVERY.c.lease_until.is_not(None)
            )
        ).all()
        return [row.id for row in rows][:limit] or before(self, destination, now=now, limit=limit)

    before = SqlDeliveries.next_due
    patch.setattr(SqlDeliveries, "claim", claim)
    patch.setattr(SqlDeliveries, "next_due", due)


def counts_nothing(patch):
    """Delivered is believed although items wait."""
    patch.setattr(SqlDeliveries, "count_waiting", lambda *_: 0)


def leases_never_run_out(patch):
    patch.setattr(LeaseWatch, "abandoned", lambda *_, **__: [])


def leases_run_out_by_the_wall_clock(patch):
    """A sweeper that began after the clock was set forward takes what is being sent."""

    def abandoned(self, held, *, now_s):
        return [one for one in held if one.lease_until <= self._last[0]]

    patch.setattr(LeaseWatch, "abandoned", abandoned)


def no_sweep_for_what_is_unrouted(patch):
    """A wake-up that is lost is never made good."""
    before = SqlInstances.undecided
    patch.setattr(
        SqlInstances,
        "undecided",
        lambda self, limit, **more: [] if "older_than" in more else before(self, limit, **more),
    )


def swallows_a_failed_send(patch):
    """What the destination answered is not listened to."""
    patch.setattr(
        "broker.workflow.deliveries.settle",
        lambda outcome, this, policy: settlement._leave(settlement.DeliveryEvent.DELIVERED, None),
    )


BUGS = [
    no_fence,
    claims_without_condition,
    counts_nothing,
    leases_never_run_out,
    leases_run_out_by_the_wall_clock,
    no_sweep_for_what_is_unrouted,
    swallows_a_failed_send,
]


@pytest.mark.parametrize("bug", BUGS)
def test_the_simulation_notices_a_planted_bug(bug, tmp_path, monkeypatch):
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        simulate_some(tmp_path)


def simulate_some(folder):
    """One more statement anywhere changes every order of events behind it: one of a few must find a bug."""
    for seed in range(1, 13):
        (folder / str(seed)).mkdir()
        simulate(folder / str(seed), 200, seed)
