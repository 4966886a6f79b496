"""HL7 under generated input: the framer however it is cut, and whole messages up to what the use cases do."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

from broker.db.engine import open_engine
from broker.db.migrate import migrate
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.dicom.objects.answers import WorklistEncoder
from broker.hl7.exchange import HANG_UP, InboundMessage
from broker.hl7.intake import Applied, Intake
from broker.hl7.mapping import MappingSet
from broker.hl7.mllp import Frame, Framer, FramingError, frame
from broker.hl7.sender import read_messages
from broker.hl7.tokenizer import tokenize
from broker.hl7.use_cases import UseCases
from broker.workflow.messages_port import MessageOutcome
from broker.workflow.order_policy import OrderPolicy
from tests.attacks.fuzz_engine import Target
from tests.fakes.clock import FakeClock
from tests.fakes.task_queue import RecordingTaskQueue

CONFIG = Path(__file__).parents[2] / "config"
NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")

_CHARSETS = ("8859/1", "8859/15", "UNICODE UTF-8", "ISO IR87", "ISO IR14", "GB 18030-2000", "KS X 1001", "BIG-5", "ASCII", "8859/7~ISO IR87",
             "UNICODE UTF-16", "CNS 11643-1992")  # fmt: skip
_NAMES = ("Müller^Jörg", "山田^太郎", "Ångström^Æ", "Кот^Ян", "김^희중", "ﾔﾏﾀﾞ^ﾀﾛｳ")
_CODECS = ("latin-1", "utf-8", "iso2022_jp", "shift_jis", "gb18030", "euc_kr", "big5", "cp1252")


class Broken(BaseException):
    """The intake met an error nobody foresaw."""


# --- the framer --------------------------------------------------------------------------------------------


def _framer(data: bytes) -> None:
    """Hold the framer to: any cut gives the same events, frames are what they may be, memory is bounded."""
    draw = random.Random(zlib.crc32(data))
    limits = {
        "max_message_bytes": draw.choice((64, 8 << 20)),
        "max_garbage_bytes": draw.choice((64, 64 << 10)),
    }
    limits |= {"max_empty_blocks": draw.choice((3, 10_000))}
    whole, cut = Framer(**limits), Framer(**limits)
    events = whole.feed(data)
    pieces, at = [], 0
    while at < len(data):
        step = draw.choice((1, 1, 2, 3, 17, 1460, 65536))
        pieces += cut.feed(data[at : at + step])
        assert cut.buffered_bytes <= limits["max_message_bytes"], "more is held than a message may have"
        at += step
    assert [*events, *whole.eof()] == [*pieces, *cut.eof()], "the cut matters"
    for event in events:
        if isinstance(event, Frame):
            assert 0 < len(event.payload) <= limits["max_message_bytes"]
            assert b"\x0b" not in event.payload
            assert b"\x1c" not in event.payload
    closing = [
        place for place, event in enumerate(events) if isinstance(event, FramingError) and event.closes
    ]
    assert closing in ([], [len(events) - 1]), "something came after the end"


# --- messages ----------------------------------------------------------------------------------------------


class _Messages:
    """Keeps the message of one transaction."""

    def __init__(self) -> None:
        self.saved = None

    def find(self, *_key):
        return []

    def reserve(self):
        return 1

    def add(self, message):
        self.saved = message
        return message

    def save(self, message):
        self.saved = message


class _UnitOfWork:
    """Is a transaction in which everything works."""

    def __init__(self) -> None:
        self.messages = _Messages()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def record(self, event):
        assert event.details is not None

    def commit(self):
        return None

    @contextmanager
    def savepoint(self):
        yield


class _Strict(Intake):
    """Shows the error that the product would count and answer."""

    def _failure(self, stored, error):
        raise Broken(f"{type(error).__name__}: {error}") from error

    def _count_failure(self, inbound):
        raise Broken("the transaction failed")


def _checked(intake: Intake, data: bytes) -> None:
    data = data.translate(None, b"\x0b\x1c")  # the framer lets neither through
    (answer,) = intake.handle_batch([InboundMessage("192.0.2.1:1", data, NOW)])
    if answer == HANG_UP:
        raise Broken("hung up")
    for reply in answer.messages:
        assert b"\x0b" not in reply, "an answer would break its own block"
        assert b"\x1c" not in reply, "an answer would break its own block"
        assert reply[:3] == b"MSH"
        names = [line[:3] for line in reply.split(b"\r")]
        assert names[-1] == b"", "an answer ends its last segment"
        assert names[:2] == [b"MSH", b"MSA"], "an answer has a header and what it answers"
        assert set(names[2:-1]) <= {b"ERR"}, "a sender wrote segments into our answer"
        tokenize(reply.decode("latin-1"))
    intake.refuse(data, "refused")


class _Mapped:
    """Reads messages as far as an order, without a database."""

    def __init__(self) -> None:
        mappings = MappingSet.load(CONFIG / "hl7", site_zone=BERLIN)
        self._unit = _UnitOfWork()
        self._intake = _Strict(
            lambda: self._unit, lambda request, uow: Applied(), lambda: mappings, clock=FakeClock(zone=BERLIN)
        )

    def run(self, data: bytes) -> None:
        self._unit.messages.saved = None
        _checked(self._intake, data)
        saved = self._unit.messages.saved
        assert saved is None or saved.outcome is not MessageOutcome.FAILED


class Applying:
    """Takes messages into a real database, with the use cases of the product."""

    def __init__(self, folder: Path) -> None:
        self.engine = open_engine(f"sqlite:///{folder / 'fuzz.sqlite3'}")
        migrate(self.engine)
        clock = FakeClock(zone=BERLIN)
        mappings = MappingSet.load(CONFIG / "hl7", site_zone=BERLIN)
        policy = OrderPolicy(UUID(int=7), stations={"CT": ("CT1",)})
        self._intake = _Strict(
            SqlUnitsOfWork(self.engine, RecordingTaskQueue(), clock),
            UseCases(clock, WorklistEncoder(), policy),
            lambda: mappings,
            clock=clock,
        )

    def run(self, data: bytes) -> None:
        """Take one message in."""
        _checked(self._intake, data)


def messages() -> list[bytes]:
    """Answer good messages: the examples we ship, and the same in other character sets."""
    found = [
        raw
        for path in sorted((CONFIG / "examples").glob("*.hl7"))
        for raw in read_messages(path.read_bytes())
    ]
    found += list(_translated(found[0]))
    oru = found[0].replace(b"ORM^O01^ORM_O01", b"ORU^R01").replace(b"ORM^O01", b"ORU^R01")
    return [
        *found,
        oru,
        found[0] + b"OBX|1|NM|3141-9^Body Weight^LN||72.5|kg\rNTE|1||\\.br\\\\X4142\\ text\r",
    ]


def _translated(message: bytes) -> Iterator[bytes]:
    lines = message.decode().split("\r")
    for number, charset in enumerate(_CHARSETS):
        head = lines[0].split("|")
        head += [""] * (18 - len(head))
        head[17] = charset
        patient = lines[1].split("|")
        if len(patient) > 5:
            patient[5] = _NAMES[number % len(_NAMES)]
        text = "\r".join(("|".join(head), "|".join(patient), *lines[2:]))
        yield text.encode(_CODECS[number % len(_CODECS)], errors="ignore")


_WORDS = ("|", "^", "~", "\\", "&", "||||", "^^^^", '""', "\\X0D\\", "\\X00\\", "\\XE4\\", "\\X", "\\C2D41\\", "\\M2442\\", "\\.br\\", "\\F\\",
          "\\Zx\\", "\r", "\n", "\r\n", "\x00", "\x1b$B", "\x1b(B", "\ufeff", "e\u0301\u0323", "\u0f73" * 40, "20261121093000+0100", "99991231235959-1200",
          "00010101", "2026022999", "1E999999", "-0", "NaN", "9" * 400, "1.2.840.10008." + "1" * 60, "\rMSH|^~\\&|A|B", "\rPID|1||7^^^H", "\rZDS|1.2.3",
          "\rORC|CA|P1|F1", "\rORC|XO", "\rOBR|1|||X", "\rIPC|A|B|1.2|C|CT", "\rMRG|P2", "\rNTE|1||x", "\rOBX|1|NM|3141-9||1E1000000|kg",
          "\rTQ1|1||||||20261121", "\rAL1|1||^NUTS", "ADT^A40", "ADT^A08", "OMI^O23", "OMG^O19", "SIU^S12", "ACK", "ORM^O01", "AL", "NE", "2.3.1", "2.9",
          "8859/1", "UNICODE UTF-8", "ISO IR87", "UTF-16")  # fmt: skip


def targets(folder: Path) -> dict[str, Target]:
    """Answer the targets of this file by name."""
    good = messages()
    tokens = [word.encode() for word in _WORDS] + [b"\xff\xfe", b"\x80\x85", b"\xa4\xa4", b"\x81"]
    streams = [
        frame(good[0]),
        frame(good[0][:40]) * 3,
        b"\r\n" + frame(b"MSH|a") + b"\n\x0b\x1c\r" + frame(good[1][:100]),
        b"\x0bMSH|one\x1c\x0bMSH|two\x1c\r\x0bMSH|thr\x1cee\r" + frame(b"MSH|four"),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"MSH|^~\\&|unframed\r",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ]
    return {
        target.name: target
        for target in (
            Target(
                "framer", streams, _framer, (b"\x0b", b"\x1c\r", b"\x1c", b"\x0b\x0b", b"MSH|", b"\x0b\x1c\r")
            ),
            Target("message", good, _Mapped().run, tokens),
            Target("order", good, Applying(folder).run, tokens),
        )
    }
