"""Templates and the words pages use: local times, ages, states."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from broker.domain.access import Role
from broker.domain.wording import counted, sized, words
from broker.web import masking, security
from broker.web.access import Who
from broker.web.navigation import Place
from broker.web.ports import Dashboard
from broker.web.timeline import Say, Told, tell
from broker.workflow.overview_port import NeedsPerson
from broker.workflow.reports_port import TimelineEntry
from broker.workflow.situation import REFUSED_LATELY

TEMPLATES = Path(__file__).parent / "templates"

MEANING = {
    "DELIVERED": "ok", "ROUTED": "ok", "COMPLETED": "ok", "accepted": "ok", "up": "ok",
    "COLLECTING": "waiting", "PENDING": "waiting", "IN_PROGRESS": "waiting", "RECEIVED": "waiting",
    "SCHEDULED": "waiting", "ARRIVED": "waiting", "READY": "waiting", "STARTED": "waiting", "HELD": "attention",
    "silent": "attention", "overdue": "attention", "filling": "attention", "away": "attention", "full": "failing", "STAT": "failing",
    "sends": "ok", "new": "quiet", "dead rule": "attention", "unknown study": "failing", "unrouted": "attention",
    "normal": "ok", "unknown": "quiet", "critical": "failing", "warning": "attention", "notice": "waiting", "maintenance": "quiet",
    "UNROUTED": "attention", "parked": "attention", "paused": "attention", "draining": "attention", "slow": "attention",
    "DEAD": "failing", "dead": "failing", "failing": "failing", "down": "failing", "refused": "failing", "failed": "failing", "incomplete": "attention",
    "RUNNING": "waiting", "DONE": "ok", "STOPPED": "attention", "WAITING": "waiting", "REJECTED": "failing",
    "CANCELLED": "quiet", "CANCELED": "quiet", "DISCONTINUED": "quiet", "ignored": "quiet", "not sent": "attention",
}  # fmt: skip
"""State -> one of the four meanings, or quiet."""


_reader: ContextVar[Who | None] = ContextVar("reader", default=None)
"""For whom a page is rendered: macros and filters must know it, wherever they are called."""


class Pages:
    """Renders templates with what every page shows."""

    def __init__(self, dashboard: Dashboard, places: Sequence[Place] = ()) -> None:
        """Prepare the environment: autoescape always, undefined names are errors."""
        self._dashboard = dashboard
        self._places = places
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=plain,
        )
        self._templates.filters["clock"] = self.clock
        self._templates.filters["age"] = self.age
        self._templates.filters["meaning"] = lambda state: MEANING.get(state, "quiet")
        self._templates.filters["person"] = person
        self._templates.filters["of_attribute"] = of_attribute
        self._templates.globals["may"] = may
        self._templates.filters["words"] = words
        self._templates.filters["short"] = short
        self._templates.filters["counted"] = counted
        self._templates.filters["brief"] = brief
        self._templates.filters["sized"] = sized
        self._templates.filters["share"] = lambda value: f"{value:.0%}"
        self._templates.filters["states"] = lambda lines: {line.destination: line.state for line in lines}
        self._templates.filters["told"] = lambda entries: told(entries, self.clock)
        self._templates.filters["of_clause"] = of_clause
        self._templates.filters["of_whereabouts"] = of_whereabouts
        self._templates.filters["of_reason"] = of_reason
        self._templates.filters["of_detail"] = of_detail

    def render(
        self, request: Request, template: str, *, status_code: int = 200, **values: Any
    ) -> HTMLResponse:
        """Render a page or a fragment."""
        dashboard = self._dashboard
        who: Who | None = getattr(request.state, "who", None)
        before = _reader.set(who)
        try:
            body = self._templates.get_template(template).render(
                site_name=dashboard.site_name,
                version=dashboard.version,
                now=dashboard.clock.now(),
                path=request.url.path,
                places=[place for place in self._places if place.role is None or may(place.role)],
                # A page about a problem asks nothing of the database, which may be the problem.
                needs=self._needs() if who is not None and status_code < 400 else NeedsPerson(),
                csrf=security.token(request),
                who=who,
                **values,
            )
        finally:
            _reader.reset(before)
        return HTMLResponse(body, status_code=status_code)

    def fragment(self, template: str, **values: Any) -> str:
        """Render a part that is the same for everybody: it knows no request, so it holds no form."""
        return self._templates.get_template(template).render(now=self._dashboard.clock.now(), **values)

    def _needs(self) -> NeedsPerson:
        since = self._dashboard.clock.now() - REFUSED_LATELY
        return self._dashboard.reports.needs_person(refused_since=since)

    def clock(self, at: datetime | None) -> str:
        """Say an instant in the site's time: the time alone today, with the date before."""
        if at is None:
            return "never"
        local, today = at.astimezone(self._dashboard.zone), self._dashboard.clock.local_now().date()
        return local.strftime("%H:%M:%S") if local.date() == today else local.strftime("%Y-%m-%d %H:%M:%S")

    def age(self, at: datetime | None) -> str:
        """Say how long ago, or in how long."""
        if at is None:
            return "–"
        delta = self._dashboard.clock.now() - at
        return words(delta) if delta >= timedelta(0) else f"in {words(-delta)}"


