"""Tables. They store; validation lives in the domain, so nothing here checks a value.

Instants are UTC (`UtcDateTime`); DICOM dates and times are site wall-clock text. Times of hot ordering and
leases are the database's own clock where processes must agree.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator
from sqlmodel import Column, Field, SQLModel

SQLModel.metadata.naming_convention = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
).naming_convention
SQLModel.model_config["defer_build"] = True  # of validators nobody calls


class UtcDateTime(TypeDecorator[datetime]):
    """Stores aware instants in UTC and answers them aware, on SQLite too."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Refuse a naive instant, store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Answer an aware UTC instant."""
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)


Json = JSON().with_variant(postgresql.JSONB(), "postgresql")
Id = BigInteger().with_variant(Integer(), "sqlite")


def _id() -> Any:  # SQLModel fields are typed by their annotation
    return Field(default=None, sa_column=Column(Id, primary_key=True, autoincrement=True))


def _fk(target: str, *, nullable: bool = False, index: bool = True) -> Any:
    return Field(default=None, sa_column=Column(Id, ForeignKey(target), nullable=nullable, index=index))


def _instant(*, nullable: bool = False, index: bool = False) -> Any:
    return Field(default=None, sa_column=Column(UtcDateTime(), nullable=nullable, index=index))


def _json() -> Any:
    return Field(default_factory=dict, sa_column=Column(Json, nullable=False))


def _bytes(*, nullable: bool = True) -> Any:
    return Field(default=None, sa_column=Column(LargeBinary, nullable=nullable))


def _text() -> Any:
    return Field(default=None, sa_column=Column(Text, nullable=True))


def _str(length: int, *, nullable: bool = True, index: bool = False) -> Any:
    return Field(default=None, sa_column=Column(String(length), nullable=nullable, index=index))


_OPEN = "state IN ('COLLECTING', 'PENDING', 'IN_PROGRESS')"


def _where(name: str, *columns: str, holds: str, unique: bool = False) -> Index:
    """Define an index of the rows for which a condition holds."""
    return Index(name, *columns, unique=unique, sqlite_where=text(holds), postgresql_where=text(holds))


class PatientRow(SQLModel, table=True):
    """A patient; (patient_id, issuer) is unique among patients that are not merged away."""

    __tablename__ = "patient"
    __table_args__ = (UniqueConstraint("patient_id", "issuer"),)
    id: int | None = _id()
    patient_id: str = _str(128, nullable=False)
    issuer: str = _str(128, nullable=False)
    """Empty text where none is known, so that the unique constraint holds on every database."""
    name: str = _str(400, nullable=False)
    name_key: str = _str(400, nullable=False, index=True)
    """Normalised for matching; see domain.matching."""
    birth_date: str | None = _str(8)
    sex: str | None = _str(16)
    other_ids: list[Any] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    attributes: dict[str, Any] = _json()
    sources: dict[str, str] = _json()
    merged_into: int | None = _fk("patient.id", nullable=True)
    created_at: datetime = _instant()
    updated_at: datetime = _instant()


class PatientAliasRow(SQLModel, table=True):
    """Further identifiers under which a patient is found."""

    __tablename__ = "patient_alias"
    __table_args__ = (UniqueConstraint("value", "issuer"),)
    id: int | None = _id()
    patient: int = _fk("patient.id")
    value: str = _str(128, nullable=False)
    issuer: str = _str(128, nullable=False)


class OrderRow(SQLModel, table=True):
    """An imaging service request."""

    __tablename__ = "imaging_order"
    __table_args__ = (
        Index("ix_imaging_order_status_updated", "status", "updated_at"),
        Index("ix_imaging_order_updated_at", "updated_at"),
        Index("ix_imaging_order_created_at", "created_at"),
    )
    id: int | None = _id()
    patient: int = _fk("patient.id")
    placer_order_number: str | None = _str(128, index=True)
    placer_namespace: str | None = _str(128)
    placer_universal_id: str | None = _str(128)
    placer_universal_id_type: str | None = _str(32)
    filler_order_number: str | None = _str(128, index=True)
    filler_namespace: str | None = _str(128)
    filler_universal_id: str | None = _str(128)
    filler_universal_id_type: str | None = _str(32)
    accession_number: str | None = _str(64, index=True)
    issuer_of_accession_number: str | None = _str(128)
    status: str = _str(16, nullable=False)
    attributes: dict[str, Any] = _json()
    sources: dict[str, str] = _json()
    sending_application: str = _str(200, nullable=False)
    sending_facility: str = _str(200, nullable=False)
    last_event_at: datetime | None = _instant(nullable=True)
    created_at: datetime = _instant()
    updated_at: datetime = _instant()


