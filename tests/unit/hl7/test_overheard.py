"""Whose message a byte belongs to, however the bytes are cut."""

import pytest

from broker.hl7.mllp import frame
from broker.hl7.overheard import Overheard, sending_application


class Diary:
    """A tap that writes down what it is told."""

    def __init__(self):
        self.told = []

    def named(self, name):
        self.told.append(("named", name))

    def unnamed(self):
        self.told.append(("unnamed",))

    def received(self, data):
        self.told.append(("received", data))

    def sent(self, data):
        self.told.append(("sent", data))

    def ended(self, *, by_peer, reset=False):
        self.told.append(("ended", by_peer, reset))


@pytest.mark.parametrize(
    ("block", "name"),
    [
        (b"\x0bMSH|^~\\&|RIS|", "RIS"),
        (b"\x0bMSH|^~\\&|RIS^1.2.3^ISO|HOSP", "RIS"),
        (b"\x0bMSH$%~\\&$RIS%1.2$HOSP", "RIS"),
        (b"\x0bMSH|^~\\&|R\xc3\xb6|", "Rö"),
        (b"\x0bMSH|^~\\&||", ""),
        (b"\x0bMSH|^~\\&|RIS", None),
        (b"\x0bMSH|^~\\&|", None),
        (b"\x0bMSH|", None),
        (b"\x0bMSH", None),
        (b"\x0bM", None),
        (b"\x0b", None),
        (b"\x0bFHS|^~\\&|RIS|", ""),
        (b"\x0bMSH|^~\\&\rPID", ""),
        (b"\x0bMSHMSHMSHMSH", ""),
        (b"\x0bMSH|||RIS|", ""),
    ],
)
def test_the_sender_is_msh_3_of_a_block(block, name):
    assert sending_application(block) == name


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_every_byte_is_told_in_order_and_the_sender_before_its_message_goes_on(size):
    stream = frame(b"MSH|^~\\&|RIS|H\rPID") + frame(b"MSH|^~\\&|LAB|H\rOBX") + b"junk"
    diary = Diary()
    overheard = Overheard(diary)
    for begin in range(0, len(stream), size):
        overheard.received(stream[begin : begin + size])
    assert b"".join(entry[1] for entry in diary.told if entry[0] == "received") == stream
    assert [entry for entry in diary.told if entry[0] in {"named", "unnamed"}] == [
        ("unnamed",),
        ("named", "RIS"),
        ("unnamed",),
        ("named", "LAB"),
    ]


def test_a_block_broken_by_a_stray_start_stays_with_its_sender():
    diary = Diary()
    overheard = Overheard(diary)
    overheard.received(b"\x0bMSH|^~\\&|RIS|H\rOBX|a\x0bb")
    overheard.received(b"\x0b")
    overheard.received(b"MS")
    overheard.received(b"T|")
    assert [entry[1] for entry in diary.told if entry[0] == "named"] == ["RIS"] * 3


def test_a_block_that_never_says_who_it_is_from_is_nobodys():
    diary = Diary()
    overheard = Overheard(diary)
    overheard.received(b"\x0bMSH|^~\\&|" + b"R" * 1000)
    overheard.received(b"R" * 2000)
    assert ("named", "") in diary.told


def test_an_end_is_told_once_and_by_whom():
    diary = Diary()
    overheard = Overheard(diary)
    overheard.ended(by_peer=True)
    overheard.ended(by_peer=True)
    overheard.closed(None)
    overheard.closed(ConnectionResetError())
    assert diary.told == [("ended", True, False), ("ended", False, False)]
    diary.told.clear()
    Overheard(diary).closed(ConnectionResetError())
    assert diary.told == [("ended", True, True)]


def test_a_tap_that_fails_is_given_up_and_the_connection_goes_on():
    class Broken(Diary):
        def received(self, data):
            raise ZeroDivisionError

    broken = Broken()
    overheard = Overheard(broken)
    overheard.received(b"\x0bMSH|")
    overheard.received(b"^~\\&|RIS|")
    overheard.sent(b"x")
    assert broken.told == [("unnamed",)]
