"""What listeners hear becomes a pcap file that is whole, bounded, and nobody's but ours."""

import json
import random
import stat
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from broker.files import capture_file
from broker.files.capture_store import CaptureLimits, CaptureStore
from broker.files.capture_taps import MOST_HELD_BYTES, CaptureTaps
from broker.files.capture_writer import CaptureWriter
from broker.files.pcap import FILE_HEADER, Packets, checksum
from broker.workflow.captures_port import Capture
from tests.pcap_reader import FIN, SYN, conversations, naive_checksum, packets

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
US, SCANNER = ("10.1.0.2", 11112), ("10.1.4.17", 50001)
CT1 = Capture(7, "dicom", "CT1", "", NOW, NOW + timedelta(minutes=10), "slow since Monday", "ada")
ALL_OF_IT = replace(CT1, name="", address="10.1.4.0/24")
ROOMY = CaptureLimits(reserve_bytes=0, reserve_percent=0.0)


class Clock:
    def __init__(self):
        self.ns = int(NOW.timestamp()) * 10**9

    def __call__(self):
        self.ns += 1000
        return self.ns


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def hear(tmp_path, clock):
    """Answer taps and their store; nothing is written before `flush`."""
    made = []

    def build(*captures, limits=ROOMY, **writing):
        store = CaptureStore(tmp_path / "captures", limits)
        writer = CaptureWriter(store, "dicom", interval_s=3600.0, **writing)
        taps = CaptureTaps(store, "dicom", now_ns=clock, writer=writer)
        taps.follow(captures)
        made.append(taps)
        return taps, store

    yield build
    for taps in made:
        taps.stop()


def read(store, capture=CT1):
    return b"".join(store.read(capture.id))


def test_a_checksum_is_what_adding_up_words_gives():
    dice = random.Random(1)
    for size in [*range(1, 40), 1459, 16384, 16385]:
        data = dice.randbytes(size)
        assert checksum(data) == naive_checksum(data)
        whole = data + b"\x00" * (size % 2) + checksum(data).to_bytes(2, "big")
        assert naive_checksum(whole) == 0
    assert checksum(b"\xff\xff" * 8) == naive_checksum(b"\xff\xff" * 8) == 0


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (US, SCANNER),
        (("2001:db8::1", 11112), ("fe80::2%eth0", 50001)),
        (("2001:db8::1", 11112), ("10.1.4.17", 50001)),
    ],
)
def test_what_was_said_comes_back_from_the_packets_whatever_its_size(ours, theirs):
    dice, made = random.Random(2), Packets(ours, theirs)
    raw, said = [FILE_HEADER, *made.opened(5)], {True: b"", False: b""}
    for turn in range(60):
        data, by_peer = dice.randbytes(dice.choice((1, 54, 16384, 16385, 131072))), dice.random() < 0.7
        said[by_peer] += data
        raw += made.said(10**9 * turn, data, by_peer=by_peer)
    raw += [made.ended(10**11, by_peer=True, reset=False), made.ended(10**11, by_peer=False, reset=True)]
    found = list(conversations(b"".join(raw)).values())
    assert [one.text for one in found] == [said[True], said[False]]
    assert [one.gaps for one in found] == [[], []]
    assert [one.ended for one in found] == ["end", "reset"]
    parts = packets(b"".join(raw))
    assert [bool(one.flags & SYN) for one in parts[:4]] == [True, True, False, False]
    seen = {}
    for part in parts[2:]:  # nobody acknowledges what was not said, and a window of 1 GiB is never full
        way = (part.source, part.target)
        assert part.acknowledges <= seen.get(way[::-1], 1)
        seen[way] = part.sequence + len(part.payload) + bool(part.flags & FIN)
        assert seen[way] - max(p.acknowledges for p in parts if p.source == way[1]) < 2**30


def test_sequence_numbers_go_round_after_4_gib():
    made = Packets(US, SCANNER)
    raw = [FILE_HEADER, *made.said(0, b"before", by_peer=True)]
    raw += made.said(1, b"abc" * 9000, by_peer=True, skipped_bytes=2**32 - 7 - 10)
    (said,) = (one for one in conversations(b"".join(raw)).values() if one.text)
    assert said.text == b"before" + b"abc" * 9000
    assert said.gaps == [(6, 2**32 - 17)]


