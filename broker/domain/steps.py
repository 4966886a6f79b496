"""Scheduled and performed procedure steps as state tables; what is not in a table is illegal."""

from __future__ import annotations

from enum import Enum

from broker.errors import IllegalTransition


class StepStatus(Enum):
    """Scheduled Procedure Step Status (0040,0020): PS3.3 C.4.10 and, from CANCELED on, common practice."""

    SCHEDULED = "SCHEDULED"
    ARRIVED = "ARRIVED"
    READY = "READY"
    STARTED = "STARTED"
    DEPARTED = "DEPARTED"
    CANCELED = "CANCELED"
    DISCONTINUED = "DISCONTINUED"
    COMPLETED = "COMPLETED"
    HELD = "HELD"
    """Internal: on hold by the RIS, never answered to a scanner."""


class StepEvent(Enum):
    """What can happen to a scheduled procedure step."""

    ORDER_CANCELED = "order canceled"
    ORDER_DISCONTINUED = "order discontinued"
    ORDER_HELD = "order held"
    ORDER_RELEASED = "order released"
    ORDER_COMPLETED = "order completed"
    ORDER_REINSTATED = "order reinstated"
    PATIENT_ARRIVED = "patient arrived"
    MPPS_IN_PROGRESS = "performed step in progress"
    MPPS_COMPLETED = "performed step completed"
    MPPS_DISCONTINUED = "performed step discontinued with images"
    MPPS_DISCONTINUED_WITHOUT_IMAGES = "performed step discontinued without images"


class OrderStatus(Enum):
    """Roll-up of an order's steps."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"
    DISCONTINUED = "DISCONTINUED"
    HELD = "HELD"


class PerformedStatus(Enum):
    """Performed Procedure Step Status (0040,0252), PS3.3 C.4.14."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class Previous(Enum):
    """The status the step had before it was held or started."""

    PREVIOUS = "previous"


_S, _E, _BACK = StepStatus, StepEvent, Previous.PREVIOUS
_OPEN = {
    _E.ORDER_CANCELED: _S.CANCELED,
    _E.ORDER_DISCONTINUED: _S.DISCONTINUED,
    _E.ORDER_HELD: _S.HELD,
    _E.ORDER_COMPLETED: _S.COMPLETED,
    _E.MPPS_IN_PROGRESS: _S.STARTED,
    _E.MPPS_COMPLETED: _S.COMPLETED,
    _E.MPPS_DISCONTINUED: _S.DISCONTINUED,
}
STEP_TRANSITIONS: dict[StepStatus, dict[StepEvent, StepStatus | Previous]] = {
    _S.SCHEDULED: {
        **_OPEN,
        _E.PATIENT_ARRIVED: _S.ARRIVED,
        _E.ORDER_REINSTATED: _S.SCHEDULED,
        _E.MPPS_DISCONTINUED_WITHOUT_IMAGES: _S.SCHEDULED,
    },
    _S.ARRIVED: {
        **_OPEN,
        _E.ORDER_REINSTATED: _S.SCHEDULED,
        _E.MPPS_DISCONTINUED_WITHOUT_IMAGES: _S.ARRIVED,
    },
    _S.READY: {
        **_OPEN,
        _E.ORDER_REINSTATED: _S.SCHEDULED,
        _E.MPPS_DISCONTINUED_WITHOUT_IMAGES: _S.READY,
    },
    _S.HELD: {
        _E.ORDER_CANCELED: _S.CANCELED,
        _E.ORDER_DISCONTINUED: _S.DISCONTINUED,
        _E.ORDER_RELEASED: _BACK,
        _E.ORDER_REINSTATED: _S.SCHEDULED,
        _E.ORDER_COMPLETED: _S.COMPLETED,
        _E.MPPS_IN_PROGRESS: _S.STARTED,
        _E.MPPS_COMPLETED: _S.COMPLETED,
        _E.MPPS_DISCONTINUED: _S.DISCONTINUED,
        _E.MPPS_DISCONTINUED_WITHOUT_IMAGES: _S.HELD,
    },
    _S.STARTED: {
        _E.MPPS_IN_PROGRESS: _S.STARTED,
        _E.MPPS_COMPLETED: _S.COMPLETED,
        _E.MPPS_DISCONTINUED: _S.DISCONTINUED,
        # A wrong tap or a tube failure must not make the patient vanish from every scanner.
        _E.MPPS_DISCONTINUED_WITHOUT_IMAGES: _BACK,
        _E.ORDER_COMPLETED: _S.COMPLETED,
    },
    _S.DEPARTED: {_E.ORDER_COMPLETED: _S.COMPLETED, _E.MPPS_COMPLETED: _S.COMPLETED},
    # Images and performed steps of a cancelled order are facts: they are taken, and the step shows them.
    _S.CANCELED: {
        _E.ORDER_REINSTATED: _S.SCHEDULED,
        _E.MPPS_IN_PROGRESS: _S.STARTED,
        _E.MPPS_COMPLETED: _S.COMPLETED,
    },
    _S.DISCONTINUED: {
        _E.ORDER_REINSTATED: _S.SCHEDULED,
        _E.ORDER_CANCELED: _S.CANCELED,
        _E.MPPS_IN_PROGRESS: _S.STARTED,
        _E.MPPS_COMPLETED: _S.COMPLETED,
    },
    _S.COMPLETED: {},
}