class ProcedureRow(SQLModel, table=True):
    """A requested procedure."""

    __tablename__ = "requested_procedure"
    __table_args__ = (UniqueConstraint("order", "requested_procedure_id"),)
    id: int | None = _id()
    order: int = _fk("imaging_order.id")
    requested_procedure_id: str = _str(64, nullable=False)
    study_instance_uid: str = _str(64, nullable=False, index=True)
    attributes: dict[str, Any] = _json()
    sources: dict[str, str] = _json()


class StepRow(SQLModel, table=True):
    """A scheduled procedure step, with the columns C-FIND narrows by copied next to it.

    The copies (patient, accession …) keep a worklist query on one table; whoever changes patient, order or
    procedure writes them again together with `elements` in the same transaction.
    """

    __tablename__ = "scheduled_procedure_step"
    __table_args__ = (
        UniqueConstraint("procedure", "scheduled_procedure_step_id"),
        Index("ix_step_offered_start", "offered", "start_date", "start_time"),
        # text_pattern_ops: prefixes use the index whatever the database's collation.
        Index(
            "ix_step_accession",
            "accession_number",
            postgresql_ops={"accession_number": "text_pattern_ops"},
        ),
        Index("ix_step_patient_id", "patient_id", postgresql_ops={"patient_id": "text_pattern_ops"}),
        Index("ix_step_name_key", "name_key", postgresql_ops={"name_key": "text_pattern_ops"}),
        # Names with ideographic or phonetic groups, which stand behind "=".
        Index(
            "ix_step_name_groups",
            "name_key",
            sqlite_where=text("instr(name_key, '=') > 0"),
            postgresql_where=text("strpos(name_key, '=') > 0"),
        ),
        Index("ix_step_status_changed", "status", "status_changed_at"),
        Index("ix_step_start", "start_date", "start_time"),
        # What waits for a person: in a status C-FIND answers, and not offered because something is missing.
        _where(
            "ix_step_incomplete", "order", holds="NOT offered AND status IN ('ARRIVED', 'READY', 'SCHEDULED')"
        ),
        Index("ix_step_study", "study_instance_uid"),
        Index("ix_step_modality_start", "offered", "modality", "start_date"),
        Index("ix_step_sps_id", "scheduled_procedure_step_id"),
    )
    id: int | None = _id()
    procedure: int = _fk("requested_procedure.id")
    order: int = _fk("imaging_order.id")
    patient: int = _fk("patient.id")
    scheduled_procedure_step_id: str = _str(64, nullable=False)
    modality: str | None = _str(16)
    station_ae_titles: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    start_date: str | None = _str(8)
    start_time: str | None = _str(16)
    time_unspecified: bool = False
    status: str = _str(16, nullable=False)
    previous_status: str | None = _str(16)
    status_changed_at: datetime = _instant()
    offered: bool = False
    """Complete and in a status C-FIND answers by default (SCHEDULED, ARRIVED, READY)."""
    missing: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    priority_rank: int = 4
    patient_id: str = _str(128, nullable=False)
    name_key: str = _str(400, nullable=False)
    accession_number: str | None = _str(64)
    requested_procedure_id: str = _str(64, nullable=False)
    study_instance_uid: str = _str(64, nullable=False)
    attributes: dict[str, Any] = _json()
    sources: dict[str, str] = _json()
    elements: bytes | None = _bytes()
    """Pre-encoded worklist elements (StepEncoder port)."""
    revision: int = 0
    created_at: datetime = _instant()
    updated_at: datetime = _instant()


class StepStationRow(SQLModel, table=True):
    """One scheduled station AE title of a step: the index behind the commonest query of all."""

    __tablename__ = "step_station"
    __table_args__ = (
        UniqueConstraint("step", "ae_title"),
        Index("ix_step_station_ae", "ae_title", "offered", "start_date", "step"),
    )
    id: int | None = _id()
    step: int = _fk("scheduled_procedure_step.id")
    ae_title: str = _str(16, nullable=False)
    """Upper case."""
    offered: bool = False
    start_date: str | None = _str(8)


