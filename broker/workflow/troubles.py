"""What is wrong, in sentences, sorted by harm: patients who wait come first, whatever the component."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote

from broker.domain.rhythm import Silence
from broker.domain.wording import counted, words
from broker.workflow.overview_port import DestinationState, HealthPart, Resource, Urgent
from broker.workflow.reports_port import DayCounts
from broker.workflow.silence import SourceState

SLOW = timedelta(minutes=15)
_EACH_BY_ITSELF = 2
_NAMED = 8
_SIGNS = {"message": "a message", "list": "a worklist query", "exam": "news of an exam"}


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong, what is known of it, and what to do, with the page that mends it."""

    weight: int
    """Less is worse."""
    word: str
    """A state; its meaning chooses mark and colour."""
    headline: str
    detail: str
    action: str
    link: str
    label: str
    """Of the link."""


def troubles(
    *,
    day: DayCounts,
    destinations: Sequence[DestinationState],
    sources: Sequence[SourceState],
    health: Sequence[HealthPart],
    resources: Sequence[Resource],
    urgent: Urgent,
    now: datetime,
    refused_devices: int = 0,
) -> list[Trouble]:
    """Say what is wrong, patients who wait first."""
    found = [
        Trouble(
            0,
            "down",
            f"The {part.name} role does not serve",
            f"{part.detail}; last seen {words(now - part.beat_at)} ago" if part.beat_at else part.detail,
            "See all parts, then its log; it is restarted by itself.",
            "/#parts",
            "See all parts",
        )
        for part in health
        if not part.ok
    ]
    found += _urgent(urgent)
    found += [
        Trouble(
            1 if part.state in {"full", "down", "failing"} else 6,
            part.state,
            f"{part.name}: {part.detail}",
            "",
            part.advice,
            part.link,
            "See all parts" if part.link == "/#parts" else "See its hops",
        )
        for part in resources
        if part.state != "up"
    ]
    found += _silences(sources)
    for line in destinations:
        found += _of_destination(line, now=now)
    found += _refused(refused_devices)
    found += _of_the_day(day)
    return sorted(found, key=lambda trouble: trouble.weight)


def _urgent(urgent: Urgent) -> Iterator[Trouble]:
    if number := urgent.incomplete_stat:
        yield Trouble(
            2,
            "STAT",
            f"{counted(number, 'STAT step')} no scanner sees",
            "Something is missing that a worklist entry must have.",
            "Complete it with the sender, or tell the scanner by telephone.",
            "/orders?incomplete=true",
            "See what is missing",
        )
    if number := urgent.overdue_stat:
        yield Trouble(
            3,
            "overdue",
            f"{counted(number, 'STAT step')} should have begun more than half an hour ago",
            "",
            "Ask the scanner; one that began without its worklist entry looks like this too.",
            "/worklist?status=SCHEDULED",
            "Open the worklist",
        )
    if number := urgent.overdue_arrived:
        waits = "patient has arrived and waits" if number == 1 else "patients have arrived and wait"
        yield Trouble(
            3,
            "overdue",
            f"{number:,} {waits} since more than half an hour after the start",
            "",
            "Ask the scanner.",
            "/worklist?status=ARRIVED",
            "Open the worklist",
        )


def _silences(sources: Sequence[SourceState]) -> Iterator[Trouble]:
    """Say who is silent; of many at once in one sentence, for then it is rather us, or what is between."""
    silent = [source for source in sources if source.silence is Silence.SILENT]
    known = sum(1 for source in sources if source.silence is not Silence.UNKNOWN)
    if len(silent) > _EACH_BY_ITSELF and len(silent) == known:
        link = "/#live-sources"
        action = "Look at this machine's network first: it is unlikely that all of them have stopped."
        headline = f"Everybody is silent, all {known} who usually talk at this hour"
        yield Trouble(1, "silent", headline, _names(silent), action, link, "See who")
        return
    for kind, weight, what in (("sender", 4, "sender"), ("device", 8, "device")):
        of_kind = [source for source in silent if source.kind == kind]
        if len(of_kind) > _EACH_BY_ITSELF:
            action = "Look at what they have in common: a network, a switch, an interface engine."
            headline = f"{counted(len(of_kind), what)} are silent that usually talk at this hour"
            yield Trouble(weight, "silent", headline, _names(of_kind), action, "/#live-sources", "See who")
        else:
            yield from (_silent(source) for source in of_kind)


def _names(sources: Sequence[SourceState]) -> str:
    named = ", ".join(source.name or source.peer for source in sources[:_NAMED])
    return f"{named} and {len(sources) - _NAMED} more" if len(sources) > _NAMED else named


