"""A worker says every few seconds that it is alive, as every role does."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress

import structlog

from broker.bootstrap import Broker
from broker.db.heartbeats import beat, retire
from broker.errors import BrokerError
from workers.desk import Desk

BEAT_S = 5.0

log = structlog.get_logger()


class Heartbeat:
    """Writes the heartbeat row of this process from a thread of its own."""

    def __init__(self, desk: Desk, *, role: str) -> None:
        """Prepare; `start` starts."""
        self._desk = desk
        self._role = role
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and take the row away."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(BEAT_S)

    def _run(self) -> None:
        broker = self._desk.broker
        assert isinstance(broker, Broker)
        host, pid, started_at = socket.gethostname(), os.getpid(), broker.clock.now()
        while True:
            try:
                beat(
                    broker.engine,
                    role=self._role,
                    host=host,
                    pid=pid,
                    started_at=started_at,
                    now=broker.clock.now(),
                    details={
                        "ok": True,
                        "detail": f"{threading.active_count()} threads",
                        "configuration": broker.configuration,
                    },
                )
            except Exception as error:  # a database that is away is said by others, and comes back
                log.warning("no heartbeat", error=type(error).__name__)
            if self._stop.wait(BEAT_S):
                break
        with suppress(BrokerError):  # a line that stays is stale in seconds
            retire(broker.engine, role=self._role, host=host, pid=pid)