class PerformedStepRow(SQLModel, table=True):
    """A performed procedure step (MPPS)."""

    __tablename__ = "performed_procedure_step"
    # How far each device's clock is off is told from its newest exams.
    __table_args__ = (Index("ix_performed_calling", "calling_ae_title", "id"),)
    id: int | None = _id()
    sop_instance_uid: str = Field(sa_column=Column(String(64), nullable=False, unique=True))
    status: str = _str(16, nullable=False)
    calling_ae_title: str = _str(16, nullable=False)
    performed_station_ae_title: str | None = _str(16)
    modality: str | None = _str(16)
    patient_id: str | None = _str(128)
    study_instance_uids: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    data_set: bytes = _bytes(nullable=False)
    """Merged state, Explicit VR Little Endian."""
    series: dict[str, Any] = _json()
    """Series Instance UID -> SOP Instance UIDs listed as created."""
    started_at: str | None = _str(14)
    ended_at: str | None = _str(14)
    discontinuation_reason: str | None = _str(64)
    matched: bool = False
    patient_mismatch: bool = False
    created_at: datetime = _instant()
    updated_at: datetime = _instant()


class PerformedLinkRow(SQLModel, table=True):
    """Which scheduled steps a performed step performs."""

    __tablename__ = "performed_step_link"
    __table_args__ = (UniqueConstraint("performed", "step"),)
    id: int | None = _id()
    performed: int = _fk("performed_procedure_step.id")
    step: int = _fk("scheduled_procedure_step.id")


class PerformedStudyRow(SQLModel, table=True):
    """Which studies a performed step names, for finding it by one; it is asked whenever a series may be complete."""

    __tablename__ = "performed_study"
    study_instance_uid: str = Field(sa_column=Column(String(64), primary_key=True))
    performed: int = Field(
        sa_column=Column(
            Id, ForeignKey("performed_procedure_step.id"), primary_key=True, autoincrement=False, index=True
        )
    )


class MessageRow(SQLModel, table=True):
    """An HL7 message in, kept as it came whatever became of it."""

    __tablename__ = "hl7_message"
    __table_args__ = (
        Index("ix_hl7_message_key", "sending_application", "sending_facility", "message_control_id"),
        Index("ix_hl7_message_outcome_received", "outcome", "received_at"),
        # Lists of one sender or one type of message, newest first.
        Index("ix_hl7_message_sender_received", "sending_application", "received_at"),
        Index("ix_hl7_message_type_received", "message_type", "received_at"),
        Index("ix_hl7_message_control_id", "message_control_id"),
    )
    id: int | None = _id()
    received_at: datetime = _instant(index=True)
    peer: str = _str(64, nullable=False)
    sending_application: str = _str(200, nullable=False)
    sending_facility: str = _str(200, nullable=False)
    message_control_id: str = _str(200, nullable=False)
    message_type: str = _str(32, nullable=False)
    content_sha256: bytes = _bytes(nullable=False)
    raw: bytes = _bytes(nullable=False)
    outcome: str = _str(16, nullable=False)
    """accepted, ignored, parked, refused, failed."""
    acknowledgement_code: str | None = _str(2)
    answer: bytes | None = _bytes()
    problems: list[Any] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    order: int | None = _fk("imaging_order.id", nullable=True)
    attempts: int = 1


class InstanceRow(SQLModel, table=True):
    """One received object. The row is the outbox: RECEIVED means nobody has routed it yet."""

    __tablename__ = "instance"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "version"),
        Index("ix_instance_series", "series_instance_uid"),
        Index("ix_instance_study_received", "study_instance_uid", "received_at"),
        _where("ix_instance_undecided", "id", holds="state = 'RECEIVED'"),
        _where("ix_instance_unrouted", "id", "study_instance_uid", holds="state = 'UNROUTED'"),
        Index("ix_instance_received_at", "received_at"),
    )
    id: int | None = _id()
    sop_instance_uid: str = _str(64, nullable=False)
    version: int = 1
    sop_class_uid: str = _str(64, nullable=False)
    transfer_syntax_uid: str = _str(64, nullable=False)
    study_instance_uid: str = _str(64, nullable=False)
    series_instance_uid: str = _str(64, nullable=False)
    patient_id: str | None = _str(128)
    accession_number: str | None = _str(64)
    modality: str | None = _str(16)
    path: str = _str(255, nullable=False)
    """Relative to the store; never made of what a peer sent."""
    size_bytes: int = Field(sa_column=Column(BigInteger, nullable=False))
    data_set_offset: int
    """Where the data set starts in the Part 10 file, bytes."""
    sha256: bytes | None = _bytes()
    """Of the data set as received."""
    facts: dict[str, Any] = _json()
    """DICOM keyword (or path) -> list of text values, as scanned."""
    calling_ae_title: str = _str(16, nullable=False)
    called_ae_title: str = _str(16, nullable=False)
    peer: str = _str(64, nullable=False)
    order: int | None = _fk("imaging_order.id", nullable=True)
    state: str = _str(16, nullable=False)
    """RECEIVED, ROUTED, UNROUTED."""
    received_at: datetime = _instant()
    last_received_at: datetime = _instant()
    """Moves when the same object is pushed again."""
    resends: int = 0


