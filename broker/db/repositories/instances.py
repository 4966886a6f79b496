"""Received objects as stored; a RECEIVED row is the outbox of routing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, literal_column, select, update

from broker.db.encoding import column_text, decode_values, storable_values
from broker.db.prepared import Prepared
from broker.db.schema import INSTANCE, STUDY
from broker.db.transaction import Transaction
from broker.errors import NotFound
from broker.workflow.images_port import Instance, InstanceState

_ADD = INSTANCE.insert().returning(INSTANCE.c.id, sort_by_parameter_order=True)
_GET = Prepared(select(INSTANCE).where(INSTANCE.c.id == bindparam("key")))
_VERSIONS = Prepared(
    select(INSTANCE)
    .where(INSTANCE.c.sop_instance_uid == bindparam("uid"))
    .order_by(INSTANCE.c.version.desc())
)
_TO_STATE = (
    update(INSTANCE)
    .where(INSTANCE.c.id == bindparam("key"), INSTANCE.c.state == InstanceState.RECEIVED.value)
    .values(state=bindparam("to"))
)
_DECIDE = Prepared(_TO_STATE)
_DECIDE_WITH_ORDER = Prepared(_TO_STATE.values(order=bindparam("its_order")))
_RECONSIDER = Prepared(
    update(INSTANCE)
    .where(
        INSTANCE.c.study_instance_uid == bindparam("uid"), INSTANCE.c.state == literal_column("'UNROUTED'")
    )
    .values(state=InstanceState.RECEIVED.value)
)
_MARK_RESENT = Prepared(
    update(INSTANCE)
    .where(INSTANCE.c.id == bindparam("key"))
    .values(resends=INSTANCE.c.resends + 1, last_received_at=bindparam("now"))
)
_SET_ORDER = Prepared(
    update(INSTANCE).where(INSTANCE.c.id == bindparam("key")).values(order=bindparam("its_order"))
)
_OF_STUDY = Prepared(
    select(INSTANCE).where(INSTANCE.c.study_instance_uid == bindparam("uid")).order_by(INSTANCE.c.id)
)
_OF_SERIES = Prepared(
    select(INSTANCE).where(INSTANCE.c.series_instance_uid == bindparam("uid")).order_by(INSTANCE.c.id)
)

_IDS_PER_STATEMENT = 500


class SqlInstances:
    """Implements the Instances port."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def add_many(self, instances: Sequence[Instance]) -> list[int]:
        """Store new rows, answer their ids in order. Raises DuplicateKey."""
        if not instances:
            return []
        if len(instances) == 1 or not self._transaction.is_postgresql:  # SQLite is no round trip away
            keys = [self._transaction.insert(INSTANCE, _values(instance)) for instance in instances]
        else:
            rows = self._transaction.execute(_ADD, [_values(instance) for instance in instances])
            keys = [int(key) for key in rows.scalars()]
        studies = {instance.study_instance_uid: instance for instance in reversed(instances)}
        # Sorted, so that two transactions with the same studies cannot wait for each other.
        self._transaction.insert_many(
            STUDY, [_study_values(studies[uid]) for uid in sorted(studies)], ignoring=True
        )
        return keys

    def versions(self, sop_instance_uid: str) -> list[Instance]:
        """Answer every stored version, newest first."""
        return self._instances(_VERSIONS, sop_instance_uid)

    def get(self, instance: int) -> Instance:
        """Answer an instance. Raises NotFound."""
        row = self._transaction.row(_GET, {"key": instance})
        if row is None:
            raise NotFound("There is no such instance.")
        return _instance(row)

    def get_many(self, instances: Sequence[int]) -> list[Instance]:
        """Answer those that exist, in order of id."""
        found: list[Instance] = []
        for start in range(0, len(instances), _IDS_PER_STATEMENT):
            found += self._select(INSTANCE.c.id.in_(instances[start : start + _IDS_PER_STATEMENT]))
        return found

    def with_paths(self, paths: Sequence[str]) -> set[str]:
        """Answer which of these file paths have a row."""
        rows = self._transaction.execute(select(INSTANCE.c.path).where(INSTANCE.c.path.in_(paths)))
        return {str(path) for path in rows.scalars()}

    def paths_named(self, names: Sequence[str], *, since: datetime | None = None) -> set[str]:
        """Answer the paths of the files of these names that have a row, received after `since`."""
        found: set[str] = set()
        for start in range(0, len(names), _IDS_PER_STATEMENT):
            some = names[start : start + _IDS_PER_STATEMENT]
            statement = select(INSTANCE.c.path).where(func.substr(INSTANCE.c.path, 15, 32).in_(some))
            if since is not None:
                statement = statement.where(INSTANCE.c.received_at >= since)
            found.update(self._transaction.execute(statement).scalars())
        return found

    def reconsider(self, study_instance_uid: str) -> int:
        """Move the UNROUTED instances of a study back to RECEIVED, answer how many."""
        return self._transaction.change(_RECONSIDER, {"uid": study_instance_uid})

    def mark_resent(self, instance: int, *, now: datetime) -> None:
        """Count another push of the same object."""
        self._transaction.change(_MARK_RESENT, {"key": instance, "now": now})

    def undecided(self, limit: int, *, older_than: datetime | None = None) -> list[int]:
        """Answer ids of RECEIVED rows, oldest first (the state is written out for the partial index)."""
        statement = select(INSTANCE.c.id).where(INSTANCE.c.state == literal_column("'RECEIVED'"))
        if older_than is not None:
            statement = statement.where(INSTANCE.c.received_at <= older_than)
        rows = self._transaction.execute(statement.order_by(INSTANCE.c.id).limit(limit))
        return [int(key) for key in rows.scalars()]

    def decide(self, instance: int, state: InstanceState, *, order: int | None) -> bool:
        """Move RECEIVED to `state` by a conditional UPDATE; False when another worker was first."""
        values: dict[str, Any] = {"key": instance, "to": state.value}
        if order is None:
            return self._transaction.change(_DECIDE, values) == 1
        return self._transaction.change(_DECIDE_WITH_ORDER, {**values, "its_order": order}) == 1

    def decide_many(self, instances: Sequence[int], state: InstanceState, *, order: int | None) -> set[int]:
        """Do the same for many; answer those this worker has moved."""
        moved: set[int] = set()
        for start in range(0, len(instances), _IDS_PER_STATEMENT):
            statement = update(INSTANCE).where(
                INSTANCE.c.id.in_(instances[start : start + _IDS_PER_STATEMENT]),
                INSTANCE.c.state == InstanceState.RECEIVED.value,
            )
            statement = statement.values(state=state.value)
            if order is not None:
                statement = statement.values(order=order)
            moved.update(self._transaction.execute(statement.returning(INSTANCE.c.id)).scalars())
        return moved

    def set_order(self, instance: int, order: int) -> None:
        """Join an instance to its order."""
        self._transaction.change(_SET_ORDER, {"key": instance, "its_order": order})

    def unrouted(self, limit: int) -> list[Instance]:
        """Answer what no route took, oldest first."""
        return self._select(INSTANCE.c.state == literal_column("'UNROUTED'"), limit)

    def of_study(self, study_instance_uid: str) -> list[Instance]:
        """Answer the instances of a study, oldest first."""
        return self._instances(_OF_STUDY, study_instance_uid)

    def of_series(self, series_instance_uid: str) -> list[Instance]:
        """Answer the instances of a series, oldest first."""
        return self._instances(_OF_SERIES, series_instance_uid)

    def _instances(self, prepared: Prepared, uid: str) -> list[Instance]:
        return [_instance(row) for row in self._transaction.rows(prepared, {"uid": uid})]

    def _select(self, condition: ColumnElement[bool], limit: int | None = None) -> list[Instance]:
        statement = select(INSTANCE).where(condition).order_by(INSTANCE.c.id).limit(limit)
        return [_instance(row) for row in self._transaction.execute(statement).mappings()]


