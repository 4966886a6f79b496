"""Whoever is shown patient data leaves an event, before it is shown.

def order(board: TheDashboard, _: TheViewer, seen: TheViewing, order_id: Id) -> Response:
line = board.reports.order(order_id)
seen.opened(order=line.order_id)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from fastapi import Depends, Request

from broker.domain.events import Subject
from broker.web.access import Who
from broker.web.ports import Dashboard
from broker.workflow.audit import Shown
from broker.workflow.find_port import Found
from broker.workflow.reports_port import MessageLine, OrderLine, StudyLine, WorklistLine

Line = OrderLine | WorklistLine | StudyLine | MessageLine


class Viewing:
    """Writes down what this request shows. Raises DatabaseUnavailable: what cannot be written is not shown."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def opened(
        self,
        *,
        order: int | None = None,
        study: str | None = None,
        message: int | None = None,
        delivery: int | None = None,
    ) -> None:
        """Somebody opened one object."""
        if message is not None:
            shown = Shown(Subject.MESSAGE, message, study, order)
        elif delivery is not None:
            shown = Shown(Subject.DELIVERY, delivery, study, order)
        elif study is not None:
            shown = Shown(Subject.STUDY, None, study, order)
        else:
            shown = Shown(Subject.ORDER, order, None, order)
        self._write([shown], listed=False, searched="")

    def listed(self, lines: Iterable[Line], *, searched: str = "") -> None:
        """Somebody was shown rows that name patients, perhaps because they searched for a text."""
        self._write([_of_line(line) for line in lines], listed=True, searched=searched)

    def found(self, groups: Iterable[Found], *, searched: str) -> None:
        """Somebody searched everything."""
        lines: list[Line] = []
        for group in groups:
            lines += [*group.orders, *group.studies, *group.messages]
        self.listed(lines, searched=searched)

    def _write(self, shown: list[Shown], *, listed: bool, searched: str) -> None:
        who: Who = self._request.state.who
        board: Dashboard = self._request.app.state.dashboard
        page: str = self._request.scope["route"].path
        board.access.audit.viewed(who.caller, shown, page=page, listed=listed, searched=searched)


def _of_line(line: Line) -> Shown:
    if isinstance(line, StudyLine):
        return Shown(Subject.STUDY, None, line.study_instance_uid, line.order_id)
    if isinstance(line, MessageLine):
        return Shown(Subject.MESSAGE, line.message_id, None, line.order_id)
    return Shown(Subject.ORDER, line.order_id, None, line.order_id)


def viewing(request: Request) -> Viewing:
    """Answer what writes down the views of a request."""
    return Viewing(request)


TheViewing = Annotated[Viewing, Depends(viewing)]
