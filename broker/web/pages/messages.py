"""HL7 messages in: what came, what we answered, and why."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from broker.web.pages import ROWS, Id, Text, TheDashboard, ThePage, ThePages

router = APIRouter()


@router.get("/messages")
def messages(
    request: Request, board: TheDashboard, pages: ThePages, page: ThePage, outcome: Text = "", q: Text = ""
) -> Response:
    """List messages, newest first."""
    lines = board.reports.messages(outcome=outcome or None, text=q or None, page=page)
    filters = {"outcome": outcome, "q": q}
    return pages.render(
        request,
        "messages.html",
        lines=lines[:ROWS],
        more=len(lines) > ROWS,
        page=page.offset // ROWS + 1,
        filters=filters,
    )


@router.get("/messages/{message_id}")
def message(request: Request, board: TheDashboard, pages: ThePages, message_id: Id) -> Response:
    """Show one message as it came and our answer."""
    raw, answer = board.reports.message_raw(message_id)
    return pages.render(
        request,
        "message.html",
        message_id=message_id,
        header=_header(_readable(raw)),
        raw=_readable(raw),
        answer=_readable(answer) if answer else None,
        code=_field(_readable(answer), "MSA", 1) if answer else "",
    )


def _readable(data: bytes) -> str:
    """Answer ER7 with one segment per line; bytes that are no UTF-8 are shown as Latin-1."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")


def _header(text: str) -> dict[str, str]:
    """Answer what a person asks first: MSH-3, MSH-9 and MSH-10; empty where the message has none."""
    # MSH-1 is the separator itself: MSH-n stands one place further left than in other segments (HL7 v2.5.1 2.5.4).
    return {
        "sender": _field(text, "MSH", 2),
        "type": _field(text, "MSH", 8).replace("^", " "),
        "control": _field(text, "MSH", 9),
    }


def _field(text: str, segment: str, place: int) -> str:
    separator = text[3:4]
    for line in text.split("\n", 50)[:50]:
        if separator and line.startswith(segment):
            fields = line.split(separator, place + 1)
            return fields[place] if place < len(fields) else ""
    return ""
