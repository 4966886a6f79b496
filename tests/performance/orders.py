"""Taking HL7 orders in. We answer when message and worklist entry are synced to disk; the other stores nothing."""

from __future__ import annotations

import asyncio
import json
import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import hl7.mllp

from broker.bootstrap import migrate_database
from broker.db.engine import database_url, open_engine
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.hl7.exchange import Answer, InboundMessage
from broker.hl7.listener import MllpListener, run_listener
from broker.hl7.mllp import END, frame
from broker.workflow.messages_port import MessageOutcome, StoredMessage
from broker.workflow.unit_of_work import UnitsOfWork
from tests.broker_process import BROKER, ROOT
from tests.peers import answers
from tests.performance.measuring import OURS, Measured, in_turn
from tests.ports import free_port
from tests.ris import NoQueue

PEER = "hl7 package's server (parses, stores nothing)"
MESSAGES, ROUNDS = 1500, 5


def orders(folder: Path) -> Iterator[Measured]:
    """Send orders on one and on twenty connections; then what framing and commit alone come to."""
    numbers = count(1)
    mapped, raw = (_database(folder / name) for name in ("mapped", "raw"))
    with ExitStack() as stack:
        peer = stack.enter_context(_process(_serve_package))
        ours = stack.enter_context(_broker(mapped))
        plain = stack.enter_context(_process(_serve_raw, database_url(raw / "data", None)))
        for connections in (1, 20):
            yield _compare("HL7 order mapped and stored durably", connections, numbers, ours, peer)
        for connections in (1, 20):
            yield _compare("HL7 framing and commit alone", connections, numbers, plain, peer)


def _compare(work: str, connections: int, numbers: Iterator[int], ours: int, peer: int) -> Measured:
    def party(port: int) -> Callable[[], float]:
        return lambda: _send(port, connections, [an_order(next(numbers)) for _ in range(MESSAGES)])

    plural = "s" * (connections > 1)
    return in_turn(
        f"{work}, {connections} connection{plural}",
        "messages/s",
        {OURS: party(ours), PEER: party(peer)},
        rounds=ROUNDS,
    )


def an_order(number: int) -> bytes:
    """Write an order of about 1 kB, with a patient, an order and a study of its own."""
    at = "1^^^20261121093000^^R"
    lines = (
        (
            f"MSH|^~\\&|RIS|STJOHN|BROKER|RADIOLOGY|20261121081530||ORM^O01^ORM_O01|M{number:08}|P|2.5.1"
            "||||||UNICODE UTF-8"
        ),
        (
            f"PID|1||P{number:07}^^^STJOHN^MR~{number:09}^^^NHS^NH||HAYDN{number:07}^JOSEPH^FRANZ^^MR||17320331|M"
            f"|||HAUPTSTR. 1^^ROHRAU^^2471^AT||+43 1 5551234|||M|||V{number:07}"
        ),
        (
            "PV1|1|I|WARD3^12^2^STJOHN||||4711^ALBRECHTSBERGER^JOHANN^GEORG^^DR|||||||||A0|||V4711"
            "|||||||||||||||||||||||||20261120101500"
        ),
        (
            f"ORC|NW|PL{number:07}^RIS|FI{number:07}^RIS||SC||{at}||20261121081500|4712^SALIERI^ANTONIO"
            "||4713^ESTERHAZY^NIKOLAUS^^^DR|WARD3|+43 1 5559876"
        ),
        (
            f"OBR|1|PL{number:07}^RIS|FI{number:07}^RIS|CTCHEST^CT CHEST WITH CONTRAST^99RIS||||||||||||"
            f"4713^ESTERHAZY^NIKOLAUS^^^DR||A{number:07}|RP{number:07}|SP{number:07}|CT1||||CT|||{at}"
            "|||WALK|^PERSISTENT COUGH FOR SIX WEEKS^L|4714^HUMMEL^JOHANN||||20261121093000"
        ),
        "NTE|1||PATIENT IS ALLERGIC TO CONTRAST MEDIA BASED ON IODINE, PREMEDICATION GIVEN",
        "OBX|1|NM|3142-7^BODY WEIGHT^LN||81|kg|||||F",
        "OBX|2|NM|8302-2^BODY HEIGHT^LN||178|cm|||||F",
        f"ZDS|1.2.276.0.7230010.3.1.2.{number}^RIS^Application^DICOM",
    )
    return "".join(f"{line}\r" for line in lines).encode()


