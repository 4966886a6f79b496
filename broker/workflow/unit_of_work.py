"""One transaction, and everything that can be stored in it. broker/db implements these ports; tests/fakes do too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

from broker.domain.events import Event
from broker.workflow.accounts_port import Accounts, ApiTokens, Sessions
from broker.workflow.alerts_port import Alerts
from broker.workflow.audit_port import AuditCollectors
from broker.workflow.bulk_port import BulkOperations
from broker.workflow.captures_port import Captures
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
from broker.workflow.wake_ups import WakeUp


class UnitOfWork(Protocol):
    """One transaction. Leaving the block without `commit()` rolls back; wake-ups go out after the commit.

    Database trouble surfaces as DatabaseUnavailable.
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

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def commit(self) -> None:
        """Make it durable, then publish its wake-ups."""
        ...

    def savepoint(self) -> AbstractContextManager[None]:
        """A nested block that is undone alone when it raises."""
        ...

    def lock(self, *keys: str) -> None:
        """Serialise with every transaction that names one of these keys, until commit."""
        ...

    def record(self, event: Event) -> None:
        """Write an event row in this transaction."""
        ...

    def wake(self, wake_up: WakeUp) -> None:
        """Publish after the commit."""
        ...


UnitsOfWork = Callable[[], UnitOfWork]
"""Opens a unit of work: `with units_of_work() as uow:`."""
