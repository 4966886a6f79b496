"""A message in words: one subject line, and a text a person reads on a telephone at night."""

from __future__ import annotations

from broker.domain.alerts import Notice
from broker.domain.wording import counted
from broker.workflow.alerts_port import Message, Told

_MARK = {
    Notice.RAISED: "",
    Notice.REMINDER: "still: ",
    Notice.RECOVERED: "over: ",
    Notice.TEST: "",
}
_SUBJECT = 160


def subject_of(message: Message) -> str:
    """Answer one line: the worst of it, and how much more there is."""
    news = [line for line in message.lines if line.notice is not Notice.RECOVERED]
    first = (news or list(message.lines))[0]
    more = len(message.lines) - 1
    tail = f" (and {counted(more, 'more line')})" if more else ""
    said = one_line(f"[{message.site}] {_MARK[first.notice]}{first.headline}")
    return said[: _SUBJECT - len(tail)] + tail


def text_of(message: Message) -> str:
    """Answer the whole text."""
    return "\n\n".join(_paragraph(line) for line in message.lines) + f"\n\n-- \n{one_line(message.site)}\n"


def _paragraph(line: Told) -> str:
    lines = [f"{_MARK[line.notice]}{line.headline}".capitalize() if _MARK[line.notice] else line.headline]
    lines.append(f"{line.severity}, since {line.since:%Y-%m-%d %H:%M} UTC")
    if line.notice is not Notice.RECOVERED:
        lines += [line.action, line.link]
    return "\n".join(one_line(one) for one in lines if one)


def one_line(text: str) -> str:
    """Leave nothing in a text that ends a header or moves a cursor."""
    return "".join(char if char.isprintable() else "·" for char in text)
