"""Did everything go where it is owed, or is it parked with a reason; and did nothing go that was not owed?"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from tests.ledger.hospital import FINAL_WORDS
from tests.ledger.ledger import ACKNOWLEDGED, ENDED, IMAGE, OFFERED, RECEIVED, STARTED, Entry, Ledger
from tests.ledger.rows import Rows

Routes = Callable[[Entry], frozenset[str]]
SETTLED_BATCH = 20
"""What one delivery may send again when it is cut off: what was confirmed and not yet noted."""
_CUT_OFF = ("delivery lease expired", "delivery to be retried")
"""Events of a try after which something that was sent may not have been noted."""
_CLAIMED = "delivery claimed"
_SETTLED = {
    "delivery progressed",
    "delivery delivered",
    "delivery to be retried",
    "delivery died",
    "delivery lease expired",
}
"""Names of the events by which a try ends."""


def images(ledger: Ledger, rows: Rows, routes: Routes) -> Iterator[str]:
    """Compare what was acknowledged with what the receivers of images got."""
    owed = {(place, entry.id) for entry in _of(ledger, ACKNOWLEDGED, IMAGE) for place in routes(entry)}
    may_go = {
        (place, entry.id, entry.sha256) for entry in _of(ledger, OFFERED, IMAGE) for place in routes(entry)
    }
    receivers = {place for place, _, _ in may_go}
    came: Counter[tuple[str, str]] = Counter()
    for entry in ledger.entries(RECEIVED):
        if entry.facts:  # a message for the RIS
            continue
        came[entry.kind, entry.id] += 1
        if (entry.kind, entry.id, entry.sha256) not in may_go:
            yield f"{entry.kind} got {entry.id}, which was not sent like that or is not owed to it"
    parked = _parked(rows)
    for place, uid in owed:
        if not came[place, uid] and (place, uid) not in parked:
            yield f"{place} never got image {uid}, and it is not parked either"
    for row in rows.all(
        "SELECT d.destination, i.sop_instance_uid FROM delivery_item m JOIN delivery d ON d.id = m.delivery"
        " JOIN instance i ON i.id = m.instance WHERE m.state = 'DELIVERED'"
    ):
        place, uid = row["destination"], row["sop_instance_uid"]
        if place in receivers and not came[place, uid]:
            yield f"image {uid} is noted as delivered to {place}, which never got it"
    tries = _tries(rows)
    for (place, uid), count in came.items():
        if place in receivers and count > tries[place, uid]:
            yield f"{place} got image {uid} {count} times in {tries[place, uid]} tries"
    again = sum(count - 1 for count in came.values())
    allowed = may_be_sent_again(ledger, rows, with_items=True)
    if again > allowed:
        yield f"{again} images were sent again, the tries that were cut off allow {allowed}"


def may_be_sent_again(ledger: Ledger, rows: Rows, *, with_items: bool) -> int:
    """Answer how many things may have been sent twice: of each try that was cut off as many as it had in flight.

    A delivery has as many as it has items, and no more than are settled at once; a message is one. All tries together
    cannot have been cut off more often than something was broken from outside.
    """
    names = ", ".join(f"'{name}'" for name in _CUT_OFF)
    has_items = "> 0" if with_items else "= 0"
    found = rows.all(
        "SELECT d.id, d.items, count(e.id) AS cut FROM delivery d JOIN event e ON e.subject_id = d.id"
        f" AND e.subject = 'delivery' WHERE e.name IN ({names}) AND d.items {has_items} GROUP BY d.id, d.items"
    )
    in_flight = sum(row["cut"] * min(max(row["items"], 1), SETTLED_BATCH) for row in found)
    return min(in_flight, ledger.interrupted() * (SETTLED_BATCH if with_items else 1))


def _tries(rows: Rows) -> Counter[tuple[str, str]]:
    """Answer how often (destination, SOP Instance UID) may have been sent: once in each try of its deliveries."""
    return Counter(
        {
            (row["destination"], row["sop_instance_uid"]): row["tries"]
            for row in rows.all(
                "SELECT d.destination, i.sop_instance_uid, sum(d.attempt) AS tries FROM delivery_item m"
                " JOIN delivery d ON d.id = m.delivery JOIN instance i ON i.id = m.instance"
                " GROUP BY d.destination, i.sop_instance_uid"
            )
        }
    )


def _parked(rows: Rows) -> set[tuple[str, str]]:
    """Answer (destination, SOP Instance UID) of what waits for a person, and says why."""
    return {
        (row["destination"], row["sop_instance_uid"])
        for row in rows.all(
            "SELECT d.destination, i.sop_instance_uid FROM delivery_item m"
            " JOIN delivery d ON d.id = m.delivery JOIN instance i ON i.id = m.instance"
            " LEFT JOIN destination_state s ON s.name = d.destination"
            " WHERE m.state <> 'DELIVERED' AND ((d.state = 'DEAD' AND d.reason <> '')"
            " OR d.state = 'CANCELLED' OR (d.state = 'PENDING' AND s.state = 'paused'))"
        )
    }


def reports(ledger: Ledger, rows: Rows, routes: Routes) -> Iterator[str]:
    """Compare what was acknowledged of performed steps with what the RIS was told."""
    told: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    came = {entry.sha256 for entry in ledger.entries(RECEIVED) if entry.facts}
    tries: Counter[tuple[str, str]] = Counter()
    for entry in ledger.entries(RECEIVED):
        if entry.facts:
            told[entry.kind][entry.facts["accession"], entry.facts["status"]] += 1
            tries[entry.kind, entry.id] += 1
    parked = Counter[str]()
    payloads = set()
    for row in rows.all("SELECT destination, state, payload, reason FROM delivery WHERE payload IS NOT NULL"):
        sha256 = hashlib.sha256(bytes(row["payload"])).hexdigest()
        payloads.add(sha256)
        if row["state"] == "DELIVERED" and sha256 not in came:
            yield f"a message is noted as delivered to {row['destination']}, which never got it"
        if row["state"] in ("DEAD", "CANCELLED") and row["reason"]:
            parked[row["destination"]] += 1
    for entry in ledger.entries(RECEIVED):
        if entry.facts and entry.sha256 not in payloads:
            yield f"{entry.kind} got message {entry.id}, which no delivery holds"
    for entry in (*_of(ledger, ACKNOWLEDGED, STARTED), *_of(ledger, ACKNOWLEDGED, ENDED)):
        word = FINAL_WORDS.get(entry.facts["status"], "IP")
        for place in routes(entry):
            if not told[place][entry.facts["accession"], word] and not parked[place]:
                yield f"{place} was never told {word} of {entry.facts['accession']}"
    again = sum(count - 1 for count in tries.values())
    allowed = may_be_sent_again(ledger, rows, with_items=False)
    if again > allowed:
        yield f"{again} messages were sent again, the tries that were cut off allow {allowed}"


def settlements(rows: Rows) -> Iterator[str]:
    """Follow each delivery through its events: only whoever holds it settles it, and its items add up."""
    held: dict[int, int | None] = {}
    for row in rows.all(
        "SELECT id, name, subject_id, details FROM event WHERE subject = 'delivery' ORDER BY id"
    ):
        key, name, details = row["subject_id"], row["name"], row["details"]
        if name == _CLAIMED:
            if held.get(key) is not None:
                yield f"delivery {key} was claimed for try {details['attempt']} while try {held[key]} held it"
            held[key] = details["attempt"]
        elif name in _SETTLED and "attempt" in details:
            if held.get(key) != details["attempt"]:
                yield f"delivery {key} was settled by try {details['attempt']} while {held.get(key)} held it"
            held[key] = None
    for row in rows.all(
        "SELECT d.id, d.state, d.items, d.items_delivered, d.items_rejected, d.worker, count(m.id) AS members,"
        " sum(CASE WHEN m.state = 'DELIVERED' THEN 1 ELSE 0 END) AS gone,"
        " sum(CASE WHEN m.state = 'WAITING' THEN 1 ELSE 0 END) AS waiting"
        " FROM delivery d LEFT JOIN delivery_item m ON m.delivery = d.id GROUP BY d.id"
    ):
        yield from _sums(row)


def _sums(row: dict[str, Any]) -> Iterator[str]:
    if row["items"] != row["members"] or (row["items_delivered"] or 0) != (row["gone"] or 0):
        yield f"delivery {row['id']} counts {row['items_delivered']}/{row['items']} items, has {row['gone']}/{row['members']}"
    if row["state"] == "DELIVERED" and row["waiting"]:
        yield f"delivery {row['id']} is DELIVERED with {row['waiting']} items waiting"
    if row["state"] != "IN_PROGRESS" and row["worker"] is not None:
        yield f"delivery {row['id']} is {row['state']} and in a worker's hands"


def _of(ledger: Ledger, book: str, kind: str) -> Iterator[Entry]:
    return (entry for entry in ledger.entries(book) if entry.kind == kind)
