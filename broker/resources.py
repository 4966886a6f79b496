"""What the roles stand on: database, Redis and disk, each asked and not believed."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import text

from broker.bootstrap import Broker
from broker.collectors import collector_resources
from broker.db.engine import reading
from broker.domain.wording import sized, words
from broker.errors import OutOfResources
from broker.workflow.overview_port import Resource

FULL_SOON = timedelta(days=7)
FULL_NOW = timedelta(days=2)
FORGOTTEN = timedelta(days=1)
"""A probe a person ran once says nothing of today."""
_TIMEOUT_S = 1.0


class Resources:
    """Reads them at most once in so many seconds: a page that is looked at by many asks for all of them."""

    def __init__(
        self, broker: Broker, *, for_s: float = 5.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Ask nothing yet."""
        self._broker = broker
        self._for_s = for_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: Sequence[Resource] = ()
        self._until_s = 0.0

    def read(self) -> Sequence[Resource]:
        """Answer them as they are, or were a moment ago."""
        with self._lock:
            if not self._known or self._monotonic() >= self._until_s:
                self._known = (
                    _database(self._broker),
                    _redis(self._broker),
                    _disk(self._broker),
                    *_probe(self._broker),
                    *_collectors(self._broker),
                )
                self._until_s = self._monotonic() + self._for_s
            return self._known


def _database(broker: Broker) -> Resource:
    before = time.perf_counter()
    try:
        with reading(broker.engine) as connection:
            if connection.dialect.name == "postgresql":
                size = int(
                    connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
                )
                name = "PostgreSQL"
            else:
                pages = int(connection.execute(text("PRAGMA page_count")).scalar_one())
                size = pages * int(connection.execute(text("PRAGMA page_size")).scalar_one())
                name = "SQLite"
    except OutOfResources as error:
        return Resource("Database", "down", str(error), "Start the database; everything waits for it.")
    took = (time.perf_counter() - before) * 1000
    return Resource("Database", "up", f"{name}, {sized(size)}, answers in {took:.1f} ms")


def _redis(broker: Broker) -> Resource:
    before = time.perf_counter()
    try:
        url = broker.redis_url.replace("redis+socket://", "unix://")
        with closing(
            Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        ) as redis:
            redis.ping()
    except RedisError as error:
        advice = "Start it; until then the sweep does the work of the workers, and nothing is lost."
        return Resource("Redis", "away", f"does not answer ({type(error).__name__})", advice)
    return Resource("Redis", "up", f"answers in {(time.perf_counter() - before) * 1000:.1f} ms")


def _probe(broker: Broker) -> Sequence[Resource]:
    """Say what became of the last synthetic exam, where the site wants them or a person has run one."""
    wanted = broker.loaded.site.probe
    try:
        last = next(iter(broker.reports.probe_runs(limit=1)), None)
    except OutOfResources:
        return ()  # the database says so itself
    if last is None or (wanted is None and broker.clock.now() - last.started_at > FORGOTTEN):
        return ()
    at = last.started_at.astimezone(broker.zone).strftime("%H:%M:%S")
    if last.ok:
        late = wanted is not None and broker.clock.now() - last.started_at > 3 * wanted.every
        detail = f"every hop held in {last.seconds:.1f} s at {at}"
        if late:
            advice = "See why the sweeper does not run it."
            return (Resource("Synthetic exam", "overdue", detail, advice, "/probe"),)
        return (Resource("Synthetic exam", "up", detail, link="/probe"),)
    reason = last.hops[-1].detail if last.hops else ""
    return (
        Resource(
            "Synthetic exam",
            "failing",
            f"failed at {at} at the hop {last.failed_hop}: {reason}",
            "Patients' exams may fail at the same place: read the hop's reason, mend it, run it again.",
            f"/probe/{last.id}",
            f"failed at the hop {last.failed_hop}",
        ),
    )


def _collectors(broker: Broker) -> Sequence[Resource]:
    try:
        return collector_resources(broker)
    except OutOfResources:
        return ()  # the database says so itself


def _disk(broker: Broker) -> Resource:
    try:
        space = shutil.disk_usage(broker.data_dir)
        storage = broker.reports.storage(now=broker.clock.now())
    except (OSError, OutOfResources) as error:
        return Resource("Disk", "down", f"cannot be asked ({type(error).__name__})", "See the log.")
    limits = broker.loaded.site.limits.storage
    reserve = max(limits.free_reserve_bytes, int(space.total * limits.free_reserve_percent / 100))
    room = max(space.free - reserve, 0)
    detail = f"{sized(space.free)} free of {sized(space.total)}"
    if storage.image_bytes is not None:
        detail += f", images use {sized(storage.image_bytes)}"
    if not room:
        advice = "Make room, or lower the reserve; until then scanners are told that we are out of resources."
        return Resource("Disk", "full", f"{detail}; the reserve is reached and images are refused", advice)
    if storage.bytes_per_day:
        left = timedelta(days=min(room / storage.bytes_per_day, 36500))
        detail += f", {sized(storage.bytes_per_day)} more a day: "
        detail += f"full in {words(left)}" if left < timedelta(days=365) else "years left"
        if left < FULL_SOON:
            state = "full" if left < FULL_NOW else "filling"
            return Resource("Disk", state, detail, "Make room before images are refused.")
    return Resource("Disk", "up", detail)
