"""Finds what a text names exactly or begins: every question is a range of an index, cut where a page is full."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    union,
)

from broker.db.reports.messages import message_lines
from broker.db.reports.orders import order_lines
from broker.db.reports.reading import Reader, mappings, typed
from broker.db.reports.studies import study_lines
from broker.db.schema import (
    INSTANCE,
    MESSAGE,
    ORDER,
    PATIENT,
    PATIENT_ALIAS,
    PROCEDURE,
    STEP,
    STEP_STATION,
    STUDY,
)
from broker.db.synthetic import is_a_patient, of_patients
from broker.domain.names import name_key
from broker.errors import InvalidValue
from broker.workflow.find_port import FOUND_COUNTED, FOUND_LIMIT, Findings, Found, FoundGroup
from broker.workflow.probe_port import PROBE

_MAX_PLACE_CHARACTERS = 400
_MAX_AE_TITLE_CHARACTERS = 16
_MAX_STATIONS = 1000
_RANGES = {
    FoundGroup.NAMES: STEP.c.name_key,
    FoundGroup.PATIENTS: STEP.c.patient_id,
    FoundGroup.ACCESSIONS: STEP.c.accession_number,
}
_EXACT = (FoundGroup.ORDERS, FoundGroup.STUDIES, FoundGroup.MESSAGES, FoundGroup.DEVICES)


class SqlFindReports(Reader):
    """Implements FindReports."""

    def find(self, text: str) -> Findings:
        """Answer what a patient id or name, number, UID, control id or AE title finds."""
        wanted = typed(text)
        if wanted is None:
            return Findings((), None)
        with self._reading() as connection:
            exact = [_exactly(connection, wanted, group, None) for group in _EXACT]
            ranges = [_range(connection, wanted, group, None) for group in _RANGES]
        return Findings(
            [found for found in (*exact, *ranges) if found.count], _only(wanted, *exact, ranges=ranges)
        )

    def find_more(self, text: str, group: FoundGroup, *, after: str) -> Found:
        """Answer the next rows of one group. Raises InvalidValue for a cursor that is none."""
        wanted = typed(text)
        place = _place(after, group)
        if wanted is None:
            return Found(group, 0, counted_all=True)
        with self._reading() as connection:
            if group in _RANGES:
                return _range(connection, wanted, group, place)
            return _exactly(connection, wanted, group, place)


def _only(
    wanted: str, orders: Found, studies: Found, messages: Found, devices: Found, *, ranges: Iterable[Found]
) -> tuple[FoundGroup, str] | None:
    """Answer the one object a text names; a study of the one order that was found is on that order's page."""
    if any(found.count for found in ranges):
        return None
    if devices.count:
        alone = not (orders.count or studies.count or messages.count)
        return (
            (FoundGroup.DEVICES, devices.devices[0])
            if alone and list(devices.devices) == [wanted.upper()]
            else None
        )
    if not messages.count:
        if studies.count == 1 and studies.studies:
            study = studies.studies[0]
            if not orders.count or study.study_instance_uid == wanted:
                return FoundGroup.STUDIES, study.study_instance_uid
        if orders.count == 1:
            key = orders.orders[0].order_id
            if all(study.order_id == key for study in studies.studies) and studies.after is None:
                return FoundGroup.ORDERS, str(key)
    elif messages.count == 1 and not orders.count and not studies.count:
        return FoundGroup.MESSAGES, str(messages.messages[0].message_id)
    return None


# ---- exactly -------------------------------------------------------------------------------------------


def _exactly(connection: Connection, text: str, group: FoundGroup, place: Sequence[Any] | None) -> Found:
    if group is FoundGroup.DEVICES:
        return _devices(connection, text.upper(), place)
    keys = _keys(text, group)
    cut = keys.order_by(keys.selected_columns[0].desc()).limit(FOUND_LIMIT + 1)
    if place:
        cut = cut.where(keys.selected_columns[0] < place[0])
    rows = connection.execute(cut).all()
    shown = rows[:FOUND_LIMIT]
    after = _cursor([shown[-1][0]]) if len(rows) > FOUND_LIMIT else None
    count = len(rows) if place is None and after is None else _counted(connection, keys)
    found = Found(group, min(count, FOUND_COUNTED), counted_all=count <= FOUND_COUNTED, after=after)
    return _with_lines(connection, found, [row[-1] for row in shown])


