"""The last sync precedes the answer, seen by strace, for every kind of acknowledgement.

At the moment an answer begins to leave, the disk is taken as a power cut would find it: everything the answer
speaks of must be in what is synced, under names that are synced. On PostgreSQL the server is watched too.
"""

from __future__ import annotations

import hashlib
import http.client
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, make_url, text

from tests.attacks.ledger import Bench
from tests.attacks.outcome import Outcome
from tests.attacks.power_cut import WRITES, TracedDisk
from tests.attacks.system_calls import Call, read_calls
from tests.journeys.hl7_orders import orm
from tests.ledger.check import quiesce
from tests.ledger.lines import AssociationLine, MessageLine
from tests.ledger.modality import MPPS, SOP_CLASSES, a_creation, an_end, an_image
from tests.ledger.receivers import StorageReceiver
from tests.postgres import postgres_server

_STORE_RESPONSE = b"\x00\x00\x00\x01\x02\x00\x00\x00\x01\x80"
"""(0000,0100) Command Field = 8001H, as a command set has it."""
_TOKEN = "wlb_" + "t" * 43
_OPERATOR = {"hash": hashlib.sha256(_TOKEN.encode()).digest()}
_LET_IN = text(
    "INSERT INTO api_token (token_hash, label, role, issued_by, created_at, expires_at) VALUES"
    " (:hash, 'attack', 'operator', 'attack', '2026-01-01 00:00:00.000000', '2999-01-01 00:00:00.000000')"
    " ON CONFLICT DO NOTHING"
)
_ANSWERS = (b"\x0b", b"\x04", b"HTTP/1.1 ")
KINDS = {
    "AA": "HL7 acknowledged with AA",
    "AA again": "the same HL7 message again",
    "AE": "HL7 refused with AE, and kept",
    "N-CREATE": "N-CREATE answered 0000",
    "N-SET": "N-SET answered 0000",
    "C-STORE": "C-STORE answered 0000",
    "C-STORE again": "the same object again, answered 0000",
    "retry": "a delivery retried by a person",
    "cancel": "a delivery cancelled by a person",
    "pause": "a destination paused by a person",
    "resume": "a destination resumed by a person",
}


@dataclass
class Flow:
    """One thing sent and answered."""

    kind: str
    needles: tuple[bytes, ...] = ()
    """What the synced database must hold when the answer leaves."""
    image: bytes = b""
    """What a synced file under a synced name must end with."""