class StudyRow(SQLModel, table=True):
    """A study of which something was received: what lists of studies page through, in order of arrival.

    Written once, with its first instance, and never again, so that parallel senders do not wait for each other.
    """

    __tablename__ = "received_study"
    id: int | None = _id()
    study_instance_uid: str = Field(sa_column=Column(String(64), nullable=False, unique=True))
    patient_id: str | None = _str(128, index=True)
    accession_number: str | None = _str(64, index=True)
    received_at: datetime = _instant(index=True)


class DecisionRow(SQLModel, table=True):
    """Facts, configuration version and outcome of one routing decision; clauses are recomputed when asked."""

    __tablename__ = "route_decision"
    id: int | None = _id()
    instance: int = _fk("instance.id")
    study_instance_uid: str = _str(64, nullable=False, index=True)
    configuration: int = _fk("configuration.id", index=False)
    decided_at: datetime = _instant()
    facts: dict[str, Any] = _json()
    routes: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    conflicts: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))


class ConfigurationRow(SQLModel, table=True):
    """A configuration version that was in force."""

    __tablename__ = "configuration"
    id: int | None = _id()
    sha256: str = Field(sa_column=Column(String(64), nullable=False, unique=True))
    body: str = Field(sa_column=Column(Text, nullable=False))
    """The site file, secrets excluded by construction (they live in the environment)."""
    loaded_at: datetime = _instant()
    loaded_by: str = _str(64, nullable=False)


class DeliveryRow(SQLModel, table=True):
    """One obligation to send; this row, not a Celery message, is the queue."""

    __tablename__ = "delivery"
    __table_args__ = (
        # What happens often looks at open deliveries only: these stay small however long the history grows.
        _where("ix_delivery_quiet", "due_at", "destination", "id", holds="state = 'COLLECTING'"),
        _where("ix_delivery_next", "destination", "priority", "due_at", "id", holds="state = 'PENDING'"),
        _where("ix_delivery_in_progress", "destination", "lease_until", "id", holds="state = 'IN_PROGRESS'"),
        _where(
            "ix_delivery_ordering",
            "ordering_key",
            "destination",
            "id",
            holds=f"{_OPEN} AND ordering_key IS NOT NULL",
        ),
        _where("ix_delivery_dead", "id", "destination", holds="state = 'DEAD'"),
        # The dead by what is to be done about them.
        _where("ix_delivery_cause", "cause", "destination", "id", holds="state = 'DEAD'"),
        # What a bulk operation has touched: few rows have been.
        _where("ix_delivery_operation", "operation", "id", holds="operation IS NOT NULL"),
        Index("ix_delivery_route", "route", "id"),
        _where("ix_delivery_cancelled", "id", "destination", holds="state = 'CANCELLED'"),
        _where("ix_delivery_delivered", "updated_at", "destination", holds="state = 'DELIVERED'"),
        # One open delivery per route, destination and unit: routing twice, or two workers at once, join it.
        _where(
            "uq_delivery_open",
            "destination",
            "route",
            "unit_uid",
            holds=f"{_OPEN} AND route IS NOT NULL",
            unique=True,
        ),
        Index("ix_delivery_destination", "destination", "id"),
        Index("ix_delivery_created_at", "created_at"),
        CheckConstraint("attempt >= 0", name="attempt"),
    )
    id: int | None = _id()
    destination: str = _str(64, nullable=False)
    kind: str = _str(16, nullable=False)
    route: str | None = _str(64)
    unit: str = _str(16, nullable=False)
    """instance, series, study, or message."""
    unit_uid: str = _str(64, nullable=False)
    study_instance_uid: str | None = _str(64, index=True)
    order: int | None = _fk("imaging_order.id", nullable=True)
    ordering_key: str | None = _str(128)
    """Deliveries of one key to one destination go one at a time, in order of id."""
    state: str = _str(16, nullable=False)
    reason: str | None = _text()
    failure_class: str | None = _str(16)
    cause: str | None = _str(32)
    """What the reason stands for; see domain.causes."""
    operation: int | None = Field(default=None, sa_column=Column(Id, nullable=True))
    """The bulk operation that touched it last."""
    attempt: int = 0
    """Fence: raised by every claim, repeated by every settle."""
    failures: int = 0
    """Consecutive failed tries, for the retry policy."""
    priority: int = 4
    due_at: datetime = _instant()
    collect_until: datetime | None = _instant(nullable=True)
    """Hard cap of the quiet period."""
    lease_until: datetime | None = _instant(nullable=True)
    worker: str | None = _str(128)
    payload: bytes | None = _bytes()
    """The bytes themselves where there are no instances (HL7)."""
    items: int = 0
    items_delivered: int = 0
    items_rejected: int = 0
    first_sent_at: datetime | None = _instant(nullable=True)
    created_at: datetime = _instant()
    updated_at: datetime = _instant()