def test_a_device_is_heard_from_its_first_byte_and_another_one_not_at_all(hear):
    taps, store = hear(CT1)
    mine, other = taps.tap(US, SCANNER), taps.tap(US, ("10.1.4.18", 50002))
    mine.received(b"\x01\x00 associ")
    other.received(b"secret")
    mine.named("CT1")
    other.named("CT2")
    mine.received(b"ate")
    other.received(b"secret")
    mine.sent(b"accepted")
    other.sent(b"secret")
    mine.ended(by_peer=True)
    other.ended(by_peer=True)
    mine.ended(by_peer=False)
    taps.writer.flush()
    raw = read(store)
    found = conversations(raw)
    assert {way: one.text for way, one in found.items()} == {
        (SCANNER, US): b"\x01\x00 associate",
        (US, SCANNER): b"accepted",
    }
    assert {one.ended for one in found.values()} == {"end"}
    assert b"secret" not in raw
    times = [packet.at_ns for packet in packets(raw)]
    assert times == sorted(times)
    assert times[0] >= NOW.timestamp() * 10**9
    told = store.recorded(CT1.id)
    assert (told.connections, told.packets, told.left_out_bytes) == (1, len(times), 0)
    assert told.size_bytes == len(raw)


def test_by_address_everybody_there_is_heard_and_who_says_nothing_too(hear):
    taps, store = hear(ALL_OF_IT)
    assert taps.tap(US, ("10.2.0.1", 50001)) is None
    assert taps.tap(("::", 11112), ("2001:db8::5", 50001)) is None
    silent = taps.tap(US, SCANNER)
    silent.ended(by_peer=True)
    mapped = taps.tap(("::ffff:10.1.0.2", 11112), ("::ffff:10.1.4.9", 4))
    mapped.received(b"GET / HTTP/1.1")
    taps.writer.flush()
    found = conversations(read(store))
    assert found[SCANNER, US].ended == "end"
    assert [one.text for one in found.values() if one.text] == [b"GET / HTTP/1.1"]
    assert store.recorded(CT1.id).connections == 2


