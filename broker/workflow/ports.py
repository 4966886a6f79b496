"""What the use cases need from the world. Adapters implement these; tests/fakes implement them too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Protocol, Self

from broker.domain.delivery import DeliveryState, ItemState, Outcome
from broker.domain.events import Event
from broker.domain.orders import (
    ImagingOrder,
    OrderDetails,
    Patient,
    PatientIdentifier,
    RequestedProcedure,
    ScheduledProcedureStep,
    WorklistEntry,
)
from broker.domain.steps import OrderStatus, PerformedStatus
from broker.workflow.accounts_port import Accounts, ApiTokens, Sessions
from broker.workflow.alerts_port import Alerts
from broker.workflow.audit_port import AuditCollectors
from broker.workflow.captures_port import Captures
from broker.workflow.configuration_port import Configurations
from broker.workflow.devices_port import Devices
from broker.workflow.probe_port import ProbeRuns
from broker.workflow.selection import Selection

FactValues = Mapping[str, tuple[str, ...]]
"""DICOM keyword, `calling_ae_title` or `order.<field>` -> text values; absent = missing, () = empty."""


class Clock(Protocol):
    """Time, injected."""

    def now(self) -> datetime:
        """Answer the instant, aware, UTC."""
        ...

    def local_now(self) -> datetime:
        """Answer the site's wall clock, aware."""
        ...

    def monotonic(self) -> float:
        """Answer seconds that never step."""
        ...


# ---- wake-ups ------------------------------------------------------------------------------------------


class Task(Enum):
    """Names of the Celery tasks; the value is the name on the wire."""

    ROUTE = "workers.route"
    DELIVER = "workers.deliver"


@dataclass(frozen=True, slots=True)
class WakeUp:
    """A hint that a row has work: lost, doubled or late, it does no harm."""

    task: Task
    id: int
    destination_kind: str | None = None
    """Chooses the Celery queue of a DELIVER."""
    destination: str | None = None
    """Lets a burst of wake-ups for one destination become a few: a worker goes on with what is due there."""


class TaskQueue(Protocol):
    """Publishes wake-ups from a thread of its own; never blocks, never raises."""

    def wake(self, wake_ups: Iterable[WakeUp]) -> None: ...


# ---- orders --------------------------------------------------------------------------------------------


class Patients(Protocol):
    """Stored patients; every finder follows merges to the survivor."""

    def find(self, identifier: PatientIdentifier) -> Patient | None:
        """Find by (value, issuer); a missing issuer on either side matches when exactly one patient fits."""
        ...

    def get(self, patient: int) -> Patient: ...
    def add(self, patient: Patient, *, now: datetime) -> Patient:
        """Store a new patient (its `id` is ignored) and answer it with its id."""
        ...

    def save(self, patient: Patient, *, now: datetime) -> None: ...
    def merge(self, *, absorbed: int, survivor: int, now: datetime) -> list[int]:
        """Move orders and steps of `absorbed` to `survivor`; answer the ids of the orders moved."""
        ...


class Orders(Protocol):
    """Stored orders and procedures."""

    def identify(self, details: OrderDetails, *, patient: int | None) -> list[ImagingOrder]:
        """Find the orders a message means.

        By Study Instance UID with step id, placer and filler number, filler, placer, accession with procedure
        id, accession; the first rule with a hit answers.
        """
        ...

    def get(self, order: int) -> ImagingOrder: ...
    def of_patient(self, patient: int) -> list[ImagingOrder]: ...
    def add(self, order: ImagingOrder, *, now: datetime) -> ImagingOrder: ...
    def save(self, order: ImagingOrder, *, now: datetime) -> None: ...
    def procedures(self, order: int) -> list[RequestedProcedure]: ...
    def procedures_with_study(self, study_instance_uid: str) -> list[RequestedProcedure]: ...
    def add_procedure(self, procedure: RequestedProcedure, *, now: datetime) -> RequestedProcedure: ...
    def save_procedure(self, procedure: RequestedProcedure, *, now: datetime) -> None: ...
    def with_accession(self, accession_number: str) -> list[ImagingOrder]: ...
    def set_status(self, order: int, status: OrderStatus, *, now: datetime) -> None: ...


