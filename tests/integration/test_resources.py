"""Database, Redis and disk are asked; what is wrong with them is said with what to do."""

import shutil
from types import SimpleNamespace

import pytest

from broker.errors import DatabaseUnavailable
from broker.resources import Resources
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
        loaded=SimpleNamespace(site=SimpleNamespace(limits=SimpleNamespace(storage=limits), probe=None)),
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
