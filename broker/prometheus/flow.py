"""What came in and became of it: messages, orders, steps, queries, exams, images."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from broker.prometheus.gauges import bounded, gauge, one
from broker.workflow.situation import LATE

if TYPE_CHECKING:
    from broker.db.reports import SqlReports
    from broker.workflow.metrics_port import Numbers


def of_flow(reports: SqlReports, numbers: Numbers, *, local: datetime) -> Iterator[Metric]:
    """Tell what came in. Raises DatabaseUnavailable."""
    by_outcome = {(name,): number for name, number in numbers.messages.items()}
    yield gauge("messages_last_hour", "HL7 messages of the last hour by outcome.", ["outcome"], by_outcome)
    by_status = {(name,): number for name, number in numbers.orders.items()}
    meaning = "Orders changed in the last hour by the status they have."
    yield gauge("orders_last_hour", meaning, ["status"], by_status)
    day = reports.board_day(local.strftime("%Y%m%d"))
    steps = {(name,): number for name, number in day.counts.items()}
    yield gauge("steps_today", "Scheduled procedure steps of today by status.", ["status"], steps)
    urgent = reports.urgent(now_local=local, late=LATE)
    waits = {
        ("incomplete STAT",): urgent.incomplete_stat,
        ("overdue STAT",): urgent.overdue_stat,
        ("overdue, patient arrived",): urgent.overdue_arrived,
    }
    yield gauge("steps_urgent", "Steps whose patient waits.", ["why"], waits)
    meaning = "Worklist queries of the last hour by AE title."
    yield gauge("queries_last_hour", meaning, ["device"], bounded(numbers.queries))
    meaning = "What was heard of performed procedure steps (MPPS) in the last hour."
    yield gauge("exams_last_hour", meaning, ["event"], {(name,): n for name, n in numbers.exams.items()})
    yield one("instances_last_hour", "Images of the last hour.", numbers.instances)
    yield one("received_bytes_last_hour", "Bytes of images of the last hour.", numbers.received_bytes)
