"""The roles of `broker run`: each opens the broker, starts one thing, and proves by traffic that it serves."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from broker import __version__
from broker.bootstrap import Broker, open_broker
from broker.db.heartbeats import beat, retire
from broker.domain.events import Event, EventName, Subject
from broker.errors import OutOfResources
from broker.failpoints import failpoint
from broker.file_handles import take_handles
from broker.importing import staying
from broker.logs import configure_logging
from broker.settings import DicomListener, StorageListener
from broker.signals import block, wait_for

log = structlog.get_logger()
BEAT_S = 5.0
GRACE_S = 20.0
_TOLD = {signal.SIGTERM, signal.SIGINT}


@dataclass(frozen=True, slots=True)
class Running:
    """A role that has been started."""

    prove: Callable[[], str]
    """Talks to what was started as a peer would; answers what it saw, raises when it does not serve."""
    stop: Callable[[float], None]
    """Stops it within so many seconds."""
    busy: Callable[[], bool] = lambda: True
    """False when it ended by itself."""


def run_role(name: str, config: Path, data_dir: Path) -> int:
    """Run one role until SIGTERM or SIGINT. Answers the exit code."""
    # Blocked before any thread exists, so that every thread inherits it and only this one is told.
    block(_TOLD)
    configure_logging(role=name, level=os.environ.get("BROKER_LOG_LEVEL", "INFO"))
    with open_broker(config, data_dir, role=name) as broker:
        take_handles(name, broker.loaded.site.limits)
        failpoint("start.before_serving")
        log.info("runs on configuration", version=broker.configuration)
        running = STARTERS[name](broker)
        log.info("serving", detail=_prove(running)[1])
        _record(broker, EventName.STARTED, name)
        started_at = broker.clock.now()
        code = 0
        try:
            while True:
                _beat(broker, name, running, started_at)
                if wait_for(_TOLD, BEAT_S) is not None:
                    break
                if not running.busy():
                    log.error("ended by itself")
                    code = 1
                    break
        finally:
            log.info("stopping")
            running.stop(GRACE_S)
            _record(broker, EventName.STOPPED, name)
            with suppress(OutOfResources):  # then the row grows stale, which says the same
                retire(broker.engine, role=name, host=socket.gethostname(), pid=os.getpid())
        log.info("stopped")
        return code


def _record(broker: Broker, what: EventName, name: str) -> None:
    """Leave in the audit trail that a role started or stopped, unless the database is away."""
    details = {"role": name, "host": socket.gethostname(), "version": __version__}
    try:
        with broker.units_of_work() as uow:
            uow.record(Event(what, Subject.SYSTEM, details=details))
            uow.commit()
    except OutOfResources:
        log.warning("not in the audit trail: the database does not answer", what=what.value)


def _beat(broker: Broker, name: str, running: Running, started_at: datetime) -> None:
    """Write what the role saw of itself; a database that is away is seen by everybody else, and comes back."""
    ok, detail = _prove(running)
    try:
        beat(
            broker.engine,
            role=name,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=started_at,
            now=broker.clock.now(),
            details={"ok": ok, "detail": detail, "configuration": broker.configuration},
        )
    except OutOfResources:
        log.warning("no heartbeat: the database does not answer")


def _prove(running: Running) -> tuple[bool, str]:
    try:
        return True, running.prove()
    except Exception as error:
        log.error("does not serve", error=type(error).__name__)
        return False, f"{type(error).__name__}: {error}"[:200]


def reachable(host: str) -> str:
    """Answer the address under which this machine reaches its own listener."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def start_dicom(broker: Broker) -> Running:
    """Start worklist, MPPS and verification, and storage too unless it has a port of its own."""
    listen = broker.loaded.site.listen
    return _dicom(broker, listen.dicom, storage=listen.storage is None, others=True)


def start_storage(broker: Broker) -> Running:
    """Start storage and verification on the port of their own."""
    listen = broker.loaded.site.listen.storage
    if listen is None:
        raise SystemExit("broker: listen.storage is not configured")
    return _dicom(broker, listen, storage=True, others=False)


def _dicom(
    broker: Broker, listen: DicomListener | StorageListener, *, storage: bool, others: bool
) -> Running:
    from broker.dicom_role import dicom_server, echo

    server, close = dicom_server(broker, storage=storage, others=others)
    server.start()

    def prove() -> str:
        if listen.tls is not None:
            return _connects(listen.host, server.port)
        return echo(reachable(listen.host), server.port, broker.loaded.site.site.ae_title)

    def stop(grace_s: float) -> None:
        server.stop(grace_s)
        close()

    return Running(prove, stop)


def start_hl7(broker: Broker) -> Running:
    """Start the MLLP listener."""
    from broker.hl7_role import hl7_listener

    listener = hl7_listener(broker)
    listener.start()
    host = broker.loaded.site.listen.hl7.host
    return Running(lambda: _connects(host, listener.port), listener.stop, busy=lambda: listener.alive)


def _connects(host: str, port: int) -> str:
    before = time.monotonic()
    with socket.create_connection((reachable(host), port), timeout=5.0):
        return f"port {port} answers in {(time.monotonic() - before) * 1000:.1f} ms"


def start_sweep(broker: Broker) -> Running:
    """Start the sweeper, found by its entry point: the broker does not import its workers."""
    from importlib.metadata import entry_points

    (point,) = entry_points(group="broker.roles", name="sweep")
    sweeper = point.load()(broker)
    sweeper.start()
    return Running(sweeper.prove, sweeper.stop, busy=lambda: sweeper.alive)


def start_web(broker: Broker) -> Running:
    """Start the pages."""
    with staying():
        from broker.dashboard import first_run_link
        from broker.web_server import WebServer

    server = WebServer(broker)
    server.start()
    # Printed, never logged: what is printed is for who starts it, logs go to many.
    if link := first_run_link(broker):
        print(f"broker: nobody can sign in yet; make the first account: {link}", flush=True)
    return Running(server.prove, server.stop, busy=lambda: server.alive)


STARTERS: dict[str, Callable[[Broker], Running]] = {
    "dicom": start_dicom,
    "storage": start_storage,
    "hl7": start_hl7,
    "sweep": start_sweep,
    "web": start_web,
}