@dataclass
class Flows:
    """Sends one thing after the other to a traced broker; each is acknowledged."""

    bench: Bench
    url: str = ""
    """Address of the database, if it is not the bench's file."""
    done: list[Flow] = field(default_factory=list)

    def run(self, rounds: int) -> None:
        """Do every kind, so many times."""
        chance = random.Random(1)
        ports = self.bench.ports
        messages = MessageLine(ports["hl7"], 30)
        steps = AssociationLine(ports["dicom"], "CT1", [MPPS], 30)
        images = AssociationLine(ports["dicom"], "CT1", [SOP_CLASSES["CT"]], 30)
        for number in range(rounds):
            key = f"SYNC{number}"
            study = f"1.2.826.0.1.3680043.10.1561.8.{number}"
            order = orm(accession=key, patient_id=key, message_id=key, study_uid=study).encode()
            assert messages.send(order) == "AA"
            self._note("AA", key.encode())
            assert messages.send(order) == "AA"
            self._note("AA again", key.encode())
            nobody = orm(accession=f"{key}X", patient_id="", message_id=f"{key}X").replace(
                "PID|1||^^^HOSP", "PID|1||"
            )
            assert messages.send(nobody.encode()) == "AE"
            self._note("AE", f"{key}X".encode())
            creation = a_creation(accession=key, study=study, station="CT1", patient_id=key)
            assert steps.report(f"{study}.1", creation, create=True) == 0
            self._note("N-CREATE", f"{study}.1".encode())
            self._act()
            end = an_end("COMPLETED", series=f"{study}.2", images=(f"{study}.2.1",))
            assert steps.report(f"{study}.1", end, create=False) == 0
            self._note("N-SET", f"{study}.2.1".encode())
            image = an_image(
                f"{study}.2.1",
                study=study,
                series=f"{study}.2",
                modality="CT",
                accession=key,
                patient_id=key,
                chance=chance,
            )
            for kind in ("C-STORE", "C-STORE again"):
                assert images.store(f"{study}.2.1", image, SOP_CLASSES["CT"]) == 0
                self.done.append(Flow(kind, (f"{study}.2.1".encode(),), image))
        for line in (messages, steps, images):
            line.close()

    def _note(self, kind: str, *needles: bytes) -> None:
        self.done.append(Flow(kind, needles))

    def _act(self) -> None:
        """Act as an operator on the message for the RIS that the N-CREATE led to, and on its destination."""
        engine = create_engine(self.url or self.bench.url())
        with engine.begin() as connection:
            delivery = connection.execute(text("SELECT max(id) FROM delivery")).scalar_one()
            # There must be something to retry: one that waits for its turn anyway is left as it is.
            died = text("UPDATE delivery SET state = 'DEAD', reason = 'refused' WHERE id = :id")
            connection.execute(died, {"id": delivery})
            connection.execute(_LET_IN, _OPERATOR)
        engine.dispose()
        for kind, path, event in (
            ("retry", f"/api/deliveries/{delivery}/retry", b"delivery retried by a person"),
            ("cancel", f"/api/deliveries/{delivery}/cancel", b"delivery cancelled by a person"),
            ("pause", "/destinations/cad/pause", b"destination paused"),
            ("resume", "/destinations/cad/resume", b"destination resumed"),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", self.bench.ports["web"], timeout=30)
            headers = {"Authorization": f"Bearer {_TOKEN}"}
            connection.request("POST", path, headers=headers)
            assert connection.getresponse().status in (200, 303), path
            connection.close()
            self._note(kind, event)


def judge(flows: list[Flow], calls: list[Call], disk: TracedDisk) -> list[str]:
    """Answer which answers left before what they say was durable."""
    answers = [call for call in calls if _is_answer(call)]
    if len(answers) != len(flows):
        return [f"{len(answers)} answers were seen, {len(flows)} things were sent"]
    wrong: list[str] = []
    syncs = 0
    left = list(flows)
    # What ended after an answer had begun to leave came too late for it.
    for call in sorted(calls, key=lambda call: call.began if _is_answer(call) else call.ended):
        if not _is_answer(call):
            disk.apply(call)
            syncs += call.is_sync() and call.path.endswith("-wal")
            continue
        flow = left.pop(0)
        log = disk.file("broker.sqlite3-wal")
        rows = disk.file("broker.sqlite3").durable + log.durable
        if not syncs or log.pending:
            wrong.append(f"{flow.kind}: {syncs} syncs of the log, {len(log.pending)} writes not synced")
        wrong += [f"{flow.kind}: {needle!r} is not synced" for needle in flow.needles if needle not in rows]
        if flow.image and not any(file.durable.endswith(flow.image) for file in disk.durable_files("images")):
            wrong.append(f"{flow.kind}: no synced file under a synced name holds the object")
        syncs = 0
    return wrong


def _is_answer(call: Call) -> bool:
    return call.name in ("sendto", "sendmsg") and call.data.startswith(_ANSWERS)


def on_sqlite(folder: Path, rounds: int) -> tuple[list[Flow], list[str]]:
    """Trace every kind of acknowledgement on SQLite."""
    bench, trace = Bench(folder), folder / "trace"
    disk = TracedDisk(bench.data_dir, bench.data_dir)
    flows = Flows(bench)
    with bench.process("web", trace=trace):
        flows.run(rounds)
    return flows.done, judge(flows.done, read_calls(trace), disk)


def on_postgresql(folder: Path, rounds: int, *settings: str) -> tuple[list[Flow], list[str]]:
    """Trace every kind of acknowledgement on PostgreSQL, and the server with it."""
    # Nothing but commits is to write the log.
    with (
        postgres_server(
            "autovacuum=off", "checkpoint_timeout=1h", "bgwriter_lru_maxpages=0", *settings
        ) as url,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("BROKER_DATABASE_URL", url)
        patch.setenv("BROKER_ACCEPT_DATA_LOSS", "yes" if settings else "")
        bench, trace = Bench(folder), folder / "trace"
        disk = TracedDisk(bench.data_dir, bench.data_dir)
        flows = Flows(bench, url)
        family = _server_processes(url)
        idle = [pid for pid, title in family.items() if "walwriter" in title]
        with bench.process("web", trace=trace, beside=list(family)):
            flows.run(rounds)
    return flows.done, judge_server(flows.done, read_calls(trace), disk, idle)


def _server_processes(url: str) -> dict[int, str]:
    """Answer the processes that serve nobody in particular, by number; those of clients are forked from the first."""
    folder = Path(str(make_url(url).query["host"]))
    first = psutil.Process(int((folder / "data" / "postmaster.pid").read_text().split()[0]))
    found = {first.pid: "postmaster"}
    for child in first.children():
        with suppress(psutil.NoSuchProcess):  # a client's that has just ended
            title = " ".join(child.cmdline())
            if title and "[local]" not in title:
                found[child.pid] = title
    return found


def judge_server(flows: list[Flow], calls: list[Call], disk: TracedDisk, idle: list[int]) -> list[str]:
    """Answer which answers left before the server had synced its log; `idle` only writes what nobody waits for."""
    answers = [call for call in calls if _is_answer(call)]
    if len(answers) != len(flows):
        return [f"{len(answers)} answers were seen, {len(flows)} things were sent"]
    wrong: list[str] = []
    left, written, syncs = list(flows), dict[str, int](), 0
    for call in sorted(calls, key=lambda call: call.began if _is_answer(call) else call.ended):
        if _is_answer(call):
            flow = left.pop(0)
            if not syncs or written:
                wrong.append(
                    f"{flow.kind}: {syncs} syncs of the server's log, {len(written)} files of it not synced"
                )
            if flow.image and not any(f.durable.endswith(flow.image) for f in disk.durable_files("images")):
                wrong.append(f"{flow.kind}: no synced file under a synced name holds the object")
            syncs = 0
            continue
        disk.apply(call)
        if "/pg_wal/" in call.path:
            if call.is_sync():
                syncs += 1
                if written.get(call.path, call.began) <= call.began:
                    written.pop(call.path, None)
            elif call.name in WRITES and call.thread not in idle:
                written[call.path] = call.ended
    return wrong


def deliveries(folder: Path, series: int) -> tuple[int, list[str]]:
    """Trace deliveries: none is noted as delivered before its peer has answered, and then the note is synced."""
    bench, trace = Bench(folder), folder / "trace"
    with (
        StorageReceiver(bench.ledger, "archive", port=bench.ports["archive"]),
        bench.process("sweep", trace=trace),
    ):
        for number in range(series):
            bench.push(2, seed=number + 1)
            findings = quiesce(bench.url(), within_s=60)
            if findings:
                return number, findings
    answered, noted, pending = 0, 0, False
    wrong: list[str] = []
    for call in read_calls(trace):
        if call.name in ("recvfrom", "read") and _STORE_RESPONSE in call.data:
            answered += 1
        elif call.path.endswith("-wal") and call.name in WRITES and b"DELIVERED" in call.data:
            noted, pending = noted + 1, True
            if not answered:
                wrong.append("a delivery was noted before its peer had answered")
        elif call.path.endswith("-wal") and call.is_sync():
            pending = False
    if answered < bench.ledger.count("received", "archive") or not noted or pending:
        wrong.append(f"{answered} answers, {noted} notes, the last of them {'not ' if pending else ''}synced")
    return series, wrong


def attack(seed: int, long: bool, folder: Path) -> Iterator[Outcome]:
    """Trace each kind of acknowledgement; the seed draws nothing here."""
    del seed
    flows, wrong = on_sqlite(folder / "sqlite", 10 if long else 1)
    yield from _told(flows, wrong, "")
    flows, wrong = on_postgresql(folder / "postgresql", 5 if long else 1)
    yield from _told(flows, wrong, " (PostgreSQL)")
    count, wrong = deliveries(folder / "deliveries", 5 if long else 1)
    yield Outcome(
        "a delivery noted as delivered", count, not wrong, wrong[0] if wrong else "after the peer's 0000"
    )


def _told(flows: list[Flow], wrong: list[str], where: str) -> Iterator[Outcome]:
    if not flows or any(one.partition(":")[0] not in KINDS for one in wrong):
        yield Outcome("system calls", len(flows), False, wrong[0] if wrong else "nothing was sent")
    for kind, count in Counter(flow.kind for flow in flows).items():
        found = [one for one in wrong if one.startswith(f"{kind}:")]
        yield Outcome(
            KINDS[kind] + where, count, not found, found[0] if found else "synced before the answer left"
        )