def _keys(text: str, group: FoundGroup) -> Select[Any]:
    """Select the rows a text names: their place in the order of the group, and what its page is named by."""
    if group is FoundGroup.MESSAGES:
        return select(MESSAGE.c.id, MESSAGE.c.id.label("page")).where(
            MESSAGE.c.message_control_id == text, MESSAGE.c.sending_application != PROBE
        )
    patients = union(
        select(PATIENT.c.id).where(PATIENT.c.patient_id == text),
        select(PATIENT_ALIAS.c.patient).where(PATIENT_ALIAS.c.value == text),
    )
    if group is FoundGroup.ORDERS:
        orders = union(
            select(ORDER.c.id).where(ORDER.c.patient.in_(patients)),
            select(ORDER.c.id).where(ORDER.c.accession_number == text),
            select(ORDER.c.id).where(ORDER.c.placer_order_number == text),
            select(ORDER.c.id).where(ORDER.c.filler_order_number == text),
            select(STEP.c.order).where(STEP.c.scheduled_procedure_step_id == text),
            select(PROCEDURE.c.order).where(PROCEDURE.c.study_instance_uid == text),
        )
        return (
            select(ORDER.c.id, ORDER.c.id.label("page"))
            .join(PATIENT, PATIENT.c.id == ORDER.c.patient)
            .where(ORDER.c.id.in_(orders), is_a_patient(PATIENT.c.patient_id))
        )
    studies = union(
        select(STUDY.c.id).where(STUDY.c.study_instance_uid == text),
        select(STUDY.c.id).where(STUDY.c.accession_number == text),
        select(STUDY.c.id).where(STUDY.c.patient_id == text),
        select(STUDY.c.id).where(
            STUDY.c.study_instance_uid.in_(
                union(
                    select(INSTANCE.c.study_instance_uid).where(INSTANCE.c.series_instance_uid == text),
                    select(INSTANCE.c.study_instance_uid).where(INSTANCE.c.sop_instance_uid == text),
                )
            )
        ),
    )
    return select(STUDY.c.id, STUDY.c.study_instance_uid.label("page")).where(
        STUDY.c.id.in_(studies), of_patients(STUDY.c.study_instance_uid)
    )


def _with_lines(connection: Connection, found: Found, pages: Sequence[Any]) -> Found:
    given: dict[str, Any] = {}
    if found.group is FoundGroup.MESSAGES:
        given["messages"] = message_lines(connection, pages)
    elif found.group is FoundGroup.STUDIES:
        given["studies"] = study_lines(connection, pages)
    else:
        given["orders"] = order_lines(connection, pages)
    return Found(found.group, found.count, counted_all=found.counted_all, after=found.after, **given)


def _devices(connection: Connection, text: str, place: Sequence[Any] | None) -> Found:
    """Hop from station to station in the index: their number counts, not that of their steps."""
    column = STEP_STATION.c.ae_title
    titles: list[str] = []
    after = str(place[0]) if place else ""
    hops = 0 if len(text) > _MAX_AE_TITLE_CHARACTERS else _MAX_STATIONS
    while hops and len(titles) <= FOUND_LIMIT:
        title = connection.execute(select(func.min(column)).where(column > after)).scalar_one()
        if title is None:
            break
        after, hops = str(title), hops - 1
        if after.startswith(text) and after != PROBE:
            titles.append(after)
    shown = titles[:FOUND_LIMIT]
    more = _cursor([shown[-1]]) if len(titles) > FOUND_LIMIT else None
    return Found(FoundGroup.DEVICES, len(shown), counted_all=more is None, devices=shown, after=more)


# ---- ranges --------------------------------------------------------------------------------------------


def _range(connection: Connection, text: str, group: FoundGroup, place: Sequence[Any] | None) -> Found:
    """Read steps in the order of an index from where the text, or the cursor, begins; answer their orders."""
    column = _RANGES[group]
    prefixes = _names(text) if group is FoundGroup.NAMES else [text]
    is_postgresql = connection.dialect.name == "postgresql"
    orders: dict[int, Any] = {}
    last: list[Any] | None = None
    for number, prefix in enumerate(prefixes):
        if place and number < place[0]:
            continue
        statement = select(STEP.c.order, STEP.c.id, column.label("value")).where(
            _begins(column, prefix, is_postgresql=is_postgresql), of_patients(STEP.c.study_instance_uid)
        )
        if group is not FoundGroup.NAMES:
            statement = statement.where(column != text)  # exactly is another group
        if place and number == place[0]:
            statement = statement.where(_behind(column, place[1], place[2], is_postgresql=is_postgresql))
        rows = mappings(connection, _in_order(statement, column, is_postgresql=is_postgresql))
        for row in rows:
            if len(orders) == FOUND_LIMIT and row["order"] not in orders:
                return _of_orders(connection, group, prefixes, text, list(orders), last)
            orders[row["order"]] = True
            last = [number, row["value"], row["id"]]
        if len(rows) == _READ:
            return _of_orders(connection, group, prefixes, text, list(orders), last)
    return _of_orders(connection, group, prefixes, text, list(orders), None)