def _silent(source: SourceState) -> Trouble:
    name = f"{source.name} ({source.facility})" if source.facility else source.name or source.peer
    silent_for, _, usually = source.reason.partition(", ")
    sign = _SIGNS.get(source.last_what, source.last_what)
    quoted = quote(source.name, safe="")
    headline, detail = f"{name} is {silent_for}", f"It talks {usually}; the last was {sign}"
    if source.kind == "sender":
        action = "Scanners still get their lists; new orders may be missing. Call the sender's team."
        return Trouble(
            4, "silent", headline, detail, action, f"/messages?sender={quoted}", "Its last messages"
        )
    action = "Ask whether it is switched off; then look at its network and its settings."
    return Trouble(8, "silent", headline, detail, action, f"/devices/{quoted}", "Open it")


def _of_destination(line: DestinationState, *, now: datetime) -> Iterator[Trouble]:
    age = now - line.oldest if line.oldest else timedelta(0)
    name = quote(line.destination, safe="")
    link = f"/destinations/{name}"
    waits = (
        f"{counted(line.waiting, 'delivery')} wait{'s' if line.waiting == 1 else ''}, the oldest {words(age)}"
        if line.waiting
        else "nothing waits"
    )
    if line.stat_waiting:
        waits += f", {line.stat_waiting} STAT"
    reason = (line.reason or "").rstrip(".")
    reason = reason[:1].upper() + reason[1:]
    label = f"Open {line.destination}"
    urgency = 3 if line.stat_waiting else 0  # an emergency among them comes before other destinations
    if line.state == "paused" and line.held_by:
        # Somebody works on it: it comes first only when something waits for it.
        action = "Resume it when the work is done."
        if line.resume_at:
            action = f"It resumes by itself in {words(max(line.resume_at - now, timedelta(0)))}."
        headline = f"{line.destination} is paused by {line.held_by}: {waits}"
        yield Trouble(6 - urgency if line.waiting else 9, "paused", headline, reason, action, link, label)
    elif line.state == "paused":
        action = "Mend the reason, then resume it."
        headline = f"{line.destination} is paused: {waits}"
        yield Trouble(6 - urgency, "paused", headline, reason, action, link, label)
    elif line.state == "failing" and line.waiting:
        action = "Check that the peer runs; nothing is lost, sending goes on by itself once it answers."
        headline = f"{line.destination} is failing: {waits}"
        yield Trouble(5 - urgency, "failing", headline, reason, action, link, label)
    elif line.waiting and age > SLOW:
        headline = f"{line.destination} is slow: {waits}"
        yield Trouble(8 - urgency, "slow", headline, reason, "See its deliveries.", link, label)
    if line.dead:
        need = f"need{'s' if line.dead == 1 else ''} a person"
        stat = f", {line.stat_dead} STAT" if line.stat_dead else ""
        yield Trouble(
            2 if line.stat_dead else 7,  # what waits goes on by itself one day, this does not
            "dead",
            f"{counted(line.dead, 'delivery')} to {line.destination} {need}{stat}",
            "Not tried again by itself." if line.dead == 1 else "Not tried again by themselves.",
            "Read the reason, mend it, then retry or cancel.",
            f"/deliveries?destination={name}&state=DEAD",
            "See it" if line.dead == 1 else "See them",
        )


def _refused(number: int) -> Iterator[Trouble]:
    if number:
        was = "was" if number == 1 else "were"
        yield Trouble(
            8,
            "refused",
            f"{counted(number, 'device')} {was} refused since yesterday",
            "It gets no list, and its images do not come." if number == 1 else "They get no list.",
            "Read why, then let it in or correct its settings.",
            "/devices#knocks",
            "See who",
        )


def _of_the_day(day: DayCounts) -> list[Trouble]:
    return [
        Trouble(9, word, f"{counted(count, what)} {plural if count != 1 else one}", why, action, link, label)
        for count, word, what, one, plural, why, action, link, label in (
            (day.parked_messages, "parked", "message", "is parked", "are parked", "Understood and kept, but in conflict with what is known; nothing was changed.", "Read them and decide with the sender.", "/messages?outcome=parked", "Read them"),
            (day.refused_messages, "refused", "message", "was refused today", "were refused today", "Each sender was told what is wrong.", "Read the problems and tell the sender's team.", "/messages?outcome=refused", "Read them"),
            (day.incomplete_orders, "incomplete", "order", "is incomplete", "are incomplete", "No scanner sees these until what is missing has come.", "See what is missing.", "/orders?incomplete=true", "See them"),
            (day.unrouted_studies, "UNROUTED", "study", "matched no route", "matched no route", "The images are kept; nothing was sent.", "Open one and read why.", "/images?state=UNROUTED", "See them"),
        )
        if count
    ]  # fmt: skip
