"""Whoever is shown patient data leaves an event, before it is shown.

    def order(board: TheDashboard, _: TheViewer, seen: TheViewing, order_id: Id) -> Response:
        line = board.reports.order(order_id)
        seen.opened(order=line.order_id)

Patient data is whatever is of one patient: names, ids, dates, numbers and UIDs of their orders and images, and texts of
peers about them. A page that renews itself shows the same again: that is one view for as long as `Audit` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import Depends, Request

from broker.domain.events import Subject
from broker.web.access import Who
from broker.web.ports import Dashboard
from broker.workflow.audit import Shown
from broker.workflow.find_port import Found
from broker.workflow.selection import Selection
from broker.workflow.shown import Line, shown_as_meant, shown_by, shown_in


class Viewing:
    """Writes down what this request shows. Raises DatabaseUnavailable: what cannot be written is not shown."""

    def __init__(self, request: Request) -> None:
        self._request = request

    @property
    def told(self) -> Sequence[Mapping[str, Any]]:
        """Answer what this request has shown, as it is kept beside its answer."""
        return [
            {
                "subject": one.subject.value,
                "id": one.subject_id,
                "study": one.study_instance_uid,
                "order": one.order,
            }
            for one in getattr(self._request.state, "shown", ())
        ]

    def again(self, told: Sequence[Mapping[str, Any]]) -> None:
        """Somebody is shown what was kept beside an answer, once more."""
        shown = [Shown(Subject(one["subject"]), one["id"], one["study"], one["order"]) for one in told]
        if shown:
            self._write(shown, listed=False, searched="")

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
        """Somebody was shown rows that are of patients, perhaps because they searched for a text."""
        self._write(shown_in(lines), listed=True, searched=searched)

    def selected(self, selections: Iterable[Selection]) -> None:
        """Somebody was shown which deliveries were meant; a selection may name a study."""
        self._write(shown_as_meant(selections), listed=True, searched="")

    def found(self, groups: Iterable[Found], *, searched: str) -> None:
        """Somebody searched everything."""
        self._write(shown_by(groups), listed=True, searched=searched)

    def _write(self, shown: list[Shown], *, listed: bool, searched: str) -> None:
        who: Who = self._request.state.who
        self._request.state.shown = [*getattr(self._request.state, "shown", ()), *shown]
        board: Dashboard = self._request.app.state.dashboard
        page: str = self._request.scope["route"].path
        board.access.audit.viewed(who.caller, shown, page=page, listed=listed, searched=searched)


def viewing(request: Request) -> Viewing:
    """Answer what writes down the views of a request."""
    return Viewing(request)


TheViewing = Annotated[Viewing, Depends(viewing)]
