"""Database, Redis and disk are asked; what is wrong with them is said with what to do."""

import shutil
from datetime import UTC
from types import SimpleNamespace

import pytest

from broker.db.reports import SqlReports
from broker.db.seal import seal_events
from broker.domain.alerts import AlertKind, Severity
from broker.domain.events import Event, EventName, Subject
from broker.errors import DatabaseUnavailable
from broker.resources import Resources
from broker.settings import AuditTrail
from broker.workflow.alert_conditions import Standing, Thresholds, findings
from broker.workflow.overview_port import Storage

GB = 10**9


@pytest.fixture
def wired(engine, clock, tmp_path, monkeypatch):
    """Answer a broker of which only this is asked, on a disk of 1 TB of which 100 GB are free."""
    usage = SimpleNamespace(total=1000 * GB, free=100 * GB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    limits = SimpleNamespace(free_reserve_bytes=2 * GB, free_reserve_percent=5.0)
    return SimpleNamespace(
        engine=engine,
        clock=clock,
        data_dir=tmp_path,
        redis_url=f"redis+socket://{tmp_path}/nobody.sock",
        reports=SimpleNamespace(storage=lambda **_: Storage(300 * GB, 1 * GB), probe_runs=lambda **_: []),
        loaded=SimpleNamespace(
            site=SimpleNamespace(limits=SimpleNamespace(storage=limits), probe=None, audit=AuditTrail())
        ),
        usage=usage,
    )


def test_a_redis_that_is_away_is_no_reason_to_stop(wired):
    database, redis, disk = Resources(wired).read()
    assert (database.name, database.state) == ("Database", "up")
    assert "answers in" in database.detail
    assert (redis.name, redis.state) == ("Redis", "away")
    assert "nothing is lost" in redis.advice
    assert disk.detail == "100 GB free of 1.0 TB, images use 300 GB, 1.0 GB more a day: full in 50 d 0 h"
    assert disk.state == "up"


@pytest.mark.parametrize(
    ("a_day", "free", "state"), [(10, 100, "filling"), (40, 100, "full"), (0, 100, "up"), (0, 49, "full")]
)
def test_the_days_until_the_reserve_is_reached_are_told(wired, a_day, free, state):
    wired.usage.free = free * GB
    wired.reports.storage = lambda **_: Storage(None, a_day * GB)
    disk = Resources(wired).read()[2]
    assert disk.state == state
    assert disk.advice or state == "up"


def test_what_many_ask_for_is_read_once_in_a_while(wired):
    now = [0.0]
    resources = Resources(wired, for_s=5.0, monotonic=lambda: now[0])
    first = resources.read()
    assert resources.read() is first
    now[0] = 5.0
    assert resources.read() is not first


def test_a_disk_that_cannot_be_asked_is_down_and_the_others_are_told(wired):
    def away(**_):
        raise DatabaseUnavailable

    wired.reports.storage = away
    assert [part.state for part in Resources(wired).read()] == ["up", "away", "down"]


def test_a_collector_that_has_been_away_for_long_is_told_and_one_that_has_just_left_is_no_trouble(
    wired, engine, uow_factory, clock
):
    wired.reports = SimpleNamespace(
        **vars(wired.reports)
        | {name: getattr(SqlReports(engine), name) for name in ("collectors", "trail_end", "unsent_since")}
    )
    wired.zone = UTC
    wired.loaded.site.audit = AuditTrail.model_validate(
        {"collectors": [{"name": "siem", "host": "siem.hospital"}], "away": "15m"}
    )
    with uow_factory() as uow:
        uow.record(Event(EventName.SIGNED_IN, Subject.ACCOUNT, actor="ada"))
        uow.audit_collectors.add("siem", 0, now=clock.now())
        uow.commit()
    seal_events(engine)
    with uow_factory() as uow:
        uow.audit_collectors.claim("siem", "me", now=clock.now(), until=clock.now())
        uow.audit_collectors.failed("siem", "me", "siem.hospital:6514: TimeoutError", now=clock.now())
        uow.commit()
    clock.advance(14 * 60)
    *_, told = Resources(wired).read()
    assert (told.name, told.state, told.advice) == ("Audit collector siem", "up", "")
    clock.advance(60)
    *_, told = Resources(wired).read()
    assert told.state == "away"
    assert "1 event waits" in told.detail
    assert "TimeoutError" in told.detail
    (found,) = findings(Standing(resources=[told]), Thresholds(), now=clock.now())
    assert (found.kind, found.subject, found.severity) == (AlertKind.COLLECTOR, "siem", Severity.WARNING)
