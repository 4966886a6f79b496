"""The Celery app. `celery -A workers.app worker` and `broker serve` both run it.

Threads, not processes: sending waits for the network and gives up the interpreter lock; sixteen idle threads
cost nothing where sixteen processes cost 600 MiB. More workers are more processes of this app.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog
from celery import Celery
from celery.signals import (
    setup_logging,
    worker_init,
    worker_shutdown,
    worker_shutting_down,
)

from broker.bootstrap import open_broker
from broker.destinations import DestinationRegistry
from broker.file_handles import take_handles
from broker.logs import configure_logging
from broker.queue import celery_settings, redis_url
from broker.settings import Limits, read_environment
from workers.desk import Desk
from workers.heartbeat import Heartbeat
from workers.tasks import register

THREADS = 16
"""Well above the cap of any one destination (2): hung destinations leave places for the others."""
ROLE = "worker"
LATEST_END_S = 18.0
"""A peer may be silent for minutes; an end in order may not take so long. The rows say what was confirmed."""

log = structlog.get_logger()

_apps: dict[str, Celery] = {}


def _nothing() -> None:
    """Do nothing."""


def make_app(address: str, kinds: Iterable[str], desk: Desk, *, threads: int = THREADS) -> Celery:
    """Build an app on a Redis; nothing is connected yet."""
    app = Celery("workers", set_as_current=False)
    app.conf.update(
        celery_settings(address, kinds),
        worker_pool="threads",
        worker_concurrency=threads,
        worker_soft_shutdown_timeout=20.0,
    )
    register(app, desk)
    return app


def site_app() -> Celery:
    """Build the app of this site, as the environment describes it."""
    config = Path(os.environ.get("BROKER_CONFIG", "config/broker.yaml"))
    data_dir = Path(os.environ.get("BROKER_DATA_DIR", "data"))
    return wired_app(config, data_dir)


def wired_app(config: Path, data_dir: Path) -> Celery:
    """Build the app of a site, with what a worker process starts and stops."""
    desk = Desk(lambda: open_broker(config, data_dir, role=ROLE))
    address = redis_url(data_dir, read_environment(os.environ).redis_url)
    app = make_app(address, DestinationRegistry.from_entry_points().kinds(), desk)
    heartbeat = Heartbeat(desk, role=ROLE)

    def begin() -> None:
        take_handles(ROLE, Limits())
        heartbeat.start()

    connect_signals(desk, on_open=begin, on_close=heartbeat.stop)
    return app


def connect_signals(
    desk: Desk, *, on_open: Callable[[], None] = _nothing, on_close: Callable[[], None] = _nothing
) -> None:
    """Have Celery open the desk when a worker starts, and close it when the worker ends."""

    def set_up_logging(**_: object) -> None:
        configure_logging(role=ROLE, level=os.environ.get("BROKER_LOG_LEVEL", "INFO"))

    def open_desk(**_: object) -> None:
        desk.open()  # fail now, not with the first delivery
        on_open()

    def leave() -> None:
        log.warning("work left to the end of its lease", after_s=LATEST_END_S)
        on_close()
        os._exit(0)

    timers: list[threading.Timer] = []

    def stop_desk(**_: object) -> None:
        desk.stop()
        timer = threading.Timer(LATEST_END_S, leave)
        timer.daemon = True
        timers.append(timer)
        timer.start()

    def close_desk(**_: object) -> None:
        for timer in timers:
            timer.cancel()
        on_close()
        desk.close()

    # Celery keeps weak references to handlers unless told otherwise.
    setup_logging.connect(set_up_logging, weak=False)
    worker_init.connect(open_desk, weak=False)
    worker_shutting_down.connect(stop_desk, weak=False)
    worker_shutdown.connect(close_desk, weak=False)


def run_worker(config: Path, data_dir: Path) -> int:
    """Run a worker until SIGTERM. Answers the exit code."""
    return serve(wired_app(config, data_dir))


def serve(app: Celery, *, threads: int = THREADS) -> int:
    """Run a worker of an app in the main thread."""
    worker = app.Worker(
        pool="threads",
        concurrency=threads,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
        loglevel="WARNING",
    )
    worker.start()
    return int(worker.exitcode or 0)


def __getattr__(name: str) -> Celery:
    """Build the app when `celery -A workers.app` asks for it: importing this module reads nothing."""
    if name not in {"app", "celery"}:
        raise AttributeError(name)
    return _apps.setdefault("site", _apps.get("site") or site_app())
