"""Connections on which everything is said: closed by their peers, or when their time is up."""

import socket
import threading
from dataclasses import dataclass

import pytest

from broker.dicom.network.channel import Channel
from broker.dicom.network.farewell import Farewells


@dataclass(eq=False)
class Said:
    channel: Channel


@pytest.fixture
def pairs():
    opened = []

    def open_pair():
        ours, peers = socket.socketpair()
        opened.extend((ours, peers))
        return Said(Channel(ours)), peers

    yield open_pair
    for sock in opened:
        sock.close()


def test_who_closed_is_seen_off_and_who_did_not_stays(pairs):
    closed = []
    farewells = Farewells(closed.append, linger_s=60)
    (gone, its_peer), (here, other_peer) = pairs(), pairs()
    farewells.add(here)
    farewells.add(gone)
    its_peer.close()
    farewells.see_off(2)
    assert closed == [gone]
    other_peer.sendall(b"late words")
    farewells.see_all_off()
    assert closed == [gone]
    other_peer.close()
    farewells.see_all_off()
    assert closed == [gone, here]


def test_only_so_many_are_looked_at_and_those_after_them_the_next_time(pairs):
    closed = []
    farewells = Farewells(closed.append, linger_s=60)
    here, _peer = pairs()
    gone, its_peer = pairs()
    farewells.add(here)
    farewells.add(gone)
    its_peer.close()
    farewells.see_off(1)
    assert closed == []
    farewells.see_off(1)
    assert closed == [gone]


def test_a_peer_that_goes_on_sending_is_not_listened_to_for_ever(pairs):
    closed = []
    farewells = Farewells(closed.append, linger_s=60)
    said, peer = pairs()
    farewells.add(said)
    peer.setblocking(False)
    sent = 0
    while not closed:
        sent += peer.send(bytes(64 * 1024))
        farewells.see_off()
        assert sent < 3 * 1024 * 1024
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        peer.send(b"x")


def test_the_time_of_who_does_not_close_runs_out_while_nobody_else_comes(pairs):
    over = threading.Event()
    farewells = Farewells(lambda _: over.set(), linger_s=0.05)
    farewells.start()
    try:
        said, peer = pairs()
        farewells.add(said)
        assert over.wait(10)
        assert peer.recv(1) == b""
    finally:
        farewells.stop()


def test_haste_cuts_the_time_of_those_who_wait_already(pairs):
    over = threading.Event()
    farewells = Farewells(lambda _: over.set(), linger_s=600)
    said, _peer = pairs()
    farewells.add(said)
    farewells.hasten(0.0)
    farewells.see_off()
    assert over.is_set()