class Steps(Protocol):
    """Stored scheduled procedure steps. Saving one also writes its matching copies and encoded elements."""

    def of_order(self, order: int) -> list[ScheduledProcedureStep]: ...
    def of_procedure(self, procedure: int) -> list[ScheduledProcedureStep]: ...
    def get(self, step: int) -> ScheduledProcedureStep: ...
    def add(self, entry: WorklistEntry, *, elements: bytes, now: datetime) -> ScheduledProcedureStep:
        """Store `entry.step` (its `id` is ignored), answer it with its id."""
        ...

    def save(self, entry: WorklistEntry, *, elements: bytes, now: datetime) -> None:
        """Store `entry.step`, raising its revision."""
        ...

    def entry(self, step: int) -> WorklistEntry: ...
    def entries_of_patient(self, patient: int, *, open_only: bool) -> list[WorklistEntry]: ...
    def find_for_performed(
        self,
        *,
        study_instance_uid: str | None,
        accession_number: str | None,
        requested_procedure_id: str | None,
        scheduled_procedure_step_id: str | None,
    ) -> list[WorklistEntry]:
        """Find the steps one item of Scheduled Step Attributes Sequence means.

        (Study UID, SPS id), then (accession, SPS id), then (procedure id, SPS id); the first with a hit answers.
        """
        ...


class StepEncoder(Protocol):
    """Encodes what C-FIND may answer of an entry, once, when the entry changes."""

    def encode(self, entry: WorklistEntry) -> bytes: ...


# ---- performed steps -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PerformedStep:
    """A stored performed procedure step. `data_set`: merged state, Explicit VR Little Endian."""

    id: int
    sop_instance_uid: str
    status: PerformedStatus
    calling_ae_title: str
    data_set: bytes
    performed_station_ae_title: str | None = None
    modality: str | None = None
    patient_id: str | None = None
    study_instance_uids: tuple[str, ...] = ()
    series: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    started_at: str | None = None
    ended_at: str | None = None
    discontinuation_reason: str | None = None
    matched: bool = False
    patient_mismatch: bool = False


class PerformedSteps(Protocol):
    """Stored performed procedure steps and their links."""

    def find(self, sop_instance_uid: str, *, lock: bool = False) -> PerformedStep | None: ...
    def add(self, step: PerformedStep, *, now: datetime) -> PerformedStep:
        """Store it; raises DuplicateKey when the UID exists."""
        ...

    def save(self, step: PerformedStep, *, now: datetime) -> None: ...
    def link(self, performed: int, step: int) -> None: ...
    def steps_of(self, performed: int) -> list[int]: ...
    def performed_of(self, step: int) -> list[PerformedStep]: ...
    def of_study(self, study_instance_uid: str) -> list[PerformedStep]: ...


class StatusMessages(Protocol):
    """Writes the HL7 status message of a step change for the RIS."""

    def status_message(
        self, entry: WorklistEntry, performed: PerformedStep, status: PerformedStatus
    ) -> bytes: ...


# ---- messages ------------------------------------------------------------------------------------------


class MessageOutcome(Enum):
    """What became of an inbound HL7 message."""

    ACCEPTED = "accepted"
    IGNORED = "ignored"
    PARKED = "parked"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """An inbound HL7 message as kept."""

    id: int
    received_at: datetime
    peer: str
    sending_application: str
    sending_facility: str
    message_control_id: str
    message_type: str
    content_sha256: bytes
    raw: bytes
    outcome: MessageOutcome
    acknowledgement_code: str | None
    answer: bytes | None
    problems: tuple[Mapping[str, str], ...] = ()
    order: int | None = None
    attempts: int = 1


