"""A destination that does what it is told, and keeps what it got."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from broker.domain.delivery import Delivered, Outcome, Rejected, RetryPolicy
from broker.errors import NotFound
from broker.workflow.clock import Clock, SystemClock
from broker.workflow.destinations_port import CheckResult, DestinationContext, Parcel, ParcelItem, Settled
from broker.workflow.progress import Progress
from broker.workflow.sending import DestinationEntry
from broker.workflow.unit_of_work import UnitsOfWork

Script = Callable[[Parcel, Settled], Outcome]


class FakeOptions(BaseModel):
    """Has no keys."""


class FakeDestination:
    """Implements the Destination port in memory."""

    kind: ClassVar[str] = "fake"
    Options: ClassVar[type[BaseModel]] = FakeOptions
    retry_safe: ClassVar[bool] = True

    def __init__(self, options: FakeOptions | None = None, context: DestinationContext | None = None) -> None:
        self.clock: Clock = context.clock if context else SystemClock()
        self.received: list[str] = []
        """SOP Instance UIDs, or payloads as text, in the order they came."""
        self.script: list[Script | Outcome] = []
        """What happens in the next tries; afterwards everything is accepted."""
        self.refuses: set[str] = set()
        self.check_result = CheckResult(ok=True, detail="here")
        self.checks = 0
        self.sends = 0
        self.closed = False

    def check(self) -> CheckResult:
        """Answer as told."""
        self.checks += 1
        return self.check_result

    def send(self, parcel: Parcel, settled: Settled) -> Outcome:
        """Do the next thing of the script, else accept what is not refused."""
        self.sends += 1
        step = self.script.pop(0) if self.script else self.accept
        return step(parcel, settled) if callable(step) else step

    def accept(self, parcel: Parcel, settled: Settled) -> Outcome:
        """Take everything."""
        if parcel.payload is not None:
            self.received.append(parcel.payload.decode())
            return Delivered()
        progress = Progress(settled, self.clock)
        for item in parcel.items:
            self.take(item, progress)
        progress.flush()
        if progress.rejected:
            return Rejected(f"{progress.rejected} refused")
        return Delivered(f"{progress.delivered} taken")

    def take(self, item: ParcelItem, progress: Progress) -> None:
        """Take or refuse one item."""
        if item.sop_instance_uid in self.refuses:
            progress.reject(item, "refused", wire_status="A900")
            return
        self.received.append(item.sop_instance_uid)
        progress.deliver(item, wire_status="0000")

    def take_then(self, count: int, outcome: Outcome | Exception) -> Script:
        """Answer a script that takes `count` items and then ends like that."""

        def run(parcel: Parcel, settled: Settled) -> Outcome:
            progress = Progress(settled, self.clock, batch_items=1)
            for _ in range(count):
                self.take(next(parcel.items), progress)
            progress.flush()
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return run

    def close(self) -> None:
        """Remember it."""
        self.closed = True


class UnsafeDestination(FakeDestination):
    """Must not be sent the same twice, like a printer."""

    kind: ClassVar[str] = "unsafe"
    retry_safe: ClassVar[bool] = False


class FakeFiles:
    """Knows where files would be."""

    def absolute(self, path: str) -> Path:
        return Path("/store") / path


@dataclass
class FakeBroker:
    """What sending needs of the wired broker."""

    units_of_work: UnitsOfWork
    clock: Clock
    entries: dict[str, DestinationEntry] = field(default_factory=dict)
    files: FakeFiles = field(default_factory=FakeFiles)
    routed: list[int] = field(default_factory=list)

    def add(self, name: str, plugin: FakeDestination | None = None, **options: object) -> FakeDestination:
        """Configure a destination."""
        plugin = plugin or FakeDestination()
        plugin.clock = self.clock
        values = {"retry": RetryPolicy(), **options}
        self.entries[name] = DestinationEntry(name, plugin.kind, plugin, **values)
        return plugin

    def destination(self, name: str) -> DestinationEntry:
        """Answer a configured destination. Raises NotFound."""
        if name not in self.entries:
            raise NotFound(f"There is no destination {name}.")
        return self.entries[name]

    def destination_names(self) -> Iterable[str]:
        return self.entries.keys()