class DeliveryItemRow(SQLModel, table=True):
    """One instance of a delivery."""

    __tablename__ = "delivery_item"
    __table_args__ = (
        UniqueConstraint("delivery", "instance"),
        Index("ix_delivery_item_state", "delivery", "state", "id"),
    )
    id: int | None = _id()
    delivery: int = _fk("delivery.id", index=False)
    instance: int = _fk("instance.id")
    state: str = _str(16, nullable=False)
    wire_status: str | None = _str(8)
    reason: str | None = _text()
    sends: int = 0
    settled_at: datetime | None = _instant(nullable=True)


class DestinationRow(SQLModel, table=True):
    """What workers share about a destination: pause and breaker."""

    __tablename__ = "destination_state"
    name: str = Field(sa_column=Column(String(64), primary_key=True))
    state: str = _str(16, nullable=False)
    """up, failing, paused."""
    reason: str | None = _text()
    since: datetime = _instant()
    failures: int = 0
    open_until: datetime | None = _instant(nullable=True)
    """Circuit breaker: nothing is claimed before; also the next try of a misconfigured destination."""
    last_success_at: datetime | None = _instant(nullable=True)
    held_by: str | None = _str(128)
    """Who paused or drains it, when that was a person."""
    resume_at: datetime | None = _instant(nullable=True)
    """A pause or a drain ends by itself then."""
    drain_to: int | None = Field(default=None, sa_column=Column(Id, nullable=True))
    """Draining: deliveries up to this id are sent, later ones are held."""
    last_check_at: datetime | None = _instant(nullable=True)
    last_check: str | None = _text()


class EventRow(SQLModel, table=True):
    """What happened, in the transaction in which it happened; a sealer chains the hashes just after."""

    __tablename__ = "event"
    __table_args__ = (
        Index("ix_event_subject", "subject", "subject_id"),
        Index("ix_event_study", "study_instance_uid"),
        Index("ix_event_order", "order"),
        Index("ix_event_name_at", "name", "at"),
        Index("ix_event_actor", "actor", "name", "at"),
    )
    id: int | None = _id()
    at: datetime = _instant()
    name: str = _str(48, nullable=False)
    subject: str = _str(16, nullable=False)
    subject_id: int | None = Field(default=None, sa_column=Column(Id, nullable=True))
    study_instance_uid: str | None = _str(64)
    order: int | None = Field(default=None, sa_column=Column(Id, nullable=True))
    actor: str = _str(128, nullable=False)
    details: dict[str, Any] = _json()
    seal_no: int | None = Field(default=None, sa_column=Column(Id, nullable=True, unique=True))
    """Place in the chain, without gaps; events are sealed in the order in which they became visible."""
    seal: bytes | None = _bytes()
    """SHA-256 over the seal before and this event."""


class SealHeadRow(SQLModel, table=True):
    """The end of the chain: without it, cutting off the newest events would go unseen."""

    __tablename__ = "seal_head"
    id: int | None = _id()
    seal_no: int = Field(sa_column=Column(Id, nullable=False))
    seal: bytes = _bytes(nullable=False)


class HeartbeatRow(SQLModel, table=True):
    """A running role says it is alive and what it serves."""

    __tablename__ = "heartbeat"
    __table_args__ = (UniqueConstraint("role", "host", "pid"),)
    id: int | None = _id()
    role: str = _str(16, nullable=False)
    host: str = _str(128, nullable=False)
    pid: int
    started_at: datetime = _instant()
    beat_at: datetime = _instant()
    details: dict[str, Any] = _json()


class InstallationRow(SQLModel, table=True):
    """The one row that makes this installation itself; written at the first start, never changed."""

    __tablename__ = "installation"
    id: int | None = _id()
    uid_namespace: str = _str(36, nullable=False)
    """UUID: the same ids from the RIS always derive the same Study Instance UID here."""
    created_at: datetime = _instant()