_READ = 4 * FOUND_LIMIT
"""Steps read at once: several may be of one order."""


def _of_orders(
    connection: Connection,
    group: FoundGroup,
    prefixes: Sequence[str],
    text: str,
    orders: Sequence[int],
    last: list[Any] | None,
) -> Found:
    column, is_postgresql = _RANGES[group], connection.dialect.name == "postgresql"
    begins = [_begins(column, prefix, is_postgresql=is_postgresql) for prefix in prefixes]
    count = 0
    for condition in begins if orders else ():
        keys = select(STEP.c.id).where(condition, of_patients(STEP.c.study_instance_uid))
        count += _counted(connection, keys if group is FoundGroup.NAMES else keys.where(column != text))
    return Found(
        group,
        min(count, FOUND_COUNTED),
        counted_all=count <= FOUND_COUNTED,
        orders=order_lines(connection, orders),
        after=None if last is None else _cursor(last),
    )


def _names(text: str) -> list[str]:
    """Answer the beginnings a typed name may stand for: as PN, as `Family, Given`, `Family Given`, `Given Family`."""
    whole = name_key(text.replace(",", "^").replace("^ ", "^"))
    found = [whole]
    words = name_key(text.replace(",", " ").replace("^", " ")).split()
    if "," not in text and "^" not in text and len(words) > 1:
        found += [f"{words[0]}^{' '.join(words[1:])}", f"{words[-1]}^{' '.join(words[:-1])}"]
    return [name for name in dict.fromkeys(found) if name]


def _begins(column: ColumnElement[Any], prefix: str, *, is_postgresql: bool) -> ColumnElement[bool]:
    # LIKE of SQLite knows no case and so no index; what begins with a text lies between it and its successor.
    end = prefix[:-1] + _next(prefix[-1])
    if is_postgresql:
        # The operators of its pattern index, for a column's own order is that of the database's language.
        return and_(column.op("~>=~")(prefix), column.op("~<~")(end))
    return and_(column >= prefix, column < end)


def _next(character: str) -> str:
    code = ord(character) + 1
    if 0xD800 <= code <= 0xDFFF:  # surrogates are no characters
        code = 0xE000
    return chr(code) if code <= 0x10FFFF else character + "\U0010ffff"


def _behind(column: ColumnElement[Any], value: str, key: int, *, is_postgresql: bool) -> ColumnElement[bool]:
    """Select what stands behind a place; PostgreSQL's index of patterns has an order, and operators, of its own."""
    if is_postgresql:
        return and_(
            column.op("~>=~")(value), or_(column.op("~>~")(value), and_(column == value, STEP.c.id > key))
        )
    return tuple_(column, STEP.c.id) > tuple_(value, key)


def _in_order(statement: Select[Any], column: ColumnElement[Any], *, is_postgresql: bool) -> Select[Any]:
    if not is_postgresql:
        return statement.order_by(column, STEP.c.id).limit(_READ)
    ordered: ColumnElement[Any] = literal_column(f"{STEP.name}.{column.key} USING ~<~")
    return statement.order_by(ordered, STEP.c.id).limit(_READ)


# ---- counts and cursors --------------------------------------------------------------------------------


def _counted(connection: Connection, keys: Select[Any]) -> int:
    """Count rows, one further than is told."""
    return int(
        connection.execute(
            select(func.count()).select_from(keys.limit(FOUND_COUNTED + 1).subquery())
        ).scalar_one()
    )


def _cursor(place: Sequence[Any]) -> str:
    return json.dumps(list(place), ensure_ascii=False)


def _place(cursor: str, group: FoundGroup) -> list[Any]:
    """Read a cursor as written here. Raises InvalidValue."""
    kinds: tuple[type, ...] = (int,)
    if group in _RANGES:
        kinds = (int, str, int)
    elif group is FoundGroup.DEVICES:
        kinds = (str,)
    try:
        place = json.loads(cursor)
    except ValueError:
        place = None
    if not isinstance(place, list) or len(place) != len(kinds):
        raise InvalidValue("after: this is no cursor of this list.")
    if not all(_is_of(value, kind) for value, kind in zip(place, kinds, strict=True)):
        raise InvalidValue("after: this is no cursor of this list.")
    return place


def _is_of(value: Any, kind: type) -> bool:
    if kind is int:
        return type(value) is int and 0 <= value < 2**63
    return isinstance(value, str) and len(value) <= _MAX_PLACE_CHARACTERS and "\x00" not in value
