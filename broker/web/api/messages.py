"""HL7 messages as JSON: those received and those sent, and one taken apart."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response

from broker.domain.delivery import DeliveryState
from broker.web.access import TheViewer
from broker.web.api.instants import Day
from broker.web.api.reading import TheIds, rows
from broker.web.pages import Id, Text, TheDashboard
from broker.web.pages.messages import Kind, filter_of, readable
from broker.web.viewing import TheViewing
from broker.workflow.message_reports import SentLine
from broker.workflow.messages_port import MessageOutcome
from broker.workflow.reports_port import MessageLine

router = APIRouter()
_RAW: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.get("/api/messages")
def messages(
    board: TheDashboard,
    _: TheViewer,
    seen: TheViewing,
    part: TheIds,
    outcome: MessageOutcome | None = None,
    sender: Text = "",
    kind: Kind = "",
    day: Day = None,
    q: Text = "",
) -> list[MessageLine]:
    """List HL7 messages received, newest first; `q` is a control id."""
    wanted = filter_of(
        board,
        outcome=outcome.value if outcome else "",
        sender=sender,
        message_type=kind,
        day=day.isoformat() if day else "",
        control_id=q,
    )
    lines = board.reports.messages_in(wanted, before=part.after_id, limit=part.most)
    shown = part.shown(lines, lambda line: line.message_id)
    seen.listed(shown)
    return shown


@router.get("/api/messages/sent")
def sent_messages(
    board: TheDashboard,
    _: TheViewer,
    seen: TheViewing,
    part: TheIds,
    state: DeliveryState | None = None,
    destination: Text = "",
    day: Day = None,
) -> list[SentLine]:
    """List HL7 messages sent, newest first."""
    wanted = filter_of(
        board,
        outcome=state.value if state else "",
        sender=destination,
        message_type="",
        day=day.isoformat() if day else "",
        control_id="",
    )
    lines = board.reports.messages_out(wanted, before=part.after_id, limit=part.most)
    shown = part.shown(lines, lambda line: line.delivery)
    seen.listed(shown)
    return shown


@router.get("/api/messages/sent/{delivery_id}")
def sent_message(board: TheDashboard, _: TheViewer, seen: TheViewing, delivery_id: Id) -> dict[str, Any]:
    """Answer one message sent: its bytes, taken apart, and its tries with how each was answered."""
    line, payload = board.reports.sent_message(delivery_id)
    seen.opened(delivery=delivery_id, order=line.order_id)
    return {
        **asdict(line),
        "raw": readable(payload),
        "segments": rows(board.insight.dissect(payload)),
        "timeline": rows(board.reports.delivery_events(delivery_id)),
    }


@router.get("/api/messages/{message_id}/raw", response_class=Response, responses=_RAW)
def raw(board: TheDashboard, _: TheViewer, seen: TheViewing, message_id: Id) -> Response:
    """Give one message received exactly as it came."""
    found = board.reports.message(message_id)
    seen.opened(message=message_id, order=found.line.order_id)
    return Response(found.raw, media_type="application/octet-stream")


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
