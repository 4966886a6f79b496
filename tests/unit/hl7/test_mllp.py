"""The framer: every rule of the block format, at every split point."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.hl7.mllp import Frame, Framer, FramingError, FramingFault, frame

ONE = b"MSH|^~\\&|RIS\rPID|1\r"
TWO = b"MSH|^~\\&|HIS\r"


def fed(framer, *chunks):
    return [event for chunk in chunks for event in framer.feed(chunk)]


def faults(events):
    return [event.fault for event in events if isinstance(event, FramingError)]


def frames(events):
    return [event.payload for event in events if isinstance(event, Frame)]


@pytest.mark.parametrize("cut", range(len(frame(ONE)) + 1))
def test_a_block_cut_anywhere_is_one_frame(cut):
    wire = frame(ONE)
    assert fed(Framer(), wire[:cut], wire[cut:]) == [Frame(ONE)]


def test_pipelined_blocks_come_out_in_order():
    assert fed(Framer(), frame(ONE) + frame(TWO) + frame(ONE)) == [Frame(ONE), Frame(TWO), Frame(ONE)]


def test_line_feed_after_the_end_is_swallowed():
    framer = Framer()
    assert fed(framer, frame(ONE) + b"\n" + frame(TWO) + b"\r\n\x00 ") == [Frame(ONE), Frame(TWO)]
    assert framer.eof() == []


def test_an_end_followed_by_line_feed_is_accepted_and_marked_untidy():
    assert fed(Framer(), b"\x0b" + ONE + b"\x1c\n") == [Frame(ONE, tidy=False)]


def test_an_end_followed_by_the_next_start_is_accepted_and_marked_untidy():
    assert fed(Framer(), b"\x0b" + ONE + b"\x1c" + frame(TWO)) == [Frame(ONE, tidy=False), Frame(TWO)]


def test_an_end_followed_by_silence_is_accepted_when_the_listener_says_so():
    framer = Framer()
    assert fed(framer, b"\x0b" + ONE + b"\x1c") == []
    assert framer.awaits_confirmation
    assert framer.pause() == [Frame(ONE, tidy=False)]
    assert fed(framer, b"\r" + frame(TWO)) == [Frame(TWO)]


def test_a_pause_elsewhere_changes_nothing():
    framer = Framer()
    assert framer.pause() == []
    assert fed(framer, b"\x0bMSH") == []
    assert framer.pause() == []
    assert fed(framer, b"|\x1c\r") == [Frame(b"MSH|")]


def test_an_end_inside_the_data_discards_the_block_and_keeps_its_head():
    events = fed(Framer(), b"\x0bMSH|a\x1cbc|d\x1c\r" + frame(TWO))
    assert events == [FramingError(FramingFault.CORRUPT, b"MSH|a"), Frame(TWO)]


def test_a_second_start_discards_the_partial_block_without_an_answer():
    events = fed(Framer(), b"\x0bMSH|half" + frame(TWO))
    assert events == [FramingError(FramingFault.RESTARTED), Frame(TWO)]


def test_an_empty_block_is_counted_and_not_answered():
    framer = Framer()
    assert fed(framer, b"\x0b\x1c\r\x0b\x1c\r" + frame(ONE)) == [Frame(ONE)]
    assert framer.empty_blocks == 2


def test_garbage_before_a_block_is_reported_and_skipped():
    events = fed(Framer(), b"GET / HTTP/1.1\r\n" + frame(ONE))
    assert events == [FramingError(FramingFault.GARBAGE, skipped_bytes=16), Frame(ONE)]


def test_filler_before_a_block_is_skipped_in_silence():
    assert fed(Framer(), b"\r\n \x00" * 10 + frame(ONE)) == [Frame(ONE)]


@pytest.mark.parametrize("filler", [b"x", b"\n", b"\x00"])
def test_garbage_over_the_limit_closes(filler):
    framer = Framer(max_garbage_bytes=100)
    assert fed(framer, filler * 100) == []
    assert faults(fed(framer, filler)) == [FramingFault.GARBAGE_FLOOD]
    assert framer.closed
    assert fed(framer, frame(ONE)) == []


def test_hl7_without_a_start_of_block_closes():
    framer = Framer()
    events = fed(framer, b"MS", b"H|^~\\&|RIS\r" + frame(ONE))
    assert faults(events) == [FramingFault.UNFRAMED]
    assert framer.closed


def test_a_block_over_the_limit_closes_and_keeps_its_head():
    framer = Framer(max_message_bytes=64)
    assert fed(framer, frame(b"M" * 64)) == [Frame(b"M" * 64)]
    events = fed(framer, b"\x0b" + ONE + b"x" * 100)
    assert faults(events) == [FramingFault.TOO_LARGE]
    assert events[0].head.startswith(ONE)
    assert fed(framer, b"\x1c\r" + frame(ONE)) == []


def test_memory_stays_bounded_while_an_endless_block_arrives():
    framer = Framer(max_message_bytes=1000)
    fed(framer, b"\x0b")
    for _ in range(10_000):
        framer.feed(b"x" * 100)
    assert len(framer._payload) == 0


def test_an_end_of_stream_inside_a_block_discards_it():
    framer = Framer()
    fed(framer, b"\x0b" + ONE)
    assert faults(framer.eof()) == [FramingFault.TRUNCATED]
    assert framer.feed(frame(TWO)) == []


def test_an_end_of_stream_after_an_unconfirmed_end_keeps_the_block():
    framer = Framer()
    fed(framer, b"\x0b" + ONE + b"\x1c")
    assert framer.eof() == [Frame(ONE, tidy=False)]


def test_an_end_of_stream_between_blocks_is_no_fault():
    framer = Framer()
    fed(framer, frame(ONE))
    assert framer.eof() == []


@pytest.mark.parametrize("storm", [b"\x0b\x1cX", b"\x0bx\x0b", b"x\x0b\x1c\r"])
def test_a_storm_of_faults_closes_after_a_bounded_number_of_events(storm):
    events = fed(Framer(max_faults=16), storm * 100_000)
    assert len(events) == 17
    assert faults(events)[-1] is FramingFault.TOO_MANY_FAULTS


def test_a_storm_of_starts_is_harmless():
    framer = Framer()
    assert fed(framer, b"\x0b" * 1_000_000 + ONE + b"\x1c\r") == [Frame(ONE)]


def test_a_good_block_forgives_earlier_faults():
    framer = Framer(max_faults=3)
    for _ in range(50):
        assert frames(fed(framer, b"junk" + frame(ONE))) == [ONE]


PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [b"\x0b", b"\x1c", b"\r", b"\n", b"\x1c\r", b" ", b"\x00", b"MSH|", b"M", b"S", b"H", frame(ONE)]
        ),
        st.binary(max_size=12),
        st.integers(1, 60).map(lambda n: b"x" * n),
    ),
    max_size=40,
)


@given(PIECES, st.lists(st.integers(0, 400), max_size=30))
def test_any_chunking_gives_the_same_events(pieces, cuts):
    wire = b"".join(pieces)
    limits = {"max_message_bytes": 50, "max_garbage_bytes": 70, "max_faults": 5}
    whole = Framer(**limits)
    expected = whole.feed(wire) + whole.eof()
    parts = Framer(**limits)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    got = [event for a, b in itertools.pairwise(edges) for event in parts.feed(wire[a:b])]
    got += parts.eof()
    assert got == expected
    assert parts.empty_blocks == whole.empty_blocks


@given(st.lists(st.binary(min_size=1, max_size=200).map(lambda b: b.translate(None, b"\x0b\x1c") or b"x")))
def test_what_was_framed_comes_back(payloads):
    assert fed(Framer(), b"".join(map(frame, payloads))) == [Frame(payload) for payload in payloads]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("unit", [b"\x0b", b"\x1c", b"\x0b\x1c\r", b"\x0b \r"])
def test_storms_cost_what_their_length_costs(unit):
    framer = Framer()
    framer.feed(b"\x0b")
    framer.feed(unit * (8_000_000 // len(unit)))  # looked at again and again, this would take many minutes


def test_empty_blocks_and_nothing_else_close_in_the_end():
    framer = Framer(max_empty_blocks=3)
    assert fed(framer, b"\x0b\x1c\r" * 2 + frame(ONE) + b"\x0b\x1c\r" * 2) == [Frame(ONE)]
    assert fed(framer, b"\x0b\x1c\r" + frame(TWO)) == [FramingError(FramingFault.TOO_MANY_FAULTS)]
    assert framer.closed
    assert framer.empty_blocks == 5
