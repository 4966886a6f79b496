"""HL7 messages in and out: what came and what we answered, what we sent and how it was answered, and why."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator

from broker.errors import Conflict, InvalidValue
from broker.web.access import TheViewer, Who
from broker.web.masking import masked_er7, masked_parts
from broker.web.pages import ROWS, Id, Text, TheDashboard, ThePages, without_nul
from broker.web.ports import Dashboard
from broker.web.viewing import TheViewing
from broker.workflow.message_reports import MessageFilter, SegmentPart, SentLine
from broker.workflow.reports_port import MessageLine
from broker.workflow.silence import SourceState, judge_sources

router = APIRouter()
Day = Annotated[str, Query(pattern=r"^(\d{4}-\d{2}-\d{2})?$")]
Before = Annotated[int | None, Query(ge=1, le=2**63 - 1)]
Kind = Annotated[str, Query(max_length=128, alias="type"), AfterValidator(without_nul)]
MAX_RAW_CHARACTERS = 64 * 1024


@router.get("/messages")
def messages(
    request: Request,
    _: TheViewer,
    seen: TheViewing,
    board: TheDashboard,
    pages: ThePages,
    *,
    way: Literal["in", "out"] = "in",
    outcome: Text = "",
    sender: Text = "",
    kind: Kind = "",
    day: Day = "",
    q: Text = "",
    before: Before = None,
) -> Response:
    """List messages, newest first."""
    wanted = filter_of(board, outcome=outcome, sender=sender, message_type=kind, day=day, control_id=q)
    lines: Sequence[MessageLine | SentLine] = (
        board.reports.messages_in(wanted, before=before, limit=ROWS + 1)
        if way == "in"
        else board.reports.messages_out(wanted, before=before, limit=ROWS + 1)
    )
    seen.listed(lines[:ROWS])
    filters = {"outcome": outcome, "sender": sender, "type": kind, "day": day, "q": q}
    return pages.render(
        request,
        "messages.html",
        way=way,
        lines=lines[:ROWS],
        more=len(lines) > ROWS,
        before=before,
        choices=board.reports.message_choices(),
        heard=_heard(board, sender) if way == "in" and sender else (),
        filters=filters,
    )


def _heard(board: Dashboard, sender: str) -> list[SourceState]:
    """Answer when a sender was heard last, and what that is worth: at a facility, or from a host, each."""
    lines = [line for line in board.reports.sources() if line.kind == "sender" and line.name == sender]
    return judge_sources(lines, now=board.clock.now(), zone=board.zone)[:5]


@router.get("/messages/{message_id}")
def message(
    request: Request,
    who: TheViewer,
    seen: TheViewing,
    board: TheDashboard,
    pages: ThePages,
    message_id: Id,
    *,
    again: bool = False,
) -> Response:
    """Show one message in, taken apart beside what came; with `again`, what it says with the mapping in force."""
    found = board.reports.message(message_id)
    seen.opened(message=message_id, order=found.line.order_id)
    raw, parts = _taken_apart(found.raw, board.insight.dissect(found.raw, found.line.problems), who)
    answer = readable(found.answer) if found.answer else None
    return pages.render(
        request,
        "message.html",
        line=found.line,
        attempts=found.attempts,
        raw=raw[:MAX_RAW_CHARACTERS],
        cut=len(raw) > MAX_RAW_CHARACTERS,
        parts=parts,
        answer=masked_er7(answer) if answer and who.hides_names else answer,
        again=board.insight.read_again(found.raw) if again else None,
    )


@router.get("/messages/{message_id}/raw")
def raw(board: TheDashboard, who: TheViewer, seen: TheViewing, message_id: Id) -> Response:
    """Give one message in exactly as it came, to be kept."""
    if who.hides_names:
        raise Conflict("A file holds the message with all names, and you hide them: show names first.")
    headers = {"Content-Disposition": f'attachment; filename="message-{message_id}.hl7"'}
    found = board.reports.message(message_id)
    seen.opened(message=message_id, order=found.line.order_id)
    return Response(found.raw, media_type="application/octet-stream", headers=headers)


@router.get("/messages/out/{delivery_id}")
def sent(
    request: Request,
    who: TheViewer,
    seen: TheViewing,
    board: TheDashboard,
    pages: ThePages,
    delivery_id: Id,
) -> Response:
    """Show one message out, taken apart, with its attempts and how it was answered."""
    line, payload = board.reports.sent_message(delivery_id)
    seen.opened(delivery=delivery_id, order=line.order_id)
    raw, parts = _taken_apart(payload, board.insight.dissect(payload), who)
    return pages.render(
        request,
        "message_out.html",
        line=line,
        raw=raw[:MAX_RAW_CHARACTERS],
        parts=parts,
        entries=board.reports.delivery_events(delivery_id),
    )


def _taken_apart(payload: bytes, parts: Sequence[SegmentPart], who: Who) -> tuple[str, Sequence[SegmentPart]]:
    """Answer a message as text and taken apart, both masked for who hides names."""
    text = readable(payload)
    return (masked_er7(text), masked_parts(parts, text)) if who.hides_names else (text, parts)


def filter_of(
    board: Dashboard, *, outcome: str, sender: str, message_type: str, day: str, control_id: str
) -> MessageFilter:
    """Read the filters of a list; a day is one of the site's. Raises InvalidValue."""
    since = until = None
    if day:
        try:
            start = datetime.combine(datetime.strptime(day, "%Y-%m-%d"), time(), board.zone)
            since, until = start, start + timedelta(days=1)
        except (ValueError, OverflowError):
            raise InvalidValue("day: there is no such day.") from None
    return MessageFilter(outcome, sender, message_type, control_id, since, until)


def readable(data: bytes) -> str:
    """Answer ER7 with one segment per line; bytes that are no UTF-8 are shown as Latin-1."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
