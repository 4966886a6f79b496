"""The read side: what pages, the JSON API and the command line list. Rows are plain, bounded and paginated.

Field names are the keys of `--json` and of the API.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from broker.workflow.delivery_reports import DeliveryReports
from broker.workflow.overview_port import OverviewReports
from broker.workflow.selection import Selection

MAX_PAGE = 500
MOST_ROWS = MAX_PAGE + 1
"""One more than is shown says whether there is a next page."""


@dataclass(frozen=True, slots=True)
class Page:
    """Which rows: `limit` is bounded by MAX_PAGE."""

    limit: int = 50
    offset: int = 0


@dataclass(frozen=True, slots=True)
class WorklistLine:
    """A scheduled procedure step."""

    step: int
    sps_id: str
    accession_number: str | None
    patient_id: str
    patient_name: str
    modality: str | None
    station_ae_titles: tuple[str, ...]
    start: str | None
    """`YYYY-MM-DD HH:MM`, site wall clock; without the time where none was given."""
    status: str
    description: str
    study_instance_uid: str
    order_id: int
    missing: tuple[str, ...] = ()
    birth_date: str | None = None
    priority: str = ""


@dataclass(frozen=True, slots=True)
class OrderLine:
    """An imaging order."""

    order_id: int
    accession_number: str | None
    placer_order_number: str | None
    filler_order_number: str | None
    patient_id: str
    patient_name: str
    status: str
    procedure: str
    missing: tuple[str, ...]
    updated_at: datetime
    study_instance_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MessageLine:
    """An inbound HL7 message."""

    message_id: int
    received_at: datetime
    peer: str
    sending_application: str
    message_control_id: str
    message_type: str
    outcome: str
    acknowledgement_code: str | None
    problems: tuple[Mapping[str, str], ...]
    order_id: int | None


@dataclass(frozen=True, slots=True)
class StudyLine:
    """The images of one study."""

    study_instance_uid: str
    patient_id: str | None
    patient_name: str
    accession_number: str | None
    modality: str | None
    series: int
    instances: int
    state: str
    """UNROUTED if any instance is, RECEIVED if any is undecided, else ROUTED."""
    order_id: int | None
    last_received_at: datetime


@dataclass(frozen=True, slots=True)
class DeliveryLine:
    """A delivery."""

    id: int
    destination: str
    kind: str
    route: str | None
    unit: str
    state: str
    attempt: int
    failures: int
    due_at: datetime
    reason: str | None
    study_instance_uid: str | None
    items: int
    delivered: int
    rejected: int
    created_at: datetime
    updated_at: datetime
    cause: str | None = None
    """What its reason stands for; see domain.causes."""
    priority: int = 4
    operation: int | None = None
    """The bulk operation that touched it last."""


@dataclass(frozen=True, slots=True)
class DestinationLine:
    """One destination's queue."""

    destination: str
    state: str
    reason: str | None
    waiting: int
    """COLLECTING, PENDING and IN_PROGRESS deliveries."""
    oldest: datetime | None
    """When the oldest of the waiting was created."""
    dead: int
    delivered_last_hour: int
    last_success_at: datetime | None
    since: datetime | None = None
    held_by: str | None = None
    """Who paused or drains it, when that was a person."""
    resume_at: datetime | None = None
    """A pause or a drain ends by itself then."""
    probe_at: datetime | None = None
    """Nothing is sent until a probe after this instant succeeds."""
    stat_dead: int = 0
    """Those of STAT orders among the dead."""


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One thing that happened to an order or a study."""

    at: datetime
    what: str
    """Plain words (the event's name)."""
    actor: str
    subject: str
    subject_id: int | None
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoleLine:
    """A running role."""

    role: str
    host: str
    pid: int
    started_at: datetime
    beat_at: datetime
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DayCounts:
    """What happened since local midnight, for the overview."""

    messages: int
    orders: int
    scheduled: int
    in_progress: int
    completed: int
    instances: int
    deliveries: int
    delivered: int
    refused_messages: int
    parked_messages: int
    incomplete_orders: int
    dead_deliveries: int
    unrouted_studies: int
    studies: int = 0
    """Of which the first image came since."""


class Reports(OverviewReports, DeliveryReports, Protocol):
    """Reads for people; every method is one or few bounded statements in a read-only transaction."""

    def worklist(
        self,
        *,
        date: str | None = None,
        modality: str | None = None,
        station: str | None = None,
        status: str | None = None,
        text: str | None = None,
        page: Page = Page(),
    ) -> Sequence[WorklistLine]:
        """List steps by start; `date` is YYYYMMDD; `text` is part of a patient name, id or an accession number."""
        ...

    def orders(
        self,
        *,
        status: str | None = None,
        incomplete: bool = False,
        text: str | None = None,
        before: tuple[datetime, int] | None = None,
        page: Page = Page(),
    ) -> Sequence[OrderLine]:
        """List orders, newest change first; `before` is when the last one seen was changed, and its id."""
        ...

    def order(self, order_id: int) -> OrderLine:
        """Answer one. Raises NotFound."""
        ...

    def messages(
        self,
        *,
        outcome: str | None = None,
        text: str | None = None,
        page: Page = Page(),
    ) -> Sequence[MessageLine]:
        """List inbound messages, newest first; `text` is a control id or a sending application."""
        ...

    def message_raw(self, message_id: int) -> tuple[bytes, bytes | None]:
        """Answer the raw message and our answer. Raises NotFound."""
        ...

    def studies(
        self,
        *,
        state: str | None = None,
        text: str | None = None,
        before: str | None = None,
        page: Page = Page(),
    ) -> Sequence[StudyLine]:
        """List received studies, newest first; `text` is a Study Instance UID, patient id or accession number.

        `before` is the Study Instance UID of the last one seen.
        """
        ...

    def deliveries(
        self,
        *,
        state: str | None = None,
        destination: str | None = None,
        study_instance_uid: str | None = None,
        page: Page = Page(),
    ) -> Sequence[DeliveryLine]:
        """List deliveries, newest first."""
        ...

    def select_deliveries(
        self, selection: Selection, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> Sequence[DeliveryLine]:
        """List what a selection means, newest first: those planned before an id, or those just after one."""
        ...

    def delivery(self, delivery_id: int) -> DeliveryLine:
        """Answer one. Raises NotFound."""
        ...

    def delivery_events(self, delivery_id: int) -> Sequence[TimelineEntry]:
        """Answer what happened to one delivery, oldest first."""
        ...

    def destinations(self, *, now: datetime) -> Sequence[DestinationLine]:
        """Answer every destination that is configured, has a state or has a delivery."""
        ...

    def study_timeline(self, study_instance_uid: str) -> Sequence[TimelineEntry]:
        """Answer everything that happened to a study, its order and its deliveries, oldest first, at most 2,000."""
        ...

    def order_timeline(self, order_id: int) -> Sequence[TimelineEntry]:
        """Answer everything that happened to an order and its studies, oldest first."""
        ...

    def roles(self) -> Sequence[RoleLine]:
        """Answer the heartbeats."""
        ...

    def day(self, *, since: datetime) -> DayCounts:
        """Count what happened since `since`."""
        ...