class Messages(Protocol):
    """Inbound HL7 messages."""

    def find(
        self, sending_application: str, sending_facility: str, message_control_id: str
    ) -> list[StoredMessage]:
        """Find the messages with this key, newest first."""
        ...

    def reserve(self) -> int:
        """Answer an id for a new message, so that what it brings about can name it before it is stored."""
        ...

    def add(self, message: StoredMessage) -> StoredMessage:
        """Store a new message under the id reserved for it, or under one of its own when it has none (0)."""
        ...

    def save(self, message: StoredMessage) -> None: ...
    def get(self, message: int) -> StoredMessage: ...


# ---- images --------------------------------------------------------------------------------------------


class InstanceState(Enum):
    """Where a received object stands."""

    RECEIVED = "RECEIVED"
    """Stored; nobody has decided where it goes."""
    ROUTED = "ROUTED"
    UNROUTED = "UNROUTED"
    """No route matched: kept and shown."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A received object."""

    id: int
    sop_instance_uid: str
    version: int
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    path: str
    size_bytes: int
    data_set_offset: int
    sha256: bytes | None
    facts: FactValues
    calling_ae_title: str
    called_ae_title: str
    peer: str
    state: InstanceState
    received_at: datetime
    last_received_at: datetime
    patient_id: str | None = None
    accession_number: str | None = None
    modality: str | None = None
    order: int | None = None
    resends: int = 0


class Instances(Protocol):
    """Received objects."""

    def add_many(self, instances: Sequence[Instance]) -> list[int]:
        """Store new rows (their `id` is ignored) in one statement, answer their ids in order."""
        ...

    def versions(self, sop_instance_uid: str) -> list[Instance]:
        """Answer every stored version, newest first."""
        ...

    def get(self, instance: int) -> Instance: ...
    def get_many(self, instances: Sequence[int]) -> list[Instance]:
        """Answer those that exist, in order of id."""
        ...

    def with_paths(self, paths: Sequence[str]) -> set[str]:
        """Answer which of these file paths have a row."""
        ...

    def paths_named(self, names: Sequence[str], *, since: datetime | None = None) -> set[str]:
        """Answer the paths of the files of these names (32 hexadecimal digits) that have a row.

        `since` looks at what was received later only; without it every row is looked at.
        """
        ...

    def reconsider(self, study_instance_uid: str) -> int:
        """Move the UNROUTED instances of a study back to RECEIVED, answer how many."""
        ...

    def mark_resent(self, instance: int, *, now: datetime) -> None: ...
    def undecided(self, limit: int, *, older_than: datetime | None = None) -> list[int]:
        """Answer ids of RECEIVED rows, oldest first."""
        ...

    def decide(self, instance: int, state: InstanceState, *, order: int | None) -> bool:
        """Move RECEIVED to `state` by a conditional UPDATE; False when another worker was first."""
        ...

    def decide_many(self, instances: Sequence[int], state: InstanceState, *, order: int | None) -> set[int]:
        """Do the same for many; answer those this worker has moved."""
        ...

    def set_order(self, instance: int, order: int) -> None: ...
    def unrouted(self, limit: int) -> list[Instance]: ...
    def of_study(self, study_instance_uid: str) -> list[Instance]: ...
    def of_series(self, series_instance_uid: str) -> list[Instance]: ...


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A data set made durable: synced file under its final, synced name."""

    path: str
    """Relative to the store."""
    size_bytes: int
    data_set_offset: int
    sha256: bytes


class IncomingFile(Protocol):
    """A file being received."""

    def write(self, data: memoryview) -> None: ...
    def keep(self) -> StoredFile:
        """Sync and give the final name. Raises StorageFull or OutOfResources; then nothing is left behind."""
        ...

    def discard(self) -> None: ...


class FileStore(Protocol):
    """Received files; names come from our own ids, never from a peer."""

    def create(
        self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str
    ) -> IncomingFile: ...
    def open(self, path: str) -> BinaryIO: ...
    def absolute(self, path: str) -> Path: ...
    def remove(self, path: str) -> None: ...
    def give_up(self, path: str, *, in_favour_of: str) -> None:
        """Remove a file whose content is kept elsewhere; should that one be lost, this takes its place.

        Raises OutOfResources when it cannot.
        """
        ...

    def has_room(self) -> bool:
        """Answer whether the free-space reserve is untouched."""
        ...


# ---- routing -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredDecision:
    """One routing decision as kept."""

    id: int
    instance: int
    study_instance_uid: str
    configuration: int
    decided_at: datetime
    facts: FactValues
    routes: tuple[str, ...]
    conflicts: tuple[str, ...] = ()


class Decisions(Protocol):
    """Routing decisions and the configuration versions that made them."""

    def add(self, decision: StoredDecision) -> int: ...
    def add_many(self, decisions: Sequence[StoredDecision]) -> None:
        """Store decisions in one statement."""
        ...

    def of_study(self, study_instance_uid: str) -> list[StoredDecision]: ...
    def configuration_body(self, configuration: int) -> str: ...
    def record_configuration(self, sha256: str, body: str, *, by: str, now: datetime) -> int:
        """Store a configuration version once, answer its id."""
        ...


# ---- deliveries ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivery:
    """A stored delivery."""

    id: int
    destination: str
    kind: str
    route: str | None
    unit: str
    unit_uid: str
    state: DeliveryState
    attempt: int
    failures: int
    due_at: datetime
    created_at: datetime
    study_instance_uid: str | None = None
    order: int | None = None
    ordering_key: str | None = None
    reason: str | None = None
    failure_class: str | None = None
    priority: int = 4
    collect_until: datetime | None = None
    lease_until: datetime | None = None
    worker: str | None = None
    payload: bytes | None = None
    items: int = 0
    items_delivered: int = 0
    items_rejected: int = 0
    cause: str | None = None
    """What the reason stands for; written with it."""
    operation: int | None = None
    """The bulk operation that touched it last."""


@dataclass(frozen=True, slots=True)
class ParcelItem:
    """One instance to send."""

    id: int
    """Of the delivery item."""
    instance: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    path: Path
    data_set_offset: int
    size_bytes: int
    """Of the whole file."""
    calling_ae_title: str
    facts: FactValues = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one item at the peer."""

    item: int
    state: ItemState
    wire_status: str | None = None
    """Four hex digits, or an HTTP status."""
    reason: str | None = None


