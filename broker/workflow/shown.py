"""Which object each row stands for that people are shown: the pages, the API and the command line say it alike."""

from __future__ import annotations

from collections.abc import Iterable

from broker.domain.events import Subject
from broker.workflow.audit import Shown
from broker.workflow.audit_port import AuditLine
from broker.workflow.delivery_reports import AttemptLine
from broker.workflow.find_port import Found
from broker.workflow.message_reports import SentLine
from broker.workflow.reports_port import DeliveryLine, MessageLine, OrderLine, StudyLine, WorklistLine
from broker.workflow.selection import Selection

Line = OrderLine | WorklistLine | StudyLine | MessageLine | SentLine | DeliveryLine | AttemptLine | AuditLine


def shown_in(lines: Iterable[Line]) -> list[Shown]:
    """Answer the objects of a list's rows that are of a patient."""
    found = [_of_line(line) for line in lines]
    return [one for one in found if one is not None]


def shown_by(groups: Iterable[Found]) -> list[Shown]:
    """Answer the objects that were found."""
    lines: list[Line] = []
    for group in groups:
        lines += [*group.orders, *group.studies, *group.messages]
    return shown_in(lines)


def shown_as_meant(selections: Iterable[Selection]) -> list[Shown]:
    """Answer the studies that selections of deliveries name."""
    studies = dict.fromkeys(one.study_instance_uid for one in selections if one.study_instance_uid)
    return [Shown(Subject.STUDY, None, study) for study in studies]


def _of_line(line: Line) -> Shown | None:
    match line:
        case StudyLine():
            return Shown(Subject.STUDY, None, line.study_instance_uid, line.order_id)
        case MessageLine():
            return Shown(Subject.MESSAGE, line.message_id, None, line.order_id)
        case SentLine():
            return Shown(Subject.DELIVERY, line.delivery, None, line.order_id)
        case DeliveryLine():
            return Shown(Subject.DELIVERY, line.id, line.study_instance_uid)
        case AttemptLine():
            return Shown(Subject.DELIVERY, line.delivery, line.study_instance_uid)
        case AuditLine():
            return _of_trail(line)
    return Shown(Subject.ORDER, line.order_id, None, line.order_id)


def _of_trail(line: AuditLine) -> Shown | None:
    if line.order is not None:
        return Shown(Subject.ORDER, line.order, line.study_instance_uid, line.order)
    if line.study_instance_uid:
        return Shown(Subject.STUDY, None, line.study_instance_uid)
    return None