def test_what_a_stranger_says_before_its_name_is_held_and_not_more_than_that(hear):
    taps, store = hear(CT1)
    tap = taps.tap(US, SCANNER)
    for _ in range(20):
        tap.received(b"x" * (MOST_HELD_BYTES // 10))
    tap.named("CT1")
    tap.received(b"y")
    taps.writer.flush()
    assert read(store) == FILE_HEADER


def test_on_a_connection_of_many_the_messages_of_one_are_heard(hear):
    taps, store = hear(replace(CT1, name="RIS"))
    tap = taps.tap(US, SCANNER, is_new=False)
    for name, text in (("RIS", b"one"), ("LAB", b"secret"), ("RIS", b"two")):
        tap.unnamed()
        tap.received(text[:1])
        tap.named(name)
        tap.received(text[1:])
        tap.sent(b"ack " + text)
    taps.writer.flush()
    found = conversations(read(store))
    assert [one.text for one in found.values()] == [b"onetwo", b"ack oneack two"]
    assert not [packet for packet in packets(read(store)) if packet.flags & SYN], "it was open before"


def test_another_capture_of_the_same_connection_leaves_the_first_in_order(hear):
    taps, store = hear(ALL_OF_IT)
    tap = taps.tap(US, SCANNER)
    tap.received(b"first")
    taps.follow([ALL_OF_IT, replace(CT1, id=8)])
    tap = taps.tap(US, SCANNER, is_new=False, before=tap)
    tap.unnamed()
    tap.named("CT1")
    tap.received(b"both")
    taps.follow([replace(CT1, id=8)])
    tap = taps.tap(US, SCANNER, is_new=False, before=tap)
    tap.received(b"second")
    taps.writer.flush()
    assert conversations(read(store))[SCANNER, US].text == b"firstboth"
    assert conversations(b"".join(store.read(8)))[SCANNER, US].text == b"bothsecond"
    taps.follow([])
    assert not taps.is_on


def test_it_ends_at_its_time_though_nobody_says_so(hear, clock):
    taps, store = hear(CT1)
    tap = taps.tap(US, SCANNER)
    tap.named("CT1")
    tap.received(b"before")
    clock.ns += 10 * 60 * 10**9
    tap.received(b"after")
    assert taps.tap(US, SCANNER) is None
    taps.writer.flush()
    assert conversations(read(store))[SCANNER, US].text == b"before"


def test_the_files_are_for_nobody_else(hear):
    taps, store = hear(CT1)
    tap = taps.tap(US, SCANNER)
    tap.named("CT1")
    tap.received(b"x")
    taps.writer.flush()
    folder = store.folder(CT1.id)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (store.root, folder)] == [0o700, 0o700]
    files = sorted(folder.iterdir())
    assert [path.suffix for path in files] == [".json", ".pcap"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert store.remove(CT1.id)
    assert store.remove(CT1.id), "gone is gone"
    assert store.kept() == []


def test_the_size_is_bounded_over_all_processes_and_says_what_is_missing(hear):
    limits = replace(ROOMY, max_bytes=100_000)
    first, store = hear(CT1, limits=limits)
    second, _ = hear(CT1, limits=limits)
    taps = [first.tap(US, SCANNER), second.tap(US, ("10.1.4.17", 50002))]
    for tap in taps:
        tap.named("CT1")
    sent = 0
    for _ in range(30):
        for tap, one in zip(taps, (first, second), strict=True):
            tap.received(b"z" * 5000)
            sent += 5000
            one.writer.flush()
    told = store.recorded(CT1.id)
    assert 90_000 < told.size_bytes <= 100_000
    assert told.why == (capture_file.FULL,)
    found = conversations(read(store))
    assert sum(len(one.text) for one in found.values()) + told.left_out_bytes == sent
    assert told.connections == 2
    times = [packet.at_ns for packet in packets(read(store))]
    assert times == sorted(times), "two files, one order"


def test_a_reader_sees_what_is_whole_when_a_writer_died(hear):
    taps, store = hear(CT1)
    tap = taps.tap(US, SCANNER)
    tap.named("CT1")
    tap.received(b"whole")
    taps.writer.flush()
    (path,) = store.folder(CT1.id).glob("*.pcap")
    whole = read(store)
    for cut in (1, 20, 60):
        path.write_bytes(whole + whole[24:][:cut])
        assert read(store) == whole
    (path.with_name("dicom-9-0.pcap")).write_bytes(b"")
    assert read(store) == whole


def test_below_the_reserve_nothing_is_written(hear):
    taps, store = hear(CT1, limits=CaptureLimits(reserve_bytes=2**62))
    tap = taps.tap(US, SCANNER)
    tap.named("CT1")
    tap.received(b"x" * 1000)
    taps.writer.flush()
    assert not store.has_room()
    assert not store.root.exists()


def test_when_more_comes_than_can_be_written_nobody_waits_and_the_gap_shows(hear):
    taps, store = hear(CT1, queue_bytes=10_000)
    tap = taps.tap(US, SCANNER)
    tap.named("CT1")
    for _ in range(10):
        tap.received(b"a" * 3000)
    taps.writer.flush()
    tap.received(b"b" * 3000)
    tap.sent(b"c")
    taps.writer.flush()
    told = store.recorded(CT1.id)
    assert (told.left_out_bytes, told.why) == (21_000, (capture_file.TOO_FAST,))
    said = conversations(read(store))[SCANNER, US]
    assert said.text == b"a" * 9000 + b"b" * 3000
    assert said.gaps == [(9000, 21_000)]


@pytest.mark.parametrize("moment", ["open", "write"])
def test_a_disk_that_fails_costs_what_it_did_not_take_and_nothing_else(hear, monkeypatch, moment):
    taps, store = hear(CT1)
    tap = taps.tap(US, SCANNER)
    tap.named("CT1")
    if moment == "write":
        tap.received(b"first")
        taps.writer.flush()
    with monkeypatch.context() as patch:

        def fail(*_, **__):
            raise OSError(5, "Input/output error", "/a/path")

        patch.setattr(capture_file.os, "open" if moment == "open" else "write", fail)
        tap.received(b"lost")
        taps.writer.flush()
    tap.received(b"last")
    taps.writer.flush()
    said = conversations(read(store))[SCANNER, US]
    assert said.text == (b"first" if moment == "write" else b"") + b"last"
    assert store.recorded(CT1.id).left_out_bytes == 4
    assert capture_file.BROKEN in store.recorded(CT1.id).why


def test_the_thread_writes_by_itself_and_sleeps_when_nothing_is_captured(tmp_path):
    from tests.broker_process import wait_until

    store, before = CaptureStore(tmp_path / "captures", ROOMY), set(threading.enumerate())
    taps = CaptureTaps(store, "dicom")
    assert "captures" not in {thread.name for thread in set(threading.enumerate()) - before}
    now = datetime.now(UTC)
    taps.follow([replace(CT1, since=now, until=now + timedelta(hours=1)), replace(CT1, protocol="hl7")])
    assert len(taps.in_force) == 1
    tap = taps.tap(US, SCANNER)
    tap.named("CT1")
    tap.received(b"seen")
    wait_until(lambda: b"seen" in read(store), what="a packet on the disk")
    before = taps.in_force
    taps.follow([one.capture for one in before])
    assert taps.in_force is before, "who looks for changes sees none"
    tap.received(b"last")
    taps.stop()
    assert conversations(read(store))[SCANNER, US].text == b"seenlast"
    tap.received(b"too late")
    assert b"too late" not in read(store)
    tally = json.loads(next(store.folder(CT1.id).glob("*.json")).read_text())
    assert tally["connections"] == 1
