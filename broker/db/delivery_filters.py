"""A selection of deliveries in SQL: lists, groups, previews and bulk operations mean the same rows by it."""

from __future__ import annotations

from sqlalchemy import ColumnElement

from broker.db.delivery_states import listed_by, listed_in_state, narrowed
from broker.db.schema import DELIVERY
from broker.db.synthetic import of_patients
from broker.workflow.selection import Selection


def selected(selection: Selection) -> list[ColumnElement[bool]]:
    """Answer the conditions of a selection; deliveries of synthetic exams fit none."""
    return [*fitting(selection), of_patients(DELIVERY.c.study_instance_uid)]


def fitting(selection: Selection) -> list[ColumnElement[bool]]:
    """Answer the conditions of a selection that deliveries of synthetic exams fit as well."""
    conditions = [
        column == value
        for column, value in (
            (DELIVERY.c.cause, selection.cause),
            (DELIVERY.c.study_instance_uid, selection.study_instance_uid),
            (DELIVERY.c.operation, selection.operation),
        )
        if value is not None
    ]
    for column, name in (
        (DELIVERY.c.destination, selection.destination),
        (DELIVERY.c.route, selection.route),
    ):
        if name is not None:
            conditions.append(narrowed(column, name, selection.state))
    if selection.state is not None:
        conditions.append(listed_in_state(selection.state))
    if selection.since is not None:
        conditions.append(DELIVERY.c.created_at >= selection.since)
    if selection.until is not None:
        conditions.append(DELIVERY.c.created_at < selection.until)
    if selection.ids:
        conditions.append(DELIVERY.c.id.in_(selection.ids))
    if selection.up_to is not None:
        conditions.append(listed_by(selection.state) <= selection.up_to)
    return conditions
