"""The Celery tasks: each takes one integer, looks at the row, and calls one workflow function."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from celery import Celery

from broker.workflow.deliveries import places_of
from broker.workflow.wake_ups import Task
from workers.desk import Desk

MAX_ID = 2**63 - 1

log = structlog.get_logger()


def register(app: Celery, desk: Desk) -> None:
    """Give the app its tasks."""

    @app.task(name=Task.ROUTE.value, typing=True)  # type: ignore[untyped-decorator]
    def route(instance_id: int) -> None:
        """Decide where an image goes."""
        _quietly(desk.route, checked_id(instance_id))

    @app.task(name=Task.DELIVER.value, typing=True)  # type: ignore[untyped-decorator]
    def deliver(delivery_id: int) -> None:
        """Send a delivery."""
        _quietly(desk.deliver, checked_id(delivery_id))


def _quietly(work: Callable[[int], object], key: int) -> None:
    """Do the work; what goes wrong is told without its text, which Celery would log and which may name a patient.

    The row is unchanged or its lease runs out: the sweep finds it either way.
    """
    try:
        work(key)
    except Exception as error:
        log.error("task failed", task=work.__name__, row=key, defect=places_of(error))


def checked_id(value: object) -> int:
    """Answer the id of a message. Raises TypeError or ValueError: a message is one integer and nothing else."""
    if type(value) is not int:  # True is an int to Python, not to us
        raise TypeError(f"a wake-up carries one integer, not {type(value).__name__}")
    if not 0 < value <= MAX_ID:
        raise ValueError("a wake-up carries the id of a row")
    return value