def _send(port: int, connections: int, messages: Sequence[bytes]) -> float:
    """Send messages, on each connection one at a time; answer how many a second were accepted."""
    waiting = [frame(message) for message in reversed(messages)]
    answered = 0
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(connections):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(peer, selectors.EVENT_READ, bytearray())
        began_s = time.perf_counter()
        for key in selector.get_map().values():
            socket.socket.sendall(key.fileobj, waiting.pop())  # type: ignore[arg-type]
        while answered < len(messages):
            ready = selector.select(timeout=30)
            if not ready:
                raise AssertionError("no answer within 30 s")
            for key, _ in ready:
                connection, received = key.fileobj, key.data
                assert isinstance(connection, socket.socket)
                received += connection.recv(65536)
                if not received.endswith(END):
                    continue
                if b"\rMSA|AA|" not in received:
                    raise AssertionError("an order was not accepted")
                received.clear()
                answered += 1
                if waiting:
                    connection.sendall(waiting.pop())
        return answered / (time.perf_counter() - began_s)


# --- who is compared -------------------------------------------------------------------------------------


def _database(folder: Path) -> Path:
    """Make a data directory with a site file next to it."""
    folder.mkdir()
    site = {"site": {"ae_title": "BROKER"}, "listen": {"hl7": {"port": free_port()}}}
    (folder / "broker.yaml").write_text(json.dumps(site))
    migrate_database(folder / "broker.yaml", folder / "data")
    return folder


@contextmanager
def _broker(folder: Path) -> Iterator[int]:
    """Run `broker run hl7`; answer its port."""
    config = folder / "broker.yaml"
    port = int(json.loads(config.read_text())["listen"]["hl7"]["port"])
    command = [BROKER, "run", "hl7", "--config", config, "--data-dir", folder / "data"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        answers(port, timeout_s=30)
        yield port
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _process(serve: Callable[..., None], *args: object) -> Iterator[int]:
    """Run a server of this file in a process; answer its port."""
    port = free_port()
    process = get_context("spawn").Process(target=serve, args=(port, *args), daemon=True)
    process.start()
    try:
        answers(port, timeout_s=30)
        yield port
    finally:
        process.kill()
        process.join()


def _serve_package(port: int) -> None:
    """Serve as the package's documentation does: read a message, answer `create_ack`."""

    async def talk(reader: hl7.mllp.HL7StreamReader, writer: hl7.mllp.HL7StreamWriter) -> None:
        try:
            while True:
                message = await reader.readmessage()
                writer.writemessage(message.create_ack())
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()

    async def serve() -> None:
        server = await hl7.mllp.start_hl7_server(talk, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(serve())


def _serve_raw(port: int, url: str) -> None:
    """Serve with our listener and a handler that stores what came and nothing else."""
    clock = _Clock()
    handler = _RawMessages(SqlUnitsOfWork(open_engine(url), NoQueue(), clock))
    run_listener(MllpListener(handler, clock, port=port), threading.Event())


class _Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    local_now = now

    def monotonic(self) -> float:
        return time.monotonic()


class _RawMessages:
    """Stores the messages of a batch in one transaction and accepts them."""

    def __init__(self, units_of_work: UnitsOfWork) -> None:
        self._units_of_work = units_of_work

    def handle_batch(self, messages: Sequence[InboundMessage]) -> list[Answer]:
        with self._units_of_work() as uow:
            answers = []
            for message in messages:
                control_id = message.payload.split(b"|", 10)[9]
                uow.messages.add(
                    StoredMessage(
                        id=0,
                        received_at=message.received_at,
                        peer=message.peer,
                        sending_application="RIS",
                        sending_facility="STJOHN",
                        message_control_id=control_id.decode(),
                        message_type="ORM^O01",
                        content_sha256=sha256(message.payload).digest(),
                        raw=message.payload,
                        outcome=MessageOutcome.ACCEPTED,
                        acknowledgement_code="AA",
                        answer=None,
                    )
                )
                answers.append(Answer((b"MSH|^~\\&|||||||ACK|1|P|2.5.1\rMSA|AA|%b\r" % control_id,)))
            uow.commit()
        return answers

    def refuse(self, head: bytes, reason: str) -> bytes | None:
        raise AssertionError(f"the benchmark sent {len(head)} bytes that are no message: {reason}")