def may(role: str) -> bool:
    """Tell whether the reader of this page may do what needs `role`: no buttons that would be refused."""
    who = _reader.get()
    return who is not None and who.role.covers(Role(role))


def person(name: str | None) -> str:
    """Show a PN value for reading: `HAYDN^JOSEPH` as `HAYDN, JOSEPH`, ideographs behind it.

    Where the reader hides names, of each part the first letter is left.
    """
    groups = [group.strip("^") for group in (name or "").split("=")]
    shown = []
    for group in groups[:2]:
        family, _, rest = group.partition("^")
        given = " ".join(part for part in rest.split("^") if part)
        if family or given:
            shown.append(", ".join(masked(part) for part in (family, given) if part))
    return " · ".join(shown) or "–"


_NAMES = frozenset(
    {"PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ResponsiblePerson"}
)


def names_are_hidden() -> bool:
    """Tell whether the reader of this page hides names."""
    who = _reader.get()
    return who is not None and who.hides_names


def of_attribute(value: str, keyword: str) -> str:
    """Show the value of an attribute as it stands, or masked where it is of a person and the reader hides names."""
    if not value or not names_are_hidden() or not masking.hides(keyword):
        return value
    return person(value) if keyword in _NAMES else masking.MASK


def of_clause(seen: str, clause: str) -> str:
    """Show what a clause of a rule found, or that it is hidden."""
    return masking.MASK if seen and names_are_hidden() and masking.hides_clause(clause) else seen


def of_whereabouts(said: str) -> str:
    """Show why a study is where it is, without what was found in it or what a peer said about it."""
    return masking.masked_whereabouts(said) if names_are_hidden() else said


def of_reason(reason: str | None) -> str:
    """Show why something failed; of a peer's own words nothing where the reader hides names."""
    return masking.masked_reason(reason) if names_are_hidden() else reason or ""


def of_detail(value: object, name: str) -> object:
    """Show a detail of an event, or that it is hidden."""
    return masking.masked_detail(name, value) if names_are_hidden() else value


def told(entries: Sequence[TimelineEntry], clock: Say) -> list[Told]:
    """Tell a timeline, masked where the reader hides names."""
    lines = tell(entries, clock=clock)
    return [masking.masked_line(line) for line in lines] if names_are_hidden() else lines


def masked(part: str) -> str:
    """Show part of a name, or its first letter alone where the reader of this page hides names."""
    return f"{part[:1]}{masking.MASK}" if names_are_hidden() else part


_BRIEF = 240
# Unicode's explicit directions and controls: in a name they reorder what stands beside it on the page.
_TRICKS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(value: object) -> object:
    """Show a replacement for each character that draws nothing itself but changes how others are drawn."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _TRICKS.sub("\ufffd", value)
    return value


def brief(value: str | None) -> str:
    """Cut a text a peer may have made as long as it likes: in a list its beginning tells it, its own page has it all."""
    text = value or ""
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 1]}…"


def short(value: str) -> str:
    """Shorten a UID in its middle: its root and its end tell it apart."""
    return value if len(value) <= 26 else f"{value[:10]}…{value[-13:]}"
