"""Devices: who talks, who knocks in vain, who is let in for a time; a page and a passport for each."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse

from broker.errors import Conflict, InvalidValue, NotFound
from broker.web import security
from broker.web.access import TheOperator, TheViewer
from broker.web.pages import Id, Name, TheDashboard, ThePages
from broker.web.ports import Dashboard
from broker.web.viewing import TheViewing
from broker.workflow.captures import USUAL_MINUTES
from broker.workflow.captures_port import DICOM, Capture
from broker.workflow.devices import USUAL_STAY, DeviceState, Welcome, hours, read_devices
from broker.workflow.devices_port import MANY, SIGNS
from broker.workflow.entries import asked_like
from broker.workflow.reports_port import Page

router = APIRouter()
Fields = Annotated[dict[str, str], Depends(security.form_of)]
KNOCKS_SHOWN = 50
SEEN_SHOWN = 50
STRANGERS_SHOWN = 10
CAPTURES_LOOKED_AT = 50
_FIELDS = ("ae_title", "address", "hours", "reason")
_USUAL_HOURS = f"{USUAL_STAY / timedelta(hours=1):g}"


@router.get("/devices")
def devices(
    request: Request, _: TheViewer, board: TheDashboard, pages: ThePages, *, all_knocks: bool = False
) -> Response:
    """List devices, refusals, and who is let in for a time."""
    return pages.render(request, "devices.html", **_values(board, all_knocks=all_knocks))


@router.post("/devices/admit")
def admit(
    request: Request, who: TheOperator, board: TheDashboard, pages: ThePages, fields: Fields
) -> Response:
    """Let a device in for a time; it ends by itself."""
    typed = {name: fields.get(name, "").replace("\x00", "").strip() for name in _FIELDS}
    try:
        board.actions.admit(
            Welcome(typed["ae_title"], typed["address"], hours_of(typed["hours"]), typed["reason"], who.name)
        )
    except (InvalidValue, Conflict) as error:
        field = getattr(error, "field", None)
        said = str(error) if field is None or str(error).startswith(field) else f"{field}: {error}"
        values = _values(board) | {"problem": said, "typed": {k: v[:600] for k, v in typed.items()}}
        return pages.render(request, "devices.html", status_code=error.http_status, **values)
    return RedirectResponse("/devices#admitted", status_code=303)


@router.post("/devices/admissions/{admission}/end")
def end(who: TheOperator, board: TheDashboard, admission: Id) -> Response:
    """Let a device in no longer."""
    board.actions.end_admission(admission, actor=who.name)
    return RedirectResponse("/devices#admitted", status_code=303)


@router.get("/devices/{ae_title:path}/passport")
def passport(
    request: Request, _: TheViewer, board: TheDashboard, pages: ThePages, ae_title: Name
) -> Response:
    """Show what has to be typed into a device, to be printed, and tick what works while somebody stands there."""
    if board.passport is None:
        raise NotFound("There is no passport here.")
    now = board.clock.now()
    return pages.render(
        request,
        "passport.html",
        passport=board.passport(ae_title),
        reached_by=request.url.hostname or "",
        guest=next((one for one in board.reports.admissions(ae_title=ae_title) if one.holds(now)), None),
        **_ticks(board, ae_title),
    )


@router.get("/devices/{ae_title:path}/ticks", include_in_schema=False)
def ticks(request: Request, _: TheViewer, board: TheDashboard, pages: ThePages, ae_title: Name) -> Response:
    """Answer what works by now, for the passport to put in place."""
    return pages.render(request, "passport_ticks.html", **_ticks(board, ae_title))


@router.post("/devices/{ae_title:path}/would")
def would(
    _: TheViewer, searched: TheViewing, board: TheDashboard, ae_title: Name, fields: Fields
) -> Response:
    """Find an order by what is typed, and ask there whether this device would see it."""
    text = fields.get("order", "").replace("\x00", "").strip()[:128]
    found = board.reports.orders(text=text, page=Page(limit=2)) if text else []
    searched.listed(found, searched=text)
    if len(found) != 1:
        said = "more than one order fits; its accession number finds it" if found else "no order fits"
        raise InvalidValue(f"order: {said}.", field="order")
    return RedirectResponse(
        f"/orders/{found[0].order_id}?device={quote(ae_title, safe='')}#seen", status_code=303
    )


@router.get("/devices/{ae_title:path}")
def device(
    request: Request, _: TheViewer, seen_now: TheViewing, board: TheDashboard, pages: ThePages, ae_title: Name
) -> Response:
    """Show one device: what it did, what it sees now, and the settings in force."""
    state = state_of(board, ae_title)
    last = board.reports.last_query(ae_title)
    asked = asked_like(last)
    seen = board.seen_by(ae_title, asked) if state.admission or state.known else ()
    lines = board.reports.worklist_steps(seen[:SEEN_SHOWN])
    seen_now.listed(lines)
    return pages.render(
        request,
        "device.html",
        state=state,
        signs=SIGNS,
        last=last,
        asked=asked,
        seen=len(seen),
        lines=lines,
        conversations=board.reports.conversations(ae_title),
        knocks=board.reports.knocks(ae_title=ae_title, limit=KNOCKS_SHOWN),
        admissions=board.reports.admissions(ae_title=ae_title),
        passport=board.passport(ae_title) if board.passport else None,
        captures=captures_of(board, state),
        may_be_captured=board.captures is not None,
        capture_minutes=USUAL_MINUTES,
    )


def captures_of(board: Dashboard, state: DeviceState) -> list[Capture]:
    """Answer the captures that run and hear this device."""
    addresses = {sign.address for sign in state.signs.values()} - {MANY}
    now = board.clock.now()
    latest = board.reports.captures(limit=CAPTURES_LOOKED_AT)
    return [one for one in latest if one.runs(now) and one.hears(state.ae_title, addresses)]


def hours_of(text: str) -> timedelta:
    """Read how long a device is let in. Raises InvalidValue."""
    try:
        number = float(text.replace(",", ".") or _USUAL_HOURS)
    except ValueError:
        raise InvalidValue(f"{text[:20]!r} is no number of hours", field="hours") from None
    return hours(number)


def state_of(board: Dashboard, ae_title: str) -> DeviceState:
    """Answer how one device is. Raises NotFound when nobody has heard of it."""
    states = read_devices(board.reports, board.known_devices(), now=board.clock.now(), zone=board.zone)
    for state in states:
        if state.ae_title == ae_title:
            return state
    knocks = tuple(board.reports.knocks(ae_title=ae_title, limit=1))
    if knocks or board.reports.admissions(ae_title=ae_title):
        return DeviceState(ae_title, "refused", None, None, {}, None, None, None, knocks)
    if board.reports.captures(name=ae_title, protocol=DICOM, limit=1):  # waited for with a capture, perhaps
        return DeviceState(ae_title, "never heard", None, None, {}, None, None, None, ())
    raise NotFound("There is no such device in the site file, and none of this AE title was heard.")


def _values(board: Dashboard, *, all_knocks: bool = False) -> dict[str, Any]:
    states = read_devices(board.reports, board.known_devices(), now=board.clock.now(), zone=board.zone)
    knocks = board.reports.knocks(limit=1000 if all_knocks else KNOCKS_SHOWN + 1)
    admissions = board.reports.admissions()
    now = board.clock.now()
    # Whoever scans the network under many names must not bury those who are known.
    strangers = [state for state in states if not (state.known or state.admission or state.last_at)]
    unshown = {state.ae_title for state in strangers[STRANGERS_SHOWN:]}
    return {
        "states": [state for state in states if state.ae_title not in unshown],
        "unshown": len(unshown),
        "signs": SIGNS,
        "knocks": knocks if all_knocks else knocks[:KNOCKS_SHOWN],
        "more_knocks": not all_knocks and len(knocks) > KNOCKS_SHOWN,
        "served_at": {state.ae_title: state.last_at for state in states if state.last_at},
        "guests": [one for one in admissions if one.holds(now)],
        "gone": [one for one in admissions if not one.holds(now)][:10],
        "usual_hours": _USUAL_HOURS,
        "problem": "",
        "typed": dict.fromkeys(_FIELDS, "") | {"hours": _USUAL_HOURS},
    }


def _ticks(board: Dashboard, ae_title: str) -> dict[str, Any]:
    heard = board.reports.heard_devices().get(ae_title)
    knocks = board.reports.knocks(ae_title=ae_title, limit=1)
    last_at = heard.last_at if heard else None
    refused = knocks[0] if knocks and (last_at is None or knocks[0].last_at > last_at) else None
    return {
        "ae_title": ae_title,
        "signs": SIGNS,
        "heard": heard.signs if heard else {},
        "refused": refused,
        "conversations": board.reports.conversations(ae_title)[:3],
    }