def _values(instance: Instance) -> dict[str, Any]:
    return {
        "sop_instance_uid": instance.sop_instance_uid,
        "version": instance.version,
        "sop_class_uid": instance.sop_class_uid,
        "transfer_syntax_uid": instance.transfer_syntax_uid,
        "study_instance_uid": instance.study_instance_uid,
        "series_instance_uid": instance.series_instance_uid,
        "patient_id": column_text(instance.patient_id, 128),
        "accession_number": column_text(instance.accession_number, 64),
        "modality": column_text(instance.modality, 16),
        "path": instance.path,
        "size_bytes": instance.size_bytes,
        "data_set_offset": instance.data_set_offset,
        "sha256": instance.sha256,
        "facts": storable_values(instance.facts),
        "calling_ae_title": instance.calling_ae_title,
        "called_ae_title": instance.called_ae_title,
        "peer": instance.peer,
        "order": instance.order,
        "state": instance.state.value,
        "received_at": instance.received_at,
        "last_received_at": instance.last_received_at,
        "resends": instance.resends,
    }


def _study_values(instance: Instance) -> dict[str, Any]:
    return {
        "study_instance_uid": instance.study_instance_uid,
        "patient_id": column_text(instance.patient_id, 128),
        "accession_number": column_text(instance.accession_number, 64),
        "received_at": instance.received_at,
    }


def _instance(row: Any) -> Instance:
    digest = row["sha256"]
    return Instance(
        id=row["id"],
        sop_instance_uid=row["sop_instance_uid"],
        version=row["version"],
        sop_class_uid=row["sop_class_uid"],
        transfer_syntax_uid=row["transfer_syntax_uid"],
        study_instance_uid=row["study_instance_uid"],
        series_instance_uid=row["series_instance_uid"],
        path=row["path"],
        size_bytes=row["size_bytes"],
        data_set_offset=row["data_set_offset"],
        sha256=None if digest is None else bytes(digest),
        facts=decode_values(row["facts"]),
        calling_ae_title=row["calling_ae_title"],
        called_ae_title=row["called_ae_title"],
        peer=row["peer"],
        state=InstanceState(row["state"]),
        received_at=row["received_at"],
        last_received_at=row["last_received_at"],
        patient_id=row["patient_id"],
        accession_number=row["accession_number"],
        modality=row["modality"],
        order=row["order"],
        resends=row["resends"],
    )
