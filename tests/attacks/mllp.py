"""A sick or hostile HL7 peer against `broker serve`: each attack ends in the protocol's own refusal or a clean close.

A sentinel sender on a connection of its own gets its AA all the while; afterwards the process has no more
connections, threads and memory than before, and its log a few lines more, none of which names a patient.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from broker.hl7.mllp import frame
from tests.attacks.outcome import Outcome
from tests.broker_process import RunningBroker, wait_until

CANARY = "ZZCANARY"
"""The name of every patient here; no log may hold it."""
FRAME_TIMEOUT_S = 2
CONNECTIONS = 64
SENTINEL_S = 10.0
"""Without an answer for so long, the sentinel counts as shut out; far above what a busy machine needs."""
MAX_GROWN_BYTES = 256 * 1024 * 1024
LOG_LINES = 60
"""Of one attack, whatever its size."""
SITE = {
    "devices": [{"ae_title": "CT1", "modality": "CT"}],
    "limits": {"hl7": {"max_connections": CONNECTIONS, "frame_timeout": f"{FRAME_TIMEOUT_S}s"}},
}
_numbers = itertools.count(1)


def order(control_id: str = "", *, name: str = f"{CANARY}^EVA", charset: str = "", **changes: str) -> bytes:
    """Write an order of a patient whose name must not be logged."""
    number = next(_numbers)
    control_id = control_id or f"A{number}"
    header = changes.get(
        "header", "MSH|^~\\&|RIS|HOSP|BROKER|RAD|20261121093000||ORM^O01|{id}|P|2.3.1||||||{charset}"
    )
    segments = (
        header.format(id=control_id, charset=charset),
        f"PID|1||{number}^^^HOSP^MR||{name}||19700203|F",
        f"ORC|NW|P{number}^RIS|F{number}^RIS||SC||1^^^202611211000^^R",
        f"OBR|1|P{number}^RIS|F{number}^RIS|CTCH^CT CHEST^L||||||||||||||A{number}|RP{number}|SP{number}||||CT",
        changes.get("more", ""),
    )
    return "\r".join(filter(None, segments)).encode(changes.get("codec", "utf-8")) + b"\r"


@dataclass
class Peer:
    """Is one connection to the broker."""

    port: int
    socket: socket.socket = field(init=False)
    heard: bytes = b""

    def __post_init__(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self.port), 10)
        self.socket.settimeout(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, data: bytes) -> Peer:
        """Send, as far as the broker listens."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)
        return self

    def answers(self, count: int) -> list[bytes]:
        """Wait for so many blocks; fewer when the broker closes."""
        while self.heard.count(b"\x1c\r") < count and (more := self._receive()):
            self.heard += more
        return [block.lstrip(b"\x0b") for block in self.heard.split(b"\x1c\r") if block]

    def codes(self, count: int = 1) -> list[str]:
        """Wait for so many acknowledgements and answer their codes."""
        return [_field(block, b"MSA", 1) for block in self.answers(count)]

    def is_closed(self) -> bool:
        """Wait for the broker to close, reading what it still says; False when it does not."""
        try:
            while more := self._receive():
                self.heard += more
        except TimeoutError:
            return False
        return True

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except ConnectionError:
            return b""


def _field(block: bytes, segment: bytes, number: int) -> str:
    line = next((line for line in block.split(b"\r") if line.startswith(segment)), b"")
    fields = line.split(line[3:4] if segment == b"MSH" else b"|")
    return fields[number].decode() if len(fields) > number else ""


