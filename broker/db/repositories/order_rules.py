"""The rules by which numbers of a message mean a stored order, as one statement that is compiled once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    String,
    and_,
    bindparam,
    exists,
    literal_column,
    or_,
    select,
    union_all,
)

from broker.db.prepared import Prepared
from broker.db.schema import ORDER, PROCEDURE, STEP
from broker.domain.orders import OrderDetails


def number_values(details: OrderDetails) -> dict[str, Any]:
    """Answer the parameters of the rules; a number the message does not say is None, and equals nothing."""
    values: dict[str, Any] = {}
    for role, identifier in (
        ("placer", details.placer_order_number),
        ("filler", details.filler_order_number),
    ):
        values[role] = identifier.value or None if identifier else None
        values[f"{role}_namespace"] = identifier.namespace or None if identifier else None
        values[f"{role}_universal_id"] = identifier.universal_id or None if identifier else None
    values["accession"] = details.accession_number or None
    values["issuer"] = details.issuer_of_accession_number or None
    return values


def procedure_ids(details: OrderDetails) -> list[str]:
    """List the requested procedures a message names."""
    return sorted({p.requested_procedure_id for p in details.procedures if p.requested_procedure_id})


def _said(name: str) -> ColumnElement[str]:
    return bindparam(name, type_=String())


def _same_where_both_say(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Compare assigning authorities as far as both sides name one (HL7 v2.5.1 2.A.28)."""
    return or_(_said(name).is_(None), column == _said(name), column.is_(None), column == "")


def _same_number(role: str) -> ColumnElement[bool]:
    return and_(
        ORDER.c[f"{role}_order_number"] == _said(role),
        _same_where_both_say(ORDER.c[f"{role}_namespace"], f"{role}_namespace"),
        _same_where_both_say(ORDER.c[f"{role}_universal_id"], f"{role}_universal_id"),
    )


_PLACER, _FILLER = _same_number("placer"), _same_number("filler")
_ACCESSION = and_(
    ORDER.c.accession_number == _said("accession"),
    _same_where_both_say(ORDER.c.issuer_of_accession_number, "issuer"),
)
_PROCEDURE = ORDER.c.id.in_(
    select(PROCEDURE.c.order).where(
        PROCEDURE.c.requested_procedure_id.in_(bindparam("procedures", expanding=True))
    )
)


def _rule(number: int, *conditions: ColumnElement[bool]) -> Select[Any]:
    return select(literal_column(str(number)).label("rule"), ORDER.c.id).where(*conditions).limit(50)


ACCESSION_RULE = 4
NUMBER_RULES = Prepared(
    union_all(
        *(
            select(rule.subquery())
            for rule in (
                _rule(1, _PLACER, _FILLER),
                _rule(2, _FILLER),
                _rule(3, _PLACER),
                _rule(ACCESSION_RULE, _ACCESSION),
            )
        )
    )
)
"""Answers (rule, id of an order); the smallest rule counts."""

_KNOWN: tuple[ColumnElement[Any], ...] = (
    or_(
        *(
            exists().where(ORDER.c[column] == _said(name))
            for column, name in (
                ("placer_order_number", "placer"),
                ("filler_order_number", "filler"),
                ("accession_number", "accession"),
            )
        )
    ).label("number"),
    exists()
    .where(
        STEP.c.study_instance_uid == _said("study"),
        STEP.c.scheduled_procedure_step_id == _said("step"),
    )
    .label("step"),
)
NUMBERS_KNOWN = Prepared(select(*_KNOWN))
"""Answers whether any order has one of the numbers, and whether there is the step: most messages bring new ones."""

ACCESSION_AND_PROCEDURE = select(ORDER.c.id).where(_ACCESSION, _PROCEDURE).limit(50)
"""Comes before the accession number alone."""