Settled = Callable[[Sequence[ItemResult]], None]
"""Makes progress durable and renews the lease. Raises LeaseLost: stop at once, another worker has it."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a destination is asked to send: instances, or bytes."""

    delivery: int
    attempt: int
    items: Iterator[ParcelItem]
    """Ends when nothing waits any more or the slice of time is over."""
    contexts: tuple[tuple[str, str], ...] = ()
    """(SOP Class UID, Transfer Syntax UID) of all items, for negotiation."""
    payload: bytes | None = None
    study_instance_uid: str | None = None
    unit: str = "message"
    first_attempt_reason: str | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Whether a destination answers, and what it said."""

    ok: bool
    detail: str
    duration_s: float = 0.0


class Destination(Protocol):
    """Somewhere a parcel can be sent. Expected trouble is an Outcome, not an exception."""

    retry_safe: ClassVar[bool]
    """May the same parcel arrive twice?"""

    def check(self) -> CheckResult: ...
    def send(self, parcel: Parcel, settled: Settled) -> Outcome: ...
    def close(self) -> None:
        """Give back connections kept for the next parcel."""
        ...


@dataclass(frozen=True, slots=True)
class DestinationContext:
    """What every plug-in is built with, next to its own options: `Plugin(options, context)`."""

    name: str
    ae_title: str
    """Our own."""
    data_dir: Path
    clock: Clock
    site_name: str = ""


class Deliveries(Protocol):
    """Stored deliveries. Every state change is one conditional UPDATE; the answer says who won."""

    def add(self, delivery: Delivery, *, now: datetime) -> int: ...
    def open_for(self, *, destination: str, route: str, unit_uid: str) -> Delivery | None:
        """Answer the open delivery (COLLECTING, PENDING, IN_PROGRESS) of a unit, locked for this transaction."""
        ...

    def add_items(self, delivery: int, instances: Sequence[int]) -> int:
        """Add instances not yet in it (an item already there is left), answer how many were new."""
        ...

    def collect(self, delivery: int, *, due_at: datetime, now: datetime) -> None:
        """Move the quiet period of a COLLECTING delivery, never past its cap."""
        ...

    def get(self, delivery: int) -> Delivery: ...
    def claim(self, delivery: int, *, worker: str, now: datetime, lease: timedelta) -> Delivery | None:
        """Move a due PENDING row to IN_PROGRESS with attempt + 1.

        None when its destination is paused or open, when it is not the first of its ordering key, or when
        another worker was first.
        """
        ...

    def renew(self, delivery: int, attempt: int, *, now: datetime, lease: timedelta) -> bool: ...
    def waiting_items(self, delivery: int, *, after: int, limit: int) -> list[ParcelItem]: ...
    def contexts(self, delivery: int) -> tuple[tuple[str, str], ...]: ...
    def settle_items(
        self, delivery: int, attempt: int, results: Sequence[ItemResult], *, now: datetime
    ) -> bool:
        """Store results under the fence (state IN_PROGRESS and this attempt); False when it is lost."""
        ...

    def count_waiting(self, delivery: int) -> int: ...
    def settle(
        self,
        delivery: int,
        attempt: int,
        *,
        state: DeliveryState,
        reason: str | None,
        failure_class: str | None,
        failures: int,
        due_at: datetime,
        now: datetime,
    ) -> bool:
        """Leave IN_PROGRESS under the fence; False when it is lost."""
        ...

    def move(
        self,
        delivery: int,
        *,
        source: DeliveryState,
        to: DeliveryState,
        due_at: datetime,
        reason: str | None,
        now: datetime,
        failures: int | None = None,
        attempt: int | None = None,
        operation: int | None = None,
    ) -> bool:
        """Move by a conditional UPDATE on the source state; False when it moved on.

        Out of IN_PROGRESS only while its lease has run out or, whatever its lease says, `attempt` holds it.
        """
        ...

    def due(self, *, now: datetime, limit: int) -> list[tuple[int, str]]:
        """Answer (id, kind) of PENDING rows that are due, by priority, then oldest; paused ones left out.

        Every destination gets its share of `limit`: a long queue to one must not hide the others.
        """
        ...

    def next_due(self, destination: str, *, now: datetime, limit: int = 1) -> list[int]:
        """Answer ids of due PENDING rows of one destination, by priority, then oldest.

        Only the first of each ordering key.
        """
        ...

    def more_urgent(self, destination: str, *, than: int, now: datetime) -> int | None:
        """Answer what may be claimed there now before anything of priority `than`, if there is something."""
        ...

    def prioritise(
        self,
        delivery: int,
        *,
        source: DeliveryState,
        priority: int,
        operation: int | None = None,
    ) -> bool:
        """Change the priority while the row is in `source`; False when it moved on."""
        ...

    def waits_up_to(self, destination: str, delivery: int) -> bool:
        """Answer whether anything planned up to this delivery is still to be sent there."""
        ...

    def newest_id(self) -> int:
        """Answer the id of the delivery planned last; 0 when there is none."""
        ...

    def select(
        self, selection: Selection, *, states: Sequence[DeliveryState], after: int, limit: int
    ) -> list[Delivery]:
        """Answer those that fit in one of `states` with ids greater than `after`, ascending."""
        ...

    def undelivered(self, delivery: int) -> list[int]:
        """Answer the instances of a delivery that are not delivered, in their order."""
        ...

    def find_ids(
        self,
        *,
        state: DeliveryState,
        destination: str | None = None,
        study_instance_uid: str | None = None,
        after: int = 0,
        limit: int = 500,
    ) -> list[int]:
        """Answer ids greater than `after`, ascending, of the rows that fit every filter given."""
        ...

    def reopen_items(self, delivery: int) -> int:
        """Put REJECTED items back to WAITING, answer how many; delivered ones stay delivered."""
        ...

    def mend_waits(self, *, now: datetime, tolerance: timedelta, limit: int) -> int:
        """Let rows that were written later than now wait from now on as long as was meant; answer how many.

        A clock that was set back by an hour would let them wait an hour longer.
        """
        ...

    def quiet(self, *, now: datetime, limit: int) -> list[int]:
        """Answer COLLECTING rows whose quiet period or cap is over."""
        ...

    def held(self, *, limit: int) -> list[Delivery]:
        """Answer IN_PROGRESS rows."""
        ...

    def in_progress(self, destination: str) -> int: ...
    def of_instance(self, instance: int) -> list[Delivery]: ...
    def collecting_of_series(self, series_instance_uid: str) -> list[int]: ...


class DestinationHealth(Enum):
    """State of a destination as workers share it."""

    UP = "up"
    FAILING = "failing"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class DestinationState:
    """Pause and breaker of one destination."""

    name: str
    state: DestinationHealth
    since: datetime
    reason: str | None = None
    failures: int = 0
    open_until: datetime | None = None
    last_success_at: datetime | None = None
    held_by: str | None = None
    """Who paused or drains it, when that was a person."""
    resume_at: datetime | None = None
    """A pause or a drain ends by itself then."""
    drain_to: int | None = None
    """Draining: deliveries up to this id are sent, later ones are held."""


class DestinationStates(Protocol):
    """What workers share about destinations."""

    def get(self, name: str) -> DestinationState | None: ...
    def save(self, state: DestinationState) -> None: ...
    def save_check(self, name: str, check: Mapping[str, object], *, now: datetime) -> None:
        """Keep what a test of the destination came to, beside its state."""
        ...

    def all(self) -> list[DestinationState]: ...


# ---- operations of people ------------------------------------------------------------------------------


class BulkState(Enum):
    """Where an operation on many deliveries stands."""

    RUNNING = "RUNNING"
    DONE = "DONE"
    STOPPED = "STOPPED"
    """A person stopped it; what it has done stays done."""


@dataclass(frozen=True, slots=True)
class BulkOperation:
    """One act on many deliveries, worked off in slices."""

    id: int
    act: str
    selection: Selection
    arguments: Mapping[str, str | int]
    actor: str
    reason: str | None
    state: BulkState
    expected: int
    created_at: datetime
    updated_at: datetime
    position: int = 0
    changed: int = 0
    skipped: int = 0
    skipped_why: Mapping[str, int] = field(default_factory=dict)


class BulkOperations(Protocol):
    """Stored operations on many deliveries."""

    def add(self, operation: BulkOperation) -> int: ...
    def get(self, operation: int, *, lock: bool = False) -> BulkOperation:
        """Answer one, locked for this transaction if asked. Raises NotFound."""
        ...

    def save(self, operation: BulkOperation) -> None: ...
    def running(self) -> list[int]:
        """Answer those that are not over, oldest first."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered."""

    status: int
    body: str
    location: str | None = None
    shown: Sequence[Mapping[str, Any]] = ()
    """Of whom it told: whoever is answered so again is shown them again."""


class IdempotencyKeys(Protocol):
    """Keys of requests that somebody may send twice."""

    def take(self, key: str, fingerprint: str, *, now: datetime, expires_at: datetime) -> bool:
        """Take a key in this transaction; False when the same request took it before.

        Raises Conflict when another request did.
        """
        ...

    def note(self, key: str, subject: int) -> None:
        """Keep the row that was made under a key."""
        ...

    def subject(self, key: str) -> int | None: ...
    def remember(self, key: str, answer: Answer) -> None:
        """Keep what the request of a key was answered, if the key was taken."""
        ...

    def answer(self, key: str, fingerprint: str, *, now: datetime) -> Answer | None:
        """Tell what the same request was answered before. Raises Conflict when another one took the key."""
        ...

    def forget(self, *, now: datetime) -> int:
        """Remove keys that have expired, answer how many."""
        ...


# ---- the transaction -----------------------------------------------------------------------------------


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
    def commit(self) -> None: ...
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