class Sentinel:
    """Sends orders on a connection of its own, and remembers how long each took to be answered."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.slowest_s = 0.0
        self.answered = 0
        self.trouble: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        with Peer(self._port) as peer:
            while not self._stop.wait(0.05):
                control_id, began = f"SENTINEL{self.answered}", time.monotonic()
                peer.heard = b""
                try:
                    codes = peer.say(frame(order(control_id))).codes()
                except OSError as error:
                    codes = [type(error).__name__]
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                if codes != ["AA"]:
                    self.trouble.append(f"the sentinel got {codes}")
                    return
                self.answered += 1


# --- attacks: each takes a port and says whether all went as it must ----------------------------------------


def _slow_bytes(port: int, _long: bool) -> tuple[int, bool]:
    """Drip bytes into a block: the deadline of the block is not moved by them."""
    with Peer(port) as peer, contextlib.suppress(ConnectionError):
        peer.socket.settimeout(0.25)
        peer.say(b"\x0bMSH|")
        began = time.monotonic()
        while time.monotonic() - began < 40:
            peer.socket.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                if not peer.socket.recv(1):
                    return 1, True
    return 1, time.monotonic() - began < 40


def _endless(port: int, _long: bool) -> tuple[int, bool]:
    """Send a message without end: it is refused at 8 MiB, and the connection closed."""
    with Peer(port) as peer:
        peer.say(b"\x0b" + order("ENDLESS") + b"OBX|1|ED|x||")
        for _ in range(160):
            peer.say(b"A" * 65536)
        # The refusal may be overtaken by the reset of a connection that still sends.
        return 1, peer.is_closed() and _codes_of(peer) in ([], ["AR"])


def _codes_of(peer: Peer) -> list[str]:
    return [_field(block, b"MSA", 1) for block in peer.answers(0)]


def _storms(port: int, long: bool) -> tuple[int, bool]:
    """Send megabytes of starts, ends, empty blocks and blocks without a message."""
    size = (16 if long else 4) << 20
    units = (b"\x0b", b"\x1c\r", b"\x0b\x1c\r", b"\x0bjunk\x1c\r", b"\x0bx", b"\x0bM\x1cS")
    closed = []
    for unit in units:
        with Peer(port) as peer:
            for _ in range(size >> 16):
                peer.say(unit * (65536 // len(unit)))
            peer.socket.shutdown(socket.SHUT_WR) if unit == b"\x0b" else None
            closed.append(peer.is_closed())
    return len(units), all(closed)


def _not_mllp(port: int, _long: bool) -> tuple[int, bool]:
    """Speak HTTP, TLS, DICOM, unframed HL7, endless blanks: the connection is closed without a word."""
    openings = (
        b"GET / HTTP/1.1\r\n" + b"Host: x\r\n" * 8000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 70_000,
        b"\x01\x00\x00\x00\x00\xcd\x00\x01" + b"\x20" * 70_000,
        order() * 2,
        b"\r\n \x00" * 20_000,
    )
    silent = []
    for opening in openings:
        with Peer(port) as peer:
            silent.append(peer.say(opening).is_closed() and not peer.heard)
    return len(openings), all(silent)


def _framing(port: int, _long: bool) -> tuple[int, bool]:
    """Break the framing in every way the table of blocks has, and go on with a good block."""
    good = frame(order())
    rows = (
        (b"\x00\r\n " + good, ["AA"]),
        (b"noise" + good, ["AA"]),
        (b"\x0b" + order() + b"\x1c\n", ["AA"]),
        (b"\x0b" + order() + b"\x1c" + frame(order()), ["AA", "AA"]),
        (frame(order()) + b"\n" + frame(order()), ["AA", "AA"]),
        (b"\x0b" + order() + b"\x1c", ["AA"]),  # silence confirms it
        (b"\x0b" + order("TORN")[:100] + b"\x1cX" + b"\x1c\r" + frame(order()), ["AR", "AA"]),
        (b"\x0b" + order()[:100] + frame(order()), ["AA"]),
        (b"\x0b\x1c\r" + frame(order()), ["AA"]),
        (frame(order().replace(b"\r", b"\r\n")), ["AA"]),
        (frame(order().replace(b"\r", b"\n")), ["AA"]),
        (b"".join(frame(order()) for _ in range(50)), ["AA"] * 50),
        (frame(b"no header at all") + frame(order()), ["AA"]),
    )
    held = []
    for data, expected in rows:
        with Peer(port) as peer:
            held.append(peer.say(data).codes(len(expected)) == expected)
    return len(rows), all(held)


def _large_fields(port: int, _long: bool) -> tuple[int, bool]:
    """Send what makes parsers slow: it is taken, or refused in words, in any case answered."""
    mores = (
        "NTE|1||" + "~" * 140_000,
        "NTE|1||" + "^".join("x" * 20_000),
        "\r".join(["NTE|1||x"] * 16_000),
        "NTE|1||" + "\\X41\\" * 12_000,
        "NTE|1||E" + "\u0301\u0323" * 30_000,
        "NTE|1||" + "\\" * 60_000,
        "OBX|1|NM|3141-9^Body Weight^LN||1E1000000|kg",
    )
    answered = []
    with Peer(port) as peer:
        for more in mores:
            peer.heard = b""
            codes = peer.say(frame(order(more=more, charset="UNICODE UTF-8"))).codes()
            answered.append(codes in (["AA"], ["AE"]))
        peer.heard = b""
        names = order(name="~".join([CANARY] * 20_000), charset="UNICODE UTF-8")
        answered.append(peer.say(frame(names)).codes() == ["AE"])
    return len(mores) + 1, all(answered)


def _odd_messages(port: int, _long: bool) -> tuple[int, bool]:
    """Send NULs, wrong character sets, odd headers: every message with a header is answered."""
    messages = (
        order().replace(b"CHEST", b"CH\x00EST"),
        order(name=f"{CANARY}^\\X00\\\\X0D\\\\X0B\\", charset="8859/1"),
        order(name=f"{CANARY}^J\u00fcrgen", charset="8859/1"),
        order(name=f"{CANARY}^J\u00fcrgen", charset="ASCII", codec="latin-1"),
        order(charset="UNICODE UTF-16"),
        order(charset="KLINGON"),
        order(header="MSH|^~\\&|RIS|HOSP|BROKER|RAD|||ORM^O01||P|2.3.1"),
        order(header="MSH|^~\\&|RIS|HOSP|BROKER|RAD|||XXX^X99|{id}|P|2.3.1"),
        order(header="MSH|^~\\&|RIS|HOSP|BROKER|RAD|||ORM^O01|{id}|T|9.9"),
        order(header="MSH|^~\\&|{id}\\X0D\\MSA||||||ORM^O01|{id}|P|2.5.1|||AL|NE"),
        order().replace(b"|", b"#").replace(b"^", b"@"),
        order(header="MSH|^~\\&|RIS|HOSP|BROKER|RAD|||ORM^O01|" + "9" * 60_000 + "|P|2.3.1"),
    )
    unanswerable = (b"MSH", b"MSH|\x9d~\\&|A", b"PID|1||1||" + CANARY.encode(), b"\xff" * 500)
    with Peer(port) as peer:
        for data in unanswerable:
            peer.say(frame(data))
        found = [peer.say(frame(order("AFTER"))).codes()[-1:] == ["AA"]]
    with Peer(port) as peer:
        for data in messages:
            peer.heard = b""
            block = (peer.say(frame(data)).answers(1) or [b""])[0]
            found.append(block.startswith(b"MSH") and b"\rMSA" in block)
    return len(messages) + len(unanswerable), all(found)


def _never_reads(port: int, long: bool) -> tuple[int, bool]:
    """Send messages and read no answer: the broker stops reading, holds little, and nobody waits for it."""
    with Peer(port) as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.socket.settimeout(3 if long else 1)
        sent = 0
        bad = frame(b"MSH|^~\\&|RIS|HOSP|BROKER|RAD|||XXX^X99|NR" + b"0" * 3000 + b"|P|2.5.1\r")
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(4000 if long else 600):
                peer.socket.sendall(bad)
                sent += 1
    return sent, True


def _floods(port: int, long: bool) -> tuple[int, bool]:
    """Take every place, idle, half-way into a block, and by the thousand: a newcomer still finds one."""
    found = []
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS + 20):
            stack.enter_context(Peer(port))
        found.append(_is_served(port, 10))
    for _ in range(2000 if long else 300):
        Peer(port).socket.close()
    found.append(_is_served(port, 10))
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS + 20):
            stack.enter_context(Peer(port)).say(b"\x0bMSH|^~\\&|RIS|" + CANARY.encode())
        found.append(_is_served(port, FRAME_TIMEOUT_S + 20))  # once the half blocks are given up
    return 2 * (CONNECTIONS + 20) + (2000 if long else 300), all(found)


def _is_served(port: int, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), Peer(port) as peer:
            if peer.say(frame(order())).codes() == ["AA"]:
                return True
        time.sleep(0.2)
    return False


def _heavy(port: int, long: bool) -> tuple[int, bool]:
    """Send many large messages at once: what waits is bounded, and every one is answered in the end or sent again."""
    count = 24 if long else 8
    data = frame(order(more="OBX|1|ED|PDF||" + "A" * 60_000) + b"ZZZ|" + b"A" * (5 << 20) + b"\r")
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(port)) for _ in range(count)]
        for peer in peers:
            peer.socket.settimeout(120)
        senders = [threading.Thread(target=peer.say, args=(data,)) for peer in peers]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(120)
        for peer in peers:
            peer.socket.settimeout(60)
        codes = [peer.codes() for peer in peers]
    return count, all(found in ([], ["AA"]) for found in codes) and ["AA"] in codes


Attack = Callable[[int, bool], tuple[int, bool]]
ATTACKS: dict[str, Attack] = {
    "one byte at a time inside a block": _slow_bytes,
    "a message without end": _endless,
    "storms of starts, ends, empty and senseless blocks": _storms,
    "HTTP, TLS, DICOM, unframed HL7, blanks": _not_mllp,
    "every row of the framing table": _framing,
    "repetitions, components, segments, escapes and marks by the thousand": _large_fields,
    "NULs, wrong character sets, odd headers": _odd_messages,
    "a sender that reads no answer": _never_reads,
    "every place taken: idle, half-way, by the thousand": _floods,
    "many large messages at once": _heavy,
}


def attack(seed: int, long: bool, folder: Path) -> Iterator[Outcome]:
    """Run every attack against one `broker serve`, a sentinel beside each; the seed changes nothing here."""
    del seed
    broker = RunningBroker(folder, dict(SITE)).start()
    try:
        with Peer(broker.hl7) as peer:  # warms the process up
            for _ in range(20):
                peer.heard = b""
                assert peer.say(frame(order())).codes() == ["AA"]
        for name, made in ATTACKS.items():
            yield _outcome(broker, name, made, long=long)
        text = broker.log.read_text(errors="replace")
        yield Outcome(
            "patients in the log, of all the attacks above",
            len(text.splitlines()),
            CANARY not in text,
            "none",
        )
        yield Outcome("the broker at the end", 1, broker.stop() == 0, "ended in order")
    finally:
        broker.stop()


def _outcome(broker: RunningBroker, name: str, made: Attack, *, long: bool) -> Outcome:
    process = _listening(broker)
    before = _usage(process)
    lines = len(broker.log.read_bytes().splitlines())
    with Sentinel(broker.hl7) as sentinel:
        wait_until(lambda: sentinel.answered or sentinel.trouble, what="a first answer")
        cases, held = made(broker.hl7, long)
    trouble = list(sentinel.trouble)
    if not held:
        trouble.append("it did not end as it must")
    if sentinel.slowest_s > SENTINEL_S:
        trouble.append(f"the sentinel waited {sentinel.slowest_s:.1f} s")
    with contextlib.suppress(AssertionError):
        wait_until(lambda: _usage(process)[0] <= before[0] + 4, timeout_s=15)
    after = _usage(process)
    if after[0] > before[0] + 4 or after[1] > before[1] + 2:
        trouble.append(f"descriptors {before[0]} -> {after[0]}, threads {before[1]} -> {after[1]}")
    grown = after[2] - before[2]
    if grown > MAX_GROWN_BYTES:
        trouble.append(f"memory grew by {grown >> 20} MiB")
    told = len(broker.log.read_bytes().splitlines()) - lines
    if told > max(LOG_LINES, cases):  # a refused message has a line of its own
        trouble.append(f"{told} log lines")
    seen = f"sentinel answered {sentinel.answered} times, slowest {sentinel.slowest_s * 1000:.0f} ms; {told} log lines; memory {grown / 2**20:+.0f} MiB"
    return Outcome(name, cases, not trouble, "; ".join([*trouble, seen]))


def _listening(broker: RunningBroker) -> psutil.Process:
    (pid,) = broker.pids("hl7") or [broker.process.pid]
    return psutil.Process(pid)


def _usage(process: psutil.Process) -> tuple[int, int, int]:
    return process.num_fds(), process.num_threads(), process.memory_info().rss
