"""What people do to deliveries and destinations, with what is wired: the same for pages, API and command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.destination_tests import DestinationTests
from broker.errors import NotFound
from broker.workflow import bulk, holds, operations
from broker.workflow.bulk import Wanted
from broker.workflow.bulk_port import BulkOperation
from broker.workflow.devices import Welcome, admit, end_admission
from broker.workflow.devices_port import Admission
from broker.workflow.holds import Hold
from broker.workflow.idempotency import RequestKey, Requests
from broker.workflow.operations import Act, Asked, Target
from broker.workflow.preview import Preview, preview

if TYPE_CHECKING:
    from broker.bootstrap import Broker


class Actions:
    """Everything a person may do here. Each raises a BrokerError, and then nothing has changed."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.requests = Requests(broker.units_of_work, broker.clock)
        self._tests = DestinationTests(broker.units_of_work, broker.clock, broker.check_destination)

    def act(self, delivery: int, asked: Asked) -> bool:
        """Do an act to one delivery; False when there was nothing to change."""
        return operations.act_on(delivery, asked, self._broker.units_of_work, self._broker.clock)

    def target(self, name: str) -> Target:
        """Answer a destination to send to instead. Raises NotFound."""
        return Target(name, self._kind_of(name))

    def preview(self, wanted: Wanted) -> Preview:
        """Tell what an act on many would come to."""
        return preview(
            wanted, self._broker.reports, kind_of=self._kind_of, concurrency_of=self._concurrency_of
        )

    def start(self, wanted: Wanted) -> int:
        """Write down an act on many, answer its id; the sweep works on it."""
        return bulk.start(wanted, self._broker.units_of_work, self._broker.clock, kind_of=self._kind_of)

    def advance(self, operation: int) -> BulkOperation:
        """Work off one slice of an act on many now."""
        return bulk.advance(operation, self._broker.units_of_work, self._broker.clock, kind_of=self._kind_of)

    def advance_all(self, *, is_over: Callable[[], bool]) -> int:
        """Work off every act on many until the time is over."""
        return bulk.advance_all(
            self._broker.units_of_work, self._broker.clock, kind_of=self._kind_of, is_over=is_over
        )

    def stop(self, operation: int, *, actor: str, key: RequestKey | None = None) -> bool:
        """Do no more of an act on many."""
        return bulk.stop(operation, self._broker.units_of_work, self._broker.clock, actor=actor, key=key)

    def pause(self, destination: str, hold: Hold) -> bool:
        """Hold a destination."""
        self._known(destination)
        return holds.pause(destination, self._broker.units_of_work, self._broker.clock, hold)

    def drain(self, destination: str, hold: Hold) -> bool:
        """Send what waits and hold what comes."""
        self._known(destination)
        return holds.drain(destination, self._broker.units_of_work, self._broker.clock, hold)

    def resume(
        self, destination: str, *, actor: str, reason: str = "", key: RequestKey | None = None
    ) -> bool:
        """Let a destination go on."""
        self._known(destination)
        return holds.resume(
            destination,
            self._broker.units_of_work,
            self._broker.clock,
            actor=actor,
            reason=reason,
            key=key,
        )

    def test(self, destination: str, *, actor: str) -> bool:
        """Talk to a destination off this thread; False when a test of it runs already."""
        self._known(destination)
        return self._tests.start(destination, actor=actor)

    def admit(self, welcome: Welcome) -> Admission:
        """Let a device in for a time; the listeners know within two seconds."""
        return admit(welcome, self._broker.units_of_work, self._broker.clock)

    def end_admission(self, admission: int, *, actor: str, key: RequestKey | None = None) -> bool:
        """Let a device in no longer; False when that was over already."""
        return end_admission(admission, self._broker.units_of_work, self._broker.clock, actor=actor, key=key)

    def retry(self, delivery: int, *, actor: str) -> None:
        """Try a delivery again now."""
        self.act(delivery, Asked(Act.RETRY, actor))

    def cancel(self, delivery: int, *, actor: str) -> None:
        """Decide that a delivery is not sent."""
        self.act(delivery, Asked(Act.CANCEL, actor))

    def _known(self, destination: str) -> None:
        if destination not in self._broker.loaded.site.destinations:
            raise NotFound(f"There is no destination {destination}.")

    def _kind_of(self, name: str) -> str:
        self._known(name)
        return self._broker.loaded.site.destinations[name].kind

    def _concurrency_of(self, name: str) -> int:
        settings = self._broker.loaded.site.destinations.get(name)
        return settings.concurrency if settings else 1
