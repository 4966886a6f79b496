"""The Celery tasks: each takes one integer, looks at the row, and calls one workflow function."""

from __future__ import annotations

from celery import Celery

from broker.workflow.ports import Task
from workers.desk import Desk

MAX_ID = 2**63 - 1


def register(app: Celery, desk: Desk) -> None:
    """Give the app its tasks."""

    @app.task(name=Task.ROUTE.value, typing=True)  # type: ignore[untyped-decorator]
    def route(instance_id: int) -> None:
        """Decide where an image goes."""
        desk.route(checked_id(instance_id))

    @app.task(name=Task.DELIVER.value, typing=True)  # type: ignore[untyped-decorator]
    def deliver(delivery_id: int) -> None:
        """Send a delivery."""
        desk.deliver(checked_id(delivery_id))


def checked_id(value: object) -> int:
    """Answer the id of a message. Raises TypeError or ValueError: a message is one integer and nothing else."""
    if type(value) is not int:  # True is an int to Python, not to us
        raise TypeError(f"a wake-up carries one integer, not {type(value).__name__}")
    if not 0 < value <= MAX_ID:
        raise ValueError("a wake-up carries the id of a row")
    return value
