"""Is everything that was acknowledged there, once, to the byte? Rows and files against the books."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.ledger.ledger import ACKNOWLEDGED, ENDED, IMAGE, MESSAGE, OFFERED, STARTED, Entry, Ledger
from tests.ledger.rows import Rows

OLD_S = 3600.0
"""A part of a file, or a file without a row, is swept when it is older."""
_STEP_AFTER = {"IN PROGRESS": "STARTED", "COMPLETED": "COMPLETED", "DISCONTINUED": "DISCONTINUED"}


def images(ledger: Ledger, rows: Rows, root: Path) -> Iterator[str]:
    """Compare images with the rows of `instance` and the files below `root`."""
    acknowledged = {entry.id: entry for entry in ledger.entries(ACKNOWLEDGED) if entry.kind == IMAGE}
    offered = defaultdict(set)
    tries: Counter[str] = Counter()
    for entry in ledger.entries(OFFERED):
        if entry.kind == IMAGE:
            offered[entry.id].add(entry.sha256)
            tries[entry.id] += 1
    answered = Counter(entry.id for entry in ledger.entries(ACKNOWLEDGED) if entry.kind == IMAGE)
    stored: Counter[str] = Counter()
    paths = set()
    for row in rows.all(
        "SELECT id, sop_instance_uid, path, size_bytes, data_set_offset, sha256 FROM instance ORDER BY id"
    ):
        uid, sha256 = row["sop_instance_uid"], bytes(row["sha256"]).hex()
        stored[uid] += 1
        paths.add(row["path"])
        if sha256 not in offered[uid]:
            yield f"image {uid} was stored with a content that nobody sent"
        yield from _file(root / row["path"], uid, row, sha256)
    for uid, entry in acknowledged.items():
        if not stored[uid]:
            yield f"image {uid} was acknowledged and has no row"
        elif entry.sha256 not in offered[uid]:
            yield f"image {uid} was acknowledged with another content than was sent"
    yield from (f"image {uid} has {count} rows" for uid, count in stored.items() if count > 1)
    known = {sha256 for contents in offered.values() for sha256 in contents}
    yield from _without_rows(root, paths, known, sum((tries - answered).values()))


def _file(path: Path, uid: str, row: dict[str, Any], sha256: str) -> Iterator[str]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        yield f"image {uid} has a row and no file {row['path']}"
        return
    if len(content) != row["size_bytes"]:
        yield f"the file of image {uid} has {len(content)} bytes, its row says {row['size_bytes']}"
    elif hashlib.sha256(content[row["data_set_offset"] :]).hexdigest() != sha256:
        yield f"the file of image {uid} is not what its row says"
    elif data_set_of(content) != content[row["data_set_offset"] :]:
        yield f"the data set of image {uid} does not begin where its row says"


def data_set_of(content: bytes) -> bytes | None:
    """Answer what follows the meta information of a Part 10 file (PS3.10 7.1); None: it is none."""
    if content[128:132] != b"DICM" or content[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        return None
    return content[144 + int.from_bytes(content[140:144], "little") :]


def _without_rows(root: Path, paths: set[str], offered: set[str], unanswered: int) -> Iterator[str]:
    """Look at files no row names: each is whole, and there are no more than sends that got no answer."""
    strays = parts = 0
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or name in paths:
            continue
        stat = path.stat()
        if time.time() - stat.st_mtime > OLD_S:
            yield f"{name} is without a row and {(time.time() - stat.st_mtime) / 60:.0f} minutes old"
        if re.fullmatch(r"\d{8}/\d{4}/[0-9a-f]{32}\.dcm", name):
            strays += 1
            content = data_set_of(path.read_bytes())
            if content is None or hashlib.sha256(content).hexdigest() not in offered:
                yield f"{name} is half an object under a final name"
        elif stat.st_nlink == 1 and stat.st_size:
            # An empty one is ready for the next receiver; one with another name is looked at under that.
            parts += 1
    if strays + parts > unanswered:
        yield f"{strays} files and {parts} parts are without rows, only {unanswered} sends went unanswered"


def messages(ledger: Ledger, rows: Rows) -> Iterator[str]:
    """Compare HL7 messages with their rows, and the last of each order with what it did."""
    acknowledged = {entry.id: entry for entry in ledger.entries(ACKNOWLEDGED) if entry.kind == MESSAGE}
    offered: dict[str, Entry] = {
        entry.id: entry for entry in ledger.entries(OFFERED) if entry.kind == MESSAGE
    }
    kept: Counter[str] = Counter()
    for row in rows.all("SELECT message_control_id, raw, outcome FROM hl7_message"):
        key, sha256 = row["message_control_id"], hashlib.sha256(bytes(row["raw"])).hexdigest()
        kept[key] += 1
        if key not in offered:
            yield f"message {key} was kept and nobody sent it"
        elif sha256 != offered[key].sha256:
            yield f"message {key} was not kept as it was sent"
        if row["outcome"] != "accepted" and key in acknowledged:
            yield f"message {key} was acknowledged with AA and is {row['outcome']}"
    yield from (f"message {key} was acknowledged and not kept" for key in acknowledged if not kept[key])
    yield from (f"message {key} was kept {count} times" for key, count in kept.items() if count > 1)
    yield from _orders(rows, acknowledged, offered)


def _orders(rows: Rows, acknowledged: dict[str, Entry], offered: dict[str, Entry]) -> Iterator[str]:
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows.all(
        "SELECT o.accession_number, s.start_date, s.start_time FROM imaging_order o"
        ' LEFT JOIN requested_procedure p ON p."order" = o.id'
        " LEFT JOIN scheduled_procedure_step s ON s.procedure = p.id"
    ):
        found[row["accession_number"]].append(f"{row['start_date']}{row['start_time']}")
    said: dict[str, list[Entry]] = defaultdict(list)
    for key, entry in offered.items():
        said[entry.facts["accession"]].append(entry)
        if entry.facts["accession"] not in found and key in acknowledged:
            yield f"the order of message {key} is not there"
    for accession, starts in found.items():
        if accession not in said:
            yield f"order {accession} is there and nobody placed it"
            continue
        if len(starts) != 1:
            yield f"order {accession} is there {len(starts)} times"
        # Messages of one order follow each other: it is as the last acknowledged says, or as one after that.
        last = max((at for at, one in enumerate(said[accession]) if one.id in acknowledged), default=0)
        allowed = {one.facts["start"] for one in said[accession][last:]}
        if not any(start.ljust(14, "0") in allowed for start in starts):
            yield f"order {accession} begins at {starts[0]}, its messages said {sorted(allowed)}"


def performed_steps(ledger: Ledger, rows: Rows) -> Iterator[str]:
    """Compare performed procedure steps with the last report of each, and the steps they perform."""
    offered, acknowledged = defaultdict(list), defaultdict(list)
    for book, said in ((OFFERED, offered), (ACKNOWLEDGED, acknowledged)):
        for entry in ledger.entries(book):
            if entry.kind in (STARTED, ENDED):
                said[entry.id].append(entry.facts["status"])
    found: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
    for row in rows.all(
        "SELECT p.sop_instance_uid, p.status, s.status AS step FROM performed_procedure_step p"
        " LEFT JOIN performed_step_link l ON l.performed = p.id"
        " LEFT JOIN scheduled_procedure_step s ON s.id = l.step"
    ):
        found[row["sop_instance_uid"]].append((row["status"], row["step"]))
    for uid in acknowledged:
        if uid not in found:
            yield f"performed step {uid} was acknowledged and is not there"
    for uid, states in found.items():
        if uid not in offered:
            yield f"performed step {uid} is there and nobody reported it"
            continue
        status = states[0][0]
        said = acknowledged[uid]
        allowed = set(offered[uid]) if not said else {said[-1], *offered[uid][offered[uid].index(said[-1]) :]}
        if status not in allowed:
            yield f"performed step {uid} is {status}, it was last acknowledged as {said[-1] if said else '-'}"
        if [step for _, step in states] != [_STEP_AFTER[status]]:
            yield f"performed step {uid} is {status}, what it performs is {[step for _, step in states]}"


def chain(rows: Rows) -> Iterator[str]:
    """Walk along the sealed events; a living broker may seal more meanwhile."""
    number, seal = 0, bytes(32)
    heads = rows.all("SELECT seal_no, seal FROM seal_head")
    ends = {0: seal}
    for row in rows.all("SELECT * FROM event WHERE seal_no IS NOT NULL ORDER BY seal_no"):
        number += 1
        at = row["at"]
        at = datetime.fromisoformat(at) if isinstance(at, str) else at
        at = at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC).isoformat(timespec="microseconds")
        content = [row["seal_no"], row["id"], at, row["name"], row["subject"], row["subject_id"]]
        content += [row["study_instance_uid"], row["order"], row["actor"], row["details"]]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        seal = hashlib.sha256(seal + text.encode()).digest()
        if row["seal_no"] != number or bytes(row["seal"]) != seal:
            yield f"the chain of events is broken at seal {number}"
            return
        if heads and number == heads[0]["seal_no"]:
            ends[number] = seal
    if heads and ends.get(heads[0]["seal_no"]) != bytes(heads[0]["seal"]):
        yield f"the chain of events ends at {number}, its head said {heads[0]['seal_no']}"
    heads = rows.all("SELECT seal_no FROM seal_head")
    if heads and heads[0]["seal_no"] < number:
        yield f"the chain of events ends at {number}, its head says less"
    if number and not heads:
        yield "the chain of events has no head"
