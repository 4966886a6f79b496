"""The breaker and the pauses: a destination that fails is left alone, probed and resumed."""

from dataclasses import replace
from datetime import timedelta

from broker.domain.delivery import DeliveryState as S
from broker.domain.delivery import Misconfigured, RetryLater, RetryPolicy
from broker.workflow.destinations_port import DestinationHealth
from broker.workflow.sweep import probe
from tests.unit.workflow.delivery_ward import LIMITS, without_drain


def fail(ward, times, reason="refused"):
    for _ in range(times):
        ward.archive.script = [RetryLater(reason)]
        ward.deliver(ward.owe(1), **without_drain())


def test_five_failures_in_a_row_open_the_breaker_and_open_costs_no_tries(ward):
    fail(ward, 4)
    assert ward.health().open_until is None
    fail(ward, 1)
    health = ward.health()
    assert health.state is DestinationHealth.FAILING
    assert health.open_until == ward.clock.now() + timedelta(seconds=60)
    key, sends = ward.owe(1), ward.archive.sends
    assert ward.deliver(key) == []
    assert (ward.archive.sends, ward.row(key).attempt) == (sends, 0)
    assert ward.sweep().due == ()


def test_trouble_of_our_own_disk_is_not_the_destinations(ward):
    for _ in range(6):
        ward.archive.script = [RetryLater("no handle left", ours=True)]
        ward.deliver(key := ward.owe(1), **without_drain())
        assert ward.row(key).state is S.PENDING
    assert ward.health() is None or ward.health().failures == 0


def test_a_success_between_keeps_the_breaker_closed(ward):
    fail(ward, 4)
    ward.deliver(ward.owe(1), **without_drain())
    assert ward.health().failures == 0
    fail(ward, 4)
    assert ward.health().open_until is None


def test_one_probe_closes_the_breaker(ward):
    fail(ward, 5)
    assert ward.sweep().probes == ()
    ward.clock.advance(60)
    assert ward.sweep().probes == ("archive",)
    key = ward.owe(1)
    assert ward.deliver(key) == []  # nothing is risked before the probe
    assert probe("archive", ward.broker, policy=LIMITS.breaker).ok
    assert ward.archive.checks == 1
    assert ward.health().state is DestinationHealth.UP
    ward.deliver(key)
    assert ward.row(key).state is S.DELIVERED


def test_only_one_worker_probes(ward):
    fail(ward, 5)
    ward.clock.advance(60)
    ward.archive.check = lambda: (
        probe("archive", ward.broker, policy=LIMITS.breaker) or ward.archive.check_result
    )
    assert probe("archive", ward.broker, policy=LIMITS.breaker) is ward.archive.check_result


def test_a_failed_probe_doubles_the_rest_up_to_a_quarter_of_an_hour(ward):
    fail(ward, 5)
    ward.archive.check_result = replace(ward.archive.check_result, ok=False)
    rests = []
    for _ in range(6):
        ward.clock.instant = ward.health().open_until
        probe("archive", ward.broker, policy=LIMITS.breaker)
        rests.append((ward.health().open_until - ward.clock.now()).total_seconds())
    assert rests == [120, 240, 480, 900, 900, 900]


def test_a_probe_that_raises_leaves_the_breaker_open(ward):
    fail(ward, 5)
    ward.clock.advance(60)

    def defect():
        raise RuntimeError("HAYDN")

    ward.archive.check = defect
    result = probe("archive", ward.broker, policy=LIMITS.breaker)
    assert (result.ok, result.detail) == (False, "Internal error: RuntimeError")
    assert ward.health().open_until > ward.clock.now()


def test_a_wrong_setting_pauses_the_destination_and_discards_nothing(ward):
    ward.archive.script = [Misconfigured("called AE title not recognised")]
    key, other = ward.owe(1), ward.owe(1)
    ward.deliver(key)
    health = ward.health()
    assert (health.state, health.reason) == (DestinationHealth.PAUSED, "called AE title not recognised")
    assert health.open_until == ward.clock.now() + timedelta(minutes=15)
    assert (ward.row(key).state, ward.row(other).state) == (S.PENDING, S.PENDING)
    assert ward.deliver(other) == []
    ward.clock.advance(timedelta(minutes=15))
    assert ward.sweep().probes == ("archive",)
    probe("archive", ward.broker, policy=LIMITS.breaker)
    ward.deliver(key)
    assert (ward.row(key).state, ward.row(other).state) == (S.DELIVERED, S.DELIVERED)


def test_a_destination_that_left_the_configuration_is_paused_visibly(ward):
    key = ward.owe(1, destination="gone")
    assert ward.sweep().due == ()
    (wake_up,) = ward.sweep(thorough=True).due
    assert wake_up.id == key
    assert ward.deliver(key) == []
    health = ward.health("gone")
    assert health.state is DestinationHealth.PAUSED
    assert "configuration" in health.reason
    assert ward.row(key).state is S.PENDING


def test_a_delivery_dies_when_its_destination_was_silent_for_its_whole_life(ward):
    ward.broker.add("archive", retry=RetryPolicy(life=timedelta(hours=1)))
    ward.archive = ward.broker.entries["archive"].plugin
    ward.archive.check_result = replace(ward.archive.check_result, ok=False)
    waiting = ward.owe(1)
    with ward.broker.units_of_work() as uow:
        uow.deliveries.move(
            waiting,
            source=S.PENDING,
            to=S.PENDING,
            due_at=ward.clock.now() + timedelta(minutes=5),
            reason=None,
            now=ward.clock.now(),
        )
        uow.commit()
    fail(ward, 5)
    ward.clock.advance(timedelta(minutes=64))
    assert ward.sweep(thorough=True).died == 5  # all but the one that became due later
    assert ward.row(waiting).state is S.PENDING
    ward.clock.advance(timedelta(minutes=1))
    assert ward.sweep(thorough=True).died == 1
    assert ward.row(waiting).state is S.DEAD
