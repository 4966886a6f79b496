"""What a sick or hostile DICOM peer does (W1 to W26): each attack once against a bare AE, and once against us.

An attack is a function of a listener and says what it saw. Against the bare AE it must succeed, or it proves
nothing; where pynetdicom has no weakness the attack is kept for our own sake and the report says so. Against
`broker serve` it must fail, and while it lasts a sentinel's C-ECHO is answered, the memory stays where it was,
and afterwards threads and files are what they were and the log holds a few short lines without a patient.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import inspect

from broker.db.engine import open_engine
from broker.db.migrate import migrate
from broker.db.order_tables import StepRow
from tests.attacks import dicom_content, dicom_floods, dicom_silence
from tests.attacks.dicom_silence import Seen
from tests.attacks.dicom_target import (
    MIB,
    AttackedBroker,
    Sentinel,
    Target,
    bad_lines,
    bare_ae,
    certificates_in,
)
from tests.attacks.dicom_wire import RELEASE, echo_request, find, image, implicit, store
from tests.attacks.outcome import Outcome
from tests.worklist_database import StillClock
from tests.worklist_database import store as store_entries
from tests.worklist_entries import an_entry

LONG_DEADLINE_S, SHORT_DEADLINE_S = 5.0, 2.0
MOST_RESIDENT_MORE = 256 * MIB
SENTINEL_S = 1.0
SENTINEL_UNDER_LOAD_S = 5.0
"""Where the machine has more to do than cores to do it, a slow echo says nothing about us."""
MOST_RESERVE = 64
MOST_LINES = 60
"""In the log of all roles, for one attack, however many cases it has."""
WARM = 12
"""Associations at once before anything is measured: threads in reserve, connections to the database."""
ENTRIES = 30_000


@dataclass(frozen=True, slots=True)
class Weakness:
    """One attack."""

    names: str
    """Its numbers."""
    what: str
    run: Callable[[Target], Seen]
    tls: bool = False
    shows: bool = True
    """A bare AE suffers from it."""


WEAKNESSES = (
    Weakness("W1", "silent connections to a TLS port", dicom_silence.silent_on_tls, tls=True),
    Weakness("W2", "half headers, then silence", dicom_silence.half_headers),
    Weakness("W2", "a header that announces 4 GiB, then silence", dicom_silence.four_gib_header),
    Weakness("W3", "40 connections that say three bytes or none", dicom_silence.ten_beginnings),
    Weakness("W4", "an association request byte by byte", dicom_silence.slow_request),
    Weakness("W5", "a data set in fragments of one byte", dicom_silence.slow_fragments),
    Weakness("W6", "a P-DATA-TF of 4 GiB", dicom_floods.four_gib_p_data),
    Weakness("W7", "data set fragments without end", dicom_floods.endless_data_set),
    Weakness("W8", "command fragments without end", dicom_floods.endless_command),
    Weakness("W8", "100,000 PDVs of one byte", dicom_floods.many_pdvs, shows=False),
    Weakness("W9", "C-STOREs in a pipeline, answers not read", dicom_floods.pipelined_stores),
    Weakness("W10", "30,000 worklist answers not read", dicom_floods.answers_not_read),
    Weakness("W11", "300 N-EVENT-REPORT requests", dicom_floods.event_reports),
    Weakness("W12", "40 idle associations", dicom_silence.idle_associations),
    Weakness("W13", "1,000 idle connections", dicom_silence.idle_connections),
    Weakness("W14", "unknown PDU types", dicom_silence.unknown_pdus),
    Weakness("W15", "an empty P-DATA-TF", dicom_silence.empty_p_data),
    Weakness("W16", "broken PDUs, HTTP, TLS, PDUs out of order", dicom_content.broken_rules, shows=False),
    Weakness("W17", "broken command sets", dicom_content.broken_commands),
    Weakness("W18", "empty SOP Instance UIDs", dicom_content.empty_uids),
    Weakness("W19", "hostile UIDs", dicom_content.hostile_uids),
    Weakness("W19", "hostile query keys", dicom_content.hostile_keys, shows=False),
    Weakness("W20", "wrong AE titles and application contexts", dicom_content.strangers),
    Weakness("W21", "thousands of presentation contexts", dicom_floods.thousands_of_contexts),
    Weakness("W22", "sequences nested 1,000 deep", dicom_content.deep_nesting),
    Weakness("W23", "a deflate bomb", dicom_floods.deflate_bomb),
    Weakness("W24", "PDUs of a few bytes", dicom_content.tiny_pdus),
    Weakness("W25", "20 resets inside PDUs", dicom_content.resets, shows=False),
    Weakness("W26", "python -O", dicom_content.optimized),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one attack did to one target."""

    seen: Seen
    sentinel_s: float
    broken: tuple[str, ...]
    """What else was not as it should be, besides what the attack itself saw."""

    @property
    def held(self) -> bool:
        return self.seen.held and not self.broken


