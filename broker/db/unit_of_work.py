"""One transaction with its repositories, events and wake-ups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from hashlib import blake2b
from types import TracebackType
from typing import Self

from sqlalchemy import Engine, func, select

from broker.db.repositories.accounts import SqlAccounts, SqlApiTokens, SqlSessions
from broker.db.repositories.alerts import SqlAlerts
from broker.db.repositories.audit_collectors import SqlAuditCollectors
from broker.db.repositories.bulk_operations import SqlBulkOperations, SqlIdempotencyKeys
from broker.db.repositories.captures import SqlCaptures
from broker.db.repositories.configurations import SqlConfigurations
from broker.db.repositories.decisions import SqlDecisions
from broker.db.repositories.deliveries import SqlDeliveries
from broker.db.repositories.destination_states import SqlDestinationStates
from broker.db.repositories.devices import SqlDevices
from broker.db.repositories.events import SqlEvents
from broker.db.repositories.instances import SqlInstances
from broker.db.repositories.messages import SqlMessages
from broker.db.repositories.orders import SqlOrders
from broker.db.repositories.patients import SqlPatients
from broker.db.repositories.performed_steps import SqlPerformedSteps
from broker.db.repositories.probe_runs import SqlProbeRuns
from broker.db.repositories.steps import SqlSteps
from broker.db.transaction import Transaction, Turn
from broker.domain.events import Event
from broker.failpoints import failpoint
from broker.workflow.accounts_port import Accounts, ApiTokens, Sessions
from broker.workflow.alerts_port import Alerts
from broker.workflow.audit_port import AuditCollectors
from broker.workflow.bulk_port import BulkOperations
from broker.workflow.captures_port import Captures
from broker.workflow.clock import Clock
from broker.workflow.configuration_port import Configurations
from broker.workflow.decisions_port import Decisions
from broker.workflow.deliveries_port import Deliveries
from broker.workflow.destinations_port import DestinationStates
from broker.workflow.devices_port import Devices
from broker.workflow.idempotency_port import IdempotencyKeys
from broker.workflow.images_port import Instances
from broker.workflow.messages_port import Messages
from broker.workflow.orders_port import Orders, Patients, Steps
from broker.workflow.performed_port import PerformedSteps
from broker.workflow.probe_port import ProbeRuns
from broker.workflow.unit_of_work import UnitOfWork
from broker.workflow.wake_ups import TaskQueue, WakeUp


class SqlUnitOfWork:
    """Implements the UnitOfWork port: nothing leaves before the commit, everything is undone without one.

    After a commit the same block may go on: its next statement begins another transaction.
    """

    patients: Patients
    orders: Orders
    steps: Steps
    performed: PerformedSteps
    messages: Messages
    instances: Instances
    decisions: Decisions
    deliveries: Deliveries
    destinations: DestinationStates
    bulk: BulkOperations
    keys: IdempotencyKeys
    accounts: Accounts
    sessions: Sessions
    api_tokens: ApiTokens
    devices: Devices
    probes: ProbeRuns
    alerts: Alerts
    captures: Captures
    audit_collectors: AuditCollectors
    configurations: Configurations

    def __init__(self, transaction: Transaction, queue: TaskQueue, clock: Clock) -> None:
        self._transaction = transaction
        self._queue = queue
        self._clock = clock
        self._events: list[tuple[datetime, Event]] = []
        self._wake_ups: list[WakeUp] = []
        self._event_rows = SqlEvents(transaction)
        self.patients = SqlPatients(transaction)
        self.orders = SqlOrders(transaction)
        self.steps = SqlSteps(transaction)
        self.performed = SqlPerformedSteps(transaction)
        self.messages = SqlMessages(transaction)
        self.instances = SqlInstances(transaction)
        self.decisions = SqlDecisions(transaction)
        self.deliveries = SqlDeliveries(transaction)
        self.destinations = SqlDestinationStates(transaction)
        self.bulk = SqlBulkOperations(transaction)
        self.keys = SqlIdempotencyKeys(transaction)
        self.accounts = SqlAccounts(transaction)
        self.sessions = SqlSessions(transaction)
        self.api_tokens = SqlApiTokens(transaction)
        self.devices = SqlDevices(transaction)
        self.probes = SqlProbeRuns(transaction)
        self.alerts = SqlAlerts(transaction)
        self.captures = SqlCaptures(transaction)
        self.audit_collectors = SqlAuditCollectors(transaction)
        self.configurations = SqlConfigurations(transaction)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Undo what was not committed."""
        self._events.clear()
        self._wake_ups.clear()
        self._transaction.rollback()

    def commit(self) -> None:
        """Make it durable, then let the workers know. Raises DatabaseUnavailable: then it may not be said."""
        self._event_rows.add_many(self._events)
        self._transaction.commit()
        self._events.clear()
        wake_ups = tuple(dict.fromkeys(self._wake_ups))
        self._wake_ups.clear()
        if wake_ups:
            failpoint("wake_up.after_commit")
            self._queue.wake(wake_ups)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo the block alone when it raises, its events and wake-ups included."""
        events, wake_ups = len(self._events), len(self._wake_ups)
        try:
            with self._transaction.savepoint():
                yield
        except BaseException:
            del self._events[events:]
            del self._wake_ups[wake_ups:]
            raise

    def lock(self, *keys: str) -> None:
        """Serialise with every transaction that names one of these keys, until commit."""
        if not self._transaction.is_postgresql:
            self._transaction.begin()  # BEGIN IMMEDIATE: one writer at a time, whatever the key
            return
        # Sorted, so that two transactions with the same keys cannot wait for each other.
        for number in sorted({_lock_number(key) for key in keys}):
            self._transaction.execute(select(func.pg_advisory_xact_lock(number)))

    def record(self, event: Event) -> None:
        """Write an event row in this transaction, together with the others just before the commit."""
        self._events.append((self._clock.now(), event))

    def wake(self, wake_up: WakeUp) -> None:
        """Publish after the commit."""
        self._wake_ups.append(wake_up)


class SqlUnitsOfWork:
    """Opens units of work on one engine; one per process."""

    def __init__(self, engine: Engine, queue: TaskQueue, clock: Clock) -> None:
        self._engine = engine
        self._queue = queue
        self._clock = clock
        self._turn = Turn() if engine.dialect.name == "sqlite" else None

    def __call__(self) -> UnitOfWork:
        """Open a unit of work; it connects with its first statement."""
        transaction = Transaction(self._engine, turn=self._turn)
        return SqlUnitOfWork(transaction, self._queue, self._clock)


def _lock_number(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big", signed=True)