PERFORMED_TRANSITIONS: dict[PerformedStatus, frozenset[PerformedStatus]] = {
    PerformedStatus.IN_PROGRESS: frozenset(PerformedStatus),
    PerformedStatus.COMPLETED: frozenset(),
    PerformedStatus.DISCONTINUED: frozenset(),
}
"""PS3.4 F.7.2.2: COMPLETED and DISCONTINUED are final."""

FINAL_STEPS = frozenset({StepStatus.COMPLETED, StepStatus.CANCELED, StepStatus.DISCONTINUED})
OFFERED_BY_DEFAULT = frozenset({StepStatus.SCHEDULED, StepStatus.ARRIVED, StepStatus.READY})
"""What C-FIND answers when the query names no status."""


def advance(status: StepStatus, event: StepEvent, *, previous: StepStatus | None = None) -> StepStatus:
    """Answer the status after `event`; `previous` is what the step had before it was held or started.

    Raises IllegalTransition, and nothing has changed.
    """
    target = STEP_TRANSITIONS[status].get(event)
    if target is None:
        raise IllegalTransition(f"A step that is {status.value} cannot follow: {event.value}.")
    if isinstance(target, Previous):
        return previous or StepStatus.SCHEDULED
    return target


def advance_performed(status: PerformedStatus, to: PerformedStatus) -> PerformedStatus:
    """Answer `to` if a performed step that is `status` may become it (PS3.4 F.7.2.2). Raises IllegalTransition."""
    if to not in PERFORMED_TRANSITIONS[status]:
        # The sentence PS3.4 table F.7.2-2 gives for 0110 with Error ID A710.
        raise IllegalTransition("Performed Procedure Step Object may no longer be updated")
    return to


def roll_up(steps: list[StepStatus]) -> OrderStatus:
    """Answer an order's status from those of its steps; no steps count as scheduled."""
    found = set(steps)
    if not found or StepStatus.STARTED in found:
        return OrderStatus.IN_PROGRESS if found else OrderStatus.SCHEDULED
    if found <= FINAL_STEPS:
        if StepStatus.COMPLETED in found:
            return OrderStatus.COMPLETED
        return OrderStatus.CANCELED if found == {StepStatus.CANCELED} else OrderStatus.DISCONTINUED
    if found <= FINAL_STEPS | {StepStatus.HELD}:
        return OrderStatus.HELD
    return OrderStatus.IN_PROGRESS if StepStatus.COMPLETED in found else OrderStatus.SCHEDULED