def strike(weakness: Weakness, target: Target, sentinel: Sentinel | None) -> Verdict:
    """Attack a broker, and look at it from outside before, meanwhile and afterwards."""
    before = target.resting()
    offset = target.log.stat().st_size
    target.forget_peak()
    if sentinel is not None:
        sentinel.worst_s()
    seen = weakness.run(target)
    sentinel_s = sentinel.worst_s() if sentinel is not None else 0.0
    after = target.returned(before, within_s=target.patience_s + 5.0)
    broken = []
    if after.threads > before.threads or after.files > before.files:
        broken.append(
            f"threads {before.threads} → {after.threads}, descriptors {before.files} → {after.files}: {target.descriptors()}"
        )
    if after.reserve > MOST_RESERVE:
        broken.append(f"{after.reserve} empty files kept ready")
    if after.resident - before.resident > MOST_RESIDENT_MORE:
        broken.append(f"memory {before.resident // MIB} → {after.resident // MIB} MiB")
    busy = os.getloadavg()[0] > (os.cpu_count() or 1)
    if sentinel_s > (SENTINEL_UNDER_LOAD_S if busy or not target.long else SENTINEL_S):
        broken.append(f"the sentinel waited {sentinel_s:.1f} s")
    bad = bad_lines(target.lines(offset), most=MOST_LINES)
    if bad is not None:
        broken.append(bad)
    return Verdict(seen, sentinel_s, tuple(broken))


def warm(target: Target) -> None:
    """Let everything happen once that a listener does only at first."""

    def one(number: int) -> bool:
        uid = f"1.2.826.0.1.99.{number}"
        with contextlib.suppress(OSError), target.call() as caller:
            caller.associate().send(echo_request(), *store(uid, image(uid, 64 * 1024)))
            caller.status()
            caller.status()
            caller.send(find(implicit(0x0010, 0x0010, b"NOBODY")))
            caller.status()
            caller.send(RELEASE)
            caller.ending(5.0)
            return True
        return False

    with ThreadPoolExecutor(WARM) as at_once:
        for _ in range(3):
            assert any(at_once.map(one, range(WARM))), "nobody was served"


def fill_worklist(folder: Path) -> None:
    """Write a worklist into the database of a broker that has not been started."""
    path = folder / "data" / "broker.sqlite3"
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    clock = StillClock(datetime.now(tz=UTC))
    store_entries(engine, an_entry(start=(clock.now().strftime("%Y%m%d"), "120000")), clock=clock)
    with engine.begin() as connection:
        names = [column["name"] for column in inspect(connection).get_columns(StepRow.__tablename__)]
        copied = ", ".join(f'"{name}"' for name in names if name not in ("id", "scheduled_procedure_step_id"))
        connection.exec_driver_sql(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ENTRIES - 1})"
            f" INSERT INTO {StepRow.__tablename__} (scheduled_procedure_step_id, {copied})"
            f" SELECT 'SPS' || n.i, {copied} FROM n, {StepRow.__tablename__}"
        )
    engine.dispose()


@contextlib.contextmanager
def ours(folder: Path, *, long: bool) -> Iterator[Callable[[Weakness], Verdict]]:
    """Run the brokers, plain and secured, that all attacks go to in turn."""
    deadline_s = LONG_DEADLINE_S if long else SHORT_DEADLINE_S
    fill_worklist(folder / "plain")
    with contextlib.ExitStack() as running:
        targets = {}
        for tls in (False, True):
            broker = AttackedBroker(
                folder / ("tls" if tls else "plain"),
                deadline_s=deadline_s,
                certificates=certificates_in(folder / "certificates") if tls else None,
            )
            target = running.enter_context(broker)
            target.long = long
            warm(target)
            sentinel = Sentinel(target)
            running.callback(sentinel.close)
            targets[tls] = target, sentinel
        yield lambda weakness: strike(weakness, *targets[weakness.tls])


def bare(weakness: Weakness, folder: Path) -> Seen:
    """Run one attack against a bare AE of its own."""
    certificates = certificates_in(folder / "certificates") if weakness.tls else None
    with bare_ae(folder, certificates=certificates) as target:
        target.forget_peak()
        return weakness.run(target)


def attack(seed: int, long: bool, folder: Path) -> Iterator[Outcome]:
    """Attack both; the seed has no part in it: every attack is written out."""
    del seed
    with ours(folder, long=long) as strike_ours:
        for number, weakness in enumerate(WEAKNESSES):
            unprotected = bare(weakness, folder / f"bare-{number}")
            verdict = strike_ours(weakness)
            proven = not unprotected.held or not weakness.shows
            yield Outcome(
                f"{weakness.names}: {weakness.what}",
                verdict.seen.cases,
                verdict.held and proven,
                _told(weakness, unprotected, verdict),
            )


def _told(weakness: Weakness, unprotected: Seen, verdict: Verdict) -> str:
    said = [f"bare AE: {unprotected.said}", f"broker: {verdict.seen.said}"]
    if weakness.shows and unprotected.held:
        said[0] += " (**the weakness did not show**)"
    elif not weakness.shows:
        said[0] += " (no weakness there, or not this one)"
    if weakness.names != "W26":
        said.append(f"sentinel at most {verdict.sentinel_s * 1000:.0f} ms")
    said += [f"**{one}**" for one in verdict.broken]
    return "; ".join(said).replace("|", "\\|")
