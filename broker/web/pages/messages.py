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
        raw=_readable(raw),
        answer=_readable(answer) if answer else None,
    )


def _readable(data: bytes) -> str:
    """Answer ER7 with one segment per line; bytes that are no UTF-8 are shown as Latin-1."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
