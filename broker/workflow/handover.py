"""What happened since the last shift, in ten lines, for those who take over."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from broker.domain.events import EventName
from broker.domain.rhythm import Silence
from broker.domain.wording import counted, words
from broker.errors import InvalidValue
from broker.workflow.clock import Clock
from broker.workflow.overview_port import HeldDestination, NeedsPerson, ShiftCounts
from broker.workflow.reports_port import DestinationLine, Reports
from broker.workflow.silence import SourceState, judge_sources

SHIFT = timedelta(hours=12)
LONGEST = timedelta(days=7)
_NAMED = 5
"""So many are named, the others counted: ten lines fit on a sheet."""


@dataclass(frozen=True, slots=True)
class HandoverLine:
    """One line: about what, and what happened."""

    about: str
    word: str
    """normal, or a state that needs a person."""
    text: str
    link: str


@dataclass(frozen=True, slots=True)
class Handover:
    """What happened in a shift."""

    since: datetime
    until: datetime
    lines: Sequence[HandoverLine]


def read_since(typed: str, *, clock: Clock) -> datetime:
    """Read the beginning of a shift as a person types it, in the site's zone; nothing: twelve hours ago.

    Raises InvalidValue.
    """
    now = clock.local_now()
    if not typed.strip():
        return now - SHIFT
    try:
        since = datetime.fromisoformat(typed.strip())
    except ValueError:
        raise InvalidValue(f"{typed[:40]!r} is no date and time; write it as 2026-11-21T19:00.") from None
    since = since if since.tzinfo else since.replace(tzinfo=now.tzinfo)
    if since > now:
        raise InvalidValue("A shift cannot begin in the future.")
    if now - since > LONGEST:
        raise InvalidValue(f"A handover looks back {LONGEST.days} days at most.")
    return since


def read_handover(reports: Reports, *, since: datetime, clock: Clock, zone: tzinfo) -> Handover:
    """Read what happened since an instant, and how it stands now."""
    now = clock.now()
    counts = reports.shift(since=since, until=now)
    needs = reports.needs_person(refused_since=since)
    lines = [
        _messages(counts, needs),
        _orders(counts, needs),
        _exams(counts),
        _images(counts, needs),
        *_deliveries(counts, reports.destinations(now=now), now=now),
        _destinations(counts, reports.held_destinations(), now=now),
        _silences(judge_sources(reports.sources(), now=now, zone=zone)),
        _refused(counts.refused_devices),
        _people(counts),
    ]
    return Handover(since, now, lines)


def _messages(counts: ShiftCounts, needs: NeedsPerson) -> HandoverLine:
    total = sum(counts.messages.values())
    parts = ", ".join(f"{number:,} {outcome}" for outcome, number in counts.messages.items() if number)
    text = f"{counted(total, 'message')} came" + (f": {parts}." if parts else ".")
    if needs.parked_messages:
        text += f" {needs.parked_messages:,} parked wait for a decision."
    bad = needs.parked_messages or counts.messages.get("refused") or counts.messages.get("failed")
    return HandoverLine("Messages", "parked" if bad else "normal", text, "/messages")


def _orders(counts: ShiftCounts, needs: NeedsPerson) -> HandoverLine:
    text = f"{counted(counts.orders, 'order')} placed."
    if needs.incomplete_orders:
        text += f" {needs.incomplete_orders:,} incomplete: no scanner sees them."
    return HandoverLine("Orders", "incomplete" if needs.incomplete_orders else "normal", text, "/orders")


def _exams(counts: ShiftCounts) -> HandoverLine:
    text = f"{counted(counts.completed, 'exam')} done."
    return HandoverLine("Exams", "normal", text, "/worklist?status=COMPLETED")


def _images(counts: ShiftCounts, needs: NeedsPerson) -> HandoverLine:
    text = f"{counted(counts.instances, 'image')} of {counted(counts.studies, 'new study')} received."
    if needs.unrouted_studies:
        text += f" {counted(needs.unrouted_studies, 'study')} matched no route and went nowhere."
    return HandoverLine("Images", "UNROUTED" if needs.unrouted_studies else "normal", text, "/images")


def _deliveries(
    counts: ShiftCounts, destinations: Sequence[DestinationLine], *, now: datetime
) -> Iterator[HandoverLine]:
    waiting = sum(line.waiting for line in destinations)
    oldest = min((line.oldest for line in destinations if line.oldest), default=None)
    text = f"{counted(counts.delivered, 'delivery')} done, {counts.deliveries:,} planned."
    if oldest:
        text += f" {waiting:,} wait{'s' if waiting == 1 else ''}, the oldest {words(now - oldest)}."
    yield HandoverLine("Deliveries", "normal", text, "/deliveries")
    dead = {line.destination: line.dead for line in destinations if line.dead}
    text = f"{counts.died:,} died in this shift; "
    text += f"dead now: {_named(dead)}." if dead else "none is dead now."
    yield HandoverLine("Dead", "dead" if dead else "normal", text, "/deliveries?state=DEAD")


def _destinations(counts: ShiftCounts, held: Sequence[HeldDestination], *, now: datetime) -> HandoverLine:
    told = [
        f"{one.destination} {one.state} for {words(now - one.since)}"
        + (f" ({one.reason.rstrip('.')[:80]})" if one.reason else "")
        for one in held[:_NAMED]
    ]
    if len(held) > _NAMED:
        told.append(f"{len(held) - _NAMED} more")
    text = f"{'; '.join(told)}." if told else "All are up."
    failed = Counter(
        name for _, what, name in counts.destination_events if what == EventName.DESTINATION_FAILING.value
    )
    paused = Counter(
        name for _, what, name in counts.destination_events if what == EventName.DESTINATION_PAUSED.value
    )
    for verb, times in (("Failed", failed), ("Paused", paused)):
        if times:
            text += f" {verb} in this shift: {_named(times)}."
    worst = "failing" if any(one.state == "failing" for one in held) else "paused" if held else "normal"
    return HandoverLine("Destinations", worst, text, "/#live-destinations")


def _silences(sources: Sequence[SourceState]) -> HandoverLine:
    silent = [source for source in sources if source.silence is Silence.SILENT]
    talking = sum(1 for source in sources if source.silence in {Silence.NORMAL, Silence.QUIET})
    told = [f"{source.name} {source.reason.partition(' at this hour')[0]}" for source in silent[:_NAMED]]
    if len(silent) > _NAMED:
        told.append(f"{len(silent) - _NAMED} more")
    text = f"{'; '.join(told)}." if told else f"Nobody is silent; {counted(talking, 'source')} as usual."
    return HandoverLine("Silences", "silent" if silent else "normal", text, "/#live-sources")


def _refused(refused: Mapping[str, int]) -> HandoverLine:
    text = f"Knocked and were refused: {_named(refused)}." if refused else "No device was refused."
    return HandoverLine("Devices", "refused" if refused else "normal", text, "/")


def _people(counts: ShiftCounts) -> HandoverLine:
    by_actor: dict[str, list[str]] = defaultdict(list)
    for actor, what, number in counts.deeds:
        deed = what.removesuffix(" by a person")
        by_actor[actor].append(f"{deed} {number:,} times" if number > 1 else deed)
    told = [f"{actor}: {', '.join(deeds)}" for actor, deeds in list(by_actor.items())[:_NAMED]]
    if len(by_actor) > _NAMED:
        told.append(f"{len(by_actor) - _NAMED} more people")
    text = f"{'; '.join(told)}." if told else "Nobody changed anything by hand."
    return HandoverLine("People", "normal", text, "/deliveries")


def _named(numbers: Mapping[str, int]) -> str:
    """Name the largest, count the others."""
    largest = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{name} {number:,}" for name, number in largest[:_NAMED]]
    if len(largest) > _NAMED:
        told.append(f"{len(largest) - _NAMED} more")
    return ", ".join(told)
