"""Runs a synthetic exam when a person asks for it, off the thread that answers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import structlog

from broker.errors import BrokerError
from broker.workflow.probe_port import ProbeRun

if TYPE_CHECKING:
    from broker.probe import Prober

log = structlog.get_logger()


class ProbeNow:
    """Runs one at a time: whoever asks while one runs is shown that."""

    def __init__(self, prober: Prober) -> None:
        """Run nothing yet."""
        self._prober = prober
        self._lock = threading.Lock()
        self._running: int | None = None

    def start(self, actor: str) -> int:
        """Begin one, answer its id. Raises DatabaseUnavailable."""
        with self._lock:
            if self._running is None:
                run = self._prober.begin(actor)
                assert run is not None  # without an interval there is always one
                threading.Thread(target=self._run, args=(run,), name="probe", daemon=True).start()
                self._running = run.id
            return self._running

    def _run(self, run: ProbeRun) -> None:
        try:
            self._prober.finish(run)
        except BrokerError as error:
            # The database is away: the page says that the exam has ended without a result.
            log.warning("result of a probe not kept", probe=run.id, reason=str(error))
        finally:
            with self._lock:
                self._running = None
