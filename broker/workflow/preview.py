"""What an act would come to, told before the one confirm: how many, how much, about how long, and what is left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from broker.domain.delivery import DeliveryState
from broker.workflow.bulk import Wanted
from broker.workflow.delivery_reports import DeliveryReports, SelectionCount
from broker.workflow.operations import ALLOWED, Act, takes_kind
from broker.workflow.selection import Selection

SENDS = (Act.RETRY, Act.RELEASE, Act.RETARGET)
_S = DeliveryState


@dataclass(frozen=True, slots=True)
class Excluded:
    """Deliveries of the selection that are left as they are."""

    deliveries: int
    why: str


@dataclass(frozen=True, slots=True)
class Preview:
    """What will happen if the act is confirmed now."""

    act: str
    deliveries: int
    images: int
    """Not yet delivered."""
    bytes: int
    is_exact: bool
    """False: the bytes are an estimate from the newest."""
    destinations: tuple[str, ...]
    seconds: float | None
    """About how long sending takes at the speed of late; None: nothing is sent, or nothing is known."""
    excluded: tuple[Excluded, ...]
    selection: Selection
    """With its upper end: what comes later is not part of it."""


def preview(
    wanted: Wanted,
    reports: DeliveryReports,
    *,
    kind_of: Callable[[str], str],
    concurrency_of: Callable[[str], int],
) -> Preview:
    """Answer what an act would come to. Raises NotFound for a destination that is not configured."""
    selection = wanted.selection
    if selection.up_to is None:
        selection = replace(selection, up_to=reports.newest_delivery())
    chosen: list[SelectionCount] = []
    left: dict[str, int] = defaultdict(int)
    to_kind = kind_of(wanted.to) if wanted.act is Act.RETARGET and wanted.to else None
    counts = reports.counts(selection)
    for count in counts:
        why = _why_not(count, wanted, to_kind)
        if why is None:
            chosen.append(count)
        else:
            left[why] += count.deliveries
    deliveries = sum(count.deliveries for count in chosen)
    if wanted.act is Act.RETRY and any(count.state != _S.PENDING.value for count in chosen):
        blocked = reports.blocked(selection)
        if blocked:
            left["another delivery of the same unit is open: it is sent by that"] += blocked
            deliveries = max(0, deliveries - blocked)
    allowed = {state.value for state in ALLOWED[wanted.act]}
    missing = sum(count.images for count in counts if count.state in allowed)
    volume = reports.volume(selection, ALLOWED[wanted.act], images=missing)
    return Preview(
        act=wanted.act.value,
        deliveries=deliveries,
        images=sum(count.images for count in chosen),
        bytes=volume.bytes,
        is_exact=volume.is_exact,
        destinations=tuple(dict.fromkeys(count.destination for count in chosen)),
        seconds=_seconds(chosen, wanted, reports, concurrency_of) if wanted.act in SENDS else None,
        excluded=tuple(Excluded(number, why) for why, number in sorted(left.items()) if number),
        selection=selection,
    )


def _why_not(count: SelectionCount, wanted: Wanted, to_kind: str | None) -> str | None:
    """Answer why these deliveries are left alone, or None."""
    if DeliveryState(count.state) not in ALLOWED[wanted.act]:
        return _STATES[DeliveryState(count.state)]
    if to_kind is None:
        return None
    if count.destination == wanted.to:
        return f"they go to {wanted.to} already"
    if not takes_kind(to_kind, count.kind):
        return f"{wanted.to} ({to_kind}) cannot take what is for {count.kind}"
    return None


_STATES = {
    _S.COLLECTING: "still collecting images",
    _S.PENDING: "already waiting to be sent",
    _S.IN_PROGRESS: "being sent just now",
    _S.DELIVERED: "delivered already",
    _S.DEAD: "dead: retry them first",
    _S.CANCELLED: "cancelled",
}


def _seconds(
    chosen: Sequence[SelectionCount],
    wanted: Wanted,
    reports: DeliveryReports,
    concurrency_of: Callable[[str], int],
) -> float | None:
    """Answer how long the slowest destination needs; None when any of them has no late speed."""
    longest = 0.0
    by_destination: dict[str, tuple[int, int]] = {}
    for count in chosen:
        name = wanted.to or count.destination
        deliveries, images = by_destination.get(name, (0, 0))
        by_destination[name] = (deliveries + count.deliveries, images + count.images)
    for name, (deliveries, images) in by_destination.items():
        speed = reports.speed(name)
        if speed is None:
            return None
        busy_s = images * speed.image_s if images and speed.image_s else deliveries * speed.delivery_s
        longest = max(longest, busy_s / max(1, concurrency_of(name)))
    return longest
