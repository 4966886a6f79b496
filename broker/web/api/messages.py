"""HL7 messages as JSON: those received and those sent, and one taken apart."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from broker.web.access import TheViewer
from broker.web.api.reading import rows
from broker.web.pages import Id, Text, TheDashboard
from broker.web.pages.messages import Before, Day, Kind, filter_of, readable
from broker.web.viewing import TheViewing
from broker.workflow.reports_port import MAX_PAGE

router = APIRouter()
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]


@router.get("/api/messages")
def messages(
    board: TheDashboard,
    _: TheViewer,
    seen: TheViewing,
    outcome: Text = "",
    sender: Text = "",
    kind: Kind = "",
    day: Day = "",
    q: Text = "",
    before: Before = None,
    limit: Limit = 50,
) -> list[dict[str, Any]]:
    """List HL7 messages received, newest first; `q` is a control id, `before` the last message_id of the page before."""
    wanted = filter_of(board, outcome=outcome, sender=sender, message_type=kind, day=day, control_id=q)
    lines = board.reports.messages_in(wanted, before=before, limit=limit)
    seen.listed(lines)
    return rows(lines)


@router.get("/api/messages/sent")
def sent_messages(
    board: TheDashboard,
    _: TheViewer,
    seen: TheViewing,
    state: Text = "",
    destination: Text = "",
    day: Day = "",
    before: Before = None,
    limit: Limit = 50,
) -> list[dict[str, Any]]:
    """List HL7 messages sent, newest first; `before` is the last delivery of the page before."""
    wanted = filter_of(board, outcome=state, sender=destination, message_type="", day=day, control_id="")
    lines = board.reports.messages_out(wanted, before=before, limit=limit)
    seen.listed(lines)
    return rows(lines)


@router.get("/api/messages/{message_id}")
def message(board: TheDashboard, _: TheViewer, seen: TheViewing, message_id: Id) -> dict[str, Any]:
    """Answer one message: as it came, taken apart, what it says with the mapping in force, and what we answered."""
    found = board.reports.message(message_id)
    seen.opened(message=message_id, order=found.line.order_id)
    return {
        **asdict(found.line),
        "raw": readable(found.raw),
        "answer": readable(found.answer) if found.answer else None,
        "segments": rows(board.insight.dissect(found.raw, found.line.problems)),
        "says": asdict(board.insight.read_again(found.raw)),
    }
